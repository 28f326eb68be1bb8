package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/tandem-lb/tandem/cli/internal/failure"
)

// askSecret asks on a terminal, without showing what is typed.
func (a *app) askSecret(ctx context.Context, prompt string) (string, error) {
	terminal, ok := a.env.Stdin.(*os.File)
	if !ok || !isTerminal(terminal) {
		return "", failure.Usagef("no terminal to ask on: give the secret in a file, or - for standard input")
	}
	fd := int(terminal.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(a.env.Stderr, prompt)
	secret, err := interruptible(ctx, func() (string, error) {
		typed, err := term.ReadPassword(fd)
		return string(typed), err
	})
	fmt.Fprintln(a.env.Stderr)
	if ctx.Err() != nil {
		// The reader still waits, with the echo off.
		return "", errors.Join(err, term.Restore(fd, before))
	}
	if err == nil && secret == "" {
		return "", errors.New("nothing was typed: nothing is changed")
	}
	return secret, err
}

// confirm asks a question on a terminal; anything but yes is no.
func (a *app) confirm(ctx context.Context, question string) (bool, error) {
	fmt.Fprint(a.env.Stderr, question+" [yes/no] ")
	answer, err := interruptible(ctx, func() (string, error) {
		return bufio.NewReader(a.env.Stdin).ReadString('\n')
	})
	if err != nil {
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "yes" || answer == "y", nil
}

// interruptible returns when read does or when ctx ends. Reading from a terminal
// knows no context: in the latter case its goroutine ends with the process.
func interruptible(ctx context.Context, read func() (string, error)) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := read()
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return "", errors.New("interrupted")
	}
}
