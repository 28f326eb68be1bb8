// Command lbctl sets what a Tandem load balancer shall do and shows what it
// does.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tandem-lb/tandem/cli/internal/cmd"
)

// version is set by the linker.
var version = "unknown"

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return cmd.Run(ctx, cmd.Env{
		Args:      os.Args[1:],
		Stdin:     os.Stdin,
		Stdout:    os.Stdout,
		Stderr:    os.Stderr,
		LookupEnv: os.LookupEnv,
		Version:   version,
	})
}
