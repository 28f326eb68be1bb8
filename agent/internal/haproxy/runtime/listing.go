package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
)

// Listing is what a worker says of its servers, its reply to "show servers state". It is
// read all the time and hardly differs from one time to the next: a row that says what it
// said before is taken over, with its age alone, and no garbage is made. The zero value
// holds nothing yet. It is not for concurrent use.
type Listing struct {
	// States in HAProxy's order, until the next Read.
	States []State
	// Same tells that nothing but ages differs from what was read before.
	Same bool

	read, spare listing
}

// listing is a reply and what it means.
type listing struct {
	text   bytes.Buffer
	names  []byte // of the columns; nil: not known
	row    stateRow
	rows   []around
	states []State
}

// around is the text of a row before and after its age, which is new each second.
type around struct{ before, after []byte }

// Read reads a reply, by column names. After an error everything is as it was before.
func (l *Listing) Read(from io.Reader) error {
	next := &l.spare
	next.text.Reset()
	if _, err := next.text.ReadFrom(from); err != nil {
		return err
	}
	if text := next.text.Bytes(); bytes.HasPrefix(text, []byte(noTarget)) || len(bytes.TrimSpace(text)) == 0 { // see show
		return ErrNoWorker
	}
	same, err := next.parse(&l.read)
	if err != nil {
		return fmt.Errorf("show servers state: %w", err)
	}
	l.read, l.spare = l.spare, l.read
	l.States, l.Same = l.read.states, same
	return nil
}

// parse parses the text, and tells whether it says the same as last.
func (l *listing) parse(last *listing) (same bool, err error) {
	l.names, l.rows, l.states = nil, l.rows[:0], l.states[:0]
	same = true
	for line := range bytes.Lines(l.text.Bytes()) {
		line = bytes.TrimSpace(line)
		names, isNames := bytes.CutPrefix(line, []byte("# "))
		switch {
		case isNames && l.names != nil:
			return false, errors.New("its columns are named twice")
		case isNames && bytes.Equal(names, last.names):
			l.names, l.row.columns = names, last.row.columns
		case isNames:
			l.names, last, same = names, &listing{}, false
			if err := l.row.name(string(names)); err != nil {
				return false, err
			}
		case len(line) > 0 && l.names != nil: // the format's version comes first
			taken, err := l.add(line, last)
			if err != nil {
				return false, fmt.Errorf("%q: %w", line, err)
			}
			same = same && taken
		}
	}
	if l.names == nil {
		return false, errors.New("no columns in the reply")
	}
	return same && len(l.states) == len(last.states), nil
}

// add adds a row, and tells whether it is taken over from last.
func (l *listing) add(line []byte, last *listing) (taken bool, err error) {
	var state State
	var row around
	if n := len(l.states); n < len(last.states) {
		state = last.states[n]
		row, state.Since, taken = last.rows[n].again(line)
	}
	if !taken {
		state, row, err = l.row.parse(line, state.Key)
	}
	l.states, l.rows = append(l.states, state), append(l.rows, row)
	return taken, err
}

// again tells whether a line is the same row with another age, and that.
func (a around) again(line []byte) (row around, age time.Duration, same bool) {
	rest, same := bytes.CutPrefix(line, a.before)
	text, after := bytes.CutSuffix(rest, a.after)
	if !same || !after {
		return around{}, 0, false
	}
	age, err := parseSeconds(string(text)) // nothing with a space in it
	return around{line[:len(a.before)], rest[len(text):]}, age, err == nil
}
