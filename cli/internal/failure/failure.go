// Package failure translates failed calls into errors that name the field,
// the reason and what would be right, and every error into an exit code.
package failure

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/cli/internal/output"
)

// Exit codes of lbctl. Scripts rely on them.
const (
	ExitError      = 1
	ExitUsage      = 2
	ExitNotFound   = 3
	ExitNotAllowed = 4
	ExitConflict   = 5
	ExitTimeout    = 6
)

// Error is a call that the controller refused, or that did not reach it.
type Error struct {
	// Code is the call's status.
	Code codes.Code
	// Reason is the controller's stable word, empty if it gave none.
	Reason string
	// Message is the controller's sentence.
	Message string
	// Violations name the fields that are wrong, if any.
	Violations []Violation
}

// Violation is one field that is wrong.
type Violation struct {
	// Field is its path in the request, such as "backend.address".
	Field string
	// Reason is a stable word.
	Reason string
	// Message says what would be right.
	Message string
	// Got is what was sent, quoted; empty when there is nothing to show.
	Got string
}

// Error puts each wrong field on a line of its own.
func (e *Error) Error() string {
	if len(e.Violations) == 0 {
		return withReason(output.CleanLines(e.Message), e.Reason)
	}
	lines := make([]string, len(e.Violations))
	for i, v := range e.Violations {
		lines[i] = v.String()
	}
	return strings.Join(lines, "\n")
}

// String is "field: what would be right (got "value") [REASON]".
func (v Violation) String() string {
	text := output.Clean(v.Message)
	if v.Field != "" {
		text = output.Clean(v.Field) + ": " + text
	}
	if v.Got != "" {
		text += " (got " + v.Got + ")"
	}
	return withReason(text, v.Reason)
}

func withReason(text, reason string) string {
	if reason == "" {
		return text
	}
	return text + " [" + output.Clean(reason) + "]"
}

// From translates what a call returned. The request, if given, tells what was
// sent in a field that is wrong. Errors that are not a call's pass unchanged.
func From(err error, request proto.Message) error {
	if err == nil {
		return nil
	}
	var known *Error
	if errors.As(err, &known) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &Error{Code: st.Code(), Message: st.Message()}
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			e.Reason = detail.GetReason()
		case *errdetails.BadRequest:
			for _, v := range detail.GetFieldViolations() {
				e.Violations = append(e.Violations, Violation{
					Field:   v.GetField(),
					Reason:  v.GetReason(),
					Message: v.GetDescription(),
					Got:     valueAt(request, v.GetField()),
				})
			}
		}
	}
	return e
}

// UsageError is a command line that makes no sense.
type UsageError struct {
	err error
}

// Usage marks err as a mistake in the command line.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return &UsageError{err}
}

// Usagef is Usage with a formatted message.
func Usagef(format string, args ...any) error {
	return &UsageError{fmt.Errorf(format, args...)}
}

// Error returns the message of what is wrong.
func (e *UsageError) Error() string { return e.err.Error() }

// Unwrap returns what is wrong.
func (e *UsageError) Unwrap() error { return e.err }

// ExitCode returns the code that lbctl ends with for err.
func ExitCode(err error) int {
	var usage *UsageError
	var call *Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		return ExitUsage
	case errors.As(err, &call):
		return callExitCode(call.Code)
	case errors.Is(err, context.DeadlineExceeded):
		return ExitTimeout
	default:
		return ExitError
	}
}

func callExitCode(code codes.Code) int {
	switch code {
	case codes.NotFound:
		return ExitNotFound
	case codes.PermissionDenied, codes.Unauthenticated:
		return ExitNotAllowed
	case codes.AlreadyExists, codes.Aborted, codes.FailedPrecondition:
		return ExitConflict
	case codes.DeadlineExceeded:
		return ExitTimeout
	default:
		return ExitError
	}
}
