package fleet

import (
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// A restored controller sends no configuration, says what each node has, and
// brings all nodes to the restored one after an operator's word.
func TestRestoredWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-a", "lb-b", "lb-c", "lb-d")
		l.stop()
		l.ledger.restored = &store.Restored{Epoch: "epoch-0", Backup: time.Unix(1700000000, 0)}
		l.start()
		head := l.status().GetDesired()
		for node, v := range map[string]*agentv1.Version{
			"lb-a": {Epoch: "epoch-0", Structure: head + 7, Runtime: head + 7, Hash: "ahead"},
			"lb-b": {Epoch: "epoch-0", Structure: head, Runtime: head, Hash: "same"},
			"lb-c": {Epoch: "elsewhere", Structure: 3, Runtime: 3, Hash: "other"},
		} {
			a := l.agent(node)
			a.version = v
			a.connect()
			synctest.Wait()
			defer a.checkConverged()
			defer func() {
				if updates, _ := a.counts(); updates != 1 {
					t.Errorf("%s got %d updates, want one after the operator's word", node, updates)
				}
			}()
			if updates, _ := a.counts(); updates != 0 {
				t.Errorf("%s got %d updates from a controller that waits", node, updates)
			}
		}
		l.wantAlarms("RESTORED default")
		alarm := l.status().GetAlarms()[0]
		for _, want := range []string{
			"backup of 2023-11-14T22:13:20Z", "lb-a is ahead with revision", "and will lose what the 7 after",
			"lb-b has revision", "lb-c has revision 3 of another store (epoch elsewhere)", "lb-d is not connected",
		} {
			if !strings.Contains(alarm.GetMessage(), want) {
				t.Errorf("the alarm does not say %q: %s", want, alarm.GetMessage())
			}
		}
		if !strings.Contains(alarm.GetCure(), "lbctl restore confirm") {
			t.Errorf("cure: %s", alarm.GetCure())
		}
		if strings.Contains(alarm.GetMessage(), "joined after") || strings.Contains(alarm.GetCure(), "node token create") {
			t.Errorf("nobody has joined after the backup: %s; %s", alarm.GetMessage(), alarm.GetCure())
		}
		for _, node := range []string{"lb-f", "lb-e", "lb-f"} {
			l.fleet.Unknown(Identity{Cluster: home, Node: node, UID: "uid-of-" + node})
		}
		synctest.Wait()
		l.wantAlarms("RESTORED default")
		alarm = l.status().GetAlarms()[0]
		if !strings.HasSuffix(alarm.GetMessage(), "joined after the backup, or were removed or replaced before it: lb-e, lb-f") || !strings.Contains(alarm.GetCure(), "lbctl node token create") {
			t.Errorf("nodes that joined after the backup: %s; %s", alarm.GetMessage(), alarm.GetCure())
		}
		l.ledger.confirm()
		synctest.Wait()
		l.wantAlarms()
	})
}

// A node that was ahead and was then put back itself is held no longer, also
// after a restart of the controller.
func TestNodeWasPutBackToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		l.stop()
		records, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer records.Close()
		restart := func() {
			if l.holds, err = OpenHolds(t.Context(), records, "epoch-1"); err != nil {
				t.Fatal(err)
			}
			l.start()
		}
		restart()
		a := l.agent("lb-master")
		a.version = &agentv1.Version{Epoch: "epoch-1", Structure: 10, Runtime: 10, Hash: "from the future"}
		a.connect()
		synctest.Wait()
		l.wantAlarms("NODE_AHEAD lb-master")
		_ = a.disconnect()
		a.version = nil // the machine's disk is an older copy now
		a.connect()
		synctest.Wait()
		for l.status().GetDesired() <= 10 {
			l.change(weight(uint32(l.status().GetDesired())))
			synctest.Wait()
		}
		a.checkConverged()
		l.stop()
		restart()
		a.connect()
		synctest.Wait()
		l.wantAlarms()
		l.change(weight(200))
		synctest.Wait()
		a.checkConverged()
	})
}
