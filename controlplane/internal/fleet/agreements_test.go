package fleet

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/controlplane/internal/rollout"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// vrid is a change of the VIP's virtual router id.
func vrid(id uint32) state.Change {
	return state.UpdateVip(&tandemv1.Vip{Name: "clusters/default/vips/web", Vrid: id}, &fieldmaskpb.FieldMask{Paths: []string{"vrid"}})
}

// instance of the VIP that the agent has, 0: none.
func (a *agent) vrid() uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.resources["keepalived/instance/web"].GetInstance().GetVrid()
}

// agree lets time go by, and fails when the agents have different VRIDs at any
// millisecond, or all of them none.
func agree(t *testing.T, d time.Duration, all ...*agent) {
	t.Helper()
	for range d / time.Millisecond {
		pass(time.Millisecond)
		has := make(map[uint32]int)
		for _, a := range all {
			if id := a.vrid(); id != 0 {
				has[id]++
			}
		}
		if len(has) != 1 {
			t.Fatalf("VRIDs are %v", has)
		}
	}
}

func newTermsLab(t *testing.T, nodes ...string) (l *lab, restart func(), all []*agent) {
	t.Helper()
	l = newLab(t, nodes...)
	l.stop()
	records, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = records.Close() })
	restart = func() {
		if l.agreements, err = OpenAgreements(t.Context(), records); err != nil {
			t.Fatal(err)
		}
		l.start()
	}
	restart()
	for _, node := range nodes {
		all = append(all, l.agent(node).connect())
	}
	synctest.Wait()
	for i, a := range all {
		vrrp := agentv1.VrrpState_VRRP_STATE_BACKUP
		if i == 0 {
			vrrp = agentv1.VrrpState_VRRP_STATE_MASTER
		}
		a.observe(well(vrrp))
		a.pause = func() time.Duration { return time.Duration(rand.IntN(50)) * time.Millisecond }
	}
	return l, restart, all
}

// The nodes of a VIP never have different VRIDs while that changes, however long
// each of them takes, and however often the controller dies in between. The
// revision counts as applied when all have it.
func TestTermsChangeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, restart, all := newTermsLab(t, "lb-master", "lb-backup", "lb-third")
		for round := range uint32(30) {
			l.change(vrid(100 + round%3))
			if rand.IntN(2) == 0 {
				agree(t, time.Duration(rand.IntN(100))*time.Millisecond, all...)
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
			}
			agree(t, time.Duration(rand.IntN(300))*time.Millisecond, all...)
		}
		agree(t, time.Second, all...)
		for _, a := range all {
			a.checkConverged()
		}
		l.wantAlarms()
	})
}

// fullDisk is a store that cannot be written while it is full.
type fullDisk struct {
	store.Records
	full atomic.Bool
}

func (d *fullDisk) Put(ctx context.Context, bucket, key string, v []byte) error {
	if d.full.Load() {
		return errors.New("no space left on device")
	}
	return d.Records.Put(ctx, bucket, key, v)
}

// A controller that starts while the holder switches has it go on, whoever has the
// higher priority, and whoever connects first.
func TestTermsOfAHolderOfLowPriorityOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, restart, all := newTermsLab(t, "lb-master", "lb-backup")
		all[0].observe(well(agentv1.VrrpState_VRRP_STATE_BACKUP))
		all[1].observe(well(agentv1.VrrpState_VRRP_STATE_MASTER))
		pass(time.Second)
		all[1].pause = func() time.Duration { return 200 * time.Millisecond }
		l.change(vrid(77))
		agree(t, 100*time.Millisecond, all...)
		if all[0].vrid() != 0 || all[1].vrid() != 51 {
			t.Fatalf("VRIDs %d and %d, want none and 51", all[0].vrid(), all[1].vrid())
		}
		l.stop()
		for _, a := range all {
			if err := <-a.served; err == nil {
				t.Error("Serve = nil")
			}
		}
		restart()
		all[0].connect()
		agree(t, rollout.Patience+time.Second, all...)
		all[1].connect()
		agree(t, time.Second, all...)
		for _, a := range all {
			a.checkConverged()
		}
	})
}

// While it cannot be written which terms are in force no node gets others, nor
// anything else of that revision; it goes out when the disk has room again.
func TestTermsWaitForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, all := newTermsLab(t, "lb-master", "lb-backup")
		disk := &fullDisk{Records: l.agreements.records}
		l.agreements.records = disk
		disk.full.Store(true)
		head := l.change(vrid(77))
		agree(t, 3*time.Second, all...)
		if id, n := all[0].vrid(), l.node("lb-master"); id != 51 || n.GetSent() >= head.Revision() {
			t.Errorf("VRID %d, sent %d: the order of revision %d is not on disk", id, n.GetSent(), head.Revision())
		}
		disk.full.Store(false)
		agree(t, retryAgreements+time.Second, all...)
		if id := all[0].vrid(); id != 77 {
			t.Errorf("VRID %d, want 77", id)
		}
		for _, a := range all {
			a.checkConverged()
		}
	})
}

// While a node is away the others keep what they have, everything else goes on, and
// the status says what is waited for.
func TestTermsWaitForANodeThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, all := newTermsLab(t, "lb-master", "lb-backup")
		_ = all[1].disconnect()
		head := l.change(vrid(77))
		rest := l.change(weight(9))
		agree(t, time.Second, all...)
		n := l.node("lb-master")
		if n.GetRuntime() != rest.Revision() {
			t.Errorf("runtime %d, want %d: all of it but the VIP's is in effect", n.GetRuntime(), rest.Revision())
		}
		if all[0].vrid() != 51 || n.GetApplied() >= head.Revision() || !strings.Contains(n.GetWaiting(), "VIP web") || !strings.Contains(n.GetWaiting(), "lb-backup") {
			t.Errorf("VRID %d, applied %d of %d, waiting %q", all[0].vrid(), n.GetApplied(), head.Revision(), n.GetWaiting())
		}
		all[0].mu.Lock()
		got := all[0].resources["haproxy/server/web_servers/web1"].GetServer().GetWeight()
		all[0].mu.Unlock()
		if got != 9 {
			t.Errorf("weight %d, want 9: a change of something else waits", got)
		}
		pass(time.Minute)
		l.wantAlarms("VIP_CHANGE_WAITS web", "NODE_DISCONNECTED lb-backup")
		all[1].connect()
		agree(t, time.Second, all...)
		for _, a := range all {
			a.checkConverged()
		}
		l.wantAlarms()
	})
}

// A failure is over when a later revision, or the same one after all, is in effect,
// though what a VIP waits for is not.
func TestFailureEndsWhileTermsWait(t *testing.T) {
	weightOf := func(a *agent) uint32 {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.resources["haproxy/server/web_servers/web1"].GetServer().GetWeight()
	}
	synctest.Test(t, func(t *testing.T) {
		l, _, all := newTermsLab(t, "lb-master", "lb-backup")
		_ = all[1].disconnect()
		l.change(vrid(77))
		pass(time.Minute)
		waits := []string{"VIP_CHANGE_WAITS web", "NODE_DISCONNECTED lb-backup"}
		l.wantAlarms(waits...)
		var refuses atomic.Bool
		var refused *agentv1.Version
		all[0].judge = func(u *agentv1.Update) *agentv1.Nack {
			if refuses.Load() {
				refused = u.GetVersion()
				return &agentv1.Nack{Reason: agentv1.NackReason_NACK_REASON_REFUSED, Message: "no"}
			}
			return nil
		}
		refuses.Store(true)
		l.change(weight(3))
		pass(time.Second)
		l.wantAlarms("APPLY_FAILED lb-master", waits[0], waits[1])
		refuses.Store(false)
		l.change(weight(4))
		pass(time.Second)
		l.wantAlarms(waits...)
		if got := weightOf(all[0]); got != 4 {
			t.Errorf("weight %d, want 4", got)
		}
		refuses.Store(true)
		l.change(weight(5))
		pass(time.Second)
		l.wantAlarms("APPLY_FAILED lb-master", waits[0], waits[1])
		_ = all[0].pipe.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Ack{Ack: &agentv1.Ack{Version: refused}}})
		l.wantAlarms(waits...)
	})
}

// Other changes that never end, and of which each comes before a node has the one
// before, do not keep a change of the terms from its end.
func TestTermsChangeAmongChangesWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, all := newTermsLab(t, "lb-master", "lb-backup")
		for _, a := range all {
			a.pause = func() time.Duration { return 20 * time.Millisecond }
		}
		l.change(vrid(77))
		for i := range uint32(400) {
			agree(t, 5*time.Millisecond, all...)
			l.change(weight(1 + i%200))
		}
		for _, a := range all {
			if id := a.vrid(); id != 77 {
				t.Errorf("VRID %d after 2 s of changes, want 77", id)
			}
		}
		agree(t, time.Second, all...)
		for _, a := range all {
			a.checkConverged()
		}
	})
}

// Nothing is kept of a deleted cluster, a password least of all; another one of its
// name begins with terms of its own.
func TestDeletedClusterIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, _ := newTermsLab(t, "lb-master", "lb-backup")
		records := l.agreements.records
		l.stop()
		var err error
		if l.addresses, err = OpenAddresses(t.Context(), records); err != nil {
			t.Fatal(err)
		}
		l.start()
		a := l.agent("lb-master").connect()
		synctest.Wait()
		a.tell("192.168.1.10")
		pass(2 * peersEvery)
		kept := func() (buckets []string) {
			for _, bucket := range []string{agreementsBucket, addressesBucket} {
				if all, err := records.List(t.Context(), bucket); err != nil || len(all) > 0 {
					buckets = append(buckets, bucket)
				}
			}
			return buckets
		}
		if len(kept()) != 2 {
			t.Fatalf("kept: %v", kept())
		}
		l.ledger.drop(home)
		pass(time.Second)
		if len(kept()) != 0 {
			t.Errorf("kept after the cluster was deleted: %v", kept())
		}
		l.ledger.set(l.apply(state.New(home, "epoch-1", 100),
			state.CreateCluster(&tandemv1.Cluster{}),
			state.CreateVip("web", &tandemv1.Vip{Addresses: []string{"192.168.1.100/24"}, Vrid: 99}),
			state.AddNode("lb-master", "uid-lb-master"), state.AddNode("lb-backup", "uid-lb-backup")))
		pass(time.Second)
		a = l.agent("lb-master").connect()
		pass(time.Second)
		if id := a.vrid(); id != 99 {
			t.Errorf("VRID %d, want 99; waiting %q", id, l.node("lb-master").GetWaiting())
		}
	})
}

// A VIP that was removed and is made again with another VRID goes over to it in
// order, if a node has it still that the controller has not heard since its start.
func TestRemovedVIPIsRememberedOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, restart, all := newTermsLab(t, "lb-master", "lb-backup")
		_ = all[1].disconnect()
		l.change(state.DeleteListener("web_frontend", ""), state.DeleteVip("web", ""))
		pass(time.Second)
		l.stop()
		if err := <-all[0].served; err == nil {
			t.Error("Serve = nil")
		}
		restart()
		pass(time.Second)
		l.change(state.CreateVip("web", &tandemv1.Vip{Addresses: []string{"192.168.1.100/24"}, Vrid: 77}))
		all[0].connect()
		for range 1000 {
			pass(time.Millisecond)
			if id := all[0].vrid(); id == 77 {
				t.Fatal("lb-master has VRID 77, and lb-backup, which is not heard, 51")
			}
		}
		all[1].connect()
		agree(t, time.Second, all...)
		for _, a := range all {
			a.checkConverged()
		}
	})
}

// The holder's machine dies while it changes: the standby comes back without it.
func TestTermsOfADeadKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, all := newTermsLab(t, "lb-master", "lb-backup")
		all[0].pause = func() time.Duration { return time.Hour }
		l.change(vrid(77))
		pass(100 * time.Millisecond)
		if got := all[1].vrid(); got != 0 {
			t.Fatalf("the standby has VRID %d, want none", got)
		}
		_ = all[0].disconnect()
		pass(rollout.Patience + 100*time.Millisecond)
		if got := all[1].vrid(); got != 77 {
			t.Errorf("the standby has VRID %d, want 77", got)
		}
	})
}
