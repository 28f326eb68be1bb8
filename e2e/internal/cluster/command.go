package cluster

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// CommandError is a command that failed.
type CommandError struct {
	// Line is the command line.
	Line string
	// Code is the exit code, -1 if the command did not exit by itself.
	Code int
	// Stderr is what it said.
	Stderr string
	err    error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("%s: %v: %s", e.Line, e.err, e.Stderr)
}

func (e *CommandError) Unwrap() error { return e.err }

// runCommand returns the standard output of a command. A failure is a
// *CommandError.
func runCommand(cmd *exec.Cmd, name string, args []string) ([]byte, error) {
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	failed := &CommandError{Line: Line(name, args...), Code: -1, err: err}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		failed.Code = exit.ExitCode()
		failed.Stderr = strings.TrimSpace(string(exit.Stderr))
	}
	return out, failed
}

// Line returns a command line as one types it into a shell.
func Line(name string, args ...string) string {
	words := append([]string{name}, args...)
	for i, word := range words {
		if word == "" || strings.ContainsAny(word, " \t\n'\"\\$&|;<>()*?[]{}#~!`") {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}
