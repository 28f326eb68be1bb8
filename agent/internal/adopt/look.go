// Package adopt takes over the HAProxy and the keepalived of a machine that run
// hand-written files, and gives them back.
package adopt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tandem-lb/tandem/agent/internal/importer"
	"github.com/tandem-lb/tandem/agent/internal/running"
)

// Question says whose files are to be read.
type Question struct {
	// Node is this node's id.
	Node string
	// Networks maps network names to interfaces; empty: the interface of the
	// first VIP is the network front.
	Networks map[string]string
	// HAProxyFile and KeepalivedFile are the files; empty: those that the
	// running daemons read.
	HAProxyFile, KeepalivedFile string
	// Peers are the other nodes' keepalived.conf, by node id.
	Peers map[string]string
}

// Answer is what was read.
type Answer struct {
	*importer.Import
	// Notes are sentences for people about the whole.
	Notes []string
}

// Look reads the files and changes nothing.
func Look(q Question) (*Answer, error) {
	haproxy, err := source(q.HAProxyFile, "haproxy", func() ([]running.Daemon, error) { found, _, err := foreign(); return found, err })
	if err != nil {
		return nil, err
	}
	keepalived, err := source(q.KeepalivedFile, "keepalived", func() ([]running.Daemon, error) { _, found, err := foreign(); return found, err })
	if err != nil {
		return nil, err
	}
	i, err := importer.Read(importer.Node{ID: q.Node, Networks: q.Networks, HAProxy: haproxy, Keepalived: keepalived})
	if err != nil {
		return nil, err
	}
	a := &Answer{Import: i}
	for id, path := range q.Peers {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("keepalived.conf of %s: %w", id, err)
		}
		if id == q.Node {
			return nil, fmt.Errorf("--peer %s=%s: %s is this node: name the other one", id, path, id)
		}
		if err := i.Merge(importer.Peer{ID: id, Keepalived: importer.Source{Path: path, Text: string(text)}}, q.Networks); err != nil {
			return nil, err
		}
	}
	if len(q.Peers) == 0 && len(i.Config.GetVips()) > 0 {
		a.Notes = append(a.Notes, fmt.Sprintf("only %s has priorities: give the other node's keepalived.conf too (--peer NODE=FILE), "+
			"or Tandem cannot keep their order", q.Node))
	}
	a.Notes = append(a.Notes, i.FitPriorities()...)
	return a, nil
}

// source reads a file, or the one that the one running daemon reads.
func source(path, name string, find func() ([]running.Daemon, error)) (importer.Source, error) {
	if path == "" {
		found, err := find()
		if err != nil {
			return importer.Source{}, err
		}
		one, err := only(found, name)
		if err != nil {
			return importer.Source{}, err
		}
		path = one.File
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return importer.Source{}, fmt.Errorf("%w: name %s's file with --%s-file", err, name, name)
	}
	return importer.Source{Path: path, Text: string(text)}, err
}

// only returns the one file's daemon. Several processes may read one file, such
// as a HAProxy that still finishes what it has.
func only(found []running.Daemon, name string) (*running.Daemon, error) {
	if len(found) == 0 {
		return nil, fmt.Errorf("no %s runs here that somebody else than Tandem has started: start it, or name its file with --%s-file", name, name)
	}
	for _, d := range found {
		if d.File != found[0].File {
			return nil, fmt.Errorf("%s runs with %s (process %d) and with %s (process %d): name one of them with --%s-file",
				name, found[0].File, found[0].PID, d.File, d.PID, name)
		}
	}
	return &found[len(found)-1], nil
}

// header begins the file that Write writes.
const header = "# Written by lb-agent adopt"

// Write writes what Tandem would manage as the file that "lbctl apply -f"
// takes. It holds passwords, so only its owner may read it. A file that was
// not written by Write is left alone.
func (a *Answer) Write(path, node string) error {
	manifest, err := importer.Manifest(a.Config)
	if err != nil {
		return err
	}
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case len(old) > 0 && !hasHeader(old):
		return fmt.Errorf("%s was not written by lb-agent adopt and is left alone: name another file", path)
	}
	text := fmt.Sprintf("%s on %s from %s and %s.\n# It holds passwords. Once both nodes have joined: lbctl apply -f FILE\n",
		header, node, a.HAProxy.Path, a.Keepalived.Path)
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		// It is written over with the mode that it has.
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(path, append([]byte(text), manifest...), 0o600)
}

func hasHeader(text []byte) bool {
	return len(text) >= len(header) && string(text[:len(header)]) == header
}
