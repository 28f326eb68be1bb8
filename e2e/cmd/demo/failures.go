package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/lab"
)

// longestOutage is what the demo accepts; what it measures is far less.
const longestOutage = time.Second

// outage says how long no new connection was answered, and fails if that was
// too long or has no end.
func outage(r *probe.Report) (string, error) {
	gap := r.LongestGap
	if gap.Open || gap.MS > float64(longestOutage.Milliseconds()) {
		return "", fmt.Errorf("clients had no answer for %.0f ms (at the end, still none: %v), want at most %s", gap.MS, gap.Open, longestOutage)
	}
	return fmt.Sprintf("clients had no answer for %.0f ms", gap.MS), nil
}

// held waits until a node, and no other, holds the VIP, by its kernel's word
// and in the status.
func (t *tour) held(ctx context.Context, node string) error {
	if err := lab.Until(ctx, "the VIP on "+node+" alone", func(ctx context.Context) error {
		holders, err := t.Lab.Holders(ctx, lab.VIP.Addr())
		if err == nil && (len(holders) != 1 || holders[0] != node) {
			err = fmt.Errorf("held by %v", holders)
		}
		return err
	}); err != nil {
		return err
	}
	_, err := t.Until(ctx, "the VIP on "+node+" in lbctl status", cluster.HeldBy("web", node))
	return err
}

// failover is the guide's failover test, which its own files fail: priorities
// 100 and 90 with weight -2 never let the backup take over.
func (t *tour) failover(ctx context.Context) error {
	t.section("Failover: HAProxy stopped on lb-master (the guide's own files never move the VIP)")
	t.command(cluster.Master, "kill $(pidof haproxy)    # and keep it from being started, as systemctl stop does")
	if err := t.step(ctx, func(ctx context.Context) (string, error) {
		report, err := t.under(ctx, sample, func() error {
			if err := t.Master().StopHAProxy(ctx); err != nil {
				return err
			}
			return t.held(ctx, cluster.Backup)
		})
		if err != nil {
			return "", err
		}
		took, err := outage(report)
		return "the VIP is on lb-backup; " + took, err
	}); err != nil {
		return err
	}
	t.command("client", "curl "+t.url)
	if err := t.step(ctx, func(ctx context.Context) (string, error) {
		server, err := t.server(ctx)
		return "the VIP answers: Server: " + server, err
	}); err != nil {
		return err
	}
	t.command(cluster.Master, "# HAProxy may run again: its agent starts it")
	return t.step(ctx, func(ctx context.Context) (string, error) {
		report, err := t.under(ctx, sample, func() error {
			if err := t.Master().LetHAProxyRun(); err != nil {
				return err
			}
			return t.held(ctx, cluster.Master)
		})
		if err != nil {
			return "", err
		}
		took, err := outage(report)
		return "HAProxy is back, and so is the VIP on lb-master; " + took, err
	})
}

// proxyKilled kills HAProxy where the agent can start it again.
func (t *tour) proxyKilled(ctx context.Context) error {
	t.section("HAProxy killed on lb-master")
	t.command(cluster.Master, "kill -9 $(pidof haproxy)")
	return t.step(ctx, func(ctx context.Context) (string, error) {
		report, err := t.under(ctx, sample, func() error {
			if err := t.Master().KillHAProxy(ctx); err != nil {
				return err
			}
			// It takes half a second or more until it is started again.
			if _, err := t.Until(ctx, "HAProxy to be seen dead", cluster.HAProxyIs(cluster.Master, stopped)); err != nil {
				return err
			}
			return t.healthy(ctx)
		})
		if err != nil {
			return "", err
		}
		took, err := outage(report)
		return "the agent has started it again; " + took + ", " + lost(report), err
	})
}

// backendFails is the guide's backend failure test.
func (t *tour) backendFails(ctx context.Context) error {
	t.section("A web server stopped")
	t.command("web1", "kill $(pidof labhost)    # its web server; the guide stops nginx")
	t.command("controller", "lbctl status")
	if err := t.step(ctx, func(ctx context.Context) (string, error) {
		report, err := t.under(ctx, sample, func() error {
			if err := t.running["web1"].Stop(2 * time.Second); err != nil {
				return err
			}
			return t.seen(ctx, "web1", "DOWN")
		})
		if err != nil {
			return "", err
		}
		return "web1 is DOWN on both, after three failed checks 2 s apart; meanwhile " + lost(report), nil
	}); err != nil {
		return err
	}
	t.command("client", "curl "+t.url+"    # again and again, for a second")
	if err := t.step(ctx, func(ctx context.Context) (string, error) { return t.without(ctx, "web1") }); err != nil {
		return err
	}
	t.command("web1", "labhost web --name web1 --listen "+t.webs["web1"])
	return t.step(ctx, func(ctx context.Context) (string, error) {
		if err := t.startWeb(ctx, "web1"); err != nil {
			return "", err
		}
		return "web1 is UP on both, after two passed checks", t.seen(ctx, "web1", "UP")
	})
}

// seen waits until both nodes report a web server's state, and then asks lbctl.
func (t *tour) seen(ctx context.Context, name, word string) error {
	state := up
	if word == "DOWN" {
		state = down
	}
	holds := cluster.BackendIs("web_servers/"+name, state, both...)
	if _, err := t.Until(ctx, name+" to be "+word, holds); err != nil {
		return err
	}
	status, err := t.LbctlStatus(ctx)
	if err != nil {
		return err
	}
	return holds(status)
}

// without sends for a second and wants answers from every web server but one.
func (t *tour) without(ctx context.Context, name string) (string, error) {
	report, err := t.under(ctx, steady, func() error { return pause(ctx, time.Second) })
	if err != nil {
		return "", err
	}
	if n := report.Servers[name]; n > 0 || len(report.Servers) != len(t.webs)-1 {
		return "", fmt.Errorf("answers came from %v, want all but %s", report.Servers, name)
	}
	return name + " gets no traffic: " + lost(report), nothingLost(report)
}

// controllerKilled shows that traffic does not depend on the controller.
func (t *tour) controllerKilled(ctx context.Context) error {
	t.section("The controller killed")
	t.command("controller", "kill -9 $(pidof lb-controller)")
	if err := t.step(ctx, func(ctx context.Context) (string, error) {
		report, err := t.under(ctx, steady, func() error {
			if err := t.Controller.Kill(); err != nil {
				return err
			}
			return pause(ctx, 3*time.Second)
		})
		if err != nil {
			return "", err
		}
		return "traffic goes on without it: " + lost(report), nothingLost(report)
	}); err != nil {
		return err
	}
	t.command("controller", cluster.Line("lb-controller", t.Controller.Args()...))
	if err := t.step(ctx, func(ctx context.Context) (string, error) {
		report, err := t.under(ctx, steady, func() error {
			if err := t.Controller.Start(ctx); err != nil {
				return err
			}
			_, err := t.Until(ctx, "both nodes to be back", cluster.Settled(both...))
			return err
		})
		if err != nil {
			return "", err
		}
		return "both load balancers are back with it and in step; meanwhile " + lost(report), nothingLost(report)
	}); err != nil {
		return err
	}
	return t.ready(ctx)
}

// pause lets time pass in which the site is only watched.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
