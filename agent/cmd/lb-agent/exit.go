package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exit codes, those of lbctl.
const (
	exitFailed     = 1
	exitUsage      = 2
	exitNotFound   = 3
	exitNotAllowed = 4
	exitConflict   = 5
	exitTimeout    = 6
)

// exitError is an error with the code to exit with.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usagef is an error of the command line.
func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// noSuchCommand makes what is no command an error of usage.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf(": did you mean %s?", strings.Join(near, " or "))
	}
	return usagef("unknown command %q for %q%s\nsee \"%s --help\"", args[0], cmd.CommandPath(), hint, cmd.CommandPath())
}

// arguments makes a wrong number of arguments an error of usage.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usagef("%w\nusage: %s", err, cmd.UseLine())
		}
		return nil
	}
}

// outcome returns what to tell of an error, and the code to exit with.
func outcome(err error) (text string, code int) {
	var exit *exitError
	if errors.As(err, &exit) {
		return clean(err.Error()), exit.code
	}
	if s, ok := status.FromError(err); ok {
		return clean(s.Message()), callExit(s.Code())
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return clean(err.Error()), exitTimeout
	}
	return clean(err.Error()), exitFailed
}

func callExit(code codes.Code) int {
	switch code {
	case codes.NotFound:
		return exitNotFound
	case codes.PermissionDenied:
		return exitNotAllowed
	case codes.FailedPrecondition:
		return exitConflict
	case codes.DeadlineExceeded:
		return exitTimeout
	default:
		return exitFailed
	}
}
