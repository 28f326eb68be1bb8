package fleet

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
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
		l.ledger.confirm()
		synctest.Wait()
		l.wantAlarms()
	})
}
