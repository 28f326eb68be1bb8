package drift

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// ErrCorrupt is wrapped by Load's error when the file is not what was written.
var ErrCorrupt = errors.New("damaged")

const (
	// magic begins the file; the number is the version of the format.
	magic = "tandem-local-changes 1 "
	// saveAgain is how long a disk that failed is left alone.
	saveAgain = 5 * time.Second
	// unsavedKey is the key of the problem that the changes are not on disk.
	unsavedKey = "local-changes"
)

// file is where the changes are kept. Whoever has the token writes.
type file struct {
	path    string
	token   chan struct{} // depth one, full while nobody writes
	unsaved chan struct{} // depth one: what is on disk is not what is in memory
}

// Load reads the changes that are kept in the state directory. When the file is
// damaged the error wraps ErrCorrupt, and the set is empty and of use.
func Load(dir string, report Report) (*Set, error) {
	s := &Set{report: report, file: newFile(dir), changes: make(map[string]*agentv1.LocalChange)}
	all, err := s.file.read()
	for _, c := range all {
		s.changes[Subject(c)] = c
	}
	s.report.LocalChanges(s.all())
	return s, err
}

func newFile(dir string) file {
	f := file{path: filepath.Join(dir, "local.pb"), token: make(chan struct{}, 1), unsaved: make(chan struct{}, 1)}
	f.token <- struct{}{}
	return f
}

func (f *file) read() ([]*agentv1.LocalChange, error) {
	data, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("local changes: %w", err)
	}
	header, body, ok := bytes.Cut(data, []byte("\n"))
	if !ok || string(header) != magic+checksum(body) {
		return nil, fmt.Errorf("local changes %s: %w", f.path, ErrCorrupt)
	}
	set := &agentv1.LocalChangeSet{}
	if err := proto.Unmarshal(body, set); err != nil {
		return nil, fmt.Errorf("local changes %s: %w: %w", f.path, ErrCorrupt, err)
	}
	return set.GetChanges(), nil
}

func (f *file) write(all []*agentv1.LocalChange) error {
	body, err := proto.Marshal(&agentv1.LocalChangeSet{Changes: all})
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(f.path, append([]byte(magic+checksum(body)+"\n"), body...), 0o600)
}

func checksum(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// save makes what is in memory durable. What cannot be kept is in effect all
// the same: Run goes on trying.
func (s *Set) save() error {
	<-s.file.token
	defer func() { s.file.token <- struct{}{} }()
	err := s.file.write(s.All())
	if err == nil {
		s.report.Unsaved(unsavedKey, "")
		return nil
	}
	err = fmt.Errorf("local changes are not on disk and would not survive a restart of the agent: %w", err)
	s.report.Unsaved(unsavedKey, err.Error())
	select {
	case s.file.unsaved <- struct{}{}:
	default:
	}
	return err
}

// Run saves what could not be saved, until ctx ends.
func (s *Set) Run(ctx context.Context) error {
	for {
		select {
		case <-s.file.unsaved:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(saveAgain):
			_ = s.save() // reported, and asks for another time
		case <-ctx.Done():
			return nil
		}
	}
}
