package keepalived

import (
	"strings"
	"testing"
	"time"
)

// A step that keepalived has told is not taken for one whose notice was lost,
// however often keepalived is asked meanwhile.
func TestNoNoticeIsOvertaken(t *testing.T) {
	t.Parallel()
	a, b := newCluster(t)
	config := web("lb-master", 230)
	for n := range 10 {
		healthy := n%2 == 1
		want := map[bool]InstanceState{true: InstanceMaster, false: InstanceBackup}[healthy]
		a.setHealth(healthy)
		within(t, 5*time.Second, "the VIP moves", func() bool {
			a.mustApply(config) // asks keepalived
			return a.instance("web").State == want
		})
	}
	for _, n := range []*node{a, b} {
		if got := n.steps(); strings.Contains(got, noticeLost) {
			t.Errorf("%s: %s", n.name, got)
		}
	}
}
