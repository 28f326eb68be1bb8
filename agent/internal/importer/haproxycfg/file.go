// Package haproxycfg reads a haproxy.cfg that somebody else has written into
// sections, lines and words. It knows HAProxy's syntax and none of its keywords
// but those that begin a section. It is pure.
package haproxycfg

import (
	"fmt"
	"slices"
	"strings"
)

// File is a whole file; its lines in order are Preamble's and the sections'.
type File struct {
	// Preamble is what comes before the first section: comments, empty lines.
	Preamble []Line
	// Sections in order.
	Sections []Section
}

// Section is a section from its keyword to the next one.
type Section struct {
	// Kind is its keyword, such as "frontend".
	Kind string
	// Name of the section; "" where it has none.
	Name string
	// From names the defaults section that it asks for; "": the last one.
	From string
	// Lines of the section, the one with its keyword first.
	Lines []Line
}

// Line is one line of the file.
type Line struct {
	// Number in the file, from 1.
	Number int
	// Text as written, without the newline.
	Text string
	// Words of the line, unquoted; none in an empty line or a comment.
	Words []string
	// Variables are the environment variables that HAProxy would fill in.
	Variables []string
}

// Error is a line that HAProxy would not read, or not always as it stands.
type Error struct {
	// Line is its number, from 1.
	Line int
	// Message says what is wrong and what would be right.
	Message string
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("line %d %s", e.Line, e.Message) }

// kinds are the keywords that begin a section (manual, 2.1).
var kinds = []string{
	"global", "defaults", "frontend", "backend", "listen", "peers", "resolvers", "userlist",
	"mailers", "cache", "program", "http-errors", "ring", "fcgi-app", "log-forward",
}

// maxLine is the longest line that HAProxy reads whole.
const maxLine = 2047

// Parse reads a file. The error is an *Error.
func Parse(text string) (*File, error) {
	f := &File{}
	number := 0
	for raw := range strings.Lines(text) {
		number++
		line := Line{Number: number, Text: strings.TrimSuffix(raw, "\n")}
		if err := f.add(&line); err != nil {
			return nil, &Error{number, err.Error()}
		}
		if line.Text == raw && len(line.Words) > 0 {
			return nil, &Error{number, "is the last one and does not end in a newline, so that HAProxy does not read it: add one"}
		}
	}
	return f, nil
}

// add reads a line and puts it where it belongs.
func (f *File) add(line *Line) error {
	if len(line.Text) > maxLine {
		return fmt.Errorf("has %d characters: HAProxy reads at most %d", len(line.Text), maxLine)
	}
	if strings.ContainsRune(line.Text, 0) {
		return fmt.Errorf("holds a NUL character")
	}
	var err error
	if line.Words, line.Variables, err = Words(line.Text); err != nil {
		return err
	}
	if len(line.Words) > 0 {
		switch first := line.Words[0]; {
		case strings.HasPrefix(first, "."):
			return fmt.Errorf("is %q, which HAProxy decides about at each start: write down the lines that apply", first)
		case slices.Contains(kinds, first):
			section, err := begin(line)
			if err != nil {
				return err
			}
			f.Sections = append(f.Sections, section)
			return nil
		case len(f.Sections) == 0:
			return fmt.Errorf("(%s) is in no section", first)
		}
	}
	if n := len(f.Sections); n > 0 {
		f.Sections[n-1].Lines = append(f.Sections[n-1].Lines, *line)
	} else {
		f.Preamble = append(f.Preamble, *line)
	}
	return nil
}

// begin reads the line that begins a section.
func begin(line *Line) (Section, error) {
	s := Section{Kind: line.Words[0], Lines: []Line{*line}}
	rest := line.Words[1:]
	if len(rest) > 0 && (rest[0] != "from" || s.Kind != "defaults") {
		s.Name, rest = rest[0], rest[1:]
	}
	if len(rest) == 2 && rest[0] == "from" {
		s.From, rest = rest[1], nil
	}
	if len(rest) > 0 {
		return s, fmt.Errorf("has the word %q after a section's name", rest[0])
	}
	if len(line.Variables) > 0 {
		return s, fmt.Errorf("names a section by the variable %s: write its value", line.Variables[0])
	}
	return s, nil
}
