package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/controlplane/internal/compile"
	"github.com/tandem-lb/tandem/controlplane/internal/rollout"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// pipe is an in-memory stream without buffers: who does not read blocks the
// other side.
type pipe struct {
	done chan struct{}
	end  func()
	up   chan *agentv1.SessionRequest
	down chan *agentv1.SessionResponse
}

var errPipe = errors.New("the pipe is closed")

func newPipe() *pipe {
	p := &pipe{done: make(chan struct{}), up: make(chan *agentv1.SessionRequest), down: make(chan *agentv1.SessionResponse)}
	p.end = sync.OnceFunc(func() { close(p.done) })
	return p
}

// Send and Recv are the controller's side.
func (p *pipe) Send(m *agentv1.SessionResponse) error {
	select {
	case p.down <- m:
		return nil
	case <-p.done:
		return errPipe
	}
}

func (p *pipe) Recv() (*agentv1.SessionRequest, error) {
	select {
	case m := <-p.up:
		return m, nil
	case <-p.done:
		return nil, errPipe
	}
}

// say and hear are the agent's.
func (p *pipe) say(m *agentv1.SessionRequest) error {
	select {
	case p.up <- m:
		return nil
	case <-p.done:
		return errPipe
	}
}

func (p *pipe) hear() (*agentv1.SessionResponse, error) {
	select {
	case m := <-p.down:
		return m, nil
	case <-p.done:
		return nil, errPipe
	}
}

// agent is a simulated agent: it keeps resources as the real one does, and
// checks that the controller keeps to the protocol.
type agent struct {
	l    *lab
	node string
	boot string

	// judge, if set, refuses an update; it sees it whole.
	diskFull bool // its answers say: not persistent
	judge    func(*agentv1.Update) *agentv1.Nack
	// pause before an update is in effect.
	pause func() time.Duration
	// capabilities that its hello tells.
	capabilities []string
	// protocol that its hello tells; 0: 1.
	protocol uint32

	mu        sync.Mutex
	pipe      *pipe
	served    chan error // why Serve ended
	resources map[string]*agentv1.Resource
	version   *agentv1.Version
	updates   int
	bytes     int // of configuration content received
	largest   int
	heard     heard
	acks      []*agentv1.EventAck
	welcome   *agentv1.Welcome
	commands  func(*agentv1.Command) *agentv1.CommandResult
	pings     int
	gone      bool          // its machine, without a word: it answers nothing
	late      time.Duration // that it takes to say that it is there
}

func (l *lab) agent(node string) *agent {
	return &agent{l: l, node: node, boot: "boot-" + node, resources: make(map[string]*agentv1.Resource),
		capabilities: []string{"command/check", "command/probe"}}
}

// connect begins a session and says hello.
func (a *agent) connect() *agent {
	p, served := newPipe(), make(chan error, 1)
	a.mu.Lock()
	a.pipe, a.served = p, served
	a.mu.Unlock()
	a.l.all.Go(func() {
		err := a.l.fleet.Serve(a.l.ctx, Identity{Cluster: home, Node: a.node, UID: "uid-" + a.node}, p)
		p.end() // as gRPC does when a handler returns
		served <- err
	})
	a.l.all.Go(func() { a.run(p) })
	return a
}

// disconnect breaks the connection and waits until the controller knows.
func (a *agent) disconnect() error {
	a.pipe.end()
	return <-a.served
}

func (a *agent) hello() *agentv1.SessionRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Hello{Hello: &agentv1.Hello{
		Protocol: cmp.Or(a.protocol, 1), AgentVersion: "1.0", BootId: a.boot, SessionId: fmt.Sprintf("%p", a.pipe), Applied: a.version,
		Capabilities: a.capabilities, Interfaces: map[string]string{"front": "eth0"},
		NotPersistent: a.diskFull,
	}}}
}

// run is the agent's loop on one connection.
func (a *agent) run(p *pipe) {
	if p.say(a.hello()) != nil {
		return
	}
	var chunks []*agentv1.Update
	for {
		m, err := p.hear()
		if err != nil {
			return
		}
		if u := m.GetUpdate(); u != nil {
			chunks = append(chunks, u)
		}
		answer := a.take(m)
		if n := len(chunks); n > 0 && !chunks[n-1].GetMore() {
			answer = a.update(p, chunks)
			chunks = nil
		}
		if m.GetCommand().GetPing() != nil && answer != nil {
			a.l.all.Go(func() {
				<-time.After(a.lateness())
				_ = p.say(answer)
			})
			continue
		}
		if answer != nil && p.say(answer) != nil {
			return
		}
	}
}

func (a *agent) lateness() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.late
}

func (a *agent) take(m *agentv1.SessionResponse) *agentv1.SessionRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard.count(m)
	switch k := m.GetKind().(type) {
	case *agentv1.SessionResponse_Welcome:
		a.welcome = k.Welcome
	case *agentv1.SessionResponse_EventAck:
		a.acks = append(a.acks, k.EventAck)
	case *agentv1.SessionResponse_Command:
		if k.Command.GetPing() != nil {
			a.pings++
			if a.gone {
				return nil
			}
			return &agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{Result: &agentv1.CommandResult{
				Id: k.Command.GetId(), Outcome: agentv1.CommandOutcome_COMMAND_OUTCOME_DONE,
			}}}
		}
		if r := a.commands(k.Command); r != nil {
			r.Id = k.Command.GetId()
			return &agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{Result: r}}
		}
	case *agentv1.SessionResponse_Update:
		a.largest = max(a.largest, proto.Size(m))
	}
	return nil
}

// update acts on a whole update, unless the agent has a newer connection.
func (a *agent) update(p *pipe, chunks []*agentv1.Update) *agentv1.SessionRequest {
	if a.pause != nil {
		select {
		case <-time.After(a.pause()):
		case <-p.done:
			return nil
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pipe != p {
		return nil
	}
	u := chunks[0]
	for _, more := range chunks[1:] {
		if more.GetNonce() != u.GetNonce() || !proto.Equal(more.GetVersion(), u.GetVersion()) || more.GetBaseHash() != u.GetBaseHash() {
			a.l.t.Errorf("%s: chunks of one update differ: %v and %v", a.node, u.GetNonce(), more.GetNonce())
		}
	}
	a.updates++
	var refusal *agentv1.Nack
	if a.judge != nil {
		refusal = a.judge(u)
	}
	switch {
	case u.GetBaseHash() != "" && u.GetBaseHash() != a.version.GetHash():
		refusal = &agentv1.Nack{Reason: agentv1.NackReason_NACK_REASON_BASE_MISMATCH}
	case refusal == nil && u.GetVersion().GetRuntime() < a.version.GetRuntime() && u.GetVersion().GetEpoch() == a.version.GetEpoch():
		a.l.t.Errorf("%s: sent revision %d after %d", a.node, u.GetVersion().GetRuntime(), a.version.GetRuntime())
	}
	if refusal != nil {
		refusal.Nonce, refusal.Version = u.GetNonce(), u.GetVersion()
		return &agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Nack{Nack: refusal}}
	}
	if u.GetBaseHash() == "" {
		clear(a.resources)
	}
	for _, c := range chunks {
		for _, k := range c.GetRemovals() {
			delete(a.resources, k)
		}
		for _, r := range c.GetUpserts() {
			a.bytes += proto.Size(r)
			a.resources[r.GetKey()] = r
		}
	}
	a.version = u.GetVersion()
	return &agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Ack{Ack: &agentv1.Ack{
		Nonce: u.GetNonce(), Version: u.GetVersion(), Duration: durationpb.New(time.Millisecond), NotPersistent: a.diskFull,
	}}}
}

// say sends one message from outside the agent's loop.
func (a *agent) say(m *agentv1.SessionRequest) {
	a.l.t.Helper()
	if err := a.pipe.say(m); err != nil {
		a.l.t.Fatalf("%s: %v", a.node, err)
	}
}

func (a *agent) observe(o *agentv1.Observation) {
	a.l.t.Helper()
	a.say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Observation{Observation: o}})
}

func (a *agent) counts() (updates, bytes int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.updates, a.bytes
}

// checkConverged fails unless the agent has exactly what is desired of it, and
// the status says so.
func (a *agent) checkConverged() {
	a.l.t.Helper()
	head, err := a.l.ledger.Head(home)
	if err != nil {
		a.l.t.Fatal(err)
	}
	var compiler compile.Compiler
	want, err := compiler.Node(rollout.Target(head, a.l.fleet.options.Addresses.peers(head), a.l.fleet.options.Addresses.speakers(head, nil), nil), a.node)
	if err != nil {
		a.l.t.Fatal(err)
	}
	a.mu.Lock()
	got := &agentv1.NodeConfig{Version: a.version, Resources: slices.SortedFunc(maps.Values(a.resources),
		func(a, b *agentv1.Resource) int { return cmp.Compare(a.GetKey(), b.GetKey()) })}
	a.mu.Unlock()
	if !proto.Equal(want.NodeConfig(), got) {
		a.l.t.Errorf("%s has revision %d with %d resources, want %d with %d", a.node,
			got.GetVersion().GetRuntime(), len(got.GetResources()), head.Revision(), len(want.NodeConfig().GetResources()))
	}
	if n := a.l.node(a.node); n.GetApplied() != head.Revision() || n.GetSent() != head.Revision() || n.GetFailed() != 0 || !n.GetConnected() {
		a.l.t.Errorf("status of %s: sent %d, applied %d, failed %d %q, connected %v; want revision %d", a.node,
			n.GetSent(), n.GetApplied(), n.GetFailed(), n.GetFailure(), n.GetConnected(), head.Revision())
	}
}
