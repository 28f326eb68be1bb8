package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// askable is a lab whose agents know the question, with the VIP on lb-master.
func askable(t *testing.T) (*lab, map[string]*agent) {
	t.Helper()
	l := newLab(t, "lb-master", "lb-backup")
	agents := make(map[string]*agent)
	for name, vrrp := range map[string]agentv1.VrrpState{"lb-master": master, "lb-backup": backup} {
		a := l.agent(name)
		a.capabilities = append(a.capabilities, "command/diagnose")
		a.commands = func(*agentv1.Command) *agentv1.CommandResult {
			return &agentv1.CommandResult{Outcome: agentv1.CommandOutcome_COMMAND_OUTCOME_DONE, Diagnosis: &agentv1.Diagnosis{
				Networks: []*agentv1.NetworkFacts{{Network: "front", Interface: "eth0", Exists: true, Up: true, Carrier: true, Addresses: []string{"192.168.1.10/24"}}},
				Instances: []*agentv1.InstanceFacts{{Name: "web", Vip: "web", Network: "front", Sent: 4, Received: 4,
					Interval: durationpb.New(100 * time.Millisecond), Window: durationpb.New(400 * time.Millisecond)}},
			}}
		}
		agents[name] = a.connect()
		synctest.Wait()
		a.observe(well(vrrp))
	}
	synctest.Wait()
	return l, agents
}

func (l *lab) diagnose() *tandemv1.Diagnosis {
	l.t.Helper()
	d, err := l.fleet.Diagnose(l.ctx, home, "")
	if err != nil {
		l.t.Fatal(err)
	}
	return d
}

func reasons(d *tandemv1.Diagnosis) (all []string) {
	for _, f := range d.GetFindings() {
		all = append(all, f.GetReason())
	}
	return all
}

func TestDiagnoseOfAPairThatIsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := askable(t)
		d := l.diagnose()
		if len(d.GetFindings()) != 0 || d.GetVips()[0].GetHolder() != "lb-master" || d.GetVips()[0].GetTaker() != "lb-backup" || d.GetCreateTime() == nil {
			t.Errorf("%v", d)
		}
	})
}

// All nodes are asked at the same time, and one that does not answer, is away, or is
// too old is a finding beside what is known of it.
func TestDiagnoseWithoutAnAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(l *lab, agents map[string]*agent)
		want  string
		says  string
		took  time.Duration
	}{
		"both are silent": {func(_ *lab, agents map[string]*agent) {
			for _, a := range agents {
				a.commands = func(*agentv1.Command) *agentv1.CommandResult { return nil }
			}
		}, "AGENT_SILENT AGENT_SILENT", "no answer within 8 s", diagnoseTimeout},
		"one is silent": {func(_ *lab, agents map[string]*agent) {
			agents["lb-backup"].commands = func(*agentv1.Command) *agentv1.CommandResult { return nil }
		}, "AGENT_SILENT", "lb-backup", diagnoseTimeout},
		"away": {func(_ *lab, agents map[string]*agent) { _ = agents["lb-backup"].disconnect() }, "NODE_DISCONNECTED", "lb-backup", 0},
		"too busy": {func(_ *lab, agents map[string]*agent) {
			agents["lb-backup"].commands = func(*agentv1.Command) *agentv1.CommandResult {
				return &agentv1.CommandResult{Outcome: agentv1.CommandOutcome_COMMAND_OUTCOME_NOT_DONE, Error: "4 commands to carry out"}
			}
		}, "AGENT_SILENT", "4 commands to carry out", 0},
		"too old": {func(l *lab, agents map[string]*agent) {
			_ = agents["lb-backup"].disconnect()
			old := l.agent("lb-backup").connect()
			synctest.Wait()
			old.observe(well(backup))
			synctest.Wait()
		}, "AGENT_TOO_OLD", "does not know command/diagnose", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, agents := askable(t)
				test.spoil(l, agents)
				began := time.Now()
				d := l.diagnose()
				if took := time.Since(began); took != test.took {
					t.Errorf("it took %v, want %v", took, test.took)
				}
				if got := strings.Join(reasons(d), " "); got != test.want || !strings.Contains(d.GetFindings()[0].String(), test.says) {
					t.Errorf("found %v, want %s: %s", d.GetFindings(), test.want, test.says)
				}
			})
		})
	}
}

// A cluster is diagnosed once at a time: who asks meanwhile shares the next diagnosis,
// which begins after all of them have asked.
func TestDiagnosesAreShared(t *testing.T) {
	const takes, callers = time.Second, 6
	synctest.Test(t, func(t *testing.T) {
		l, agents := askable(t)
		var mu sync.Mutex
		asked, open, most := 0, 0, 0
		a := agents["lb-backup"]
		answer := a.commands
		a.commands = func(c *agentv1.Command) *agentv1.CommandResult {
			mu.Lock()
			defer mu.Unlock()
			asked, open = asked+1, open+1
			most = max(most, open)
			r := answer(c)
			r.Id = c.GetId()
			r.GetDiagnosis().Failures = []string{fmt.Sprint("the state of question ", asked)}
			time.AfterFunc(takes, func() {
				mu.Lock()
				open--
				mu.Unlock()
				a.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{Result: r}})
			})
			return nil
		}
		began := time.Now()
		diagnoses := func(want string, takes time.Duration) {
			d, err := l.fleet.Diagnose(l.ctx, home, "")
			if took := time.Since(began); err != nil || len(d.GetFindings()) != 1 || d.GetFindings()[0].GetEvidence() != want || took != takes {
				t.Errorf("found %v, %v after %v, want %q after %v", d.GetFindings(), err, took, want, takes)
			}
		}
		l.all.Go(func() { diagnoses("the state of question 1", takes) })
		pass(takes / 2)
		for range callers {
			l.all.Go(func() { diagnoses("the state of question 2", 2*takes) })
		}
		synctest.Wait()
		// One that gives up takes no answer from the others.
		ctx, cancel := context.WithTimeout(l.ctx, takes)
		defer cancel()
		if _, err := l.fleet.Diagnose(ctx, home, ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a diagnosis that takes too long: %v", err)
		}
		pass(takes)
		if asked != 2 || most != 1 {
			t.Errorf("an agent was asked %d times, and %d at a time", asked, most)
		}
		began = time.Now()
		diagnoses("the state of question 3", takes)
	})
}

// What observations tell is judged together with the answers, and a failover that
// would be refused is never called possible.
func TestDiagnoseJudgesWhatIsObserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, agents := askable(t)
		agents["lb-backup"].observe(&agentv1.Observation{
			Haproxy:  &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_STOPPED, Message: "signal: killed"},
			Problems: &agentv1.ProblemSet{Problems: []string{"the clock is wrong"}},
		})
		synctest.Wait()
		d := l.diagnose()
		if got := reasons(d); !slices.Equal(got, []string{"PROXY_DEAD", "NODE_PROBLEM"}) || d.GetVips()[0].GetTaker() != "" {
			t.Errorf("found %v, %v", got, d.GetVips())
		}
		_, err := l.fleet.Failover(l.ctx, web)
		if err == nil || !strings.Contains(err.Error(), "has no HAProxy that runs") {
			t.Errorf("a failover: %v", err)
		}
	})
}

// What an agent says is bounded before anybody sees it.
func TestAnAgentsDiagnosisIsBounded(t *testing.T) {
	many := &agentv1.Diagnosis{}
	for range 2 * maxFacts {
		many.Failures = append(many.Failures, strings.Repeat("\x1b", maxReason+1))
		many.Networks = append(many.Networks, &agentv1.NetworkFacts{Interface: strings.Repeat("x", maxWord+1)})
		many.Instances = append(many.Instances, &agentv1.InstanceFacts{})
		many.Drops = append(many.Drops, &agentv1.FirewallDrop{Table: strings.Repeat("x", maxWord+1)})
		many.Binds = append(many.Binds, &agentv1.BindFacts{})
		many.Servers = append(many.Servers, &agentv1.ServerFacts{Error: strings.Repeat("x", maxReason+1)})
	}
	d := boundedDiagnosis(many)
	if len(d.GetFailures()) != maxProblems || strings.ContainsRune(d.GetFailures()[0], '\x1b') || len(d.GetFailures()[0]) != maxReason {
		t.Errorf("%d failures such as %q", len(d.GetFailures()), d.GetFailures()[0])
	}
	for _, n := range []int{len(d.GetNetworks()), len(d.GetInstances()), len(d.GetDrops()), len(d.GetBinds()), len(d.GetServers())} {
		if n != maxFacts {
			t.Errorf("%d entries of a list, want %d", n, maxFacts)
		}
	}
	if len(d.GetNetworks()[0].GetInterface()) != maxWord || len(d.GetDrops()[0].GetTable()) != maxWord || len(d.GetServers()[0].GetError()) != maxReason {
		t.Errorf("texts: %v", d.GetNetworks()[0])
	}
}
