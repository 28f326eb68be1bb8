package fleet

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func TestFirstConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master", "lb-backup")
		a := l.agent("lb-master").connect()
		synctest.Wait()
		a.checkConverged()
		if a.welcome.GetProtocol() != 1 || a.welcome.GetControllerVersion() != "test" {
			t.Errorf("welcome = %v", a.welcome)
		}
		if n := l.node("lb-master"); n.GetAgentVersion() != "1.0" || n.GetInterfaces()["front"] != "eth0" || n.GetLastSeen() == nil {
			t.Errorf("status = %v", n)
		}
		if n := l.node("lb-backup"); n.GetConnected() || n.GetApplied() != 0 {
			t.Errorf("status of a node that never connected = %v", n)
		}
		// A change of one weight costs one resource.
		_, before := a.counts()
		l.change(weight(7))
		synctest.Wait()
		a.checkConverged()
		size := proto.Size(a.resources["haproxy/server/web_servers/web1"])
		if updates, after := a.counts(); updates != 2 || after-before != size {
			t.Errorf("%d updates and %d bytes after a change of one weight, want 2 and %d", updates, after-before, size)
		}
	})
}

// A node that has what it shall have gets zero configuration bytes, from this
// controller and from one that has just started.
func TestCurrentNodeGetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		a := l.agent("lb-master").connect()
		synctest.Wait()
		updates, bytes := a.counts()
		if err := a.disconnect(); !errors.Is(err, ErrLost) {
			t.Errorf("Serve = %v, want ErrLost", err)
		}
		a.connect()
		synctest.Wait()
		a.checkConverged()
		l.stop()
		if err := <-a.served; err == nil {
			t.Error("Serve = nil")
		}
		l.start()
		a.connect()
		synctest.Wait()
		a.checkConverged()
		if u, b := a.counts(); u != updates || b != bytes {
			t.Errorf("%d updates and %d bytes after two reconnects, want %d and %d as before", u, b, updates, bytes)
		}
		// And what it missed comes as a difference.
		if err := a.disconnect(); err == nil {
			t.Error("Serve = nil")
		}
		l.change(weight(9))
		a.connect()
		synctest.Wait()
		a.checkConverged()
		if _, b := a.counts(); b-bytes != proto.Size(a.resources["haproxy/server/web_servers/web1"]) {
			t.Errorf("%d bytes for one changed weight", b-bytes)
		}
	})
}

// While an update is under way only the newest target waits.
func TestLatestWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		a := l.agent("lb-master")
		a.pause = func() time.Duration { return time.Second }
		a.connect()
		synctest.Wait()
		for w := range uint32(100) {
			l.change(weight(w))
			synctest.Wait()
		}
		pass(3 * time.Second)
		a.checkConverged()
		if updates, _ := a.counts(); updates != 2 {
			t.Errorf("%d updates for a hundred changes during one, want 2", updates)
		}
	})
}

// An agent that reads nothing delays no other, and is cut off.
func TestI9StalledAgentDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master", "lb-backup")
		stalled := l.agent("lb-backup")
		p, served := newPipe(), make(chan error, 1)
		l.all.Go(func() {
			served <- l.fleet.Serve(l.ctx, Identity{home, "lb-backup", "uid-lb-backup"}, p)
			p.end()
		})
		if err := p.say(stalled.hello()); err != nil {
			t.Fatal(err)
		}
		a := l.agent("lb-master").connect()
		for w := range uint32(50) {
			start := time.Now()
			l.change(weight(w))
			synctest.Wait()
			a.checkConverged()
			if d := time.Since(start); d != 0 {
				t.Fatalf("a change took %v beside a stalled agent", d)
			}
		}
		if !l.node("lb-backup").GetConnected() {
			t.Error("the stalled agent is cut off too early")
		}
		pass(sendTimeout + time.Second)
		select {
		case err := <-served:
			if !errors.Is(err, ErrStalled) {
				t.Errorf("Serve = %v, want ErrStalled", err)
			}
		default:
			t.Fatal("the stalled session goes on")
		}
		if l.node("lb-backup").GetConnected() {
			t.Error("the stalled agent counts as connected")
		}
	})
}

func TestNewestSessionWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		// The first reads nothing: it must not keep the second from its place.
		first := l.agent("lb-master")
		p, served := newPipe(), make(chan error, 1)
		l.all.Go(func() {
			served <- l.fleet.Serve(l.ctx, Identity{home, "lb-master", "uid-lb-master"}, p)
			p.end()
		})
		if err := p.say(first.hello()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		second := l.agent("lb-master").connect()
		if err := <-served; !errors.Is(err, ErrSuperseded) {
			t.Errorf("Serve of the older session = %v, want ErrSuperseded", err)
		}
		synctest.Wait()
		second.checkConverged()
		if got := l.log.reasons("clusters/default/nodes/lb-master"); slices.Contains(got, "NODE_DISCONNECTED") {
			t.Errorf("events %v tell of a disconnection", got)
		}
	})
}

func hasAlarm(l *lab, reason string) bool {
	return slices.ContainsFunc(l.status().GetAlarms(), func(a *tandemv1.Alarm) bool { return a.GetReason() == reason })
}

func TestRefusedTargetIsNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		a := l.agent("lb-master").connect()
		synctest.Wait()
		var refused *agentv1.Update
		a.judge = func(u *agentv1.Update) *agentv1.Nack {
			refused = u
			return &agentv1.Nack{
				Reason: agentv1.NackReason_NACK_REASON_REFUSED, Message: "[ALERT] parsing [haproxy.cfg:7]\x1b[31m", Retrying: true,
			}
		}
		good := l.node("lb-master").GetApplied()
		bad := l.change(weight(66))
		synctest.Wait()
		n := l.node("lb-master")
		if n.GetFailed() != bad.Revision() || n.GetApplied() != good || n.GetSent() != bad.Revision() {
			t.Errorf("sent %d, applied %d, failed %d; want %d, %d, %d", n.GetSent(), n.GetApplied(), n.GetFailed(), bad.Revision(), good, bad.Revision())
		}
		if want := "[ALERT] parsing [haproxy.cfg:7] [31m (the agent goes on trying)"; n.GetFailure() != want {
			t.Errorf("failure = %q, want %q", n.GetFailure(), want)
		}
		if !hasAlarm(l, "APPLY_FAILED") {
			t.Error("no APPLY_FAILED alarm")
		}
		// The same content at a newer revision has failed as well.
		same := l.change(state.SetOverride(&tandemv1.Override{
			Name: "clusters/default/pools/web_servers/backends/web1/override", Weight: proto.Uint32(66), Reason: "a note",
		}, nil))
		pass(time.Minute)
		if n := l.node("lb-master"); n.GetFailed() != same.Revision() {
			t.Errorf("failed = %d, want %d", n.GetFailed(), same.Revision())
		}
		if updates, _ := a.counts(); updates != 2 {
			t.Errorf("%d updates, want 2: a refused target was sent again", updates)
		}
		// The agent succeeds by itself, later: its word counts at any time.
		a.mu.Lock()
		for _, r := range refused.GetUpserts() {
			a.resources[r.GetKey()] = r
		}
		a.version = refused.GetVersion()
		a.mu.Unlock()
		a.judge = nil
		a.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Ack{Ack: &agentv1.Ack{Nonce: refused.GetNonce(), Version: refused.GetVersion()}}})
		synctest.Wait()
		a.checkConverged()
		if hasAlarm(l, "APPLY_FAILED") {
			t.Error("APPLY_FAILED outlives its cause")
		}
		// What it has now is the base of the next difference.
		_, before := a.counts()
		l.change(weight(67))
		synctest.Wait()
		a.checkConverged()
		if _, after := a.counts(); after-before > 200 {
			t.Errorf("%d bytes for one weight after a late ack", after-before)
		}
	})
}

func TestBaseMismatchGetsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		a := l.agent("lb-master").connect()
		synctest.Wait()
		// The agent lost its configuration without the controller knowing.
		a.mu.Lock()
		a.version = &agentv1.Version{Epoch: "epoch-1", Hash: "something else"}
		clear(a.resources)
		a.mu.Unlock()
		l.change(weight(3))
		synctest.Wait()
		a.checkConverged()
		// One that claims a mismatch against nothing is not asked for ever.
		a.judge = func(*agentv1.Update) *agentv1.Nack {
			return &agentv1.Nack{Reason: agentv1.NackReason_NACK_REASON_BASE_MISMATCH}
		}
		updates, _ := a.counts()
		l.change(weight(4))
		synctest.Wait()
		if after, _ := a.counts(); after-updates != 2 {
			t.Errorf("%d updates, want 2: a difference and a snapshot", after-updates)
		}
		if l.node("lb-master").GetFailed() == 0 {
			t.Error("the failure is not reported")
		}
	})
}

// The outcome of an update that an earlier session sent comes in a later one.
func TestAnswerToAnEarlierSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		a := l.agent("lb-master").connect()
		synctest.Wait()
		var nonces []string
		a.judge = func(u *agentv1.Update) *agentv1.Nack {
			nonces = append(nonces, u.GetNonce())
			return nil
		}
		first := a.version
		a.mu.Lock()
		a.version = nil
		a.mu.Unlock()
		_ = a.disconnect()
		a.pause = func() time.Duration { return time.Hour }
		a.connect()
		synctest.Wait()
		a.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Nack{Nack: &agentv1.Nack{Nonce: "1", Version: first, Message: "old"}}})
		a.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Ack{Ack: &agentv1.Ack{Nonce: "1", Version: &agentv1.Version{Epoch: "epoch-1", Structure: 2, Runtime: 2, Hash: "old"}}}})
		synctest.Wait()
		if n := l.node("lb-master"); n.GetFailed() != 0 || n.GetApplied() != 2 {
			t.Errorf("status = %v", n)
		}
		_ = a.disconnect()
		a.pause = nil
		a.connect()
		synctest.Wait()
		a.checkConverged()
		if len(nonces) != 1 || nonces[0] == "1" {
			t.Errorf("nonces = %v", nonces)
		}
	})
}

// A node that is ahead of a store that was put back gets nothing from it, also
// when the store's numbers have overtaken the node's; the others do.
func TestStoreWasPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master", "lb-backup")
		l.stop()
		records, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer records.Close()
		restart := func(epoch string) {
			if l.holds, err = OpenHolds(t.Context(), records, epoch); err != nil {
				t.Fatal(err)
			}
			l.start()
		}
		restart("epoch-1")
		other := l.agent("lb-backup").connect()
		a := l.agent("lb-master")
		a.version = &agentv1.Version{Epoch: "epoch-1", Structure: 10, Runtime: 10, Hash: "from the future"}
		a.connect()
		synctest.Wait()
		if updates, _ := a.counts(); updates != 0 {
			t.Errorf("%d updates to a node that is ahead", updates)
		}
		for range 6 {
			l.change(weight(uint32(l.status().GetDesired())))
			synctest.Wait()
		}
		for range 2 { // also in its next session
			if n := l.node("lb-master"); n.GetFailed() != l.status().GetDesired() || !strings.Contains(n.GetFailure(), "put back") || n.GetApplied() != 0 {
				t.Errorf("status = %v", n)
			}
			l.wantAlarms("NODE_AHEAD lb-master")
			if err := a.disconnect(); err != nil {
				t.Log(err)
			}
			a.connect()
			synctest.Wait()
		}
		if updates, _ := a.counts(); updates != 0 || l.status().GetDesired() <= 10 {
			t.Errorf("%d updates to a node that is ahead, desired is %d", updates, l.status().GetDesired())
		}
		other.checkConverged()
		l.stop() // also over a restart
		restart("epoch-1")
		a.connect()
		synctest.Wait()
		if updates, _ := a.counts(); updates != 0 {
			t.Errorf("%d updates after a restart", updates)
		}
		l.stop() // until the store has a new epoch
		restart("epoch-2")
		a.connect()
		synctest.Wait()
		if updates, _ := a.counts(); updates != 1 {
			t.Errorf("%d updates in another epoch, want 1", updates)
		}
	})
}

// Big updates travel in chunks of at most 1 MiB.
func TestChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "lb-master")
		config := &tandemv1.ClusterConfig{}
		for p := range 2 {
			pool := &tandemv1.Pool{Name: fmt.Sprintf("pool%d", p)}
			for b := range 6000 {
				pool.Backends = append(pool.Backends, &tandemv1.Backend{
					Name:    fmt.Sprintf("%s-%05d", strings.Repeat("long", 10), b),
					Address: fmt.Sprintf("10.%d.%d.%d", p, b/250, b%250+1), Port: 80,
				})
			}
			config.Pools = append(config.Pools, pool)
		}
		l.change(state.ApplyConfig(config, ""))
		a := l.agent("lb-master").connect()
		synctest.Wait()
		a.checkConverged()
		_, bytes := a.counts()
		if bytes < maxChunk*3/2 || a.largest > maxChunk || a.largest < maxChunk/2 {
			t.Errorf("%d bytes in messages of at most %d, want at most %d", bytes, a.largest, maxChunk)
		}
		// Removals are chunked as well.
		l.change(state.ApplyConfig(&tandemv1.ClusterConfig{}, ""))
		synctest.Wait()
		a.checkConverged()
		if a.largest > maxChunk {
			t.Errorf("a message of %d bytes, want at most %d", a.largest, maxChunk)
		}
	})
}
