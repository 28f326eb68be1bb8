// Package traffic runs labhost, the web servers and counting clients, in the
// hosts of a lab.
package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/lab"
)

// WebNames are the web servers of the guide's cluster.
var WebNames = []string{"web1", "web2", "web3"}

// StartWebs starts a web server on port 80 of each of the guide's web hosts and
// returns them by name when all of them listen.
func StartWebs(ctx context.Context, l *lab.Lab, labhost string) (map[string]*lab.Process, error) {
	webs := map[string]*lab.Process{}
	for _, name := range WebNames {
		p, err := StartWeb(ctx, l.Host(name), labhost)
		if err != nil {
			return nil, err
		}
		webs[name] = p
	}
	return webs, nil
}

// StartWeb starts a web server on port 80 of a host, which answers by the
// host's name, and returns when it listens.
func StartWeb(ctx context.Context, h *lab.Host, labhost string) (*lab.Process, error) {
	return StartWebOn(ctx, h, labhost, ":80")
}

// StartWebOn is StartWeb on another address and port.
func StartWebOn(ctx context.Context, h *lab.Host, labhost, listen string) (*lab.Process, error) {
	p, err := h.Start(ctx, lab.ProcessSpec{Name: "web", Args: []string{labhost, "web", "--name", h.Name, "--listen", listen}})
	if err != nil {
		return nil, err
	}
	return p, p.Logged(ctx, "listening")
}

// Probe is a running probe.
type Probe struct {
	process *lab.Process
	out     bytes.Buffer // written by the process until it has ended
}

// probes numbers the probes of this program, so that each has its own log file.
var probes atomic.Int64

// longest bounds a probe whose Stop is never called.
const longest = 10 * time.Minute

// StartProbe starts a probe in the host and returns when each of its clients
// has had an answer. It sends until Stop, or until ten minutes have passed.
func StartProbe(ctx context.Context, h *lab.Host, labhost string, cfg probe.Config) (*Probe, error) {
	p := &Probe{}
	var err error
	p.process, err = h.Start(ctx, lab.ProcessSpec{
		Name:   "probe-" + strconv.FormatInt(probes.Add(1), 10),
		Args:   append([]string{labhost, "probe", "--for", longest.String()}, flags(cfg)...),
		Stdout: &p.out,
	})
	if err != nil {
		return nil, err
	}
	return p, p.process.Logged(ctx, "warm")
}

// flags returns labhost's flags for a configuration.
func flags(cfg probe.Config) []string {
	return []string{
		"--target", cfg.Target,
		"--interval", cfg.Interval.String(),
		"--reused", strconv.Itoa(cfg.Reused),
		"--inflight", strconv.Itoa(cfg.Inflight),
		"--downloads", strconv.Itoa(cfg.Downloads),
		"--websockets", strconv.Itoa(cfg.WebSockets),
		"--think", cfg.Think.String(),
		"--hold", cfg.Hold.String(),
		"--timeout", cfg.Timeout.String(),
		"--answers=" + strconv.FormatBool(cfg.Answers),
	}
}

// Stop ends the probe and returns its report.
func (p *Probe) Stop(ctx context.Context) (*probe.Report, error) {
	if err := p.process.Signal(syscall.SIGTERM); err != nil {
		return nil, err
	}
	if err := p.process.Wait(ctx); err != nil {
		return nil, fmt.Errorf("probe (log in %s): %w", p.process.Log, err)
	}
	report := &probe.Report{}
	if err := json.Unmarshal(p.out.Bytes(), report); err != nil {
		return nil, fmt.Errorf("report of the probe: %w", err)
	}
	return report, nil
}
