package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// The states that the tour waits for most.
const (
	up      = tandemv1.BackendState_BACKEND_STATE_UP
	down    = tandemv1.BackendState_BACKEND_STATE_DOWN
	stopped = tandemv1.DaemonState_DAEMON_STATE_STOPPED
)

// both load balancers.
var both = []string{cluster.Master, cluster.Backup}

// walk shows one thing after the other.
func (t *tour) walk(ctx context.Context) error {
	stages := []func(context.Context) error{t.programs, t.configure, t.spread, t.statistics}
	if t.vip {
		stages = append(stages, t.failover)
	}
	stages = append(stages, t.proxyKilled, t.backendFails, t.controllerKilled)
	for _, stage := range stages {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	return nil
}

// programs starts the web servers, the controller and both agents.
func (t *tour) programs(ctx context.Context) error {
	t.running = map[string]*process{}
	if err := t.step(ctx, func(ctx context.Context) (string, error) {
		for _, name := range traffic.WebNames {
			if err := t.startWeb(ctx, name); err != nil {
				return "", err
			}
		}
		return "three web servers answer", nil
	}); err != nil {
		return err
	}
	t.section("The programs")
	t.command("controller", cluster.Line("lb-controller", t.Controller.Args()...))
	if err := t.step(ctx, func(ctx context.Context) (string, error) {
		return "the controller has made its CA and its first operator token, and serves", t.Controller.Start(ctx)
	}); err != nil {
		return err
	}
	for _, name := range both {
		t.command("controller", "lbctl node token create "+name+" -o name > join.token")
		t.command(name, "lb-agent run --config agent.yaml")
		if err := t.step(ctx, func(ctx context.Context) (string, error) {
			_, err := t.Join(ctx, name)
			return name + " has joined with its one-time token", err
		}); err != nil {
			return err
		}
	}
	return nil
}

func (t *tour) startWeb(ctx context.Context, name string) (err error) {
	t.running[name], err = traffic.StartWebOn(ctx, t.Lab.Host(name), t.labhost, t.webs[name])
	return err
}

// configure builds the guide's cluster by single commands and, on a site with
// the guide's addresses, once more from the file.
func (t *tour) configure(ctx context.Context) error {
	t.section("The cluster, set with lbctl")
	password := filepath.Join(t.Controller.Host.Dir(), "stats.password")
	if err := os.WriteFile(password, []byte("password123\n"), 0o600); err != nil {
		return err
	}
	listener := []string{"listener", "add", "web_frontend", "--address", "127.0.0.1", "--port", port(t.web), "--pool", "web_servers"}
	stats := []string{"cluster", "set", "--stats-port", port(t.stats), "--stats-user", "admin", "--stats-password-file", password}
	commands := [][]string{
		{"pool", "add", "web_servers", "--balance", "roundrobin", "--check", "GET /health", "--interval", "2s", "--rise", "2", "--fall", "3"},
		{"backend", "add", "web_servers/web1", t.webs["web1"], "--weight", "1"},
		{"backend", "add", "web_servers/web2", t.webs["web2"]},
		{"backend", "add", "web_servers/web3", t.webs["web3"]},
	}
	if t.vip {
		commands = append(commands, []string{"vip", "add", "web", "192.168.1.100/24", "--vrid", "51"})
		listener = []string{"listener", "add", "web_frontend", "--vip", "web", "--port", "80", "--protocol", "http", "--pool", "web_servers"}
	} else {
		stats = append(stats, "--stats-address", "127.0.0.1")
	}
	commands = append(commands, listener, stats)
	for _, args := range commands {
		if err := t.lbctl(ctx, args); err != nil {
			return err
		}
	}
	if err := t.ready(ctx); err != nil || !t.vip {
		return err
	}
	return t.applyFile(ctx)
}

// lbctl runs one command that changes something.
func (t *tour) lbctl(ctx context.Context, args []string) error {
	t.command("controller", cluster.Line("lbctl", args...))
	return t.step(ctx, func(ctx context.Context) (string, error) {
		if _, err := t.Lbctl(ctx, args...); err != nil {
			return "", err
		}
		_, err := t.Until(ctx, "both nodes to apply it", cluster.Settled(both...))
		return "in effect on both load balancers", err
	})
}

// ready waits until everything is as it shall be.
func (t *tour) ready(ctx context.Context) error {
	t.command("controller", "lbctl status")
	return t.step(ctx, func(ctx context.Context) (string, error) {
		found := "web1, web2 and web3 are UP on both"
		if t.vip {
			found += ", lb-master alone holds the VIP"
		}
		return found, t.healthy(ctx)
	})
}

// healthy waits for what ready shows.
func (t *tour) healthy(ctx context.Context) error {
	conditions := []cluster.Condition{cluster.Settled(both...), cluster.NoAlarms}
	for _, name := range traffic.WebNames {
		conditions = append(conditions, cluster.BackendIs("web_servers/"+name, up, both...))
	}
	if t.vip {
		conditions = append(conditions, cluster.HeldBy("web", cluster.Master))
	}
	_, err := t.Until(ctx, "a cluster in good health", conditions...)
	return err
}

// applyFile sets the guide's own timeouts, under traffic.
func (t *tour) applyFile(ctx context.Context) error {
	t.command("controller", "lbctl apply -f "+t.example)
	return t.step(ctx, func(ctx context.Context) (string, error) {
		report, err := t.under(ctx, steady, func() error { return t.Apply(ctx, t.example) })
		if err != nil {
			return "", err
		}
		return "the same from one file, with the guide's timeouts; meanwhile " + lost(report), nothingLost(report)
	})
}

// steady is traffic of which nothing may be lost: new connections every 10 ms
// and four keep-alive clients that alternate GET and POST.
var steady = probe.Config{Interval: 10 * time.Millisecond, Reused: 4, Think: 20 * time.Millisecond, Timeout: 2 * time.Second}

// sample is a client that shows outages.
var sample = probe.Config{Interval: 10 * time.Millisecond, Timeout: time.Second}

// under does something while a client sends, and returns what the client saw.
func (t *tour) under(ctx context.Context, cfg probe.Config, do func() error) (*probe.Report, error) {
	cfg.Target = t.web
	p, err := traffic.StartProbe(ctx, t.Lab.Host("client"), t.labhost, cfg)
	if err != nil {
		return nil, err
	}
	failed := do()
	report, err := p.Stop(ctx)
	if failed != nil {
		return nil, failed
	}
	return report, err
}

// lost says how many requests failed.
func lost(r *probe.Report) string {
	return fmt.Sprintf("%d of %d requests failed", r.Failed(), r.Attempts())
}

func nothingLost(r *probe.Report) error {
	if r.Failed() > 0 {
		return fmt.Errorf("%s, the first: %+v", lost(r), r.Failures[0])
	}
	return nil
}

// curl runs curl on the client and returns what it prints.
func (t *tour) curl(ctx context.Context, args ...string) (string, error) {
	out, err := t.Lab.Host("client").Output(ctx, "curl", append([]string{"--silent", "--show-error", "--max-time", "5"}, args...)...)
	return strings.TrimSpace(string(out)), err
}

// spread is the guide's load balancing test.
func (t *tour) spread(ctx context.Context) error {
	t.section("Load balancing")
	t.command("client", "for i in {1..9}; do curl -s "+t.url+" | grep Server; done")
	return t.step(ctx, func(ctx context.Context) (string, error) {
		answers := map[string]int{}
		for range 9 {
			server, err := t.server(ctx)
			if err != nil {
				return "", err
			}
			answers[server]++
		}
		var counts []string
		for _, name := range traffic.WebNames {
			if answers[name] == 0 {
				return "", fmt.Errorf("%s answered none of 9 requests: %v", name, answers)
			}
			counts = append(counts, fmt.Sprintf("%s %d", name, answers[name]))
		}
		return "requests are spread: " + strings.Join(counts, ", "), nil
	})
}

// server asks for the page and returns which web server it came from.
func (t *tour) server(ctx context.Context) (string, error) {
	page, err := t.curl(ctx, t.url)
	if err != nil {
		return "", err
	}
	_, server, ok := strings.Cut(page, "Server: ")
	if !ok || !slices.Contains(traffic.WebNames, server) {
		return "", fmt.Errorf("%s answered %q, want one of %v", t.url, page, traffic.WebNames)
	}
	return server, nil
}

// statistics is HAProxy's page, with and without credentials.
func (t *tour) statistics(ctx context.Context) error {
	url := "http://" + t.stats + "/stats"
	for _, try := range []struct{ args, want, found string }{
		{"-u admin:password123", "200", "the statistics page opens with its credentials: 200"},
		{"", "401", "and not without: 401"},
		{"-u admin:wrong", "401", "nor with wrong ones: 401"},
	} {
		t.command("client", strings.Join(strings.Fields("curl "+try.args+" "+url), " "))
		if err := t.step(ctx, func(ctx context.Context) (string, error) {
			args := append(strings.Fields(try.args), "-o", "/dev/null", "-w", "%{http_code}", url)
			got, err := t.curl(ctx, args...)
			if err == nil && got != try.want {
				err = fmt.Errorf("%s answered %s, want %s", url, got, try.want)
			}
			return try.found, err
		}); err != nil {
			return err
		}
	}
	return nil
}
