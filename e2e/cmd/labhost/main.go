// Labhost is what runs inside the hosts of a lab: the web servers behind the
// load balancer, and the clients in front of it.
//
//	labhost web --name web1 --listen :80
//	labhost probe --target 192.168.1.100:80 --interval 5ms --for 10s
//
// Both end with SIGTERM. The probe then prints its report, as JSON, on standard
// output; on standard error it says "warm" when each of its clients has had an
// answer.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/web"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "labhost:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "web":
			return runWeb(ctx, args[1:])
		case "probe":
			return runProbe(ctx, args[1:])
		}
	}
	return errors.New("want a subcommand: web or probe")
}

func runWeb(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("labhost web", flag.ContinueOnError)
	name := flags.String("name", "web", "server `name` in the answers")
	listen := flags.String("listen", ":80", "`address` to listen on")
	if err := parse(flags, args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "listening on", listener.Addr())
	return web.Serve(ctx, listener, *name)
}

func runProbe(ctx context.Context, args []string) error {
	var cfg probe.Config
	flags := flag.NewFlagSet("labhost probe", flag.ContinueOnError)
	flags.StringVar(&cfg.Target, "target", "", "`address:port` to connect to")
	flags.DurationVar(&cfg.Interval, "interval", 0, "open a new connection that often; 0 for none")
	flags.IntVar(&cfg.Reused, "reused", 0, "`number` of keep-alive clients")
	flags.IntVar(&cfg.Inflight, "inflight", 0, "`number` of keep-alive clients whose answers take as long as --hold")
	flags.IntVar(&cfg.Downloads, "downloads", 0, "`number` of clients that download over --hold")
	flags.IntVar(&cfg.WebSockets, "websockets", 0, "`number` of clients with a WebSocket")
	flags.DurationVar(&cfg.Think, "think", 20*time.Millisecond, "pause between two requests of a client")
	flags.DurationVar(&cfg.Hold, "hold", 200*time.Millisecond, "how long slow answers and downloads take")
	flags.DurationVar(&cfg.Timeout, "timeout", time.Second, "bound of one attempt, on top of --hold")
	flags.BoolVar(&cfg.Answers, "answers", false, "report the time and server of every answer")
	length := flags.Duration("for", time.Minute, "how long to send")
	if err := parse(flags, args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *length)
	defer cancel()
	report, err := probe.Run(ctx, cfg, func() { fmt.Fprintln(os.Stderr, "warm") })
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}

// parse reads flags and refuses what is left over.
func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%s: unexpected argument %q", flags.Name(), flags.Arg(0))
	}
	return nil
}
