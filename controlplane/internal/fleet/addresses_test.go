package fleet

import (
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// tell reports the node's own addresses on the network front.
func (a *agent) tell(addresses ...string) {
	a.observe(&agentv1.Observation{Networks: &agentv1.NetworkSet{Networks: []*agentv1.NetworkObservation{
		{Network: "front", Addresses: addresses},
	}}})
}

// peers are what the agent has been told of the other nodes, "node network
// address" each.
func (a *agent) peers() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []string
	for _, p := range a.resources["keepalived/global"].GetKeepalivedGlobal().GetPeers() {
		for _, address := range p.GetAddresses() {
			all = append(all, p.GetNode()+" "+p.GetNetwork()+" "+address)
		}
	}
	return all
}

func (a *agent) wantPeers(want ...string) {
	a.l.t.Helper()
	if d := cmp.Diff(want, a.peers()); d != "" {
		a.l.t.Errorf("peers of %s (-want +got):\n%s", a.node, d)
	}
	a.checkConverged()
}

// Nodes learn each other's addresses and every change of them, in this life of the
// controller and the next. What cannot be an address of a node is left out.
func TestPeersAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master", "lb-backup")
		l.stop()
		records, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer records.Close()
		restart := func() {
			if l.addresses, err = OpenAddresses(t.Context(), records); err != nil {
				t.Fatal(err)
			}
			l.start()
		}
		restart()
		master, backup := l.agent("lb-master").connect(), l.agent("lb-backup").connect()
		synctest.Wait()
		master.tell("192.168.1.10", "fe80::10", "nonsense", "127.0.0.1", "::", "fe80::1%eth0", "224.0.0.18")
		pass(2 * peersEvery)
		backup.wantPeers() // whether its agent knows of peers is not known yet
		backup.tell("192.168.1.11")
		pass(2 * peersEvery)
		master.wantPeers("lb-backup front 192.168.1.11")
		backup.wantPeers("lb-master front 192.168.1.10", "lb-master front fe80::10")
		master.tell("192.168.1.99")
		pass(2 * peersEvery)
		backup.wantPeers("lb-master front 192.168.1.99")

		before, _ := backup.counts()
		master.tell("192.168.1.99")
		_ = master.disconnect()
		pass(2 * peersEvery)
		l.stop()
		restart()
		backup.connect()
		pass(2 * peersEvery)
		backup.wantPeers("lb-master front 192.168.1.99")
		if after, _ := backup.counts(); after != before {
			t.Errorf("%d updates while nothing has changed, want none", after-before)
		}

		l.change(state.DeleteNode("lb-master", ""))
		pass(2 * peersEvery)
		backup.wantPeers()
		if kept, err := records.List(t.Context(), addressesBucket); err != nil || len(kept) != 1 {
			t.Errorf("%d records are kept (%v), want that of the node that is left", len(kept), err)
		}
	})
}

// A node whose addresses change all the time costs the others one update a second.
func TestRestlessAddressesAreToldOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master", "lb-backup")
		master, backup := l.agent("lb-master").connect(), l.agent("lb-backup").connect()
		synctest.Wait()
		backup.tell("192.168.1.11")
		pass(2 * peersEvery)
		before, _ := backup.counts()
		for i := range 1000 {
			master.tell(fmt.Sprintf("192.168.2.%d", i%250+1))
			pass(10 * time.Millisecond)
		}
		pass(2 * peersEvery)
		if after, _ := backup.counts(); after-before > 12 {
			t.Errorf("%d updates in 10 s, want one a second", after-before)
		}
		backup.wantPeers("lb-master front 192.168.2.250")
	})
}
