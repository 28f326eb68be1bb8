package haproxycfg

import (
	"errors"
	"strings"
)

// maxWords is how many words HAProxy reads of a line (MAX_LINE_ARGS).
const maxWords = 64

// Words splits a line as HAProxy does (manual, 2.2 "Quoting and escaping"). A
// "#" outside quotes begins a comment, also inside a word. Variables (manual,
// 2.3), which HAProxy expands inside double quotes, are left as written and
// reported by name. The error tells what HAProxy would not read.
func Words(line string) (words, variables []string, err error) {
	s := splitter{rest: line}
	for s.rest != "" && err == nil {
		err = s.next()
	}
	if err == nil && s.quote != 0 {
		err = errors.New("a quote is not closed")
	}
	s.end()
	if err == nil && len(s.words) > maxWords {
		err = errors.New("has more than 64 words")
	}
	return s.words, s.variables, err
}

// splitter is the state between two characters of a line.
type splitter struct {
	rest      string
	quote     byte // the open one, 0 outside
	word      []byte
	inWord    bool
	words     []string
	variables []string
}

// next takes one character or escape sequence.
func (s *splitter) next() error {
	c := s.rest[0]
	switch {
	case s.quote == '\'' && c != '\'':
		s.put(1)
	case c == '\\':
		return s.escape()
	case c == s.quote:
		s.quote = 0
		s.rest = s.rest[1:]
	case s.quote == '"' && c == '$':
		return s.variable()
	case s.quote != 0:
		s.put(1)
	case c == '\'' || c == '"':
		s.quote, s.inWord = c, true
		s.rest = s.rest[1:]
	case c == '#':
		s.rest = ""
	case isSpace(c):
		s.end()
		s.rest = s.rest[1:]
	default:
		s.put(1)
	}
	return nil
}

// put takes n characters as they are.
func (s *splitter) put(n int) {
	s.word, s.inWord = append(s.word, s.rest[:n]...), true
	s.rest = s.rest[n:]
}

func (s *splitter) end() {
	if s.inWord {
		s.words = append(s.words, string(s.word))
	}
	s.word, s.inWord = nil, false
}

// escape takes a backslash and what follows. What is no escape sequence, such
// as \d in a regular expression, stays with its backslash.
func (s *splitter) escape() error {
	if len(s.rest) == 1 {
		return errors.New("ends in a backslash")
	}
	c := s.rest[1]
	s.inWord = true
	switch {
	case c == ' ', c == '\\', c == '#', c == '\'', c == '"', c == '$' && s.quote == '"':
	case c == 'n':
		c = '\n'
	case c == 'r':
		c = '\r'
	case c == 't':
		c = '\t'
	case c == 'x':
		return s.hexadecimal()
	default:
		s.put(1)
		return nil
	}
	s.word = append(s.word, c)
	s.rest = s.rest[2:]
	return nil
}

func (s *splitter) hexadecimal() error {
	if len(s.rest) < 4 {
		return errors.New(`\x is not followed by two hexadecimal digits`)
	}
	value := 0
	for _, c := range []byte(s.rest[2:4]) {
		digit := strings.IndexByte("0123456789abcdef", c|0x20)
		if digit < 0 {
			return errors.New(`\x is not followed by two hexadecimal digits`)
		}
		value = value<<4 | digit
	}
	s.word = append(s.word, byte(value))
	s.rest = s.rest[4:]
	return nil
}

// variable takes a dollar and a name; what the variable holds is not looked up.
func (s *splitter) variable() error {
	name := strings.TrimPrefix(s.rest[1:], "{")
	n := 0
	for n < len(name) && (isAlnum(name[n]) || name[n] == '_' || n == 0 && name[n] == '.') {
		n++
	}
	if n == 0 || '0' <= name[0] && name[0] <= '9' {
		return errors.New("a $ in double quotes is not followed by a variable's name")
	}
	s.variables = append(s.variables, name[:n])
	s.put(len(s.rest) - len(name) + n)
	return nil
}

// isSpace is isspace(3) in the C locale.
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
