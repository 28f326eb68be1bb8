// Command bench measures Tandem beside the guide's hand-written files, prints a
// table and writes the figures as JSON.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tandem-lb/tandem/e2e/bench"
)

// longest bounds a run.
const longest = 6 * time.Hour

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o := bench.Options{Out: os.Stderr}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.Rounds, "rounds", 5, "`number` of rounds of each measurement")
	flags.StringVar(&o.Bin, "bin", "bin", "`directory` of the built programs")
	flags.StringVar(&o.Example, "example", "deploy/examples/guide.yaml", "`file` with the guide's cluster")
	only := flags.String("only", "", "`keys` of the measurements to take, with commas between; none: all")
	out := flags.String("out", "e2e/bench/results.json", "`file` for the figures")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.Rounds < 1 {
		return fmt.Errorf("--rounds: %d must be at least 1", o.Rounds)
	}
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o.Labhost = filepath.Join(filepath.Dir(self), "labhost")
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	results, err := bench.Run(ctx, o)
	if len(results) == 0 {
		return err
	}
	// What was measured is worth having, whatever ended the run or is wrong with it.
	return errors.Join(err, bench.Print(os.Stdout, results), bench.Write(*out, results), bench.Judge(results, o.Rounds))
}
