package keepalived

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// foreignRequest is about a keepalived that the test has started.
type foreignRequest struct {
	Config json.RawMessage
	PID    int
	File   string
	Broken bool // its file is swapped, and that fails nevertheless
}

func (r *foreignRequest) foreign() Foreign {
	return Foreign{
		PID: r.PID,
		Install: func(path string) error {
			err := errors.Join(os.Rename(r.File, r.File+".aside"), os.Symlink(path, r.File))
			if r.Broken {
				err = errors.Join(err, errors.New("the disk is full"))
			}
			return err
		},
		Restore: func() error { return os.Rename(r.File+".aside", r.File) },
	}
}

// byHand is a keepalived that somebody else has started, and a watch over the
// addresses of its namespace.
type byHand struct {
	*node
	foreignRequest
	monitored bytes.Buffer
}

const handwritten = `! by hand
vrrp_instance web {
    state MASTER
    version 3
    interface eth0
    virtual_router_id 51
    priority 200
    advert_int 0.1
    virtual_ipaddress {
        10.9.0.100/24
    }
}
`

// newByHand starts it, and returns when it is master.
func newByHand(t *testing.T) *byHand {
	t.Helper()
	namespace, _ := newPair(t)
	return newByHandIn(t, namespace, handwritten)
}

// newByHandIn starts it in a namespace, and returns when somebody is master.
func newByHandIn(t *testing.T, namespace, text string) *byHand {
	t.Helper()
	h := &byHand{node: newNode(t, namespace, namespace)}
	dir := t.TempDir()
	h.File = filepath.Join(dir, "keepalived.conf")
	if err := os.WriteFile(h.File, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", namespace, "keepalived", "--dont-fork", "--log-console",
		"--use-file", h.File, "--pid", dir+"/parent", "--vrrp_pid", dir+"/child", "--checkers_pid", dir+"/checkers")
	// In the common /tmp one would write over what another one says.
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.PID = cmd.Process.Pid // ip becomes keepalived
	t.Cleanup(func() {
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Errorf("it has ended: %v", err)
		}
		_ = cmd.Wait()
	})
	h.setHealth(true)
	if text != handwritten {
		return h
	}
	within(t, 5*time.Second, "the VIP", func() bool { return h.has("10.9.0.100") })
	monitor := exec.Command("ip", "-n", namespace, "monitor", "address")
	monitor.Stdout = &h.monitored
	if err := monitor.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = monitor.Process.Kill()
		_ = monitor.Wait()
		if strings.Contains(h.monitored.String(), "Deleted") {
			t.Errorf("the VIP was away:\n%s", h.monitored.String())
		}
	})
	return h
}

func (h *byHand) takeOver(c *keepalivedv1.Config) reply {
	h.t.Helper()
	raw, err := protojson.Marshal(c)
	if err != nil {
		h.t.Fatal(err)
	}
	r := h.foreignRequest
	r.Config = raw
	return h.ask(request{TakeOver: &r})
}

// isForeign holds that the process runs its own file and is nobody's.
func (h *byHand) isForeign() {
	h.t.Helper()
	if text, err := os.ReadFile(h.File); err != nil || string(text) != handwritten {
		h.t.Errorf("its file is %q, %v", text, err)
	}
	if s := h.known(); s.State != StateIdle || len(s.Instances) != 1 || !reflect.DeepEqual(s.Instances[0], InstanceStatus{Name: "web", VIP: "web", State: InstanceUnknown, Holds: true}) {
		h.t.Errorf("the driver knows of %+v", s)
	}
	// What it holds is not the next agent's to remove.
	if record, err := os.ReadFile(filepath.Join(h.options.StateDir, "keepalived", "addresses.json")); err != nil || bytes.Contains(record, []byte("10.9.0.100")) {
		h.t.Errorf("recorded is %s, %v", record, err)
	}
	left, err := filepath.Glob(filepath.Join(h.options.StateDir, "keepalived", "*.conf"))
	if err != nil || len(left) > 0 || !h.has("10.9.0.100") {
		h.t.Errorf("left behind %v, %v; the VIP is there: %t", left, err, h.has("10.9.0.100"))
	}
}

// The process goes on, and so does the VIP: there, across a restart of the
// agent, and back.
func TestTakeOverAndGiveBack(t *testing.T) {
	t.Parallel()
	h := newByHand(t)
	h.watch(web("lb-master", 230))
	if r := h.takeOver(web("lb-master", 230)); r.Error != "" {
		t.Fatal(r.Error)
	}
	if s := h.known(); s.State != StateRunning || len(s.Instances) != 1 || s.Instances[0].State != InstanceMaster || s.Instances[0].Priority != 230 {
		t.Errorf("taken over: %+v", s)
	}
	h.heldThroughout(0)
	h.killAgent()
	before := len(h.seen())
	h.startAgent()
	alone := web("lb-master", 230)
	alone.Global.Peers = nil // nobody could take the VIP
	if h.mustApply(alone) {
		t.Error("the next agent reloads it")
	}
	h.watch(web("lb-master", 230))
	h.setHealth(false)
	within(t, 5*time.Second, "the score", func() bool { return h.instance("web").Priority == 130 })
	if r := h.ask(request{GiveBack: &h.foreignRequest}); r.Error != "" {
		t.Fatal(r.Error)
	}
	h.isForeign()
	h.heldThroughout(before)
	h.killAgent()
	h.startAgent()
	h.watch(web("lb-master", 230))
	h.isForeign()
}

// A holder that advertises less than its file says is not robbed of the VIP.
func TestTakeOverThatWouldMoveTheVIP(t *testing.T) {
	t.Parallel()
	first, second := newPair(t)
	holder := newByHandIn(t, first, handwritten)
	// One that begins as master would be it for a moment.
	standby := newByHandIn(t, second, strings.NewReplacer("priority 200", "priority 100", "state MASTER", "state BACKUP").Replace(handwritten))
	var r reply
	within(t, 5*time.Second, "the holder to be heard", func() bool {
		r = standby.takeOver(web("lb-backup", 230))
		return !strings.Contains(r.Error, "has not found out yet") && !strings.Contains(r.Error, "not ready for signal")
	})
	if r.Kind != "failed" || !strings.Contains(r.Error, "its holder advertises priority 200, and this node would have 230") {
		t.Errorf("%s error %q", r.Kind, r.Error)
	}
	if r := standby.takeOver(web("lb-backup", 190)); r.Error != "" {
		t.Error(r.Error)
	}
	if !holder.has("10.9.0.100") || standby.has("10.9.0.100") {
		t.Error("the VIP has moved")
	}
}

// What goes wrong leaves the process with its own file and the VIP where it is.
func TestTakeOverThatFails(t *testing.T) {
	t.Parallel()
	h := newByHand(t)
	h.watch(web("lb-master", 230))
	h.Broken = true
	if r := h.takeOver(web("lb-master", 230)); r.Kind != "failed" || !strings.Contains(r.Error, "the disk is full") {
		t.Errorf("%s error %q", r.Kind, r.Error)
	}
	h.isForeign()
	refused := web("lb-master", 230)
	refused.Instances[0].Version = 7
	if r := h.takeOver(refused); r.Kind != "refused" {
		t.Errorf("%s error %q", r.Kind, r.Error)
	}
	h.isForeign()
	h.heldThroughout(0)
}
