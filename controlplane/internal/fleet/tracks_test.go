package fleet

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// tracking is an instance in that state on a node that has, or has not, what the VIP
// needs.
func tracking(s agentv1.VrrpState, lost bool) *agentv1.Observation {
	set := holding(s)
	t := &agentv1.TrackObservation{Track: "gateway", Lost: lost}
	if lost {
		t.Reason = "192.168.1.1 does not answer"
		set.Instances[0].Priority -= 44
	}
	set.Instances[0].Tracks = []*agentv1.TrackObservation{t, {Track: "ping 10.0.0.1"}}
	return &agentv1.Observation{Instances: set}
}

// What nodes have lost is told, of each node and of all, and is over with its cause; a
// VIP is not moved to where less is there.
func TestLostTracksAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		a.observe(tracking(master, false))
		b.observe(tracking(backup, true))
		pass(time.Second)
		l.wantAlarms("TRACK_LOST web")
		want := "VIP web: lb-backup has lost gateway (192.168.1.1 does not answer): another node goes before"
		if got := l.status().GetAlarms()[0].GetMessage(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		on := l.status().GetVips()[0].GetNodes()
		if len(on[0].GetTracks()) != 2 || on[0].GetTracks()[0].GetLost() || !on[1].GetTracks()[0].GetLost() || on[1].GetTracks()[1].GetLost() {
			t.Errorf("status: %v", on)
		}
		c, err := l.fleet.cluster(home)
		if err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		why := c.unfit("lb-backup", "web", "lb-master")
		c.mu.Unlock()
		if !strings.Contains(why, "gateway") {
			t.Errorf("it could take the VIP: %q", why)
		}
		light := tracking(backup, true)
		light.Instances.Instances[0].Priority = 229 // of little weight: keepalived would move it
		b.observe(light)
		pass(time.Second)
		c.mu.Lock()
		if why := c.unfit("lb-backup", "web", "lb-master"); strings.Contains(why, "has lost") {
			t.Errorf("it could not take the VIP: %q", why)
		}
		c.mu.Unlock()
		b.observe(tracking(backup, true))
		a.observe(tracking(master, true))
		pass(time.Second)
		if got := l.status().GetAlarms()[0].GetMessage(); !strings.HasSuffix(got, "so has every node that tells, and one of them holds the VIP") {
			t.Errorf("both: %q", got)
		}
		c.mu.Lock()
		if why := c.unfit("lb-backup", "web", "lb-master"); strings.Contains(why, "has lost") {
			t.Errorf("both have lost it: %q", why)
		}
		c.mu.Unlock()
		a.observe(tracking(master, false))
		b.observe(tracking(backup, false))
		pass(lingering)
		l.wantAlarms()
	})
}
