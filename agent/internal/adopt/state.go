package adopt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	"github.com/tandem-lb/tandem/agent/internal/running"
)

// phase is how far a takeover is.
type phase string

const (
	// wanted: an operator has asked for the takeover.
	wanted phase = "wanted"
	// taken: both daemons are Tandem's.
	taken phase = "taken"
	// unwanted: an operator has asked for the daemons back.
	unwanted phase = "unwanted"
	// released: the daemons run their own files again.
	released phase = "released"
)

// state of a takeover on this node, kept in the agent's state directory. The
// commands write wanted and unwanted, the agent the rest.
type state struct {
	Phase phase `json:"phase"`
	// HAProxy and Keepalived are the daemons as they were found, and their
	// files.
	HAProxy    running.Daemon `json:"haproxy"`
	Keepalived running.Daemon `json:"keepalived"`
	// Problem is what keeps the phase from passing, for the one who waits.
	Problem string `json:"problem,omitempty"`
}

func statePath(stateDir string) string { return filepath.Join(stateDir, "takeover.json") }

// readState returns nil when nobody has asked for anything.
func readState(stateDir string) (*state, error) {
	data, err := os.ReadFile(statePath(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s: %w", statePath(stateDir), err)
	}
	return s, nil
}

func (s *state) write(stateDir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(statePath(stateDir), append(data, '\n'), 0o600)
}
