package fleet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (l *lab) alarms() []string {
	var out []string
	for _, a := range l.status().GetAlarms() {
		out = append(out, a.GetReason()+" "+lastID(a.GetSubject()))
		if a.GetMessage() == "" || a.GetCure() == "" || a.GetSince() == nil || a.GetKey() != a.GetReason()+" "+a.GetSubject() {
			l.t.Errorf("alarm %v is not whole", a)
		}
	}
	return out
}

func (l *lab) wantAlarms(want ...string) {
	l.t.Helper()
	synctest.Wait()
	if d := cmp.Diff(want, l.alarms()); d != "" {
		l.t.Errorf("alarms (-want +got):\n%s", d)
	}
}

func TestI7TwoHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		pass(time.Minute)
		l.wantAlarms()
		// A takeover, reported by the new holder first, is no alarm.
		b.observe(&agentv1.Observation{Instances: holding(master)})
		pass(moving / 2)
		a.observe(&agentv1.Observation{Instances: holding(backup)})
		pass(time.Minute)
		l.wantAlarms()
		if h := l.status().GetVips()[0].GetHolders(); len(h) != 1 || h[0] != "lb-backup" {
			t.Errorf("holders = %v", h)
		}
		if got := l.log.reasons("clusters/default/vips/web"); slices.Contains(got, "ALARM_RAISED") {
			t.Errorf("events %v", got)
		}
		// Within a second it is told, however much else is going on.
		a.observe(&agentv1.Observation{Instances: holding(master)})
		for w := range uint32(9) {
			l.change(weight(w))
			pass(100 * time.Millisecond)
		}
		l.wantAlarms("TWO_HOLDERS web")
		a.observe(&agentv1.Observation{Instances: holding(backup)})
		l.wantAlarms()
	})
}

func TestI7NoHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		a.observe(&agentv1.Observation{Instances: holding(fault)})
		b.observe(&agentv1.Observation{Instances: holding(fault)})
		synctest.Wait()
		l.wantAlarms()
		pass(time.Second)
		l.wantAlarms("NO_HOLDER web")
		b.observe(&agentv1.Observation{Instances: holding(master)})
		l.wantAlarms()
		// The holder falls silent: the other one hears it, so it lives.
		a.observe(&agentv1.Observation{Instances: holding(backup)})
		_ = b.disconnect()
		pass(time.Minute)
		l.wantAlarms("NODE_DISCONNECTED lb-backup")
		// The other one listens, hears nobody and cannot take over.
		a.observe(&agentv1.Observation{Instances: hearing(fault, masterMAC)})
		pass(time.Second)
		l.wantAlarms("NO_HOLDER web", "NODE_DISCONNECTED lb-backup")
		// Nor does it without a keepalived.
		set := hearing(agentv1.VrrpState_VRRP_STATE_UNSPECIFIED, masterMAC)
		a.observe(&agentv1.Observation{Instances: set, Keepalived: &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_STOPPED}})
		l.wantAlarms("NO_HOLDER web", "KEEPALIVED_DEAD lb-master", "NODE_DISCONNECTED lb-backup")
	})
}

// Of a VIP that the one node which tells does not hold, and whose network it does not hear,
// nothing is known: the other one may well hold it.
func TestI7NobodyKnowsWhoHoldsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		_ = b.disconnect()
		a.observe(&agentv1.Observation{Instances: holding(fault)})
		pass(reconnecting - time.Second)
		l.wantAlarms()
		pass(2 * time.Second)
		l.wantAlarms("HOLDER_UNKNOWN web", "NODE_DISCONNECTED lb-backup")
		if text := l.status().GetAlarms()[0].GetMessage(); text != "it is not known which node holds VIP web: lb-backup is not connected, and lb-master does not listen on the VIP's network" {
			t.Errorf("%q", text)
		}
		// It hears the other one, which therefore holds it.
		a.observe(&agentv1.Observation{Instances: advertiser(hearing(fault, masterMAC), "lb-backup")})
		pass(time.Minute)
		l.wantAlarms("NODE_DISCONNECTED lb-backup")
	})
}

// A VIP that was just made has no holder yet: the nodes must hear of it first.
func TestNewVipIsNoAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		slow := func() time.Duration { return 5 * time.Second }
		a.pause, b.pause = slow, slow
		l.change(state.CreateVip("more", &tandemv1.Vip{Addresses: []string{"192.168.1.101/24"}, Vrid: 52}))
		pass(4 * time.Second)
		l.wantAlarms()
		pass(2 * time.Second)
		l.wantAlarms()
		a.observe(&agentv1.Observation{Instances: both(master, fault)})
		b.observe(&agentv1.Observation{Instances: both(backup, fault)})
		pass(time.Second)
		l.wantAlarms("NO_HOLDER more")
	})
}

// Nor has one of which only one node has heard.
func TestAVIPThatOneNodeHasIsNoAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		b.pause = func() time.Duration { return 10 * time.Second }
		l.change(state.CreateVip("more", &tandemv1.Vip{Addresses: []string{"192.168.1.101/24"}, Vrid: 52}))
		synctest.Wait()
		a.observe(&agentv1.Observation{Instances: both(master, fault)})
		pass(5 * time.Second)
		l.wantAlarms()
		pass(6 * time.Second)
		b.observe(&agentv1.Observation{Instances: both(backup, fault)})
		pass(time.Second)
		l.wantAlarms("NO_HOLDER more")
	})
}

// both are holding of the VIP web and another one, called more.
func both(web, more agentv1.VrrpState) *agentv1.InstanceSet {
	set := holding(web)
	set.Instances = append(set.Instances, &agentv1.InstanceObservation{
		Name: "more", Vip: "more", State: more, Holds: more == master,
	})
	return set
}

// foreign is what an agent says that touches nothing: what the kernel has.
func foreign(holds bool) *agentv1.InstanceSet {
	return &agentv1.InstanceSet{Instances: []*agentv1.InstanceObservation{{Name: "web", Vip: "web", Holds: holds}}}
}

// While a pair is taken over each node tells what its kernel has, and an agent
// that tells nothing is not taken for one that has nothing.
func TestI7TakeoverFrightensNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		touchNothing := func(*agentv1.Update) *agentv1.Nack {
			return &agentv1.Nack{Reason: agentv1.NackReason_NACK_REASON_FAILED, Message: "nothing is touched"}
		}
		a.judge, b.judge = touchNothing, touchNothing
		l.change(weight(3))
		a.observe(&agentv1.Observation{Instances: foreign(true)})
		b.observe(&agentv1.Observation{Instances: foreign(false)})
		pass(time.Minute)
		l.wantAlarms("APPLY_FAILED lb-backup", "APPLY_FAILED lb-master")
		// The standby is taken over, and the holder's agent restarts.
		b.judge = nil
		l.change(weight(4))
		b.observe(&agentv1.Observation{Instances: holding(backup)})
		pass(time.Minute)
		l.wantAlarms("APPLY_FAILED lb-master")
		a.observe(&agentv1.Observation{Whole: true})
		pass(time.Minute)
		l.wantAlarms("APPLY_FAILED lb-master") // lb-backup hears it
		b.observe(&agentv1.Observation{Instances: foreign(false)})
		pass(reconnecting + time.Second)
		l.wantAlarms("APPLY_FAILED lb-master")
		b.observe(&agentv1.Observation{Whole: true})
		pass(reconnecting - time.Second)
		l.wantAlarms("APPLY_FAILED lb-master")
		pass(2 * time.Second)
		l.wantAlarms("HOLDER_UNKNOWN web", "APPLY_FAILED lb-master")
		// None of both, and both say so.
		a.observe(&agentv1.Observation{Instances: foreign(false)})
		b.observe(&agentv1.Observation{Instances: foreign(false)})
		pass(time.Second)
		l.wantAlarms("NO_HOLDER web", "APPLY_FAILED lb-master")
		// One of them, and the other one has gone: that one may hold it.
		_ = b.disconnect()
		pass(time.Minute)
		l.wantAlarms("APPLY_FAILED lb-master", "NODE_DISCONNECTED lb-backup")
	})
}

func TestDeadDaemons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		a.observe(&agentv1.Observation{Haproxy: &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_STOPPED, Message: "killed"}})
		b.observe(&agentv1.Observation{Keepalived: &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_MISSING}})
		l.wantAlarms("PROXY_DEAD lb-master", "KEEPALIVED_DEAD lb-backup")
		a.observe(&agentv1.Observation{Haproxy: &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_RUNNING}})
		b.observe(&agentv1.Observation{Keepalived: &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_RUNNING}})
		l.wantAlarms()
	})
}

// What a node cannot put in effect for want of a daemon is no second alarm beside that of
// the daemon, which says so. What it fails at for another reason is.
func TestAMissingDaemonIsOneAlarm(t *testing.T) {
	const missing = "keepalived is missing: it is not installed"
	synctest.Test(t, func(t *testing.T) {
		l, _, b := pair(t)
		why := missing
		b.judge = func(*agentv1.Update) *agentv1.Nack {
			return &agentv1.Nack{Reason: agentv1.NackReason_NACK_REASON_FAILED, Message: why, Retrying: true}
		}
		head := l.change(weight(3))
		l.wantAlarms("APPLY_FAILED lb-backup")
		b.observe(&agentv1.Observation{Keepalived: &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_MISSING, Message: missing}})
		l.wantAlarms("KEEPALIVED_DEAD lb-backup")
		if text := l.status().GetAlarms()[0].GetMessage(); !strings.HasSuffix(text, fmt.Sprintf("; revision %d is not in effect there", head.Revision())) {
			t.Errorf("%q", text)
		}
		why = "no space left on device"
		l.change(weight(4))
		l.wantAlarms("KEEPALIVED_DEAD lb-backup", "APPLY_FAILED lb-backup")
		why = missing
		l.change(weight(5))
		l.wantAlarms("KEEPALIVED_DEAD lb-backup")
		b.observe(&agentv1.Observation{Keepalived: &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_RUNNING}})
		l.wantAlarms("APPLY_FAILED lb-backup")
	})
}

// A keepalived that has nothing to do need not run.
func TestAKeepalivedWithoutVIPsIsNoAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		a.observe(&agentv1.Observation{Keepalived: &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_STOPPED}})
		l.wantAlarms("KEEPALIVED_DEAD lb-master")
		l.change(state.DeleteListener("web_frontend", ""), state.DeleteVip("web", ""))
		pass(time.Second)
		l.wantAlarms()
	})
}

// A restarted controller waits for reports before it judges anyone dead; an
// agent that reconnects soon is no alarm.
func TestNobodyIsJudgedTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master", "lb-backup")
		pass(settling - time.Second)
		l.wantAlarms()
		a := l.agent("lb-master").connect()
		pass(2 * time.Second)
		l.wantAlarms("NODE_DISCONNECTED lb-backup")
		l.agent("lb-backup").connect()
		l.wantAlarms()
		_ = a.disconnect()
		pass(reconnecting - time.Second)
		l.wantAlarms()
		a.connect()
		pass(time.Minute)
		l.wantAlarms()
		_ = a.disconnect()
		pass(reconnecting + time.Second)
		l.wantAlarms("NODE_DISCONNECTED lb-master")
	})
}

// A controller that is reached through a VIP which it manages is warned of, as
// long as it is so.
func TestAdvertisedVip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.stop()
		l.controllers = []string{"ctl.example.com:9443", "192.168.1.100:9443"}
		l.start()
		pass(moving + time.Second)
		l.wantAlarms("ADVERTISED_VIP web")
		l.change(state.DeleteListener("web_frontend", ""), state.DeleteVip("web", ""))
		pass(time.Second)
		l.wantAlarms()
	})
}

// A cure names nothing that does not exist, and says what can be done today.
func TestCures(t *testing.T) {
	stopped := daemonCure(&agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_STOPPED}, "haproxy")
	if !strings.HasSuffix(stopped, "the agent starts it again") {
		t.Errorf("a stopped daemon is cured by %q", stopped)
	}
}
