// Demo shows the guide's cluster at work, for real: a controller, lb-master and
// lb-backup with HAProxy and keepalived, three web servers and a client, each in
// a network namespace of this machine. Every step prints what was expected and
// found, and how long it took; the first one that fails ends the demo with exit
// status 1.
//
//	demo [--hold] [--no-namespaces] [--bin DIR]
//
// Where namespaces cannot be made it runs what needs none, and says what it
// left out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/lab"
)

// longest bounds a demo that nobody holds.
const longest = 3 * time.Minute

// options are the command line's.
type options struct {
	bin, labhost, example string
	hold, plain           bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.BoolVar(&o.hold, "hold", false, "keep the cluster up until Ctrl-C")
	flags.BoolVar(&o.plain, "no-namespaces", false, "run only what needs no namespaces")
	flags.StringVar(&o.bin, "bin", "bin", "`directory` of lb-controller, lb-agent and lbctl")
	flags.StringVar(&o.labhost, "labhost", "", "the program labhost (default: beside this one)")
	flags.StringVar(&o.example, "example", "deploy/examples/guide.yaml", "`file` with the guide's cluster")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.labhost == "" {
		self, err := os.Executable()
		if err != nil {
			return o, err
		}
		o.labhost = filepath.Join(filepath.Dir(self), "labhost")
	}
	var err error
	if o.labhost, err = filepath.Abs(o.labhost); err != nil {
		return o, err
	}
	if _, err := os.Stat(o.labhost); err != nil {
		return o, fmt.Errorf("%w: run make demo, which builds it", err)
	}
	return o, nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	programs, err := cluster.Find(o.bin)
	if err != nil {
		return err
	}
	s := newShow(os.Stdout)
	if o.plain {
		return runDemo(ctx, s, o, plainSite(programs, "--no-namespaces was given"))
	}
	if err := lab.Supported(ctx); err != nil {
		return runDemo(ctx, s, o, plainSite(programs, err.Error()))
	}
	if programs.Keepalived == "" {
		return errors.New("keepalived is not in PATH: install the package keepalived")
	}
	return runDemo(ctx, s, o, labSite(programs))
}

// runDemo builds a site, shows it, and takes it down again.
func runDemo(ctx context.Context, s *show, o options, build builder) (err error) {
	bounded, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	t := &tour{show: s, options: o}
	defer func() {
		if ctx.Err() != nil && errors.Is(err, errShown) {
			err = errors.New("interrupted")
			s.say("", "Interrupted: taking everything down.")
		}
		err = errors.Join(err, t.close(err))
	}()
	if err := build(bounded, t); err != nil {
		return err
	}
	err = t.walk(bounded)
	if err == nil {
		s.say("", s.paint(green, fmt.Sprintf("All %d steps as expected, in %s.", s.steps, s.total())))
		if t.leftOut != nil {
			s.say(t.leftOut...)
		}
	}
	if o.hold && ctx.Err() == nil {
		t.hold(ctx)
	}
	return err
}
