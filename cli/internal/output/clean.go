package output

import (
	"strings"
	"unicode"
)

// Clean makes text from elsewhere safe for a terminal, on one line: control
// and formatting characters are dropped, line breaks and tabs become spaces.
func Clean(text string) string {
	return clean(text, ' ')
}

// CleanLines is Clean, but keeps line breaks.
func CleanLines(text string) string {
	return clean(text, '\n')
}

func clean(text string, lineBreak rune) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return lineBreak
		case r == '\t':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == '\u2028', r == '\u2029':
			return -1
		default:
			return r
		}
	}, text)
}
