package fleet

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

const (
	// maxStrays bounds the backends that a node reports and that are not, or
	// no longer, desired: they may be desired again before the node has heard
	// that they are not.
	maxStrays    = 1024
	maxInstances = 2048
	maxProblems  = 64
	// maxWire bounds the advertisers, the findings and the tracks of one instance.
	maxWire = 8
	// maxReason bounds why a backend is in its state, in bytes.
	maxReason = 512
	// observedAtOnce is how many backends of a message are taken in before others
	// have their turn at the cluster.
	observedAtOnce = 512
)

// observed is what a connected node says now.
type observed struct {
	reported   bool // its first, whole observation has come
	haproxy    *agentv1.DaemonObservation
	keepalived *agentv1.DaemonObservation
	backends   map[string]*agentv1.BackendObservation    // by "pool/backend"
	instances  map[string][]*agentv1.InstanceObservation // by VIP
	score      int32
	problems   []string
	local      []*agentv1.LocalChange
	reloads    uint64
}

// forget drops what a node has observed: nobody says so any more. The lock is
// held.
func (c *cluster) forget(n *node) {
	was := n.observed
	n.observed = observed{}
	for k := range was.backends {
		c.markBackend(k)
	}
	for vip := range was.instances {
		c.updateVip(vip)
	}
}

// observe takes an observation in.
func (c *cluster) observe(s *session, o *agentv1.Observation) {
	c.observeNode(s, o)
	for backends := range slices.Chunk(o.GetBackends(), observedAtOnce) {
		c.with(s, func(n *node) { c.observeBackends(n, backends) })
	}
	for removed := range slices.Chunk(o.GetRemovedBackends(), observedAtOnce) {
		c.with(s, func(n *node) { c.removeBackends(n, removed) })
	}
}

// observeNode takes in all but the backends.
func (c *cluster) observeNode(s *session, o *agentv1.Observation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := s.node
	if n.session != s {
		return
	}
	if o.GetWhole() {
		c.forget(n)
		n.observed.reported = true
	}
	now := &n.observed
	if o.Haproxy != nil {
		now.haproxy = boundedDaemon(o.GetHaproxy())
	}
	if o.Keepalived != nil {
		now.keepalived = boundedDaemon(o.GetKeepalived())
	}
	if o.Score != nil {
		now.score = o.GetScore()
	}
	if o.Reloads != nil {
		now.reloads = o.GetReloads()
	}
	if o.NotPersistent != nil || o.GetWhole() {
		n.notPersistent = o.GetNotPersistent()
	}
	if p := o.GetProblems(); p != nil {
		now.problems = nil
		for _, text := range p.GetProblems()[:min(len(p.GetProblems()), maxProblems)] {
			now.problems = append(now.problems, bounded(text, maxText))
		}
	}
	if l := o.GetLocalChanges(); l != nil {
		now.local = boundedLocal(l)
	}
	if o.GetNetworks() != nil {
		c.observeNetworks(n, o.GetNetworks())
	}
	if o.GetInstances() != nil || o.GetWhole() {
		c.observeInstances(n, o.GetInstances().GetInstances())
	}
	c.mark(key{kindNode, n.id})
	c.stir.put(struct{}{})
}

// observeBackends takes in what is new of backends. The lock is held.
func (c *cluster) observeBackends(n *node, backends []*agentv1.BackendObservation) {
	for _, b := range backends {
		k := b.GetPool() + "/" + b.GetBackend()
		if !c.admits(n, b, k) {
			continue
		}
		if n.observed.backends == nil {
			n.observed.backends = make(map[string]*agentv1.BackendObservation)
		}
		b = boundedBackend(b)
		if !proto.Equal(n.observed.backends[k], b) {
			n.observed.backends[k] = b
			c.markBackend(k)
		}
	}
}

// removeBackends forgets backends. The lock is held.
func (c *cluster) removeBackends(n *node, keys []string) {
	for _, k := range keys {
		if n.observed.backends[k] != nil {
			delete(n.observed.backends, k)
			c.markBackend(k)
		}
	}
}

// markBackend tells watchers of a backend that is desired: nobody was told of
// another one, and its name is only an agent's word. The lock is held.
func (c *cluster) markBackend(k string) {
	pool, backend, _ := strings.Cut(k, "/")
	if c.head.Backend(pool, backend) != nil {
		c.mark(key{kindBackend, k})
	}
}

// admits tells whether a node may say something about a backend: always when
// it is desired, else while there is room for strays.
func (c *cluster) admits(n *node, b *agentv1.BackendObservation, k string) bool {
	desired := c.head.Backend(b.GetPool(), b.GetBackend()) != nil
	if desired || n.observed.backends[k] != nil {
		return true
	}
	if len(k) > 2*maxWord {
		return false
	}
	if len(n.observed.backends) < c.backends+maxStrays {
		return true
	}
	maps.DeleteFunc(n.observed.backends, func(_ string, b *agentv1.BackendObservation) bool {
		return c.head.Backend(b.GetPool(), b.GetBackend()) == nil
	})
	return true
}

// observeInstances replaces a node's VRRP instances. The lock is held.
func (c *cluster) observeInstances(n *node, all []*agentv1.InstanceObservation) {
	was := n.observed.instances
	n.observed.instances = make(map[string][]*agentv1.InstanceObservation)
	for _, i := range all[:min(len(all), maxInstances)] {
		if len(i.GetVip()) <= maxWord {
			n.observed.instances[i.GetVip()] = append(n.observed.instances[i.GetVip()], boundedInstance(i))
		}
	}
	for vip := range was {
		c.updateVip(vip)
	}
	for vip := range n.observed.instances {
		c.updateVip(vip)
	}
}

// What is kept of an agent's messages is copied field by field: they may carry
// anything, and live as long as what refers into them.

func boundedBackend(b *agentv1.BackendObservation) *agentv1.BackendObservation {
	return &agentv1.BackendObservation{
		Pool:    bounded(b.GetPool(), maxWord),
		Backend: bounded(b.GetBackend(), maxWord),
		State:   b.GetState(),
		Weight:  b.GetWeight(),
		Reason:  bounded(b.GetReason(), maxReason),
		Since:   validTime(b.GetSince()),
	}
}

func boundedVersion(v *agentv1.Version) *agentv1.Version {
	return &agentv1.Version{
		Epoch:     bounded(v.GetEpoch(), maxWord),
		Structure: v.GetStructure(),
		Runtime:   v.GetRuntime(),
		Hash:      bounded(v.GetHash(), maxWord),
	}
}

func boundedInstance(i *agentv1.InstanceObservation) *agentv1.InstanceObservation {
	out := &agentv1.InstanceObservation{
		Name:     bounded(i.GetName(), maxWord),
		Vip:      bounded(i.GetVip(), maxWord),
		State:    i.GetState(),
		Priority: i.GetPriority(),
		Holds:    i.GetHolds(),
		Listens:  i.GetListens(),
		Mac:      bounded(i.GetMac(), maxWord),
		Gateway:  i.GetGateway(),
		Asked:    i.GetAsked(),
		Fenced:   i.GetFenced(),
	}
	for _, a := range i.GetAdvertisers()[:min(len(i.GetAdvertisers()), maxWire)] {
		out.Advertisers = append(out.Advertisers, &agentv1.Advertiser{
			Address: bounded(a.GetAddress(), maxWord), Mac: bounded(a.GetMac(), maxWord),
			Node: bounded(a.GetNode(), maxWord), Priority: a.GetPriority(),
		})
	}
	for _, f := range i.GetFindings()[:min(len(i.GetFindings()), maxWire)] {
		out.Findings = append(out.Findings, &agentv1.Finding{
			Kind: f.GetKind(), Who: bounded(f.GetWho(), maxWord), Text: bounded(f.GetText(), maxReason),
		})
	}
	if j := i.GetJitter(); j != nil {
		out.Jitter = &agentv1.Jitter{Mean: validDuration(j.GetMean()), Worst: validDuration(j.GetWorst()), Measured: validDuration(j.GetMeasured())}
	}
	for _, t := range i.GetTracks()[:min(len(i.GetTracks()), maxWire)] {
		out.Tracks = append(out.Tracks, &agentv1.TrackObservation{
			Track: bounded(t.GetTrack(), maxReason), Lost: t.GetLost(), Reason: bounded(t.GetReason(), maxReason), Since: validTime(t.GetSince()),
		})
	}
	return out
}

func boundedDaemon(d *agentv1.DaemonObservation) *agentv1.DaemonObservation {
	return &agentv1.DaemonObservation{
		State:     d.GetState(),
		Version:   bounded(d.GetVersion(), maxWord),
		StartTime: validTime(d.GetStartTime()),
		Message:   bounded(d.GetMessage(), maxText),
	}
}

func boundedEvent(e *agentv1.Event) *agentv1.Event {
	out := &agentv1.Event{Sequence: e.GetSequence(), Time: validTime(e.GetTime())}
	switch k := e.GetKind().(type) {
	case *agentv1.Event_Backend:
		out.Kind = &agentv1.Event_Backend{Backend: boundedBackend(k.Backend)}
	case *agentv1.Event_Instance:
		out.Kind = &agentv1.Event_Instance{Instance: boundedInstance(k.Instance)}
	case *agentv1.Event_Haproxy:
		out.Kind = &agentv1.Event_Haproxy{Haproxy: boundedDaemon(k.Haproxy)}
	case *agentv1.Event_Keepalived:
		out.Kind = &agentv1.Event_Keepalived{Keepalived: boundedDaemon(k.Keepalived)}
	case *agentv1.Event_Note:
		out.Kind = &agentv1.Event_Note{Note: bounded(k.Note, maxText)}
	case *agentv1.Event_LocalBegun:
		out.Kind = &agentv1.Event_LocalBegun{LocalBegun: boundedChange(k.LocalBegun)}
	case *agentv1.Event_LocalEnded:
		out.Kind = &agentv1.Event_LocalEnded{LocalEnded: &agentv1.LocalChangeEnd{
			Change: boundedChange(k.LocalEnded.GetChange()), How: bounded(k.LocalEnded.GetHow(), maxText),
		}}
	case *agentv1.Event_Gap:
		out.Kind = k
	}
	return out
}

// validTime returns a copy of a time, nil if it is none that can be shown.
func validTime(t *timestamppb.Timestamp) *timestamppb.Timestamp {
	if t.CheckValid() != nil {
		return nil
	}
	return &timestamppb.Timestamp{Seconds: t.GetSeconds(), Nanos: t.GetNanos()}
}

// bounded makes text of an agent fit to be shown: at most limit bytes, and no
// control characters but line breaks.
func bounded(text string, limit int) string {
	if len(text) > limit {
		for limit > 0 && !utf8.RuneStart(text[limit]) {
			limit--
		}
		text = text[:limit]
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' {
			return ' '
		}
		return r
	}, text)
}
