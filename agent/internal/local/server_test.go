package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/agent/internal/drift"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/report"
	"github.com/tandem-lb/tandem/agent/internal/target"
	"github.com/tandem-lb/tandem/agent/internal/uplink"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	localv1 "github.com/tandem-lb/tandem/gen/tandem/agent/local/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// strangerSocket in the environment makes the test binary call a server that it
// may not.
const strangerSocket = "TANDEM_TEST_SOCKET"

func TestMain(m *testing.M) {
	socket := os.Getenv(strangerSocket)
	if socket == "" {
		os.Exit(m.Run())
	}
	_, err := dial(socket).SetDrain(context.Background(), &localv1.SetDrainRequest{Drain: true})
	fmt.Println(status.Code(err), err)
}

func dial(socket string) localv1.LocalServiceClient {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	return localv1.NewLocalServiceClient(conn)
}

// machine stands where the reconciler and keepalived are: it takes what is to be
// in effect and says what a pair would do. The real ones are driven in the lab.
type machine struct {
	base    *target.Target
	changes *drift.Set

	mu     sync.Mutex
	fails  error    // of Again
	halts  error    // of Again, after the drain
	holds  []string // VIPs
	sticks []string // VIPs that nobody takes
	now    *target.Target
}

func (m *machine) Base() *target.Target    { return m.base }
func (m *machine) Applied() *target.Target { return m.base }
func (m *machine) Again(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails != nil {
		return m.fails
	}
	if m.now = m.changes.Over(m.base); m.now.Drained() {
		m.holds = m.sticks
	}
	return m.halts
}

func (m *machine) Snapshot() keepalived.Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := keepalived.Snapshot{}
	if m.now != nil && m.now.Drained() {
		s.Drain = -50
	}
	for _, vip := range m.holds {
		s.Instances = append(s.Instances, keepalived.InstanceStatus{Name: vip, VIP: vip, Holds: true})
	}
	return s
}

func (m *machine) Failover(_ context.Context, vip string, lease time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case slices.Contains(m.sticks, vip):
		return fmt.Errorf("VIP %s: %w", vip, keepalived.ErrNoTaker)
	case vip == "none":
		return fmt.Errorf("VIP %s: %w", vip, keepalived.ErrNoVIP)
	case !slices.Contains(m.holds, vip) || lease <= 0:
		return fmt.Errorf("VIP %s: %w", vip, keepalived.ErrNotHeld)
	}
	m.holds = slices.DeleteFunc(slices.Clone(m.holds), func(v string) bool { return v == vip })
	return nil
}

// weight that a server has now, with its state.
func (m *machine) server(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.now.Server("web", name)
	return fmt.Sprintf("%d %v", s.GetWeight(), s.GetMaintenance())
}

// serve runs a server on a machine that holds the VIPs mail and web, with the
// backends web/a, weight 5, and web/b, weight 1.
func serve(t *testing.T) (*machine, localv1.LocalServiceClient, string) {
	t.Helper()
	base, err := target.FromConfig(&agentv1.NodeConfig{Version: &agentv1.Version{Runtime: 7}, Resources: []*agentv1.Resource{
		{Key: "keepalived/global", Body: &agentv1.Resource_KeepalivedGlobal{KeepalivedGlobal: &keepalivedv1.Global{}}},
		target.ServerResource(&haproxyv1.Server{Backend: "web", Name: "a", Weight: 5}),
		target.ServerResource(&haproxyv1.Server{Backend: "web", Name: "b", Weight: 1}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := report.New("boot")
	dir := t.TempDir()
	changes, err := drift.Load(dir, r)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{base: base, changes: changes, holds: []string{"mail", "web"}}
	server := New(Options{
		Path: Socket(dir), Node: "lb-master", Version: "1", Changes: changes, Reconciler: m, VRRP: m, Report: r,
		Session: func() uplink.Status { return uplink.Status{Address: "ctl:9443", Problem: "cannot be reached"} },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	client := dial(Socket(dir))
	if _, err := client.GetStatus(ctx, &localv1.GetStatusRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	return m, client, Socket(dir)
}

// is fails the test unless err has that code and says that.
func is(t *testing.T, what string, err error, code codes.Code, says string) {
	t.Helper()
	if status.Code(err) != code || err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %v, want %s: %s", what, err, code, says)
	}
}

func TestBackend(t *testing.T) {
	m, c, _ := serve(t)
	set := func(name string, state agentv1.AdminState, weight *uint32) (*agentv1.LocalChange, error) {
		r, err := c.SetBackend(t.Context(), &localv1.SetBackendRequest{Pool: "web", Backend: name, State: state, Weight: weight, Reason: "why"})
		return r.GetChange(), err
	}
	change, err := set("a", agentv1.AdminState_ADMIN_STATE_DRAIN, nil)
	is(t, "drain", err, codes.OK, "")
	if m.server("a") != "0 false" || m.server("b") != "1 false" || change.GetReason() != "why" || change.GetAuthor() == "" {
		t.Errorf("a has %s, b has %s, the change is %v", m.server("a"), m.server("b"), change)
	}
	if change, err = set("a", agentv1.AdminState_ADMIN_STATE_READY, nil); err != nil || change != nil || m.server("a") != "5 false" {
		t.Errorf("ready: %v, %v, it has %s", change, err, m.server("a"))
	}
	if _, err = set("a", 0, proto.Uint32(9)); err != nil || m.server("a") != "9 false" {
		t.Errorf("weight: %v, it has %s", err, m.server("a"))
	}
	_, err = set("z", agentv1.AdminState_ADMIN_STATE_DRAIN, nil)
	is(t, "another backend", err, codes.NotFound, "no backend web/z: it has web/a, web/b")
	_, err = set("a", 0, nil)
	is(t, "nothing", err, codes.InvalidArgument, "give a state or a weight")
	_, err = set("a", 0, proto.Uint32(257))
	is(t, "weight 257", err, codes.InvalidArgument, "must be 0 to 256")
	_, err = set("a", 9, nil)
	is(t, "a state of a newer lb-agent", err, codes.InvalidArgument, "must be ready, drain or maintenance")
	_, err = c.SetBackend(t.Context(), &localv1.SetBackendRequest{Pool: "web", Backend: "a", Weight: proto.Uint32(1), Reason: "two\nlines"})
	is(t, "reason", err, codes.InvalidArgument, "without control characters")
}

func TestWhatIsNotInEffectIsKept(t *testing.T) {
	m, c, _ := serve(t)
	m.fails = errors.New("haproxy does not answer")
	_, err := c.SetDrain(t.Context(), &localv1.SetDrainRequest{Drain: true})
	is(t, "drain", err, codes.Unavailable, "noted, and not in effect yet: haproxy does not answer")
	s, err := c.GetStatus(t.Context(), &localv1.GetStatusRequest{})
	if err != nil || len(s.GetLocalChanges()) != 1 {
		t.Errorf("the changes are %v, %v", s.GetLocalChanges(), err)
	}
}

func TestNodeWithoutAConfiguration(t *testing.T) {
	m, c, _ := serve(t)
	m.base = nil
	_, err := c.SetDrain(t.Context(), &localv1.SetDrainRequest{Drain: true})
	is(t, "drain", err, codes.FailedPrecondition, "has no configuration yet")
}

func TestDrain(t *testing.T) {
	t.Parallel() // it waits for a VIP that stays
	m, c, _ := serve(t)
	m.sticks = []string{"mail"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := c.SetDrain(ctx, &localv1.SetDrainRequest{Drain: true})
	if err != nil || !slices.Equal(r.GetHeld(), []string{"mail"}) || !r.GetChange().GetDrain() {
		t.Errorf("drain says %v, %v", r, err)
	}
	if r, err = c.SetDrain(ctx, &localv1.SetDrainRequest{}); err != nil || r.GetChange() != nil || m.now.Drained() {
		t.Errorf("undrain says %v, %v", r, err)
	}
}

func TestFailover(t *testing.T) {
	for name, test := range map[string]struct {
		request *localv1.FailoverRequest
		sticks  []string
		code    codes.Code
		says    string
		left    []string
	}{
		"one":               {&localv1.FailoverRequest{Vips: []string{"web"}}, nil, codes.OK, "", []string{"mail"}},
		"all":               {&localv1.FailoverRequest{}, nil, codes.OK, "", nil},
		"for a while":       {&localv1.FailoverRequest{Lease: durationpb.New(time.Hour)}, nil, codes.OK, "", nil},
		"not held":          {&localv1.FailoverRequest{Vips: []string{"ftp"}}, nil, codes.FailedPrecondition, "does not hold it", []string{"mail", "web"}},
		"not there":         {&localv1.FailoverRequest{Vips: []string{"none"}}, nil, codes.NotFound, "no such VIP", []string{"mail", "web"}},
		"without a taker":   {&localv1.FailoverRequest{}, []string{"mail"}, codes.FailedPrecondition, "no other node takes it, so it stays here\nmoved: web", []string{"mail"}},
		"for too long":      {&localv1.FailoverRequest{Lease: durationpb.New(2 * time.Hour)}, nil, codes.InvalidArgument, "must be 1s to 1h", []string{"mail", "web"}},
		"for no time":       {&localv1.FailoverRequest{Lease: durationpb.New(0)}, nil, codes.InvalidArgument, "must be 1s to 1h", []string{"mail", "web"}},
		"with a bad reason": {&localv1.FailoverRequest{Reason: "\x1b[2J"}, nil, codes.InvalidArgument, "control characters", []string{"mail", "web"}},
	} {
		t.Run(name, func(t *testing.T) {
			m, c, _ := serve(t)
			m.sticks = test.sticks
			_, err := c.Failover(t.Context(), test.request)
			is(t, name, err, test.code, test.says)
			if got := held(m.Snapshot()); !slices.Equal(got, test.left) {
				t.Errorf("it holds %q, want %q", got, test.left)
			}
		})
	}
	m, c, _ := serve(t)
	m.holds = nil
	_, err := c.Failover(t.Context(), &localv1.FailoverRequest{})
	is(t, "all of none", err, codes.FailedPrecondition, "this node holds no VIP")
}

func TestFailoverForTheController(t *testing.T) {
	m := &machine{holds: []string{"mail", "web"}, sticks: []string{"mail"}}
	notes := &notebook{}
	s := New(Options{VRRP: m, Report: notes})
	command := &agentv1.FailoverCommand{Vip: "web", Lease: durationpb.New(time.Minute), Author: "admin", Reason: "new kernel"}
	if err := s.FailoverFor(t.Context(), command); err != nil || !slices.Equal(held(m.Snapshot()), []string{"mail"}) {
		t.Errorf("it holds %q, %v", held(m.Snapshot()), err)
	}
	if want := []string{"VIP web was moved to another node by admin: new kernel"}; !slices.Equal(notes.texts, want) {
		t.Errorf("it notes %q, want %q", notes.texts, want)
	}
	if err := s.FailoverFor(t.Context(), &agentv1.FailoverCommand{Vip: "mail"}); !errors.Is(err, keepalived.ErrNoTaker) || len(notes.texts) != 1 {
		t.Errorf("without a taker: %v, notes %q", err, notes.texts)
	}
}

// notebook is a report that keeps notes.
type notebook struct{ texts []string }

func (n *notebook) State() *agentv1.Observation { return nil }
func (n *notebook) Note(text string)            { n.texts = append(n.texts, text) }

func TestDiscard(t *testing.T) {
	m, c, _ := serve(t)
	change := func() {
		t.Helper()
		_, drained := c.SetDrain(t.Context(), &localv1.SetDrainRequest{Drain: true})
		_, set := c.SetBackend(t.Context(), &localv1.SetBackendRequest{Pool: "web", Backend: "a", State: agentv1.AdminState_ADMIN_STATE_DRAIN})
		if err := errors.Join(drained, set); err != nil {
			t.Fatal(err)
		}
	}
	change()
	r, err := c.Discard(t.Context(), &localv1.DiscardRequest{Backends: []string{"web/a"}})
	if err != nil || len(r.GetChanges()) != 1 || m.server("a") != "5 false" || !m.now.Drained() {
		t.Errorf("of a backend: %v, %v; it has %s", r, err, m.server("a"))
	}
	change()
	if r, err = c.Discard(t.Context(), &localv1.DiscardRequest{}); err != nil || len(r.GetChanges()) != 2 || m.now.Drained() {
		t.Errorf("of all: %v, %v", r, err)
	}
	if r, err = c.Discard(t.Context(), &localv1.DiscardRequest{}); err != nil || len(r.GetChanges()) != 0 {
		t.Errorf("of nothing: %v, %v", r, err)
	}
}

// Who is not root is refused by what the kernel says of it, too, not only by the
// socket's mode.
func TestOnlyRoot(t *testing.T) {
	m, _, socket := serve(t)
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	for dir := filepath.Dir(socket); dir != os.TempDir(); dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		} else if err := os.Chmod(dir, info.Mode()|0o011); err != nil {
			t.Fatal(err)
		}
	}
	stranger := func() string {
		t.Helper()
		cmd := exec.Command("/proc/self/exe") // which a stranger may start wherever it is
		cmd.Env = append(os.Environ(), strangerSocket+"="+socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		said, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		return string(said)
	}
	if said := stranger(); !strings.Contains(said, "permission denied") {
		t.Errorf("a stranger at the socket: %s", said)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	if said := stranger(); !strings.Contains(said, "PermissionDenied") || !strings.Contains(said, "only root") {
		t.Errorf("a stranger at an open socket: %s", said)
	}
	if len(m.changes.All()) > 0 {
		t.Error("a stranger has drained the node")
	}
}

func TestStatus(t *testing.T) {
	_, c, _ := serve(t)
	s, err := c.GetStatus(t.Context(), &localv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if s.GetNode() != "lb-master" || s.GetApplied().GetRuntime() != 7 || s.GetSession().GetProblem() != "cannot be reached" {
		t.Errorf("the status is %v", s)
	}
	if p := s.GetProcess(); p.GetOpenFiles() == 0 || p.GetGoroutines() == 0 || p.GetResidentBytes() == 0 {
		t.Errorf("the process is %v", p)
	}
}

// HAProxy refuses everything: the VIPs leave all the same.
func TestADrainIsToldToBeInEffectWithoutHAProxy(t *testing.T) {
	m, c, _ := serve(t)
	m.halts = errors.New("haproxy does not run")
	r, err := c.SetDrain(t.Context(), &localv1.SetDrainRequest{Drain: true})
	if err != nil || len(r.GetHeld()) > 0 || !strings.Contains(r.GetWarning(), "haproxy does not run") {
		t.Errorf("the answer is %v, %v", r, err)
	}
	m.fails = errors.New("keepalived does not run")
	if _, err := c.SetDrain(t.Context(), &localv1.SetDrainRequest{}); err == nil {
		t.Error("a node that is still drained is told not to be")
	}
}
