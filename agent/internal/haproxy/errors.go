package haproxy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// RefusedError means that HAProxy's checker, or the renderer before it, said
// no. Trying again is useless; nothing was changed.
type RefusedError struct {
	// Words of the checker, or what the renderer found.
	Words string
	// Err is the renderer's error; nil when it was the checker.
	Err error
}

// Error implements error.
func (e *RefusedError) Error() string { return "haproxy refuses the configuration: " + e.Words }

// Unwrap gives the renderer's error.
func (e *RefusedError) Unwrap() error { return e.Err }

// FailedError means that a configuration passed the checker and could not be
// put in effect. The last good one serves, if there is one.
type FailedError struct {
	// What was being done.
	What string
	// Words of HAProxy; empty when it had none.
	Words string
	// Err is the cause, when it was not HAProxy's word.
	Err error
}

// Error implements error.
func (e *FailedError) Error() string {
	text := "haproxy: " + e.What
	if e.Words != "" {
		text += ": " + e.Words
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap gives the cause.
func (e *FailedError) Unwrap() error { return e.Err }

// MissingError means that the binary is missing or too old.
type MissingError struct {
	// Binary that was looked for.
	Binary string
	// Problem with it.
	Problem string
}

// Error implements error. It names the cure.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%s %s: install haproxy %d.%d or newer (apt-get install haproxy, dnf install haproxy)",
		e.Binary, e.Problem, oldest.major, oldest.minor)
}

// message is a line such as "[ALERT]    (123) : text".
var message = regexp.MustCompile(`^\[([A-Z]+)\][^(]*\(([0-9]+)\) : (.*)$`)

// alerts picks the alerts of one process out of HAProxy's output, all processes'
// when pid is 0. Lines in no form of HAProxy's are kept too.
func alerts(output string, pid int) string {
	var words []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		match := message.FindStringSubmatch(line)
		switch {
		case line == "", line == ".":
		case match == nil:
			words = append(words, line)
		case match[1] == "ALERT" && (pid == 0 || match[2] == strconv.Itoa(pid)):
			words = append(words, strings.TrimSpace(match[3]))
		}
	}
	const most = 10
	if len(words) > most {
		words = append(words[:most:most], fmt.Sprintf("and %d more", len(words)-most))
	}
	return strings.Join(words, "; ")
}
