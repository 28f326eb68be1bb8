package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
)

// maxLine is the longest line that HAProxy reads whole.
const maxLine = 2047

// writer collects the lines of a file. Its methods keep the first error, so
// callers need not look at each one.
type writer struct {
	text    []byte
	err     error
	servers []Server
	marks   []mark

	binds    []Bind
	checks   map[string]string // of each backend that has checks
	backends map[string]bool
	index    map[Key]int
}

// mark is a place in the text where a server line goes. The text itself is the
// structure, without servers.
type mark struct{ offset, server int }

func newWriter() *writer {
	return &writer{
		text:     make([]byte, 0, 8<<10),
		checks:   make(map[string]string),
		backends: make(map[string]bool),
		index:    make(map[Key]int),
	}
}

// fail keeps the first error.
func (w *writer) fail(field, format string, args ...any) {
	if w.err == nil {
		w.err = &Error{Field: field, Message: fmt.Sprintf(format, args...)}
	}
}

// section begins a section. Its words are tokens.
func (w *writer) section(field, keyword, name string) {
	w.text = append(w.text, '\n')
	if name != "" {
		name = " " + name
	}
	w.put(field, keyword+name)
}

// line adds a line to the section. The words are either written by this
// package or quoted.
func (w *writer) line(field string, words ...string) {
	length := 1
	for _, word := range words {
		length += len(word) + 1
	}
	text := make([]byte, 0, length)
	text = append(text, ' ')
	for _, word := range words {
		text = append(text, ' ')
		text = append(text, word...)
	}
	w.put(field, string(text))
}

func (w *writer) put(field, text string) {
	if len(text) > maxLine {
		w.fail(field, "is too long: its line in HAProxy's file would have %d characters, and at most %d are read", len(text), maxLine)
	}
	w.text = append(w.text, text...)
	w.text = append(w.text, '\n')
}

// server adds a server to the section. It reports false when there is one with
// that name.
func (w *writer) server(s Server) bool {
	if _, ok := w.index[s.Key]; ok {
		return false
	}
	w.index[s.Key] = len(w.servers)
	w.marks = append(w.marks, mark{offset: len(w.text), server: len(w.servers)})
	w.servers = append(w.servers, s)
	return true
}

// file puts description and servers in their places.
func (w *writer) file() *File {
	sum := sha256.Sum256(w.text)
	f := &File{
		Structure: hex.EncodeToString(sum[:16]),
		Servers:   w.servers,
		Binds:     w.binds,
		checks:    w.checks,
		backends:  w.backends,
		index:     w.index,
	}
	text := make([]byte, 0, len(header)+len(w.text)+100*len(w.servers)+100)
	text = append(text, header...)
	text = append(text, "global\n  description "...)
	text = append(text, f.Structure...)
	text = append(text, '\n')
	from := 0
	for _, m := range w.marks {
		text = append(text, w.text[from:m.offset]...)
		text = w.servers[m.server].appendLine(text)
		from = m.offset
	}
	f.Text = append(text, w.text[from:]...)
	return f
}

// appendLine appends the server's line.
func (s *Server) appendLine(text []byte) []byte {
	text = append(text, "  server "...)
	text = append(text, s.Name...)
	text = append(text, ' ')
	text = s.Address.AppendTo(text)
	text = append(text, " id "...)
	text = strconv.AppendUint(text, uint64(s.ID), 10)
	text = append(text, " weight "...)
	text = strconv.AppendUint(text, uint64(s.Weight), 10)
	if s.MaxConnections != 0 {
		text = append(text, " maxconn "...)
		text = strconv.AppendUint(text, uint64(s.MaxConnections), 10)
	}
	if s.Backup {
		text = append(text, " backup"...)
	}
	if s.Maintenance {
		text = append(text, " disabled"...)
	}
	return append(text, '\n')
}

// quoted makes one word of a string.
func (w *writer) quoted(field, s string) string {
	if err := checkText(s); err != nil {
		w.fail(field, "%v", err)
	}
	return quote(s)
}

// oneOf refuses what is not in the list; the words of a list need no quotes.
func (w *writer) oneOf(field, s string, list []string) string {
	if !slices.Contains(list, s) {
		w.fail(field, "is %q and must be one of %v", s, list)
		return ""
	}
	return s
}

// name refuses what is not a token.
func (w *writer) name(field, s string) string {
	if !IsToken(s) {
		w.fail(field, "is %q and must be 1 to %d of A-Z a-z 0-9 _ . : -", s, maxName)
		return ""
	}
	return s
}

// number refuses what is out of range.
func (w *writer) number(field string, n, low, high uint32) string {
	if n < low || n > high {
		w.fail(field, "is %d and must be %d to %d", n, low, high)
	}
	return strconv.FormatUint(uint64(n), 10)
}
