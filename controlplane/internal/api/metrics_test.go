package api_test

import (
	"bufio"
	"bytes"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
)

// figure reads one figure of /metrics.
func (c *controller) figure(t *testing.T, name string) int {
	t.Helper()
	a := c.rest(t, http.MethodGet, "/metrics", "")
	if a.status != http.StatusOK {
		t.Fatalf("/metrics: %d: %s", a.status, a.body)
	}
	for lines := bufio.NewScanner(bytes.NewReader(a.body)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			f, err := strconv.ParseFloat(value, 64)
			must(t, err)
			return int(f)
		}
	}
	t.Fatalf("%s is not among\n%s", name, a.body)
	return 0
}

func TestMetricsTellOfTheProcess(t *testing.T) {
	c := start(t)
	const more = 100
	files, goroutines := c.figure(t, "process_open_fds"), c.figure(t, "go_goroutines")
	end := make(chan struct{})
	defer close(end)
	for range more {
		file, err := os.Open(os.DevNull)
		must(t, err)
		defer file.Close()
		go func() { <-end }()
	}
	// Some of those of a test's own connections may have ended meanwhile.
	if n := c.figure(t, "process_open_fds") - files; n < more/2 || n > 2*more {
		t.Errorf("%d open files more, want %d", n, more)
	}
	if n := c.figure(t, "go_goroutines") - goroutines; n < more/2 || n > 2*more {
		t.Errorf("%d goroutines more, want %d", n, more)
	}
	for _, name := range []string{"process_resident_memory_bytes", "go_gc_heap_live_bytes", "go_gc_cycles_total_gc_cycles_total"} {
		if c.figure(t, name) <= 0 {
			t.Errorf("%s is 0", name)
		}
	}
}
