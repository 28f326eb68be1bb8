// Package importer reads the hand-written haproxy.cfg and keepalived.conf of a
// node and says what they are in Tandem's words: the file that "lbctl apply -f"
// takes, and for each line what becomes of it. It is pure, and it guesses
// nothing: what the model does not have is kept as written, or refused with the
// reason.
package importer

import (
	"fmt"
	"regexp"
	"strings"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Fate is what becomes of a line.
type Fate int

// The fates, the better ones first.
const (
	// Blank: the line says nothing.
	Blank Fate = iota
	// Typed: the configuration says the same. A reason tells what differs.
	Typed
	// Ignored: Tandem does it itself, or does without; the reason tells.
	Ignored
	// Verbatim: the model lacks it, and it is kept as written.
	Verbatim
	// Refused: the model lacks it, and it cannot be kept; the reason tells why,
	// and what would be right.
	Refused
)

// String is the fate in a word.
func (f Fate) String() string {
	switch f {
	case Typed:
		return "managed"
	case Ignored:
		return "dropped"
	case Verbatim:
		return "kept"
	case Refused:
		return "refused"
	default:
		return "-"
	}
}

// Line is a line of a file and what becomes of it.
type Line struct {
	// Number in the file, from 1.
	Number int
	// Text as written. It may hold a password: see Shown.
	Text string
	// Fate of the line.
	Fate Fate
	// Reason in words; empty where the fate says it all.
	Reason string
}

// Source is a file to read.
type Source struct {
	// Path of the file, for words only.
	Path string
	// Text of the file.
	Text string
}

// File is a source and what becomes of its lines.
type File struct {
	Source
	// Lines in order: every line of the file, once.
	Lines []Line
}

// Node is what is read of one node.
type Node struct {
	// ID of the node in its cluster.
	ID string
	// Networks maps network names to interfaces, as the agent's configuration
	// file does.
	Networks map[string]string
	// HAProxy and Keepalived are the files.
	HAProxy, Keepalived Source
}

// Speaking is where an instance advertises from and to.
type Speaking struct {
	// Source is as in the file; empty: keepalived chooses.
	Source string
	// Peers are as in the file.
	Peers []string
}

// Import is what the files of a node are in Tandem's words.
type Import struct {
	// Config is what Tandem would manage.
	Config *tandemv1.ClusterConfig
	// HAProxy and Keepalived tell what becomes of each line.
	HAProxy, Keepalived File
	// Speaking is where the VIPs that are advertised by unicast are, by their names.
	Speaking map[string]Speaking
	// Kept are the parts of haproxy.cfg that are kept as written.
	Kept Kept
}

// Read reads a node's files. A file that the daemon itself would not read gives
// an error that names the line.
func Read(n Node) (*Import, error) {
	vrrp, err := readKeepalived(n)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.Keepalived.Path, err)
	}
	proxy, err := readHAProxy(n.HAProxy, vrrp.vips)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.HAProxy.Path, err)
	}
	config := proxy.config
	config.Cluster.Vrrp = vrrp.vrrp
	config.Vips = vrrp.vips
	speaking := make(map[string]Speaking)
	for _, i := range vrrp.instances {
		if len(i.speaking.Peers) > 0 {
			speaking[i.name] = i.speaking
		}
	}
	return &Import{
		Config:     config,
		Speaking:   speaking,
		HAProxy:    File{n.HAProxy, proxy.lines.list},
		Keepalived: File{n.Keepalived, vrrp.lines.list},
		Kept:       proxy.kept,
	}, nil
}

// Refusals are the lines that stand in the way of a takeover, as
// "path:number: text: reason", with secrets left out.
func (i *Import) Refusals() []string {
	var all []string
	for _, f := range []File{i.HAProxy, i.Keepalived} {
		for _, l := range f.Lines {
			if l.Fate == Refused {
				all = append(all, fmt.Sprintf("%s:%d: %s: %s", f.Path, l.Number, strings.TrimSpace(l.Shown()), l.Reason))
			}
		}
	}
	return all
}

// secret is what a secret may follow: passwords by their names, and values that
// reach a server by a header, a query, an environment variable or a sent line.
var secret = regexp.MustCompile(`(?i)stats auth|pass(word|wd|phrase)|auth_pass|[-_]key\b|secret|token|authorization|(pre)?setenv\s+\S+|tcp-check\s+send(-binary|-lf)?\b`)

// Shown is the line for people, without what may be a secret.
func (l *Line) Shown() string {
	if at := secret.FindStringIndex(l.Text); at != nil {
		return l.Text[:at[1]] + " …"
	}
	return l.Text
}

// lines collects fates by the numbers of lines.
type lines struct{ list []Line }

func newLines(text string) *lines {
	l := &lines{}
	for line := range strings.Lines(text) {
		l.list = append(l.list, Line{Number: len(l.list) + 1, Text: strings.TrimSuffix(line, "\n")})
	}
	return l
}

// set gives a line its fate. Where a line holds several statements, the worst
// fate is the line's, with the first reason for it.
func (l *lines) set(number int, fate Fate, reason string) {
	line := &l.list[number-1]
	switch {
	case fate > line.Fate:
		line.Fate, line.Reason = fate, reason
	case fate == line.Fate && line.Reason == "":
		line.Reason = reason
	}
}
