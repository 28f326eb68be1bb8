// Package cache keeps a node's configuration on disk: the candidate that is
// being tried, the good one that was last confirmed, and a journal of the
// changes of servers since. A node that starts without its controller serves
// the good one with the journal.
package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// ErrCorrupt is wrapped by Good's error when a file is not what was written.
var ErrCorrupt = errors.New("damaged")

// magic begins the files of whole configurations; the number is the version of
// the format.
const magic = "tandem-node-config 1 "

// Cache is a directory with the three files. It has one user at a time; others
// may Read.
type Cache struct {
	candidate, good string
	journal         journal
	tried           string // checksum of the candidate; empty: there is none
}

// New returns the cache in dir, which is made with permissions 0700 if need be:
// the files hold password hashes.
func New(dir string) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("configuration cache: %w", err)
	}
	return &Cache{
		candidate: filepath.Join(dir, "candidate.pb"),
		good:      filepath.Join(dir, "good.pb"),
		journal:   journal{path: filepath.Join(dir, "journal")},
	}, nil
}

// Candidate makes a configuration durable before anything acts on it.
func (c *Cache) Candidate(config *agentv1.NodeConfig) error {
	body, err := proto.Marshal(config)
	if err != nil {
		return fmt.Errorf("configuration cache: %w", err)
	}
	sum := checksum(body)
	if err := atomicfile.WriteFile(c.candidate, append([]byte(magic+sum+"\n"), body...), 0o600); err != nil {
		return err
	}
	c.tried = sum
	return nil
}

// Promote makes the candidate the good configuration. The journal ends with
// that, because it names the good one that it continues. After an error nothing
// can be appended before the next Promote.
func (c *Cache) Promote() error {
	if err := atomicfile.Rename(c.candidate, c.good); err != nil {
		c.journal.follow("") // which of the two is good is not known
		return err
	}
	c.journal.follow(c.tried)
	return nil
}

// Append makes a change to what Good returns durable.
func (c *Cache) Append(change *agentv1.Update) error {
	if c.journal.base == "" {
		return errors.New("configuration cache: no good configuration for a journal to continue")
	}
	return c.journal.append(change)
}

// Long tells that the journal has outgrown its use: a new candidate should be
// promoted.
func (c *Cache) Long() bool { return c.journal.size > maxJournal }

// Good returns the configuration that was last confirmed with the changes of
// the journal, nil when there is none. The error wraps ErrCorrupt when a file is
// damaged. With a journal that is damaged or cannot be read there are both: the
// configuration has the changes before the damage, which the next Append goes on
// from, and none behind it.
func (c *Cache) Good() (*agentv1.NodeConfig, error) {
	for {
		config, sum, err := c.read()
		if err != nil || config == nil {
			return nil, err
		}
		changes, damage := c.journal.open(sum)
		// Another process reads while the agent promotes: the journal of
		// another good configuration looks like none.
		if _, now, err := c.read(); err != nil || now != sum {
			continue
		}
		config, n, gap := replay(config, changes)
		if err := errors.Join(damage, gap); err != nil {
			c.journal.cut(changes[:n])
			return config, err
		}
		return config, nil
	}
}

// read returns the good configuration without the journal, and its checksum.
func (c *Cache) read() (*agentv1.NodeConfig, string, error) {
	data, err := os.ReadFile(c.good)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("configuration cache: %w", err)
	}
	header, body, ok := bytes.Cut(data, []byte("\n"))
	sum := checksum(body)
	if !ok || string(header) != magic+sum {
		return nil, "", fmt.Errorf("last good configuration %s is %w", c.good, ErrCorrupt)
	}
	config := &agentv1.NodeConfig{}
	if err := proto.Unmarshal(body, config); err != nil {
		return nil, "", fmt.Errorf("last good configuration %s is %w: %w", c.good, ErrCorrupt, err)
	}
	return config, sum, nil
}

func checksum(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// replay applies changes to a configuration. Of those that do not follow each
// other it applies the n before.
func replay(config *agentv1.NodeConfig, changes []*agentv1.Update) (after *agentv1.NodeConfig, n int, err error) {
	if len(changes) == 0 {
		return config, 0, nil
	}
	resources := make(map[string]*agentv1.Resource, len(config.GetResources()))
	for _, r := range config.GetResources() {
		resources[r.GetKey()] = r
	}
	version := config.GetVersion()
	for _, change := range changes {
		if change.GetBaseHash() != version.GetHash() {
			err = fmt.Errorf("journal of the last good configuration is %w: a change of %q follows %q", ErrCorrupt, change.GetBaseHash(), version.GetHash())
			break
		}
		for _, key := range change.GetRemovals() {
			delete(resources, key)
		}
		for _, r := range change.GetUpserts() {
			resources[r.GetKey()] = r
		}
		version = change.GetVersion()
		n++
	}
	after = &agentv1.NodeConfig{Version: version}
	for _, key := range slices.Sorted(maps.Keys(resources)) {
		after.Resources = append(after.Resources, resources[key])
	}
	return after, n, err
}
