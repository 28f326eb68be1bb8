package haproxy

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// floodRate is in lines a second.
const floodRate = 50_000

// flood sends lines to the access log like a worker, until ctx ends, and
// returns how many.
func flood(ctx context.Context, t *testing.T, socket string) (sent int) {
	connection, err := net.Dial("unix", socket)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer connection.Close()
	const perTick, every = 500, 10 * time.Millisecond
	line := fmt.Appendf(nil, `<134>Nov 26 14:27:40 haproxy[1]: {"flood":"%0150d"}`, 0)
	line = append(fmt.Appendf(nil, "%d ", len(line)), line...)
	lines := bytes.Repeat(line, perTick)
	began := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return sent
		case <-tick.C:
			// A late tick is made up for.
			for due := int(time.Since(began).Seconds() * floodRate); sent < due; sent += perTick {
				if _, err := connection.Write(lines); err != nil {
					t.Error(err)
					return sent
				}
			}
		}
	}
}

// worstDown takes the backend down some times, for about two seconds, and
// returns how long the driver took at worst to tell of it after the check that
// failed.
func (r *rig) worstDown(w *web) time.Duration {
	r.t.Helper()
	var all []time.Duration
	for range 8 {
		r.mu.Lock()
		r.events = nil
		r.mu.Unlock()
		w.sick.Store(true)
		eventually(r.t, "the backend is told down", func() bool { return r.server(w.name).State == Down })
		r.mu.Lock()
		at := slices.IndexFunc(r.events, func(e Event) bool {
			c, ok := e.(ServerChanged)
			return ok && c.State == Down
		})
		all = append(all, r.times[len(r.times)-len(r.events)+at].Sub(time.Unix(0, w.failed.Load())))
		r.mu.Unlock()
		w.sick.Store(false)
		eventually(r.t, "the backend is told up", func() bool { return r.server(w.name).State == Up })
	}
	r.t.Logf("told after %v", all)
	return slices.Max(all)
}

// A flood of the access log delays no health event, and every line of it is
// written or counted.
func TestFloodOfAccessLogDelaysNoHealthEvent(t *testing.T) {
	r := newRig(t)
	web1 := newWeb(t, "web1")
	r.apply(logged(r.config(web1.backend(1)), haproxyv1.LogFormat_LOG_FORMAT_JSON))
	eventually(t, "the backend is up", func() bool { return r.server("web1").State == Up })
	idle := r.worstDown(web1)

	ctx, cancel := context.WithCancel(t.Context())
	sent := make(chan int, 1)
	began := time.Now()
	go func() { sent <- flood(ctx, t, r.driver.paths.access) }()
	flooded := r.worstDown(web1)
	cancel()
	lines := <-sent
	t.Logf("worst %v idle, %v with %.0f lines/s", idle, flooded, float64(lines)/time.Since(began).Seconds())
	// Measured: about 1 ms either way; other tests share the machine.
	if limit := max(10*idle, 50*time.Millisecond); flooded > limit {
		t.Errorf("a health event took %v in the flood, %v without", flooded, idle)
	}
	eventually(t, fmt.Sprintf("all %d lines are written", lines), func() bool { return r.countLogged(`{"flood"`) == lines })
}

// countLogged counts the lines with those bytes in all files of the access log.
func (r *rig) countLogged(part string) int {
	r.t.Helper()
	files, err := filepath.Glob(r.accessLog + "*")
	if err != nil {
		r.t.Fatal(err)
	}
	count := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			r.t.Fatal(err)
		}
		count += bytes.Count(text, []byte(part))
	}
	return count
}
