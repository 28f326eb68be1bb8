package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
)

// removalFile is there from when the node learns that it is no member any more
// until it is a whole one again.
const removalFile = "removed.json"

// Removal is what the controller has said about an identity that is no member.
type Removal struct {
	// UID of that identity; a node that joins anew has another one.
	UID string `json:"uid"`
	// Message in the controller's words.
	Message string `json:"message"`
	// Time by this node's clock.
	Time time.Time `json:"time"`
}

// LoadRemoval reads what was said; nil when nothing was.
func LoadRemoval(dir string) (*Removal, error) {
	data, err := os.ReadFile(filepath.Join(dir, removalFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("removal of this node: %w", err)
	}
	r := &Removal{}
	if err := json.Unmarshal(data, r); err != nil {
		// That there is a file says what matters.
		return &Removal{Message: "it was removed"}, nil //nolint:nilerr // see above
	}
	return r, nil
}

// Save makes it durable.
func (r *Removal) Save(dir string) error {
	data, err := json.Marshal(r)
	if err == nil {
		err = write(filepath.Join(dir, removalFile), data)
	}
	if err != nil {
		return fmt.Errorf("removal of this node: %w", err)
	}
	return nil
}

// ForgetRemoval is called when the node is a whole member again.
func ForgetRemoval(dir string) error {
	if err := atomicfile.Remove(filepath.Join(dir, removalFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removal of this node: %w", err)
	}
	return nil
}
