package fleet

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// told is what the nodes are told about VIPs, in order.
type told struct {
	mu  sync.Mutex
	all []string
}

func (o *told) take() (all []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	all, o.all = o.all, nil
	return all
}

// fencing is pair with agents that know fences, and do what they are told.
func fencing(t *testing.T) (l *lab, a, b *agent, said *told) {
	t.Helper()
	l, said = newLab(t, "lb-master", "lb-backup"), &told{}
	a, b = l.agent("lb-master"), l.agent("lb-backup")
	for _, n := range []*agent{a, b} {
		n.capabilities = append(n.capabilities, "command/fence", "command/announce")
		n.commands = func(c *agentv1.Command) *agentv1.CommandResult {
			word := n.node + " announces " + c.GetAnnounce().GetVip()
			if f := c.GetFence(); f != nil && f.GetLease().AsDuration() == 0 {
				word = n.node + " may hold " + f.GetVip()
			} else if f != nil {
				word = fmt.Sprintf("%s is fenced off %s for %v", n.node, f.GetVip(), f.GetLease().AsDuration())
			}
			said.mu.Lock()
			defer said.mu.Unlock()
			said.all = append(said.all, word)
			return &agentv1.CommandResult{Id: c.GetId(), Outcome: agentv1.CommandOutcome_COMMAND_OUTCOME_DONE}
		}
		n.connect()
	}
	synctest.Wait()
	a.observe(well(master))
	b.observe(well(backup))
	synctest.Wait()
	return l, a, b, said
}

// split is what a node says that holds the VIP and hears nobody.
func split(priority uint32, change ...func(*agentv1.InstanceObservation)) *agentv1.Observation {
	set := hearing(master, masterMAC)
	set.Instances[0].Priority = priority
	for _, f := range change {
		f(set.Instances[0])
	}
	return &agentv1.Observation{Instances: set}
}

// fenced is what a node says that is kept off; it hears those.
func fenced(advertisers ...string) *agentv1.Observation {
	set := hearing(fault, backupMAC, advertisers...)
	set.Instances[0].Fenced = true
	return &agentv1.Observation{Instances: set}
}

func answers(i *agentv1.InstanceObservation) {
	i.Gateway = agentv1.GatewayState_GATEWAY_STATE_ANSWERS
}
func silent(i *agentv1.InstanceObservation) { i.Gateway = agentv1.GatewayState_GATEWAY_STATE_SILENT }
func asked(i *agentv1.InstanceObservation)  { i.Asked = true }

// I7: of two holders the one is fenced off that clients and the gateway do not
// reach, else the one with the lower priority; the other one announces itself.
func TestI7WhoIsFenced(t *testing.T) {
	for name, test := range map[string]struct {
		a, b  *agentv1.Observation
		loser string
		why   ground
	}{
		"priority":               {split(230), split(220), "lb-backup", byPriority},
		"the other's":            {split(130), split(220), "lb-master", byPriority},
		"the same":               {split(220), split(220), "lb-backup", byPriority},
		"gateway":                {split(230, silent), split(220, answers), "lb-master", byGateway},
		"both gateways answer":   {split(230, answers), split(220, answers), "lb-backup", byPriority},
		"neither gateway does":   {split(230, silent), split(220, silent), "lb-backup", byPriority},
		"one has no gateway":     {split(230, silent), split(220), "lb-backup", byPriority},
		"clients":                {split(230), split(220, asked), "lb-master", byClients},
		"clients of both":        {split(230, asked), split(220, asked), "lb-backup", byPriority},
		"gateway before clients": {split(230, answers), split(220, silent, asked), "lb-backup", byGateway},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, a, b, said := fencing(t)
				a.observe(test.a)
				b.observe(test.b)
				pass(moving / 2)
				if got := said.take(); got != nil {
					t.Errorf("too soon: %v", got)
				}
				pass(time.Second / 2)
				synctest.Wait()
				survivor := map[string]string{"lb-master": "lb-backup", "lb-backup": "lb-master"}[test.loser]
				want := []string{survivor + " may hold web", test.loser + " is fenced off web for 3s", survivor + " announces web"}
				if got := said.take(); !slices.Equal(got, want) {
					t.Errorf("told %v, want %v", got, want)
				}
				for _, alarm := range l.status().GetAlarms() {
					if alarm.GetReason() == "FENCED" && !strings.Contains(alarm.GetMessage(), test.loser+" is kept off VIP web, which "+survivor+" holds, since "+string(test.why)) {
						t.Errorf("%q", alarm.GetMessage())
					}
				}
			})
		})
	}
}

// A fence is renewed while its cause lasts, and lifted at once when that is over,
// or when the survivor is.
func TestFenceIsLifted(t *testing.T) {
	const lifted, asks, renews = "lb-backup may hold web", "lb-master may hold web", "lb-backup is fenced off web for 3s"
	for name, test := range map[string]struct {
		end  func(a, b *agent)
		want []string
	}{
		"nothing changes":              {func(_, _ *agent) {}, nil},
		"the loser hears the survivor": {func(_, b *agent) { b.observe(fenced("192.168.1.10")) }, []string{lifted}},
		"the survivor lets go":         {func(a, _ *agent) { a.observe(&agentv1.Observation{Instances: hearing(backup, masterMAC)}) }, []string{lifted}},
		"the survivor is disconnected": {func(a, _ *agent) { _ = a.disconnect() }, []string{lifted}},
		"the survivor's proxy dies":    {func(a, _ *agent) { a.observe(&agentv1.Observation{Haproxy: stopped}) }, []string{lifted}},
		"both proxies die": {func(a, b *agent) {
			b.observe(&agentv1.Observation{Haproxy: stopped})
			synctest.Wait()
			a.observe(&agentv1.Observation{Haproxy: stopped})
		}, nil},
		"the survivor's gateway is out": {func(a, b *agent) {
			o := fenced()
			answers(o.GetInstances().GetInstances()[0])
			b.observe(o)
			a.observe(split(230, silent))
		}, []string{lifted}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, a, b, said := fencing(t)
				a.observe(split(230))
				b.observe(split(220))
				pass(time.Second)
				b.observe(fenced())
				said.take()
				pass(10 * time.Second)
				synctest.Wait()
				renewed := said.take()
				if len(renewed) < 18 || slices.ContainsFunc(renewed, func(s string) bool { return s != asks && s != renews }) {
					t.Errorf("renewed %v", renewed)
				}
				l.wantAlarms("PEER_SILENT web", "FENCED web")
				test.end(a, b)
				pass(100 * time.Millisecond)
				synctest.Wait()
				got := slices.DeleteFunc(said.take(), func(s string) bool { return s == asks || s == renews })
				if !slices.Equal(got, test.want) {
					t.Errorf("told %v, want %v", got, test.want)
				}
				if test.want != nil && slices.Contains(l.alarms(), "FENCED web") {
					t.Error("the alarm stays")
				}
			})
		})
	}
}

// A fence ends with the session of either node, and the event says whose.
func TestFenceEndsWithASession(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(a, b *agent)
		want string
	}{
		"the loser's":    {func(_, b *agent) { _ = b.disconnect() }, "lb-backup is no longer kept off VIP web: it is not connected, so that its lease ends"},
		"the survivor's": {func(a, _ *agent) { _ = a.disconnect() }, "lb-backup is no longer kept off VIP web: lb-master is not connected, and may not hold the VIP any more"},
	} {
		synctest.Test(t, func(t *testing.T) {
			l, a, b, _ := fencing(t)
			a.observe(split(230))
			b.observe(split(220))
			pass(time.Second)
			b.observe(fenced())
			pass(time.Second)
			test.end(a, b)
			pass(100 * time.Millisecond)
			synctest.Wait()
			if slices.Contains(l.alarms(), "FENCED web") {
				t.Errorf("%s: the alarm stays", name)
			}
			l.log.mu.Lock()
			defer l.log.mu.Unlock()
			if !slices.ContainsFunc(l.log.all, func(e *tandemv1.Event) bool { return e.GetMessage() == test.want }) {
				t.Errorf("%s: no event says %q", name, test.want)
			}
		})
	}
}

// A fence stays while its own reason does, and is lifted with that.
func TestFenceIsLiftedWithItsReason(t *testing.T) {
	const lifted = "lb-backup may hold web"
	said := func(of *agentv1.Observation, change func(*agentv1.InstanceObservation)) *agentv1.Observation {
		change(of.GetInstances().GetInstances()[0])
		return of
	}
	for name, test := range map[string]struct {
		a, b   *agentv1.Observation // that b loses by
		then   *agentv1.Observation // of b
		lifted bool
	}{
		"its gateway answers":               {split(230, answers), split(220, silent), said(fenced(), answers), true},
		"its gateway is silent, it hears":   {split(230, answers), split(220, silent), said(fenced("192.168.1.10"), silent), false},
		"clients reach it":                  {split(230, asked), split(220), said(fenced(), asked), true},
		"clients do not reach it, it hears": {split(230, asked), split(220), fenced("192.168.1.10"), false},
		"clients reach it, by priority":     {split(230), split(220), said(fenced(), asked), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, a, b, told := fencing(t)
			a.observe(test.a)
			b.observe(test.b)
			pass(2 * time.Second)
			if got := told.take(); !slices.Contains(got, "lb-backup is fenced off web for 3s") {
				t.Fatalf("%s: told %v", name, got)
			}
			b.observe(test.then)
			pass(100 * time.Millisecond)
			synctest.Wait()
			if got := told.take(); slices.Contains(got, lifted) != test.lifted {
				t.Errorf("%s: told %v", name, got)
			}
		})
	}
}

var stopped = &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_STOPPED, Message: "exited"}

// A survivor that has lost its power has a session for a while still. It does not
// answer, and the fence is not renewed.
func TestFenceEndsWithASilentSurvivor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, said := fencing(t)
		a.observe(split(230))
		b.observe(split(220))
		pass(time.Second)
		synctest.Wait()
		a.commands = func(*agentv1.Command) *agentv1.CommandResult { return nil }
		b.observe(fenced())
		said.take()
		pass(10 * time.Second)
		synctest.Wait()
		if got := said.take(); len(got) > 0 {
			t.Errorf("told %v", got)
		}
	})
}

// A loser that is not connected cannot be told: its lease ends. An agent that knows
// no fences is told nothing.
func TestWhoCannotBeFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, said := fencing(t)
		a.observe(split(230))
		b.observe(split(220))
		pass(time.Second)
		said.take()
		_ = b.disconnect()
		pass(10 * time.Second)
		synctest.Wait()
		if got := said.take(); got != nil {
			t.Errorf("told %v", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		a.observe(split(230))
		b.observe(split(220))
		pass(10 * time.Second)
		l.wantAlarms("TWO_HOLDERS web", "PEER_SILENT web")
	})
	synctest.Test(t, func(t *testing.T) {
		l, a, b, said := fencing(t)
		_ = b.disconnect()
		b.capabilities = slices.DeleteFunc(b.capabilities, func(c string) bool { return c == "command/fence" })
		b.connect()
		synctest.Wait()
		b.observe(well(backup))
		a.observe(split(230))
		b.observe(split(220))
		pass(10 * time.Second)
		synctest.Wait()
		l.wantAlarms("TWO_HOLDERS web", "PEER_SILENT web")
		if got := said.take(); got != nil {
			t.Errorf("told %v", got)
		}
		if got := l.log.reasons("clusters/default/vips/web"); slices.Contains(got, string(reasonFenced)) {
			t.Errorf("it is said to be kept off: %v", got)
		}
	})
}

// The event of a fence names its VIP, even when that is what was removed.
func TestFenceOfARemovedVIP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b, _ := fencing(t)
		a.observe(split(230))
		b.observe(split(220))
		pass(time.Second)
		b.observe(fenced())
		l.change(state.DeleteListener("web_frontend", ""), state.DeleteVip("web", ""))
		pass(time.Second)
		if got := l.log.reasons("clusters/default/vips/web"); !slices.Contains(got, string(reasonUnfenced)) {
			t.Errorf("events of the VIP: %v", got)
		}
	})
}

// What is under way to a node does not hold up the end of its cluster.
func TestDeletedClusterEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b, _ := fencing(t)
		a.commands = func(*agentv1.Command) *agentv1.CommandResult { return nil }
		a.observe(split(230))
		b.observe(split(220))
		pass(moving + orderTimeout/10) // the survivor is asked
		l.ledger.drop(home)
		pass(orderTimeout / 10)
		select {
		case err := <-a.served:
			if err == nil {
				t.Error("Serve = nil")
			}
		default:
			t.Error("the session goes on")
		}
	})
}
