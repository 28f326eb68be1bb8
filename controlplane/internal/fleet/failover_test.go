package fleet

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// failing is a lab whose lb-master holds the VIP and can be told to give it up.
func failing(t *testing.T, names ...string) (*lab, map[string]*agent) {
	t.Helper()
	l := newLab(t, names...)
	agents := make(map[string]*agent)
	for _, name := range names {
		a := l.agent(name)
		a.capabilities = append(a.capabilities, "command/failover")
		agents[name] = a.connect()
	}
	synctest.Wait()
	for _, name := range names {
		vrrp := backup
		if name == "lb-master" {
			vrrp = master
		}
		agents[name].observe(well(vrrp))
	}
	synctest.Wait()
	return l, agents
}

var web = Move{Cluster: home, VIP: "web", Lease: time.Minute, Author: "admin", Reason: "new kernel"}

func TestFailoverEndsWithTheNewHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, agents := failing(t, "lb-master", "lb-backup")
		var told *agentv1.FailoverCommand
		agents["lb-master"].commands = func(c *agentv1.Command) *agentv1.CommandResult {
			told = c.GetFailover()
			return &agentv1.CommandResult{}
		}
		done := make(chan *Moved, 1)
		l.all.Go(func() {
			moved, err := l.fleet.Failover(l.ctx, web)
			if err != nil {
				t.Error(err)
			}
			done <- moved
		})
		synctest.Wait()
		agents["lb-master"].observe(&agentv1.Observation{Instances: holding(backup)})
		pass(300 * time.Millisecond)
		if len(done) != 0 {
			t.Error("it is over while nobody holds the VIP")
		}
		agents["lb-backup"].observe(&agentv1.Observation{Instances: holding(master)})
		moved := <-done
		if moved == nil || moved.From != "lb-master" || moved.To != "lb-backup" ||
			moved.Took < 300*time.Millisecond || moved.Took > 300*time.Millisecond+2*seenEvery {
			t.Errorf("moved: %+v", moved)
		}
		if told.GetVip() != "web" || told.GetLease().AsDuration() != time.Minute || told.GetAuthor() != "admin" || told.GetReason() != "new kernel" {
			t.Errorf("lb-master was told %v", told)
		}
		// What is so already takes no command.
		agents["lb-backup"].commands = func(*agentv1.Command) *agentv1.CommandResult { panic("told") }
		to := web
		to.To = "lb-backup"
		if moved, err := l.fleet.Failover(l.ctx, to); err != nil || moved.From != "lb-backup" || moved.To != "lb-backup" {
			t.Errorf("to where it is: %+v, %v", moved, err)
		}
	})
}

// Whoever is asked for and cannot take the VIP is named with the reason, and the
// holder is told nothing.
func TestFailoverToNobodyIsRefused(t *testing.T) {
	drain := state.UpdateNode(&tandemv1.Node{Name: "clusters/default/nodes/lb-backup", Drain: true}, &fieldmaskpb.FieldMask{Paths: []string{"drain"}})
	for name, test := range map[string]struct {
		spoil func(l *lab, agents map[string]*agent)
		to    string
		want  error
		says  string
	}{
		"away": {
			spoil: func(_ *lab, agents map[string]*agent) { _ = agents["lb-backup"].disconnect() },
			want:  ErrNoTaker, says: "lb-backup is not connected",
		},
		"drained": {
			spoil: func(l *lab, _ map[string]*agent) { l.change(drain) },
			want:  ErrNoTaker, says: "lb-backup is drained",
		},
		"drained on the machine, asked for": {
			spoil: func(_ *lab, agents map[string]*agent) {
				agents["lb-backup"].observe(&agentv1.Observation{LocalChanges: &agentv1.LocalChangeSet{Changes: []*agentv1.LocalChange{
					{Kind: &agentv1.LocalChange_Drain{Drain: true}}}}})
			},
			to: "lb-backup", want: ErrNoTaker, says: "node lb-backup cannot take it from lb-master: is drained",
		},
		"without a proxy": {
			spoil: func(_ *lab, agents map[string]*agent) {
				agents["lb-backup"].observe(&agentv1.Observation{Haproxy: &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_STOPPED}})
			},
			want: ErrNoTaker, says: "lb-backup has no HAProxy that runs",
		},
		"without keepalived": {
			spoil: func(_ *lab, agents map[string]*agent) {
				agents["lb-backup"].observe(&agentv1.Observation{Keepalived: &agentv1.DaemonObservation{State: agentv1.DaemonState_DAEMON_STATE_STOPPED}})
			},
			want: ErrNoTaker, says: "lb-backup has no keepalived that runs",
		},
		"in fault": {
			spoil: func(_ *lab, agents map[string]*agent) {
				agents["lb-backup"].observe(&agentv1.Observation{Instances: holding(fault)})
			},
			want: ErrNoTaker, says: "state fault",
		},
		"with another structure": {
			spoil: func(l *lab, agents map[string]*agent) {
				agents["lb-backup"].judge = func(*agentv1.Update) *agentv1.Nack {
					return &agentv1.Nack{Reason: agentv1.NackReason_NACK_REASON_REFUSED, Message: "no"}
				}
				l.change(state.CreatePool("other", &tandemv1.Pool{}))
			},
			want: ErrNoTaker, says: "another configuration in effect than lb-master",
		},
		"two hold it": {
			spoil: func(_ *lab, agents map[string]*agent) {
				agents["lb-backup"].observe(&agentv1.Observation{Instances: holding(master)})
			},
			want: ErrNoHolder, says: "lb-master and lb-backup",
		},
		"none holds it": {
			spoil: func(_ *lab, agents map[string]*agent) {
				agents["lb-master"].observe(&agentv1.Observation{Instances: holding(backup)})
			},
			want: ErrNoHolder, says: "none is known",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, agents := failing(t, "lb-master", "lb-backup")
				for _, a := range agents {
					a.commands = func(*agentv1.Command) *agentv1.CommandResult { panic("told") }
				}
				test.spoil(l, agents)
				synctest.Wait()
				m := web
				m.To = test.to
				if moved, err := l.fleet.Failover(l.ctx, m); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%+v, %v; want %q", moved, err, test.says)
				}
			})
		})
	}
}

func TestFailoverOfOneNodeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := failing(t, "lb-master")
		if _, err := l.fleet.Failover(l.ctx, web); !errors.Is(err, ErrNoTaker) || !strings.Contains(err.Error(), "one node") {
			t.Error(err)
		}
	})
}

// keepalived elects the node with the highest priority, whoever is asked for.
func TestFailoverGoesToTheBest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, agents := failing(t, "lb-master", "lb-backup", "lb-third")
		lower := holding(backup)
		lower.GetInstances()[0].Priority = 210
		agents["lb-third"].observe(&agentv1.Observation{Instances: lower})
		synctest.Wait()
		m := web
		m.To = "lb-third"
		if _, err := l.fleet.Failover(l.ctx, m); !errors.Is(err, ErrNoTaker) || !strings.Contains(err.Error(), "lb-backup would take it") {
			t.Error(err)
		}
	})
}

// Of three nodes the one that has given a VIP up, and keeps away for a while, does not get
// it back before the third would not take it instead: so a drill's way back waits.
func TestTheWayBackWithThreeNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, agents := failing(t, "lb-master", "lb-backup", "lb-third")
		is := func(node string, state agentv1.VrrpState, priority uint32) {
			set := holding(state)
			set.GetInstances()[0].Priority = priority
			agents[node].observe(&agentv1.Observation{Instances: set})
			synctest.Wait()
		}
		is("lb-third", backup, 210)
		is("lb-master", backup, 174)
		is("lb-backup", master, 220)
		agents["lb-backup"].commands = func(*agentv1.Command) *agentv1.CommandResult {
			return &agentv1.CommandResult{}
		}
		m := web
		m.To = "lb-master"
		if _, err := l.fleet.Failover(l.ctx, m); !errors.Is(err, ErrNoTaker) || !strings.Contains(err.Error(), "node lb-third would take it from lb-backup") {
			t.Errorf("while lb-master keeps away: %v", err)
		}
		is("lb-master", backup, 230)
		time.AfterFunc(100*time.Millisecond, func() {
			agents["lb-backup"].observe(&agentv1.Observation{Instances: holding(backup)})
			agents["lb-master"].observe(&agentv1.Observation{Instances: holding(master)})
		})
		if moved, err := l.fleet.Failover(l.ctx, m); err != nil || moved.From != "lb-backup" || moved.To != "lb-master" {
			t.Errorf("afterwards: %+v, %v", moved, err)
		}
	})
}

// What the holder says and what it does not say are told apart.
func TestFailoverThatTheHolderDoesNotMake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, agents := failing(t, "lb-master", "lb-backup")
		agents["lb-master"].commands = func(*agentv1.Command) *agentv1.CommandResult {
			return &agentv1.CommandResult{Error: "no other node takes it, so it stays here"}
		}
		if _, err := l.fleet.Failover(l.ctx, web); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "so it stays here") {
			t.Error(err)
		}
		agents["lb-master"].mu.Lock()
		agents["lb-master"].commands = func(*agentv1.Command) *agentv1.CommandResult { return &agentv1.CommandResult{} }
		agents["lb-master"].mu.Unlock()
		if _, err := l.fleet.Failover(l.ctx, web); !errors.Is(err, ErrNotSeen) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// The agent of a holder that is lost after it was told may have given the VIP up: who
// holds it then is the answer, and else that nobody knows.
func TestFailoverOfAHolderWhoseAgentIsLost(t *testing.T) {
	for _, taken := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			l, agents := failing(t, "lb-master", "lb-backup")
			agents["lb-master"].commands = func(*agentv1.Command) *agentv1.CommandResult { return nil }
			type outcome struct {
				moved *Moved
				err   error
			}
			done := make(chan outcome, 1)
			l.all.Go(func() {
				moved, err := l.fleet.Failover(l.ctx, web)
				done <- outcome{moved, err}
			})
			synctest.Wait()
			_ = agents["lb-master"].disconnect()
			pass(100 * time.Millisecond)
			if taken {
				agents["lb-backup"].observe(&agentv1.Observation{Instances: holding(master)})
			}
			got := <-done
			if taken && (got.err != nil || got.moved.To != "lb-backup") {
				t.Errorf("lb-backup took it: %+v, %v", got.moved, got.err)
			}
			if !taken && (!errors.Is(got.err, ErrUnanswered) || !strings.Contains(got.err.Error(), "may have moved")) {
				t.Errorf("nobody is known to have it: %+v, %v", got.moved, got.err)
			}
		})
	}
}

// A VIP with slow advertisements has the time that its takeover needs.
func TestFailoverWithSlowAdvertisements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, agents := failing(t, "lb-master", "lb-backup")
		l.change(state.UpdateVip(&tandemv1.Vip{Name: "clusters/default/vips/web", AdvertInterval: durationpb.New(20 * time.Second)},
			&fieldmaskpb.FieldMask{Paths: []string{"advert_interval"}}))
		pass(time.Second)
		const takes = 79 * time.Second // of the agent's bound of 81 s
		agents["lb-master"].mu.Lock()
		agents["lb-master"].commands = func(c *agentv1.Command) *agentv1.CommandResult {
			time.AfterFunc(takes, func() {
				agents["lb-backup"].observe(&agentv1.Observation{Instances: holding(master)})
				agents["lb-master"].observe(&agentv1.Observation{Instances: holding(backup)})
				agents["lb-master"].say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{Result: &agentv1.CommandResult{Id: c.GetId()}}})
			})
			return nil
		}
		agents["lb-master"].mu.Unlock()
		if moved, err := l.fleet.Failover(l.ctx, web); err != nil || moved.To != "lb-backup" {
			t.Errorf("%+v, %v", moved, err)
		}
	})
}
