package diagnose

import (
	"fmt"
	"regexp"
	"strconv"
)

// plain are the names that make a command, and nothing else in a shell.
var plain = regexp.MustCompile(`^[A-Za-z0-9_.:@][A-Za-z0-9_.:@-]*$`)

// word is a name that a node has told, for people to read.
func word(name string) string {
	if plain.MatchString(name) {
		return name
	}
	return strconv.Quote(name)
}

// command makes a command of names that a node has told, such as those of interfaces and
// chains. One that is not plain makes none: whoever pastes a cure would run what a
// hostile node calls its chain.
func command(format string, names ...string) string {
	words := make([]any, len(names))
	for i, name := range names {
		if !plain.MatchString(name) {
			return fmt.Sprintf("(no command is made of the name %q)", name)
		}
		words[i] = name
	}
	return fmt.Sprintf(format, words...)
}
