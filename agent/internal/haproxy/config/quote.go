package config

import (
	"fmt"
	"strings"
)

// Seeded defects for the tests that show that they would be found.
var (
	defectNoQuotes  = false
	defectNoControl = false
)

// checkText refuses what cannot be quoted: an unescaped newline in a file
// begins a new directive, whatever quotes are around it.
func checkText(s string) error {
	for i := range len(s) {
		if (s[i] < ' ' || s[i] == 0x7f) && !defectNoControl {
			return fmt.Errorf("must not hold control characters, such as the one at byte %d", i)
		}
	}
	return nil
}

// quote makes one word of any text that passed checkText.
func quote(s string) string {
	if defectNoQuotes {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// quoteFormat makes one word of a text for a place where HAProxy expands
// log-format tags.
func quoteFormat(s string) string { return quote(strings.ReplaceAll(s, "%", "%%")) }

// IsToken tells whether s is a name that HAProxy takes without quotes, in the
// file and on its sockets.
func IsToken(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '_', c == '.', c == ':', c == '-':
		default:
			return false
		}
	}
	return true
}

// maxName bounds names; HAProxy cuts lines of commands and messages.
const maxName = 200
