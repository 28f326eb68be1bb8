package keepalivedconf

import "strings"

// kind of a token.
type kind int

const (
	word kind = iota + 1
	openBrace
	closeBrace
)

// token is a word or a brace.
type token struct {
	kind  kind
	text  string // of a word, unquoted
	line  int
	first bool // nothing is before it in its line but braces
}

// scan splits a text into tokens. Comments begin with "!" or "#", outside
// quotes also inside a word, as keepalived cuts them off. What it would expand
// is refused.
func scan(text string) ([]token, error) {
	var tokens []token
	number := 0
	for line := range strings.Lines(text) {
		number++
		found, err := scanLine(strings.TrimRight(line, "\r\n"), number)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, found...)
	}
	return tokens, nil
}

func scanLine(line string, number int) ([]token, error) {
	var tokens []token
	first := true
	add := func(k kind, text string) {
		tokens = append(tokens, token{k, text, number, first})
		first = k != word
	}
	for i := 0; i < len(line); {
		switch line[i] {
		case ' ', '\t':
			i++
		case '!', '#':
			return tokens, nil
		case '{':
			add(openBrace, "")
			i++
		case '}':
			add(closeBrace, "")
			i++
		case '"':
			end := strings.IndexByte(line[i+1:], '"')
			if end < 0 {
				return nil, &Error{number, "has a quote that is not closed"}
			}
			text := line[i+1 : i+1+end]
			if err := checkText(text, number); err != nil {
				return nil, err
			}
			add(word, text)
			if i += end + 2; i < len(line) && !strings.ContainsRune(" \t!#{}", rune(line[i])) {
				return nil, &Error{number, "goes on behind a closing quote without a space"}
			}
		default:
			end := strings.IndexAny(line[i:], " \t!#{}\"")
			if end < 0 {
				end = len(line) - i
			}
			if i+end < len(line) && line[i+end] == '"' {
				return nil, &Error{number, "has a quote inside a word"}
			}
			text := line[i : i+end]
			if err := checkText(text, number); err != nil {
				return nil, err
			}
			add(word, text)
			i += end
		}
	}
	return tokens, nil
}

// checkText refuses what keepalived does not take as it stands.
func checkText(text string, number int) error {
	for _, c := range []byte(text) {
		switch {
		case c == '$':
			return &Error{number, "uses a definition ($…), which keepalived fills in: write what it stands for"}
		case c == '~':
			return &Error{number, "holds a ~, which keepalived may expand: write down the lines that it stands for"}
		case c == '\\':
			return &Error{number, "holds a backslash, which keepalived reads in its own ways: write it without"}
		case c < ' ' || c == 0x7f:
			return &Error{number, "holds a control character"}
		}
	}
	return nil
}
