package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// show prints what the demo does, for a person who watches.
type show struct {
	out    io.Writer
	start  time.Time
	colour bool
	steps  int
	dir    string // shown as $LAB in command lines; empty: not known yet
}

func newShow(out *os.File) *show {
	stat, err := out.Stat()
	terminal := err == nil && stat.Mode()&os.ModeCharDevice != 0
	return &show{out: out, start: time.Now(), colour: terminal && os.Getenv("NO_COLOR") == ""}
}

// errShown is the error of a step that has said what went wrong.
var errShown = errors.New("not everything is as expected")

const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
)

func (s *show) paint(code, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// section begins a group of steps.
func (s *show) section(title string) { fmt.Fprintf(s.out, "\n%s\n", s.paint(bold, title)) }

// say prints lines as they are.
func (s *show) say(lines ...string) {
	for _, line := range lines {
		fmt.Fprintln(s.out, line)
	}
}

// command shows a command line before it runs, with the host that it runs on.
func (s *show) command(host, line string) {
	if s.dir != "" {
		line = strings.ReplaceAll(line, s.dir, "$LAB")
	}
	fmt.Fprintf(s.out, "             %s\n", s.paint(dim, host+"$ "+line))
}

// stepTimeout bounds one step.
const stepTimeout = 45 * time.Second

// step does something and prints what it found, with the time it took.
func (s *show) step(ctx context.Context, do func(context.Context) (found string, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	begin := time.Now()
	found, err := do(ctx)
	took := fmt.Sprintf("%7.2f s", time.Since(begin).Seconds())
	if err != nil {
		fmt.Fprintf(s.out, "%s %s  %s\n", took, s.paint(red, "✗"), indent(err.Error()))
		return errShown
	}
	s.steps++
	fmt.Fprintf(s.out, "%s %s  %s\n", took, s.paint(green, "✓"), indent(found))
	return nil
}

// indent keeps further lines under the first one of a step.
func indent(text string) string { return strings.ReplaceAll(text, "\n", "\n             ") }

// total is how long the demo has taken.
func (s *show) total() string { return fmt.Sprintf("%.1f s", time.Since(s.start).Seconds()) }
