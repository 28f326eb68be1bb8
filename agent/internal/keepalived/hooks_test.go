package keepalived

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/netnstest"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/vmacfilter"
)

// inNamespace puts the test's thread into a network namespace with eth0, which has the
// address 10.9.0.1.
func inNamespace(t *testing.T) {
	t.Helper()
	netnstest.Enter(t)
	ip(t, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
	ip(t, "address", "add", "10.9.0.1/24", "dev", "eth0")
}

func newHooks(t *testing.T) *Hooks {
	t.Helper()
	dir := t.TempDir()
	h, err := NewHooks(filepath.Join(dir, "state"), filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestScoresBeforeAStart(t *testing.T) {
	config, err := os.ReadFile("testdata/fail-back.conf") // mail and web are sticky
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		serves, drained bool
		want            int
	}{{false, false, -100}, {true, false, 0}, {true, true, -50}, {false, true, -150}} {
		h := newHooks(t)
		// What an earlier keepalived was told does not count.
		for name, text := range map[string]string{"score": "0\n", "standby.web": "0\n", "standby.gone": "0\n"} {
			if err := os.WriteFile(filepath.Join(h.paths.trackDir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.WriteFile(h.paths.config, config, 0o600), mark(h.paths.drained, test.drained)); err != nil {
			t.Fatal(err)
		}
		if told, err := h.BeforeStart(t.Context(), func() bool { return test.serves }); told != nil || err != nil {
			t.Fatal(told, err)
		}
		if got := score(t, h.paths.trackDir, "score"); got != test.want {
			t.Errorf("%+v: score %d", test, got)
		}
		for _, name := range []string{"standby.mail", "standby.web"} {
			if got := score(t, h.paths.trackDir, name); got != standbyScore {
				t.Errorf("%+v: %s is %d, want %d", test, name, got, standbyScore)
			}
		}
		if _, err := os.Stat(filepath.Join(h.paths.trackDir, "standby.gone")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the file of an instance that is no more: %v", err)
		}
	}
}

// What a killed keepalived has left is removed when it has ended, and before another one
// starts; what is somebody else's stays.
func TestHooksRemoveWhatWasLeft(t *testing.T) {
	inNamespace(t)
	for name, hook := range map[string]func(*Hooks) error{
		"after a stop": (*Hooks).AfterStop,
		"before a start": func(h *Hooks) error {
			return errors.Join(h.BeforeStart(t.Context(), func() bool { return true }))
		},
	} {
		h := newHooks(t)
		ip(t, "address", "add", "10.9.0.100/24", "dev", "eth0")
		record, err := json.Marshal([]place{{Interface: "eth0", Address: netip.MustParsePrefix("10.9.0.100/24")}})
		if err := errors.Join(err, os.WriteFile(h.paths.addresses, record, 0o600), hook(h)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		has, err := onInterface("eth0")
		if err != nil || has[netip.MustParseAddr("10.9.0.100")] || !has[netip.MustParseAddr("10.9.0.1")] {
			t.Errorf("%s: eth0 has %v, %v", name, has, err)
		}
	}
}

// A release that an agent left behind is ended, and no other score is touched.
func TestAReleaseIsEndedForAnAgentThatHangs(t *testing.T) {
	for _, test := range []struct {
		found   string
		drained bool
		want    int
	}{{"-254", false, -100}, {"-254", true, -150}, {"-100", false, -100}, {"-56", false, -56}, {"0", false, 0}} {
		h := newHooks(t)
		err := os.WriteFile(filepath.Join(h.paths.trackDir, scoreFile), []byte(test.found+"\n"), 0o644)
		if err := errors.Join(err, mark(h.paths.drained, test.drained), h.EndRelease()); err != nil {
			t.Fatal(err)
		}
		if got := score(t, h.paths.trackDir, scoreFile); got != test.want {
			t.Errorf("%+v: score %d", test, got)
		}
	}
}

func TestHealthWithoutAnAgent(t *testing.T) {
	h := newHooks(t)
	holder := filepath.Join(h.paths.trackDir, "standby.web")
	if err := errors.Join(os.WriteFile(holder, []byte("0\n"), 0o644), mark(h.paths.drained, true)); err != nil {
		t.Fatal(err)
	}
	for healthy, want := range map[bool]int{true: -50, false: -150} {
		if err := h.SetHealth(healthy); err != nil {
			t.Fatal(err)
		}
		if got := score(t, h.paths.trackDir, "score"); got != want {
			t.Errorf("healthy %v: score %d, want %d", healthy, got, want)
		}
	}
	if got := score(t, h.paths.trackDir, "standby.web"); got != 0 {
		t.Errorf("the holder's standby file is %d, which moves the VIP", got)
	}
}

func TestHooksLeaveOthersFilesAlone(t *testing.T) {
	h := newHooks(t)
	if err := os.WriteFile(h.paths.config, []byte("vrrp_instance mine {\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := h.BeforeStart(t.Context(), func() bool { return true })
	if err == nil || !strings.Contains(err.Error(), "was not written by Tandem") {
		t.Errorf("BeforeStart says %v", err)
	}
}

// What a hook cannot do must not keep keepalived from starting, as long as the
// score is right.
func TestADamagedRecordDoesNotHoldBackAStart(t *testing.T) {
	h := newHooks(t)
	if err := os.WriteFile(h.paths.addresses, []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	told, err := h.BeforeStart(t.Context(), func() bool { return false })
	if err != nil || told == nil || !strings.Contains(told.Error(), h.paths.addresses) {
		t.Errorf("it says %v and %v, want the first with the file", told, err)
	}
	if got := score(t, h.paths.trackDir, "score"); got != unhealthyScore {
		t.Errorf("score %d", got)
	}
	// One that is too good by mistake would.
	if err := os.RemoveAll(h.paths.trackDir); err != nil {
		t.Fatal(err)
	}
	if _, err := h.BeforeStart(t.Context(), func() bool { return false }); err == nil {
		t.Error("keepalived is to start without a score")
	}
}

// Interfaces below virtual MAC addresses are made fit for them, and the devices that a
// killed keepalived has left go, also without an agent.
func TestVirtualMACWithoutAnAgent(t *testing.T) {
	netnstest.Enter(t)
	config, err := os.ReadFile("testdata/virtual-mac.conf") // on eth0 and eth1.20
	if err != nil {
		t.Fatal(err)
	}
	h := newHooks(t)
	record := `[{"interface":"v4-51-eth0","address":"10.9.0.100/24"},{"interface":"v4-52-eth0","address":"10.9.0.101/24"},` +
		`{"interface":"v6-51-eth0","address":"fd09::100/64"}]`
	if err := errors.Join(os.WriteFile(h.paths.config, config, 0o600), os.WriteFile(h.paths.addresses, []byte(record), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0o644); err != nil {
		t.Fatal(err)
	}
	for n, name := range []string{"eth0", "eth1.20", "eth2", "v4-52-eth0"} {
		peer := fmt.Sprintf("peer%d", n)
		ip(t, "link", "add", name, "type", "veth", "peer", "name", peer)
		ip(t, "link", "set", name, "up")
		ip(t, "link", "set", peer, "up")
	}
	for what, hook := range map[string]func() error{
		"before a start": func() error {
			told, err := h.BeforeStart(t.Context(), func() bool { return true })
			return errors.Join(told, err)
		},
		"after a stop": h.AfterStop,
	} {
		ip(t, "link", "add", "v4-51-eth0", "link", "eth0", "address", "00:00:5e:00:01:33", "type", "macvlan", "mode", "private")
		if err := hook(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for name, want := range map[string]bool{"eth0": true, "v4-51-eth0": false, "v4-52-eth0": true} {
			if link, err := linkOf(name); err != nil || (link != nil) != want {
				t.Errorf("%s: interface %s is there: %v (%v), want %v", what, name, link != nil, err, want)
			}
		}
	}
	for name, want := range map[string]string{"eth0": "2", "eth1.20": "2", "eth2": "0"} {
		if got, err := os.ReadFile(ofParent(name, arpAnnounce)); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("arp_announce of %s is %s (%v), want %s", name, got, err, want)
		}
	}
	for _, name := range []string{"v4-51-eth0", "v6-51-eth0"} {
		if said, err := exec.Command("nft", "list", "table", "arp", vmacfilter.TableName).CombinedOutput(); err != nil || !strings.Contains(string(said), name) {
			t.Errorf("ARP is kept from %s (%v), want %s", said, err, name)
		}
	}
}
