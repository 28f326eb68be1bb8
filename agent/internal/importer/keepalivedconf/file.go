// Package keepalivedconf reads a keepalived.conf that somebody else has written
// into statements and blocks. It knows keepalived's syntax and none of its
// keywords but those that change what is read. It is pure.
package keepalivedconf

import (
	"fmt"
	"strings"
)

// Statement is a line of keywords, or a part of one, and the block behind it.
type Statement struct {
	// Line is its number in the file, from 1.
	Line int
	// Words of the statement, unquoted.
	Words []string
	// HasBlock tells whether braces follow.
	HasBlock bool
	// Block is what is between them.
	Block []Statement
	// Close is the line of the closing brace; 0 without a block.
	Close int
}

// Error is a line that cannot be read, or does not always mean the same.
type Error struct {
	// Line is its number, from 1.
	Line int
	// Message says what is wrong and what would be right.
	Message string
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("line %d %s", e.Line, e.Message) }

// maxDepth of blocks in blocks; keepalived has no more than five.
const maxDepth = 16

// Parse reads a file. The error is an *Error.
func Parse(text string) ([]Statement, error) {
	tokens, err := scan(text)
	if err != nil {
		return nil, err
	}
	p := parser{tokens: tokens}
	statements, err := p.statements(0)
	if err != nil {
		return nil, err
	}
	return statements, nil
}

// parser goes through the tokens once.
type parser struct {
	tokens []token
	next   int
}

// statements reads up to the brace that closes the block, or at depth 0 up to
// the end.
func (p *parser) statements(depth int) ([]Statement, error) {
	var list []Statement
	for ; p.next < len(p.tokens); p.next++ {
		switch t := p.tokens[p.next]; t.kind {
		case openBrace:
			if len(list) == 0 || list[len(list)-1].HasBlock {
				return nil, &Error{t.line, "opens a block that belongs to nothing"}
			}
			if depth == maxDepth {
				return nil, &Error{t.line, "opens a block inside too many others"}
			}
			p.next++
			s := &list[len(list)-1]
			block, err := p.statements(depth + 1)
			if err != nil {
				return nil, err
			}
			if p.next == len(p.tokens) {
				return nil, &Error{t.line, "opens a block that is never closed"}
			}
			s.HasBlock, s.Block, s.Close = true, block, p.tokens[p.next].line
		case closeBrace:
			if depth == 0 {
				return nil, &Error{t.line, "closes a block that was never opened"}
			}
			return list, nil
		case word:
			if n := len(list); n > 0 && !t.first && !list[n-1].HasBlock {
				list[n-1].Words = append(list[n-1].Words, t.text)
				continue
			}
			if err := checkFirst(t); err != nil {
				return nil, err
			}
			list = append(list, Statement{Line: t.line, Words: []string{t.text}})
		}
	}
	return list, nil
}

// checkFirst refuses what keepalived reads otherwise on another machine, or in
// another file.
func checkFirst(t token) error {
	switch {
	case strings.HasPrefix(t.text, "@"):
		return &Error{t.line, fmt.Sprintf("begins with %s, which keepalived reads on some machines only: write down the lines that apply to this one", t.text)}
	case strings.HasPrefix(t.text, "include"):
		return &Error{t.line, "includes other files: put their text in its place"}
	}
	return nil
}
