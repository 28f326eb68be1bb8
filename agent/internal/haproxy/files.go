package haproxy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
)

// paths are the driver's files. Those in state survive a boot.
type paths struct {
	file      string // state: what HAProxy reads
	candidate string // state: what its checker reads
	good      string // state: the last file that was in effect
	site      string // state: what the file depends on beside its configuration

	jail   string // run: the workers' root directory, holds nothing but sockets
	events string // run: datagram socket for health events
	access string // run: stream socket for requests
	master string // run: HAProxy's master socket
	stats  string // run: HAProxy's socket for people
	states string // run: servers' states on their way to the next worker
	pid    string // run: identity of the master
	log    string // run: what the processes print
}

// maxSocketPath leaves room for the suffix that HAProxy adds while it binds.
const maxSocketPath = 107 - len(".123456789.tmp")

// makePaths makes the directories.
func makePaths(stateDir, runDir string) (paths, error) {
	state, run := filepath.Join(stateDir, "haproxy"), filepath.Join(runDir, "haproxy")
	p := paths{
		file:      filepath.Join(state, "haproxy.cfg"),
		candidate: filepath.Join(state, "candidate.cfg"),
		good:      filepath.Join(state, "good.cfg"),
		site:      filepath.Join(state, "site.json"),
		jail:      filepath.Join(run, "jail"),
		events:    filepath.Join(run, "jail", "events.sock"),
		access:    filepath.Join(run, "jail", "access.sock"),
		master:    masterSocket(runDir),
		stats:     filepath.Join(run, "stats.sock"),
		states:    filepath.Join(run, "servers.state"),
		pid:       filepath.Join(run, "pid"),
		log:       filepath.Join(run, "haproxy.log"),
	}
	if len(p.events) > maxSocketPath {
		return p, fmt.Errorf("run_dir %q is too long for sockets: %d characters at most", runDir, maxSocketPath-(len(p.events)-len(runDir)))
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return p, err
	}
	return p, os.MkdirAll(p.jail, 0o755)
}

// masterSocket of the HAProxy of the agent with that run directory.
func masterSocket(runDir string) string { return filepath.Join(runDir, "haproxy", "master.sock") }

// current reads the file that HAProxy reads; nil when there is none. It fails
// when someone else wrote that file.
func (p *paths) current() ([]byte, error) { return readOurs(p.file) }

// readOurs reads a file that this driver wrote; nil when there is none.
func readOurs(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && !config.IsOurs(text) {
		err = fmt.Errorf("%s was not written by Tandem and is left alone: move it away", path)
	}
	return text, err
}

func writeFile(path string, text []byte) error { return atomicfile.WriteFile(path, text, 0o600) }

// install puts the text where HAProxy reads it.
func (p *paths) install(text []byte) error { return writeFile(p.file, text) }

// installCandidate puts the candidate there.
func (p *paths) installCandidate() error { return p.installFrom(p.candidate) }

// installFrom puts another file there.
func (p *paths) installFrom(path string) error { return atomicfile.Rename(path, p.file) }

// keepGood makes the file the last good one. Both are one file then, so that it
// takes no space.
func (p *paths) keepGood() error { return atomicfile.Link(p.file, p.good) }

// installGood makes the last good file the one that HAProxy reads.
func (p *paths) installGood() error { return atomicfile.Link(p.good, p.file) }

// writeStates hands the next worker what is known about servers.
func (p *paths) writeStates(states []runtime.State) error {
	var text bytes.Buffer
	if err := runtime.WriteStates(&text, states); err != nil {
		return err
	}
	return atomicfile.WriteVolatile(p.states, text.Bytes(), 0o600)
}
