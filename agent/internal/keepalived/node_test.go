package keepalived

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// ip runs the ip command.
func ip(t *testing.T, args ...string) {
	t.Helper()
	if said, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, said)
	}
}

var namespaces struct {
	sync.Mutex
	count int
}

// newNamespace makes a network namespace that goes with the test, or skips it.
func newNamespace(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("keepalived"); err != nil {
		t.Skipf("needs keepalived: %v", err)
	}
	namespaces.Lock()
	namespaces.count++
	name := fmt.Sprintf("tdm-ka-%d-%d", os.Getpid(), namespaces.count)
	namespaces.Unlock()
	if said, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Skipf("needs network namespaces (root): ip netns add: %v: %s", err, said)
	}
	t.Cleanup(func() { ip(t, "netns", "delete", name) })
	ip(t, "-n", name, "link", "set", "lo", "up")
	return name
}

// newPair makes two namespaces with a cable between their eth0.
func newPair(t *testing.T) (a, b string) {
	t.Helper()
	a, b = newNamespace(t), newNamespace(t)
	ip(t, "link", "add", "eth0", "netns", a, "type", "veth", "peer", "name", "eth0", "netns", b)
	for n, namespace := range []string{a, b} {
		// A tentative link-local address could not send adverts for a second or two.
		ip(t, "netns", "exec", namespace, "sysctl", "--quiet", "--write", "net.ipv6.conf.eth0.accept_dad=0")
		ip(t, "-n", namespace, "address", "add", fmt.Sprintf("10.9.0.%d/24", n+1), "dev", "eth0")
		ip(t, "-n", namespace, "address", "add", fmt.Sprintf("fd09::%d/64", n+1), "dev", "eth0", "nodad")
		ip(t, "-n", namespace, "link", "set", "eth0", "up")
	}
	return a, b
}

// node is an agent with a driver in a namespace.
type node struct {
	t         *testing.T
	name      string
	namespace string
	options   Options

	mu       sync.Mutex
	snapshot Snapshot
	events   []Event

	command *exec.Cmd
	input   io.Closer
	stdin   *json.Encoder
	answers chan reply
}

// newNode starts an agent and kills it and its keepalived with the test.
func newNode(t *testing.T, name, namespace string) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, name: name, namespace: namespace, options: Options{
		StateDir: filepath.Join(dir, "state"),
		RunDir:   filepath.Join(dir, "run"),
		Networks: map[string]string{"front": "eth0"},
		// The peer is a cable away.
		ProbeInterval: 20 * time.Millisecond,
	}}
	n.startAgent()
	t.Cleanup(func() {
		if t.Failed() {
			log, err := os.ReadFile(filepath.Join(n.options.StateDir, "keepalived", "keepalived.log"))
			t.Logf("%s: keepalived says (%v):\n%s", name, err, log)
		}
		n.killAgent()
		for _, pid := range n.keepalived() {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Errorf("kill keepalived of %s: %v", name, err)
			}
		}
	})
	return n
}

func (n *node) startAgent() {
	n.t.Helper()
	options, err := json.Marshal(map[string]any{
		"Binary": n.options.Binary, "StateDir": n.options.StateDir, "RunDir": n.options.RunDir,
		"Networks": n.options.Networks, "ProbeInterval": n.options.ProbeInterval,
		"FenceGuard": n.options.FenceGuard, "TrackGuard": n.options.TrackGuard, "ReleaseGuard": n.options.ReleaseGuard,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.command = exec.Command("ip", "netns", "exec", n.namespace, os.Args[0])
	n.command.Env = append(os.Environ(), nodeOptions+"="+string(options))
	log := &logWriter{t: n.t, prefix: n.name}
	n.command.Stderr = log
	stdin, err := n.command.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	stdout, err := n.command.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.command.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.input, n.stdin, n.answers = stdin, json.NewEncoder(stdin), make(chan reply, 1)
	go n.read(json.NewDecoder(bufio.NewReader(stdout)), n.answers)
}

// read ends with the agent's output.
func (n *node) read(from *json.Decoder, answers chan<- reply) {
	defer close(answers)
	for {
		var r reply
		if err := from.Decode(&r); err != nil {
			return
		}
		n.mu.Lock()
		n.snapshot = *r.Snapshot
		if r.Event != nil {
			n.events = append(n.events, *r.Event)
		}
		n.mu.Unlock()
		if r.Answer {
			answers <- r
		}
	}
}

// killAgent kills the agent without warning; keepalived must go on.
func (n *node) killAgent() {
	if n.command == nil {
		return
	}
	if err := n.command.Process.Kill(); err != nil {
		n.t.Error(err)
	}
	for range n.answers {
		continue
	}
	_ = n.command.Wait()
	n.command = nil
}

// endAgent has the agent end in an orderly way.
func (n *node) endAgent() {
	n.t.Helper()
	if err := n.input.Close(); err != nil {
		n.t.Error(err)
	}
	for range n.answers {
		continue
	}
	if err := n.command.Wait(); err != nil {
		n.t.Errorf("%s: the agent ended with %v", n.name, err)
	}
	n.command = nil
}

func (n *node) ask(r request) reply {
	n.t.Helper()
	if err := n.stdin.Encode(r); err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
	select {
	case answer, ok := <-n.answers:
		if !ok {
			n.t.Fatalf("%s: the agent ended", n.name)
		}
		return answer
	case <-time.After(30 * time.Second):
		n.t.Fatalf("%s: no answer", n.name)
	}
	panic("not reached")
}

func (n *node) apply(c *keepalivedv1.Config) reply {
	n.t.Helper()
	return n.ask(request{Apply: encode(n.t, c)})
}

func (n *node) check(c *keepalivedv1.Config) reply {
	n.t.Helper()
	return n.ask(request{Check: encode(n.t, c)})
}

// mustApply applies and tells whether it was a reload.
func (n *node) mustApply(c *keepalivedv1.Config) bool {
	n.t.Helper()
	r := n.apply(c)
	if r.Error != "" {
		n.t.Fatalf("%s: apply: %s", n.name, r.Error)
	}
	return r.Reloaded
}

func (n *node) setHealth(healthy bool) {
	n.t.Helper()
	if r := n.ask(request{Health: &healthy}); r.Error != "" {
		n.t.Fatalf("%s: set health: %s", n.name, r.Error)
	}
}

func (n *node) withdraw(withdrawn bool) {
	n.t.Helper()
	if r := n.ask(request{Withdraw: &withdrawn}); r.Error != "" {
		n.t.Fatalf("%s: withdraw: %s", n.name, r.Error)
	}
}

func encode(t *testing.T, c *keepalivedv1.Config) json.RawMessage {
	t.Helper()
	data, err := protojson.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// known is what the agent said last.
func (n *node) known() Snapshot {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.snapshot
}

func (n *node) seen() []Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]Event(nil), n.events...)
}

// instance as the agent said last; the zero one when there is none.
func (n *node) instance(name string) InstanceStatus {
	for _, i := range n.known().Instances {
		if i.Name == name {
			return i
		}
	}
	return InstanceStatus{}
}

// has asks the kernel, not the agent.
func (n *node) has(address string) bool {
	n.t.Helper()
	said, err := exec.Command("ip", "-n", n.namespace, "-oneline", "address", "show").CombinedOutput()
	if err != nil {
		n.t.Fatalf("ip address: %v: %s", err, said)
	}
	return strings.Contains(string(said), " "+address+"/")
}

// keepalived returns the process ids of the keepalived that the driver has:
// the parent first. None when it does not run.
func (n *node) keepalived() []int {
	data, err := os.ReadFile(filepath.Join(n.options.RunDir, "keepalived", "process"))
	if err != nil {
		return nil
	}
	pid, err := strconv.Atoi(strings.Fields(string(data))[0])
	if err != nil || !isKeepalived(pid) {
		return nil
	}
	pids := []int{pid}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return pids
	}
	for _, child := range strings.Fields(string(children)) {
		if pid, err := strconv.Atoi(child); err == nil && isKeepalived(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// isKeepalived tells whether a process is a keepalived that has not ended.
func isKeepalived(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), " (keepalived) ") && !strings.Contains(string(stat), ") Z ")
}

// signal sends a signal to the child and the parent. The parent is stopped
// before, as it would restart a child, and its end would end the child cleanly.
func (n *node) signal(sig unix.Signal) {
	n.t.Helper()
	pids := n.keepalived()
	if len(pids) != 2 {
		n.t.Fatalf("%s: keepalived has the processes %v", n.name, pids)
	}
	for _, step := range []struct {
		pid int
		sig unix.Signal
	}{{pids[0], unix.SIGSTOP}, {pids[1], sig}, {pids[0], sig}} {
		if err := unix.Kill(step.pid, step.sig); err != nil {
			n.t.Fatal(err)
		}
	}
}

// within waits for a condition.
func within(t *testing.T, limit time.Duration, what string, condition func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		if time.Since(began) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-tick.C
	}
	return time.Since(began)
}

// waitMaster waits until exactly the first of the nodes holds the VIP, by its
// own word and the kernel's.
func waitMaster(t *testing.T, limit time.Duration, instance, address string, master, backup *node) time.Duration {
	t.Helper()
	return within(t, limit, fmt.Sprintf("%s is master of %s alone", master.name, instance), func() bool {
		m, b := master.instance(instance), backup.instance(instance)
		return m.State == InstanceMaster && m.Holds && master.has(address) &&
			b.State == InstanceBackup && !b.Holds && !backup.has(address)
	})
}

// web is a configuration with one VIP, of a node that knows of another one.
func web(router string, priority uint32) *keepalivedv1.Config {
	return &keepalivedv1.Config{
		Global: &keepalivedv1.Global{RouterId: router, Peers: peersOf("10.9.0.1", "10.9.0.2")},
		Instances: []*keepalivedv1.Instance{{
			Name:           "web",
			Vip:            "web",
			Version:        3,
			Network:        "front",
			Vrid:           51,
			Priority:       priority,
			AdvertInterval: durationpb.New(100 * time.Millisecond),
			Anchor:         "10.9.0.100/24",
			FailBack:       keepalivedv1.FailBack_FAIL_BACK_AUTOMATIC,
		}},
	}
}

// logWriter writes what an agent says into the test's log.
type logWriter struct {
	t      *testing.T
	prefix string
}

func (w *logWriter) Write(data []byte) (int, error) {
	if strings.Contains(string(data), "DATA RACE") || strings.Contains(string(data), "panic: ") {
		w.t.Errorf("%s: the agent has a defect", w.prefix)
	}
	w.t.Logf("%s: %s", w.prefix, strings.TrimSpace(string(data)))
	return len(data), nil
}
