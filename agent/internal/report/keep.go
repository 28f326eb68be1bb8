package report

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// The events that wait are kept in a file as well, so that a new start of the
// agent goes on with what a former one left behind: one delimited EventBatch
// after the other. It is written by a goroutine of its own, since a disk may
// hang: an agent that is killed can lose the events of the last milliseconds.
// What is acknowledged stays in it until all is; the controller says what it
// has, so that none is sent twice.

const (
	// maxFile is the size, in bytes, that makes the file be written anew, with no
	// more than what waits.
	maxFile = 2 * maxSpoolBytes
	// unknownSize is that of a file in which anything may be.
	unknownSize = maxFile + 1
	// retryKeep is the pause after a write that failed.
	retryKeep = 10 * time.Second
)

// Open returns a report whose events outlive the agent in the file at path.
// What a former start left in it comes first. A file that is damaged counts as
// far as it can be read, and that is told.
func Open(bootID, path string) *Report {
	r := New(bootID)
	r.keeper = &keeper{path: path}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r
	}
	r.keeper.size = unknownSize
	if err == nil {
		defer file.Close()
		err = r.spool.load(bufio.NewReader(io.LimitReader(file, 2*maxFile)))
	}
	if err != nil {
		r.Note(fmt.Sprintf("events of a former start of the agent could not all be read: %s: %v", path, err))
	}
	return r
}

// load reads what a former start left behind.
func (s *spool) load(in *bufio.Reader) error {
	for {
		batch := &agentv1.EventBatch{}
		err := protodelim.UnmarshalOptions{MaxSize: maxSpoolBytes}.UnmarshalFrom(in, batch)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range batch.GetEvents() {
			if e.GetGap() > 0 {
				s.lose(loss{position{batch.GetBootId(), e.GetSequence()}, e.GetGap()})
			} else {
				s.push(waiting{boot: batch.GetBootId(), event: e, size: proto.Size(e)})
			}
		}
	}
}

// Run keeps the file until ctx ends. A file that cannot be written is a problem
// of the node; events go on in memory. Without a file it does nothing. The error
// says that events are lost, as they are not in the file at the end.
func (r *Report) Run(ctx context.Context) error {
	if r.keeper == nil {
		return nil
	}
	defer r.keeper.close()
	for {
		more, retry := r.unkept, (<-chan time.Time)(nil)
		if err := r.keep(); err != nil {
			r.Problem("spool", fmt.Sprintf("events wait in memory only and are lost if the agent ends: %v; make room, or the file system writable", err))
			more, retry = nil, time.After(retryKeep)
		} else {
			r.Problem("spool", "")
		}
		select {
		case <-ctx.Done():
			return r.keep()
		case <-more:
		case <-retry:
		}
	}
}

// keep brings the file up to date.
func (r *Report) keep() error {
	k := r.keeper
	data, anew := r.takeUnkept(k.size)
	if err := k.write(data, anew); err != nil {
		k.size = unknownSize
		return fmt.Errorf("event spool: %w", err)
	}
	return nil
}

// takeUnkept takes the events that are not yet in the file, which has that size,
// in bytes; anew: the file is to hold these alone.
func (r *Report) takeUnkept(size int) (data []byte, anew bool) {
	r.mu.Lock()
	s := &r.spool
	anew = size > maxFile || size > 0 && len(s.waiting) == 0
	var pending []*agentv1.EventBatch
	if anew {
		s.kept = 0
		for _, l := range s.dropped {
			gap := &agentv1.Event{Sequence: l.sequence, Kind: &agentv1.Event_Gap{Gap: l.n}}
			pending = append(pending, &agentv1.EventBatch{BootId: l.boot, Events: []*agentv1.Event{gap}})
		}
	}
	for _, w := range s.waiting[s.kept:] {
		pending = append(pending, &agentv1.EventBatch{BootId: w.boot, Events: []*agentv1.Event{w.event}})
	}
	s.kept = len(s.waiting)
	r.mu.Unlock()
	var out bytes.Buffer
	for _, batch := range pending {
		_, _ = protodelim.MarshalTo(&out, batch) // into memory, of valid text: never fails
	}
	return out.Bytes(), anew
}

// keeper owns the file; Run's goroutine alone uses it.
type keeper struct {
	path string
	file *os.File
	size int // of the file, in bytes
}

// write makes data durable: behind what is in the file, or, anew, in its place.
func (k *keeper) write(data []byte, anew bool) error {
	if anew {
		k.close()
		if err := atomicfile.WriteFile(k.path, data, 0o600); err != nil {
			return err
		}
		k.size = len(data)
		return nil
	}
	if len(data) == 0 {
		return nil
	}
	if k.file == nil {
		file, err := os.OpenFile(k.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		k.file = file
	}
	if _, err := k.file.Write(data); err != nil {
		return err
	}
	k.size += len(data)
	return k.file.Sync()
}

func (k *keeper) close() {
	if k.file != nil {
		_ = k.file.Close() // what was to be durable has been synced
		k.file = nil
	}
}
