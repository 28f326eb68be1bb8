package fleet

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

func TestHelloIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		serve := func(id Identity, first *agentv1.SessionRequest) error {
			p := newPipe()
			defer p.end()
			if first != nil {
				l.all.Go(func() { _ = p.say(first) })
			}
			return l.fleet.Serve(l.ctx, id, p)
		}
		me := Identity{home, "lb-master", "uid-lb-master"}
		hello := l.agent("lb-master").hello()
		for name, tt := range map[string]struct {
			id    Identity
			first *agentv1.SessionRequest
			want  error
		}{
			"nothing":         {me, nil, ErrHello},
			"an ack":          {me, &agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Ack{}}, ErrHello},
			"protocol 0":      {me, &agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Hello{Hello: &agentv1.Hello{}}}, ErrVersion},
			"unknown node":    {Identity{home, "nobody", "uid"}, hello, ErrRevoked},
			"another uid":     {Identity{home, "lb-master", "uid-of-a-copy"}, hello, ErrRevoked},
			"unknown cluster": {Identity{"nowhere", "lb-master", "uid"}, hello, ErrUnknownCluster},
		} {
			if err := serve(tt.id, tt.first); !errors.Is(err, tt.want) {
				t.Errorf("%s: Serve = %v, want %v", name, err, tt.want)
			}
		}
		if l.node("lb-master").GetConnected() {
			t.Error("the node counts as connected")
		}
	})
}

func TestRemovedNodeIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master", "lb-backup")
		a, b := l.agent("lb-master").connect(), l.agent("lb-backup").connect()
		synctest.Wait()
		l.change(state.DeleteNode("lb-backup", ""))
		if err := <-b.served; !errors.Is(err, ErrRevoked) {
			t.Errorf("Serve = %v, want ErrRevoked", err)
		}
		synctest.Wait()
		a.checkConverged()
		if n := len(l.status().GetNodes()); n != 1 {
			t.Errorf("status has %d nodes, want 1", n)
		}
		b.connect()
		if err := <-b.served; !errors.Is(err, ErrRevoked) {
			t.Errorf("Serve = %v, want ErrRevoked", err)
		}
		// A node that joins is served even before the fleet has heard of it.
		l.change(state.AddNode("lb-new", "uid-lb-new"))
		c := l.agent("lb-new").connect()
		synctest.Wait()
		c.checkConverged()
	})
}

func TestClustersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		a := l.agent("lb-master").connect()
		synctest.Wait()
		head, err := l.ledger.Head(home)
		if err != nil {
			t.Fatal(err)
		}
		l.ledger.drop(home)
		if err := <-a.served; err == nil {
			t.Error("a session outlives its cluster")
		}
		synctest.Wait()
		if _, err := l.fleet.Status(home); !errors.Is(err, ErrUnknownCluster) {
			t.Errorf("Status = %v, want ErrUnknownCluster", err)
		}
		l.ledger.set(head)
		synctest.Wait()
		a.connect()
		synctest.Wait()
		a.checkConverged()
		// Gone and back before anyone could look.
		l.ledger.drop(home)
		l.ledger.set(head)
		if err := <-a.served; err == nil {
			t.Error("Serve = nil")
		}
		synctest.Wait()
		a.connect()
		synctest.Wait()
		a.checkConverged()
	})
}

// A node that is removed while its session begins has none.
func TestRemovedWhileItsSessionBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master", "lb-backup")
		synctest.Wait()
		l.log.asked = func() {
			l.log.asked = nil
			l.change(state.DeleteNode("lb-master", ""))
			<-time.After(time.Second)
		}
		a := l.agent("lb-master").connect()
		pass(time.Minute)
		if err := a.disconnect(); !errors.Is(err, ErrRevoked) {
			t.Errorf("its session ended with %v, want %v", err, ErrRevoked)
		}
	})
}
