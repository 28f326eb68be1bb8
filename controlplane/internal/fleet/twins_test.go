package fleet

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Two agents with one identity, as when a machine was copied, take the session
// from each other. That is noticed within seconds and forgotten soon after it
// has ended; neither gets a configuration that it has.
func TestClonedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		one, two := l.agent("lb-master"), l.agent("lb-master")
		two.boot = "the copy's"
		takeTurns := func(n int, every time.Duration) {
			for i := range n {
				[]*agent{one, two}[i%2].connect()
				pass(every)
			}
		}
		takeTurns(3, 300*time.Millisecond)
		if hasAlarm(l, "CLONED_NODE") {
			t.Error("an alarm before the second one came back")
		}
		two.connect()
		synctest.Wait()
		if !hasAlarm(l, "CLONED_NODE") {
			t.Error("no alarm when both have come back")
		}
		// It stays while they go on, as slowly as agents do it.
		for range 6 {
			takeTurns(1, 15*time.Second)
			if !hasAlarm(l, "CLONED_NODE") {
				t.Error("the alarm ends too early")
			}
			two.connect()
			pass(15 * time.Second)
		}
		if a, _ := one.counts(); a != 1 {
			t.Errorf("%d updates to an agent that has what it shall have, want the first", a)
		}
		pass(twinGone)
		if hasAlarm(l, "CLONED_NODE") {
			t.Error("the alarm outlives its cause")
		}
	})
}

// An agent that is restarted, or comes back while its old connection still
// counts as alive, is no clone.
func TestNoClone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		for i := range 3 {
			a := l.agent("lb-master")
			a.boot = fmt.Sprint("start ", i)
			for range 3 {
				a.connect()
				pass(time.Second)
			}
		}
		if hasAlarm(l, "CLONED_NODE") {
			t.Error("an alarm about a single agent")
		}
	})
}

// A node that begins sessions all the time is told to wait, and fills no log.
func TestI9SessionsTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master", "lb-backup")
		a := l.agent("lb-master")
		refused := 0
		for range 1000 {
			a.connect()
			synctest.Wait()
			select {
			case err := <-a.served:
				if !errors.Is(err, ErrTooOften) {
					t.Fatalf("Serve = %v, want ErrTooOften", err)
				}
				refused++
			default:
			}
		}
		if refused != 1000-maxSessions {
			t.Errorf("%d of 1000 sessions at once were refused, want all but %d", refused, maxSessions)
		}
		if got := len(l.log.reasons("")); got > 3*maxSessions {
			t.Errorf("%d events about them", got)
		}
		pass(sessionsTime + time.Second)
		a.connect()
		synctest.Wait()
		if !l.node("lb-master").GetConnected() {
			t.Error("the node is not let in again")
		}
	})
}
