package fleet

import (
	"fmt"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// heard is all that an agent got in one session.
type heard struct {
	messages, updates, bytes int
}

// A node that is current costs a welcome and the acknowledgement of its events
// when it comes back, to this controller or to one that has just started, however
// many backends it has.
func TestReconnectOfACurrentNodeCostsNoConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		pool := &tandemv1.Pool{Name: "many"}
		for i := range 1000 {
			pool.Backends = append(pool.Backends, &tandemv1.Backend{
				Name: fmt.Sprint("b", i), Address: fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), Port: 80,
			})
		}
		l.change(state.ApplyConfig(&tandemv1.ClusterConfig{Pools: []*tandemv1.Pool{pool}}, ""))
		a := l.agent("lb-master")
		first := a.listen()
		if first.updates == 0 || first.bytes < 50_000 {
			t.Fatalf("the first session got %+v, want the whole configuration", first)
		}
		a.checkConverged()
		a.report(a.boot, backendEvent(1, agentv1.ServerState_SERVER_STATE_UP))
		synctest.Wait()
		current := func(what string) {
			t.Helper()
			if got := a.listen(); got.updates != 0 || got.messages > 2 || got.bytes > 256 {
				t.Errorf("%s costs %+v, want two messages of at most 256 bytes and no update", what, got)
			}
			a.checkConverged()
		}
		_ = a.disconnect()
		current("a reconnect")
		l.stop()
		if err := <-a.served; err == nil {
			t.Error("Serve = nil")
		}
		l.start()
		current("a restart of the controller")
	})
}

// listen connects and counts what comes until nothing more does.
func (a *agent) listen() heard {
	a.mu.Lock()
	a.heard = heard{}
	a.mu.Unlock()
	a.connect()
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.heard
}

// count takes note of a message; the agent's lock is held.
func (h *heard) count(m *agentv1.SessionResponse) {
	h.messages++
	h.bytes += proto.Size(m)
	if m.GetUpdate() != nil {
		h.updates++
	}
}
