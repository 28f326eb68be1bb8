package scenarios

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	localv1 "github.com/tandem-lb/tandem/gen/tandem/agent/local/v1"
)

// footprint is what a program takes of its machine.
type footprint struct {
	files      int   // descriptors
	goroutines int   // of Go programs
	heap       int64 // bytes that the last garbage collection found in use
	memory     int64 // bytes of resident memory that is no file's
}

func (f footprint) String() string {
	return fmt.Sprintf("%d files, %d goroutines, %d KiB of live heap, %d KiB of memory", f.files, f.goroutines, f.heap>>10, f.memory>>10)
}

// grown tells what has become more by more than the slack.
func (f footprint) grown(was, slack footprint) error {
	var errs []error
	more := func(what string, n, slack int64) {
		if n > slack {
			errs = append(errs, fmt.Errorf("%s: %d more, want %d at most", what, n, slack))
		}
	}
	more("files", int64(f.files-was.files), int64(slack.files))
	more("goroutines", int64(f.goroutines-was.goroutines), int64(slack.goroutines))
	more("bytes of live heap", f.heap-was.heap, slack.heap)
	more("bytes of memory", f.memory-was.memory, slack.memory)
	return errors.Join(errs...)
}

// told is what a program tells of itself.
type told struct {
	goroutines  int
	heap        int64
	collections uint64
}

// program is a controller or an agent that tells of itself, over a connection
// that stays open and so is no part of a difference.
type program struct {
	name  string
	pid   int
	slack footprint // by which it may differ and be where it was
	ask   func(context.Context) (told, error)
}

// now returns the footprint as it is after a whole garbage collection. The
// asking itself is what there is to collect.
func (p *program) now(ctx context.Context) (footprint, error) {
	first, err := p.ask(ctx)
	last := first
	for err == nil && last.collections < first.collections+2 { // the first of them may have begun before
		last, err = p.ask(ctx)
	}
	if err != nil {
		return footprint{}, err
	}
	f, err := seen(p.pid)
	f.goroutines, f.heap = last.goroutines, last.heap
	return f, err
}

// seen is what the kernel tells of a process.
func seen(pid int) (footprint, error) {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return footprint{}, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return footprint{}, err
	}
	_, rest, ok := strings.Cut(string(status), "\nRssAnon:")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 2 || fields[1] != "kB" {
		return footprint{}, fmt.Errorf("process %d: no RssAnon in its status", pid)
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	return footprint{files: len(files), memory: kib << 10}, err
}

// daemons tells what the processes of a name take on a node, all together.
func daemons(n *cluster.Node, name string) (string, error) {
	pids, err := n.Host.Pids(name)
	if err != nil {
		return "", err
	}
	var sum footprint
	for _, pid := range pids {
		f, err := seen(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // an old worker that has just ended
		}
		if err != nil {
			return "", err
		}
		sum.files += f.files
		sum.memory += f.memory
	}
	return fmt.Sprintf("%d processes, %d files, %d KiB of memory", len(pids), sum.files, sum.memory>>10), nil
}

// controllerProgram is the controller, which tells of itself at /metrics.
func controllerProgram(t testing.TB, c *cluster.Controller) *program {
	t.Helper()
	pem, err := os.ReadFile(c.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	token, err := os.ReadFile(c.TokenFile())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.Host.Dial(ctx, network, address)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	return &program{name: "lb-controller", pid: c.Process().PID(), slack: controllerSlack, ask: func(ctx context.Context) (told, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.HTTPAddress()+"/metrics", nil)
		if err != nil {
			return told{}, err
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		response, err := client.Do(request)
		if err != nil {
			return told{}, err
		}
		defer response.Body.Close()
		figures, err := figuresOf(response.Body)
		return told{
			goroutines: int(figures["go_goroutines"]), heap: int64(figures["go_gc_heap_live_bytes"]),
			collections: uint64(figures["go_gc_cycles_total_gc_cycles_total"]),
		}, err
	}}
}

// figuresOf reads what Prometheus does.
func figuresOf(in io.Reader) (map[string]float64, error) {
	figures := map[string]float64{}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), " ")
		if value, err := strconv.ParseFloat(text, 64); err == nil {
			figures[name] = value
		}
	}
	if figures["go_goroutines"] == 0 {
		return nil, fmt.Errorf("no go_goroutines among %d figures", len(figures))
	}
	return figures, lines.Err()
}

// agentProgram is an agent with its run_dir, as seen from here, which tells of
// itself over its socket.
func agentProgram(t testing.TB, name string, pid int, runDir string) *program {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(runDir, "agent.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := localv1.NewLocalServiceClient(conn)
	return &program{name: name, pid: pid, slack: agentSlack, ask: func(ctx context.Context) (told, error) {
		status, err := client.GetStatus(ctx, &localv1.GetStatusRequest{}, grpc.WaitForReady(true))
		if err != nil {
			return told{}, err
		}
		p := status.GetProcess()
		return told{goroutines: int(p.GetGoroutines()), heap: int64(p.GetLiveHeapBytes()), collections: p.GetCollections()}, nil
	}}
}
