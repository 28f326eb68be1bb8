package fleet

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// unicast is a change of how the VIP is advertised.
func unicast(on bool) state.Change {
	return state.UpdateVip(&tandemv1.Vip{Name: "clusters/default/vips/web", Unicast: new(on)}, &fieldmaskpb.FieldMask{Paths: []string{"unicast"}})
}

// speaking is by what means the agent advertises the VIP: "out", "multicast", or the
// addresses of all speakers, its own one first.
func (a *agent) speaking() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := a.resources["keepalived/instance/web"].GetInstance()
	if i == nil {
		return "out"
	}
	if len(i.GetSpeakers()) == 0 {
		return "multicast"
	}
	all := ""
	for _, s := range i.GetSpeakers() {
		for _, address := range s.GetAddresses() {
			if address == i.GetUnicastSource() {
				all = address + all
			} else {
				all += " " + address
			}
		}
	}
	return all
}

// agreeOnSpeakers lets time go by, and fails when at any millisecond two agents have
// different speakers, or none has the VIP.
func agreeOnSpeakers(t *testing.T, d time.Duration, all ...*agent) {
	t.Helper()
	for range d / time.Millisecond {
		pass(time.Millisecond)
		has := make(map[string]bool)
		for _, a := range all {
			a.mu.Lock()
			if i := a.resources["keepalived/instance/web"].GetInstance(); i != nil {
				words := ""
				for _, s := range i.GetSpeakers() {
					words += s.String()
				}
				has[words] = true
			}
			a.mu.Unlock()
		}
		if len(has) != 1 {
			t.Fatalf("the nodes speak to %v", has)
		}
	}
}

// Nodes go to unicast, to other addresses and back in order, in this life of the
// controller and the next; until it is known where a node advertises from, all go on
// by multicast.
func TestUnicastChangesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, restart, all := newTermsLab(t, "lb-master", "lb-backup")
		master, backup := all[0], all[1]
		wants := func(one, other string) {
			t.Helper()
			if master.speaking() != one || backup.speaking() != other {
				t.Errorf("lb-master speaks to %s, lb-backup to %s; want %s and %s", master.speaking(), backup.speaking(), one, other)
			}
		}
		master.tell("192.168.1.10")
		l.change(unicast(true))
		agreeOnSpeakers(t, time.Second, all...)
		wants("multicast", "multicast")
		agreeOnSpeakers(t, reconnecting, all...)
		l.wantAlarms("VIP_CHANGE_WAITS web")
		backup.tell("192.168.1.11", "fe80::11")
		agreeOnSpeakers(t, time.Second, all...)
		wants("192.168.1.10 192.168.1.11", "192.168.1.11 192.168.1.10")
		l.wantAlarms()

		backup.tell() // it is gone, and comes back
		agreeOnSpeakers(t, time.Second, all...)
		backup.tell("192.168.1.99")
		for range 200 { // no revision is unmade by it
			agreeOnSpeakers(t, time.Millisecond, all...)
			if n := l.node("lb-backup"); n.GetApplied() != n.GetSent() {
				t.Fatalf("lb-backup has revision %d applied of %d", n.GetApplied(), n.GetSent())
			}
		}
		agreeOnSpeakers(t, time.Second, all...)
		wants("192.168.1.10 192.168.1.99", "192.168.1.99 192.168.1.10")
		master.tell("192.168.1.98", "192.168.1.10")
		agreeOnSpeakers(t, time.Second, all...)
		wants("192.168.1.10 192.168.1.99", "192.168.1.99 192.168.1.10")
		for _, a := range all {
			if n := l.node(a.node); n.GetApplied() != n.GetSent() || n.GetWaiting() != "" {
				t.Errorf("%s has revision %d applied of %d, and waits: %s", a.node, n.GetApplied(), n.GetSent(), n.GetWaiting())
			}
		}

		backup.tell("192.168.1.97") // the controller dies meanwhile
		l.stop()
		for _, a := range all {
			if err := <-a.served; err == nil {
				t.Error("Serve = nil")
			}
		}
		restart()
		for _, a := range all {
			a.connect()
		}
		agreeOnSpeakers(t, 10*time.Millisecond, all...)
		master.tell("192.168.1.98", "192.168.1.10")
		agreeOnSpeakers(t, time.Second, all...)
		backup.tell("192.168.1.97")
		agreeOnSpeakers(t, time.Second, all...)
		wants("192.168.1.10 192.168.1.97", "192.168.1.97 192.168.1.10")

		l.change(unicast(false))
		agreeOnSpeakers(t, time.Second, all...)
		wants("multicast", "multicast")
		l.wantAlarms()
	})
}

// A node that is new has no instance until the others advertise to it; who leaves the
// cluster and has not heard of that still hears the holder.
func TestUnicastNodesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, all := newTermsLab(t, "lb-master", "lb-backup")
		l.change(unicast(true))
		all[0].tell("192.168.1.10")
		all[1].tell("192.168.1.11")
		agreeOnSpeakers(t, time.Second, all...)
		l.change(state.AddNode("lb-third", "uid-lb-third"))
		third := l.agent("lb-third").connect()
		all = append(all, third)
		agreeOnSpeakers(t, time.Second, all...)
		if got := third.speaking(); got != "out" {
			t.Errorf("a node whose address nobody knows speaks to %s", got)
		}
		agreeOnSpeakers(t, reconnecting, all...)
		l.wantAlarms("NO_UNICAST_ADDRESS web")
		_ = third.disconnect()
		pass(reconnecting + time.Second)
		l.wantAlarms("NODE_DISCONNECTED lb-third") // nobody knows what it has
		third.connect()
		agreeOnSpeakers(t, reconnecting, all...)
		l.wantAlarms("NO_UNICAST_ADDRESS web")
		third.tell("192.168.1.12")
		agreeOnSpeakers(t, time.Second, all...)
		if got := third.speaking(); got != "192.168.1.12 192.168.1.11 192.168.1.10" && got != "192.168.1.12 192.168.1.10 192.168.1.11" {
			t.Errorf("the new node speaks to %s", got)
		}
		l.wantAlarms()
		before, _ := all[0].counts()
		l.change(state.DeleteNode("lb-third", ""))
		pass(time.Second)
		if got := all[1].speaking(); got != "192.168.1.11 192.168.1.10 192.168.1.12" {
			t.Errorf("speaks to %s after a node has left, want it to be told still", got)
		}
		if after, _ := all[0].counts(); after > before+1 {
			t.Errorf("%d updates, want that of the peers alone", after-before)
		}
	})
}

// I8: a VIP that is to be advertised by unicast from the first moment, while no node has an
// address to do so from, is advertised by multicast until they have.
func TestI8UnicastThatNobodyCanSpeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, all := newTermsLab(t, "lb-master", "lb-backup")
		l.change(state.DeleteListener("web_frontend", ""))
		l.change(state.DeleteVip("web", ""))
		pass(time.Second)
		l.change(state.CreateVip("web", &tandemv1.Vip{Addresses: []string{"192.168.1.100/24"}, Vrid: 51, Unicast: new(true)}))
		pass(time.Second)
		if got := all[0].speaking(); got != "out" {
			t.Errorf("nobody has told anything, and lb-master speaks to %s", got)
		}
		all[0].tell("fe80::10")
		all[1].tell()
		pass(time.Second)
		for _, a := range all {
			if got := a.speaking(); got != "multicast" {
				t.Errorf("%s speaks to %s", a.node, got)
			}
		}
		agreeOnSpeakers(t, reconnecting, all...)
		l.wantAlarms("VIP_CHANGE_WAITS web")
		all[0].tell("192.168.1.10")
		all[1].tell("192.168.1.11")
		agreeOnSpeakers(t, time.Second, all...)
		if got := all[0].speaking(); got != "192.168.1.10 192.168.1.11" {
			t.Errorf("with addresses lb-master speaks to %s", got)
		}
		l.wantAlarms()
	})
}
