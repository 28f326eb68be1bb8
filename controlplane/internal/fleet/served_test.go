package fleet

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// I8: a VIP that lives on a node for want of a better one is told, with the reason.
func TestI8AVIPThatNobodyServesIsTold(t *testing.T) {
	proxy := func(s agentv1.DaemonState) *agentv1.Observation {
		return &agentv1.Observation{Haproxy: &agentv1.DaemonObservation{State: s}}
	}
	const stopped, running = agentv1.DaemonState_DAEMON_STATE_STOPPED, agentv1.DaemonState_DAEMON_STATE_RUNNING
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		a.observe(proxy(stopped))
		l.wantAlarms("PROXY_DEAD lb-master")
		b.observe(proxy(stopped))
		l.wantAlarms("PROXY_DEAD lb-backup", "PROXY_DEAD lb-master")
		pass(moving)
		l.wantAlarms("NOT_SERVED web", "PROXY_DEAD lb-backup", "PROXY_DEAD lb-master")
		b.observe(proxy(running))
		pass(lingering)
		l.wantAlarms("PROXY_DEAD lb-master")
		// A node that is silent may serve.
		_ = b.disconnect()
		pass(time.Second)
		l.wantAlarms("PROXY_DEAD lb-master")
	})
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		a.observe(changed(localDrain(true)))
		l.wantAlarms("DRIFT lb-master")
		b.observe(changed(localDrain(true)))
		l.wantAlarms("DRIFT lb-backup", "DRIFT lb-master")
		pass(moving)
		l.wantAlarms("ALL_DRAINED web", "DRIFT lb-backup", "DRIFT lb-master")
		a.observe(changed())
		pass(lingering)
		l.wantAlarms("DRIFT lb-backup")
	})
}

// An agent whose HAProxy comes and goes all the time raises an alarm about the VIP
// once, and does not fill the log: a VIP has no budget of events.
func TestAVIPThatIsServedNowAndThenIsOneAlarm(t *testing.T) {
	flap := func(t *testing.T, reason string, bad, good *agentv1.Observation) {
		synctest.Test(t, func(t *testing.T) {
			l, a, b := pair(t)
			b.observe(bad)
			for range 100 {
				a.observe(bad)
				pass(time.Second)
				a.observe(good)
				pass(time.Second)
			}
			l.log.mu.Lock()
			defer l.log.mu.Unlock()
			told := 0
			for _, e := range l.log.all {
				if strings.HasPrefix(e.GetMessage(), reason) {
					told++
				}
			}
			if told != 1 {
				t.Errorf("%d events of %s, want 1", told, reason)
			}
		})
	}
	daemon := func(s agentv1.DaemonState) *agentv1.Observation {
		return &agentv1.Observation{Haproxy: &agentv1.DaemonObservation{State: s}}
	}
	flap(t, "NOT_SERVED", daemon(agentv1.DaemonState_DAEMON_STATE_STOPPED), daemon(agentv1.DaemonState_DAEMON_STATE_RUNNING))
	flap(t, "ALL_DRAINED", changed(localDrain(true)), changed())
}

func TestAPoolThatIsDownIsTold(t *testing.T) {
	state := func(a *agent, states ...agentv1.ServerState) {
		var all []*agentv1.BackendObservation
		for i, s := range states {
			all = append(all, &agentv1.BackendObservation{Pool: "web_servers", Backend: []string{"web1", "web2"}[i], State: s, Weight: 1})
		}
		a.observe(&agentv1.Observation{Backends: all})
	}
	const (
		up, down    = agentv1.ServerState_SERVER_STATE_UP, agentv1.ServerState_SERVER_STATE_DOWN
		maintenance = agentv1.ServerState_SERVER_STATE_MAINTENANCE
	)
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		state(a, down, down)
		pass(checking - time.Millisecond)
		l.wantAlarms()
		pass(time.Millisecond)
		l.wantAlarms("NO_BACKEND web_servers")
		state(b, down, down)
		l.wantAlarms("NO_BACKEND web_servers")
		state(a, up, down)
		state(b, down, up)
		l.wantAlarms()
		// One that operators have taken out does not help, and all of them are no fault.
		state(a, maintenance, down)
		pass(checking)
		l.wantAlarms("NO_BACKEND web_servers")
		state(a, maintenance, maintenance)
		pass(checking)
		l.wantAlarms()
		// What a dead HAProxy found last is no reason.
		a.observe(&agentv1.Observation{Haproxy: stopped})
		state(a, down, down)
		pass(checking)
		l.wantAlarms("PROXY_DEAD lb-master")
	})
}
