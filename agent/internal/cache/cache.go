// Package cache keeps a node's configuration on disk: the candidate that is
// being tried and the good one that was last confirmed. A node that starts
// without its controller serves the good one.
package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// ErrCorrupt is wrapped by Good's error when the file is not what was written.
var ErrCorrupt = errors.New("damaged")

// magic begins each file; the number is the version of the format.
const magic = "tandem-node-config 1 "

// Cache is a directory with the two files. It has one user at a time.
type Cache struct {
	candidate, good string
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
	}, nil
}

// Candidate makes a configuration durable before anything acts on it.
func (c *Cache) Candidate(config *agentv1.NodeConfig) error {
	body, err := proto.Marshal(config)
	if err != nil {
		return fmt.Errorf("configuration cache: %w", err)
	}
	sum := sha256.Sum256(body)
	data := append([]byte(magic+hex.EncodeToString(sum[:])+"\n"), body...)
	return atomicfile.WriteFile(c.candidate, data, 0o600)
}

// Promote makes the candidate the good configuration.
func (c *Cache) Promote() error {
	return atomicfile.Rename(c.candidate, c.good)
}

// Good returns the configuration that was last confirmed, nil when there is
// none. The error wraps ErrCorrupt when the file is damaged.
func (c *Cache) Good() (*agentv1.NodeConfig, error) {
	data, err := os.ReadFile(c.good)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("configuration cache: %w", err)
	}
	header, body, ok := bytes.Cut(data, []byte("\n"))
	sum := sha256.Sum256(body)
	if !ok || string(header) != magic+hex.EncodeToString(sum[:]) {
		return nil, fmt.Errorf("last good configuration %s is %w", c.good, ErrCorrupt)
	}
	config := &agentv1.NodeConfig{}
	if err := proto.Unmarshal(body, config); err != nil {
		return nil, fmt.Errorf("last good configuration %s is %w: %w", c.good, ErrCorrupt, err)
	}
	return config, nil
}
