package fleet

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// vanish has an agent's machine go without a word: its session is there still.
func (a *agent) vanish() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone = true
}

// isLate has it take a while for each answer to whether it is there.
func (a *agent) isLate(by time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.late = by
}

func (a *agent) pinged() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pings
}

// advertiser is one that a node hears, known by its address.
func advertiser(set *agentv1.InstanceSet, node string) *agentv1.InstanceSet {
	i := set.Instances[0]
	i.Advertisers = append(i.Advertisers, &agentv1.Advertiser{Address: "192.168.1.10", Node: node})
	return set
}

// A holder whose port is cut counts for nothing by what it said last: its peer has
// taken over, and neither two holders nor a silent peer is an alarm. That it is away is.
func TestI7TheLastWordOfAHolderThatIsGoneRaisesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		a.observe(&agentv1.Observation{Instances: hearing(master, masterMAC)})
		b.observe(&agentv1.Observation{Instances: advertiser(hearing(backup, backupMAC), "lb-master")})
		pass(time.Minute)
		if a.pinged() != 0 {
			t.Errorf("it is asked %d times whether it is there, and nobody doubts it", a.pinged())
		}
		heard := time.Now()
		a.vanish()
		pass(time.Minute)
		b.observe(&agentv1.Observation{Instances: hearing(master, backupMAC)})
		pass(time.Second)
		l.wantAlarms()
		select {
		case err := <-a.served:
			if !errors.Is(err, ErrSilent) {
				t.Errorf("its session ends with %v, want ErrSilent", err)
			}
		default:
			t.Fatal("its session goes on")
		}
		if h := l.status().GetVips()[0].GetHolders(); !slices.Equal(h, []string{"lb-backup"}) {
			t.Errorf("holders %v", h)
		}
		if n := l.node("lb-master"); n.GetConnected() || n.GetLastSeen().AsTime().After(heard) {
			t.Errorf("lb-master is connected %v, last seen %v after it was cut off", n.GetConnected(), n.GetLastSeen().AsTime().Sub(heard))
		}
		pass(reconnecting)
		l.wantAlarms("NODE_DISCONNECTED lb-master")
		for _, e := range l.log.all {
			if e.GetReason() == string(reasonFenced) || strings.HasPrefix(e.GetMessage(), "TWO_HOLDERS") {
				t.Errorf("event %v", e)
			}
		}
		// It is back, and is the holder again.
		a.gone = false
		a.connect()
		synctest.Wait()
		a.observe(&agentv1.Observation{Whole: true, Instances: hearing(master, masterMAC)})
		b.observe(&agentv1.Observation{Instances: advertiser(hearing(backup, backupMAC), "lb-master")})
		pass(time.Minute)
		l.wantAlarms()
		// It is no slow one, and when it is gone again that raises nothing, either.
		a.vanish()
		b.observe(&agentv1.Observation{Instances: hearing(master, backupMAC)})
		pass(time.Second)
		l.wantAlarms()
		if h := l.status().GetVips()[0].GetHolders(); !slices.Equal(h, []string{"lb-backup"}) {
			t.Errorf("holders %v", h)
		}
	})
}

// Two holders that answer are an alarm within a second, however often they are asked,
// and are one no longer when one of them is gone.
func TestI7HoldersThatAnswerAreTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		pass(time.Minute)
		b.observe(&agentv1.Observation{Instances: holding(master)})
		pass(time.Second)
		l.wantAlarms("TWO_HOLDERS web")
		pass(10 * time.Second)
		l.wantAlarms("TWO_HOLDERS web")
		if n := a.pinged(); n < 10 || n > 12 {
			t.Errorf("it was asked %d times in 11 s", n)
		}
		b.vanish()
		pass(pingEvery + answering)
		l.wantAlarms()
		if h := l.status().GetVips()[0].GetHolders(); !slices.Equal(h, []string{"lb-master"}) {
			t.Errorf("holders %v", h)
		}
	})
}

// An agent that takes longer for an answer than one that is gone may take loses one session
// by that at most, so that two holders are told of for as long as there are two.
func TestI7TwoHoldersBehindASlowLinkAreTold(t *testing.T) {
	for _, late := range []time.Duration{time.Second, 2500 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			l, a, b := pair(t)
			pass(100 * time.Millisecond)
			a.isLate(late)
			b.observe(&agentv1.Observation{Instances: holding(master)})
			pass(time.Second)
			l.wantAlarms()
			a.connect()
			synctest.Wait()
			a.observe(&agentv1.Observation{Whole: true, Instances: holding(master)})
			pass(time.Second)
			for range 60 {
				l.wantAlarms("TWO_HOLDERS web")
				pass(time.Second)
			}
			// One that is gone is seen to be, if later: its last answer is on its way.
			a.vanish()
			pass(pingEvery + late + 2*late)
			l.wantAlarms()
			if h := l.status().GetVips()[0].GetHolders(); !slices.Equal(h, []string{"lb-backup"}) {
				t.Errorf("%v late: holders %v", late, h)
			}
		})
	}
}

// A node that the controller has lost, and its peer hears, holds the VIP by that; when
// the peer holds it, too, both do.
func TestI7WhatTheWireSaysOfANodeThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		heard := func() []string { return l.status().GetVips()[0].GetHeard() }
		b.observe(&agentv1.Observation{Instances: advertiser(hearing(backup, backupMAC), "lb-master")})
		synctest.Wait()
		if h := heard(); h != nil {
			t.Errorf("of a node that tells: heard %v", h)
		}
		_ = a.disconnect()
		pass(time.Minute)
		l.wantAlarms("NODE_DISCONNECTED lb-master")
		if v := l.status().GetVips()[0]; !slices.Equal(v.GetHeard(), []string{"lb-master"}) || len(v.GetHolders()) != 0 {
			t.Errorf("%v", v)
		}
		// It stands by no longer, since it is fenced off, and hears that one.
		b.observe(&agentv1.Observation{Instances: advertiser(hearing(fault, backupMAC), "lb-master")})
		pass(time.Minute)
		l.wantAlarms("NODE_DISCONNECTED lb-master")
		b.observe(&agentv1.Observation{Instances: advertiser(hearing(master, backupMAC), "lb-master")})
		pass(time.Second)
		l.wantAlarms("TWO_HOLDERS web", "NODE_DISCONNECTED lb-master")
		if text := l.status().GetAlarms()[0].GetMessage(); !strings.Contains(text, "lb-backup and lb-master (not connected, and heard to advertise it)") {
			t.Errorf("%q", text)
		}
		b.observe(&agentv1.Observation{Instances: hearing(master, backupMAC)})
		pass(time.Second)
		l.wantAlarms("NODE_DISCONNECTED lb-master")
		if h := heard(); h != nil {
			t.Errorf("heard %v", h)
		}
	})
}

// A controller that had no turn itself takes nobody for gone by that time: it asks again.
func TestI7WhoOversleptDismissesNobody(t *testing.T) {
	for _, test := range []struct {
		after time.Duration
		ends  bool
	}{{answering - 1, false}, {answering, true}, {answering + overslept - 1, true}, {answering + overslept, false}, {time.Hour, false}} {
		synctest.Test(t, func(t *testing.T) {
			l, a, b := pair(t)
			pass(time.Second)
			a.vanish()
			b.observe(&agentv1.Observation{Instances: holding(master)})
			synctest.Wait()
			c, err := l.fleet.cluster(home)
			if err != nil {
				t.Fatal(err)
			}
			c.dismiss(time.Now().Add(test.after))
			synctest.Wait()
			if n := l.node("lb-master"); n.GetConnected() == test.ends {
				t.Errorf("after %v it is connected: %v", test.after, n.GetConnected())
			}
			pass(2 * answering)
			if l.node("lb-master").GetConnected() {
				t.Errorf("after %v, and when it was asked again, it is connected still", test.after)
			}
		})
	}
}
