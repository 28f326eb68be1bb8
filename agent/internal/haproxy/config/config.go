// Package config renders HAProxy's configuration file.
//
// It is pure: the same message and environment give the same bytes. It trusts
// no string that it is given: names must be tokens, everything else is quoted,
// and what cannot be quoted is refused with an *Error that names the field.
package config

import (
	"bytes"
	"fmt"
	"net/netip"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// header is how every rendered file begins.
const header = "# Managed by Tandem. Changes made here by hand are lost; use lbctl.\n"

// IsOurs tells whether the text of a file was rendered by this package.
func IsOurs(text []byte) bool { return bytes.HasPrefix(text, []byte(header)) }

// StructureOf returns the structure that a rendered file names.
func StructureOf(text []byte) string {
	_, rest, _ := bytes.Cut(text, []byte("\n  description "))
	structure, _, _ := bytes.Cut(rest, []byte("\n"))
	return string(structure)
}

// Environment is what the file holds of the machine and the agent.
type Environment struct {
	// EventSocket is the datagram socket for health events, as HAProxy sees it
	// after chroot.
	EventSocket string
	// AccessSocket is the stream socket for requests, likewise.
	AccessSocket string
	// StatsSocket is the socket of the newest worker, for people.
	StatsSocket string
	// StateFile holds the servers' states across a reload.
	StateFile string
	// Chroot is the directory to lock the workers in; empty: none.
	Chroot string
	// User and Group are whom the workers run as; empty: the agent's own.
	User, Group string
	// NoIPv6 leaves IPv6 out where a bind means every address.
	NoIPv6 bool
	// Kept are parts of a hand-written file; nil: none.
	Kept *Kept
}

// File is a rendered configuration.
type File struct {
	// Text is the file.
	Text []byte
	// Structure names everything in the file but its servers. A running
	// worker tells the one that it has loaded as its description.
	Structure string
	// Servers in the file, in order.
	Servers []Server
	// Binds of all frontends.
	Binds []Bind
	// LocalLog is where on the node requests are logged, and JSONLog whether as
	// JSON.
	LocalLog haproxyv1.LocalLog
	JSONLog  bool
	// MaxConnections of the whole process.
	MaxConnections int

	checks   map[string]string
	backends map[string]bool
	index    map[Key]int // into Servers
}

// Server returns the server with that key; nil when there is none.
func (f *File) Server(k Key) *Server {
	if i, ok := f.index[k]; ok {
		return &f.Servers[i]
	}
	return nil
}

// HasBackend tells whether the file has that backend.
func (f *File) HasBackend(name string) bool { return f.backends[name] }

// Check is how the servers of a backend are checked, in the words of a server
// line; empty: not at all.
func (f *File) Check(backend string) string { return f.checks[backend] }

// Key names a server. Both names are tokens.
type Key struct{ Backend, Name string }

// String is how HAProxy's commands and messages name the server.
func (k Key) String() string { return k.Backend + "/" + k.Name }

// Server is one server of a backend.
type Server struct {
	Key
	// ID is the number that names the server on every node.
	ID uint32
	// Address to connect to.
	Address netip.AddrPort
	// Weight in effect, 0 to 256; 0 drains the server.
	Weight uint32
	// MaxConnections limits concurrent connections; 0: no limit.
	MaxConnections uint32
	// Maintenance stops its traffic and its checks.
	Maintenance bool
	// Backup serves only when no other server can.
	Backup bool
}

// Bind is one address and port that a frontend listens on.
type Bind struct {
	// Frontend is its name.
	Frontend string
	// Address to listen on; invalid: every address.
	Address netip.Addr
	// First and Last are the ends of the range of ports.
	First, Last uint16
	// Floating tells that the address may live on another node.
	Floating bool
}

// Error says what cannot be rendered.
type Error struct {
	// Field is the path of the field.
	Field string
	// Message says what is wrong and what would be right.
	Message string
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Field, e.Message) }

// Render renders the file. The error is an *Error.
func Render(c *haproxyv1.Config, env Environment) (*File, error) {
	w := newWriter()
	render(w, c, env)
	if w.err != nil {
		return nil, w.err
	}
	file := w.file()
	file.LocalLog = c.GetGlobal().GetLogLocal()
	file.JSONLog = c.GetGlobal().GetLogFormat() == haproxyv1.LogFormat_LOG_FORMAT_JSON
	file.MaxConnections = int(c.GetGlobal().GetMaxConnections())
	return file, nil
}
