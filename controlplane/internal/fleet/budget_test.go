package fleet

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// What a full log refused counts for nothing: all of it comes as soon as there is
// room.
func TestAFullLogCostsNoBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		before := len(l.log.reasons(""))
		l.log.fill(0)
		var events []*agentv1.Event
		for i := range uint64(3 * portion) {
			events = append(events, backendEvent(i+1, agentv1.ServerState_SERVER_STATE_DOWN))
		}
		a.report(a.boot, events...)
		pass(time.Minute)
		l.log.fill(-1)
		pass(time.Second)
		if got := len(l.log.reasons("")) - before; got != len(events) {
			t.Errorf("%d events, want %d", got, len(events))
		}
	})
}

// A node that renews an old certificate again and again fills no log with it.
func TestLateRenewalsHaveABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, _ := pair(t)
		before := len(l.log.reasons(""))
		for range 3 * burst {
			l.fleet.Recovered(Identity{Cluster: home, Node: "lb-master", UID: "uid-lb-master"}, errors.New("too old"))
		}
		if got := len(l.log.reasons("")) - before; got == 0 || got > burst {
			t.Errorf("%d events of %d renewals, want at most %d", got, 3*burst, burst)
		}
	})
}

// A node that raises and clears an alarm again and again fills no log with it;
// the status tells it all the same.
func TestAlarmsHaveABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, _ := pair(t)
		c, err := l.fleet.cluster(home)
		if err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		c.nodes["lb-master"].budget.take(burst, time.Now())
		c.mu.Unlock()
		before := len(l.log.reasons(""))
		for range 100 {
			a.observe(changed(localDrain(true)))
			synctest.Wait()
			l.wantAlarms("DRIFT lb-master")
			a.observe(changed())
			synctest.Wait()
			l.wantAlarms()
		}
		if got := l.log.reasons("")[before:]; len(got) != 0 {
			t.Errorf("%d events, want none", len(got))
		}
		pass(time.Second)
		a.observe(changed(localDrain(true)))
		synctest.Wait()
		if got := l.log.reasons("")[before:]; len(got) != 2 || got[0] != "EVENTS_LOST" || got[1] != "ALARM_RAISED" {
			t.Errorf("events %q, want what was left out and the alarm", got)
		}
	})
}
