package fleet

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Whatever agents do, in the end each has exactly what is desired.
func TestConvergence(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		names := []string{"n1", "n2", "n3", "n4", "n5"}
		l := newLab(t, names...)
		var agents []*agent
		for _, name := range names {
			a := l.agent(name)
			pauses := rand.New(rand.NewPCG(seed, uint64(len(agents))))
			var one sync.Mutex
			a.pause = func() time.Duration {
				one.Lock()
				defer one.Unlock()
				return time.Duration(pauses.IntN(50)) * time.Millisecond
			}
			own := rand.New(rand.NewPCG(^seed, uint64(len(agents))))
			a.judge = func(*agentv1.Update) *agentv1.Nack {
				switch own.IntN(12) {
				case 0:
					return &agentv1.Nack{Reason: agentv1.NackReason_NACK_REASON_FAILED, Message: "no"}
				case 1:
					return &agentv1.Nack{Reason: agentv1.NackReason_NACK_REASON_BASE_MISMATCH}
				}
				return nil
			}
			agents = append(agents, a.connect())
		}
		for range 500 {
			a := agents[random.IntN(len(agents))]
			switch random.IntN(10) {
			case 0:
				_ = a.disconnect()
				a.connect()
			case 1: // it comes back without what it had
				_ = a.disconnect()
				a.mu.Lock()
				a.version = nil
				clear(a.resources)
				a.mu.Unlock()
				a.connect()
			case 2: // a newer session beside the old one
				old := a.pipe
				a.connect()
				l.all.Go(old.end)
			default:
				l.change(randomChange(l, random))
			}
			if random.IntN(3) == 0 {
				pass(time.Duration(random.IntN(100)) * time.Millisecond)
			}
		}
		for _, a := range agents {
			_ = a.disconnect()
			a.mu.Lock()
			a.judge = nil
			a.mu.Unlock()
			a.connect()
		}
		l.change(weight(255))
		pass(time.Second)
		for _, a := range agents {
			a.checkConverged()
		}
	})
}

func randomChange(l *lab, random *rand.Rand) state.Change {
	head, err := l.ledger.Head(home)
	if err != nil {
		l.t.Fatal(err)
	}
	i := random.IntN(5)
	id := fmt.Sprintf("r%d", i)
	switch random.IntN(4) {
	case 0:
		return weight(uint32(random.IntN(200)))
	case 1:
		return state.UpdatePool(&tandemv1.Pool{Name: "clusters/default/pools/web_servers", Retries: proto.Uint32(uint32(random.IntN(50)))}, nil)
	case 2:
		return state.UpdateNode(&tandemv1.Node{
			Name: "clusters/default/nodes/n1", Drain: !head.Node("n1").GetDrain(),
		}, &fieldmaskpb.FieldMask{Paths: []string{"drain"}})
	default:
		if head.Backend("web_servers", id) != nil {
			return state.DeleteBackend("web_servers", id, "")
		}
		return state.CreateBackend("web_servers", id, &tandemv1.Backend{
			Address: fmt.Sprintf("10.0.%d.%d", i, random.IntN(250)+1), Port: 80,
		})
	}
}
