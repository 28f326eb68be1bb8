package fleet

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// newer adds what an agent of a later version might say.
func newer[M proto.Message](m M) M {
	m.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 999, protowire.BytesType), "new"))
	return m
}

// An agent that is one version newer is served as one of this version: what it
// says beyond is passed over, never stored, and takes nothing from the rest.
func TestAgentOfALaterVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		a := l.agent("lb-master")
		a.protocol = newestProtocol + 1
		a.capabilities = append(a.capabilities, "command/levitate")
		a.connect()
		synctest.Wait()
		a.checkConverged()
		if got := a.welcome.GetProtocol(); got != newestProtocol {
			t.Errorf("protocol %d is spoken, want the newest in common, %d", got, newestProtocol)
		}
		up := agentv1.ServerState_SERVER_STATE_UP
		a.say(newer(&agentv1.SessionRequest{}))
		a.observe(newer(&agentv1.Observation{Backends: []*agentv1.BackendObservation{
			newer(&agentv1.BackendObservation{Pool: "web_servers", Backend: "web1", State: up}),
			{Pool: "web_servers", Backend: "web2", State: 77},
		}}))
		a.report(a.boot, newer(backendEvent(1, up)), newer(&agentv1.Event{Sequence: 2}))
		a.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Ack{Ack: newer(&agentv1.Ack{Version: a.version})}})
		synctest.Wait()
		a.checkConverged()
		backends := l.status().GetPools()[0].GetBackends()
		if got := backends[0].GetNodes()[0].GetState(); int32(got) != int32(up) {
			t.Errorf("web1 is %v", got)
		}
		if got := backends[1].GetNodes()[0].GetState(); got != 0 {
			t.Errorf("a state of a later version is shown as %v", got)
		}
		if last := a.acks[len(a.acks)-1]; last.GetSequence() != 2 {
			t.Errorf("events are acknowledged up to %d, want 2", last.GetSequence())
		}
		n := l.fleet.clusters[home].nodes["lb-master"]
		if len(n.observed.backends["web_servers/web1"].ProtoReflect().GetUnknown()) != 0 {
			t.Error("what is not known is kept")
		}
	})
}

// An agent that is one version older refuses what it does not know; the status
// says which agent it needs, and it gets what it knows as before.
func TestAgentOfAnEarlierVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		a := l.agent("lb-master").connect()
		synctest.Wait()
		good := l.node("lb-master").GetApplied()
		a.judge = func(*agentv1.Update) *agentv1.Nack {
			return &agentv1.Nack{Reason: agentv1.NackReason_NACK_REASON_UNKNOWN_FIELD, Message: "lb-agent 1.0 does not know a field of Backend"}
		}
		bad := l.change(weight(7))
		synctest.Wait()
		if n := l.node("lb-master"); n.GetFailed() != bad.Revision() || n.GetApplied() != good {
			t.Errorf("failed %d, applied %d; want %d, %d", n.GetFailed(), n.GetApplied(), bad.Revision(), good)
		}
		alarms := l.status().GetAlarms()
		if len(alarms) == 0 || alarms[0].GetReason() != "APPLY_FAILED" || !strings.Contains(alarms[0].GetCure(), "upgrade lb-agent on the node to test") {
			t.Errorf("alarms = %v, want the version that is needed", alarms)
		}
		a.judge = nil
		l.change(weight(8))
		synctest.Wait()
		a.checkConverged()
	})
}

// What an agent says in its hello and its acks is not kept beyond its bounds.
func TestI9LongHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		long := strings.Repeat("x", 1<<20)
		a := l.agent("lb-master")
		a.boot, a.version = long, &agentv1.Version{Epoch: long, Hash: long}
		a.pause = func() time.Duration { return time.Hour } // so that its hello is all it says
		for range 1000 {
			a.capabilities = append(a.capabilities, long)
		}
		a.connect()
		synctest.Wait()
		n := l.fleet.clusters[home].nodes["lb-master"]
		s := n.session
		if s == nil {
			t.Fatal("no session")
		}
		for what, size := range map[string]int{
			"boot id": len(n.boot), "applied version": proto.Size(s.applied), "capabilities": len(n.capabilities) * maxWord,
		} {
			if size > maxCapabilities*maxWord {
				t.Errorf("%d bytes of its %s are kept", size, what)
			}
		}
	})
}
