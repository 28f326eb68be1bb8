// Package diagnose judges what would keep a VIP from moving: facts of all nodes go
// in, findings come out, each with what was seen and the command that cures it. It is
// pure.
package diagnose

import (
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Facts are what is known of a cluster at one time.
type Facts struct {
	// Config is what is desired.
	Config *state.Config
	// VIP is the id of the one to look at; empty: all.
	VIP string
	// Nodes in order of their numbers.
	Nodes []Node
	// Unfit says in words why a node could not be given a VIP by a failover, by VIP
	// and node; nothing: it could.
	Unfit map[string]map[string]string
	// Version of the controller.
	Version string
}

// Node is what is known of a node.
type Node struct {
	ID string
	// Connected tells that its agent has a session and has told of itself. Else the
	// rest is empty.
	Connected bool
	// Structure is the revision of the structure in effect; 0: not known.
	Structure uint64
	// Failed is the revision that it could not put in effect, 0: none, and Failure
	// says why.
	Failed  uint64
	Failure string
	// Waiting says what it waits for another node with.
	Waiting string
	// Drained tells that it is, and DrainedThere that this was done on the machine.
	Drained, DrainedThere bool
	HAProxy, Keepalived   *agentv1.DaemonObservation
	// Score is what its keepalived adds to its priorities.
	Score    int32
	Problems []string
	// Interfaces by network.
	Interfaces map[string]string
	// Instances by VIP, Backends by "pool/backend".
	Instances map[string][]*agentv1.InstanceObservation
	Backends  map[string]*agentv1.BackendObservation
	// Diagnosis is what its agent has found when it was asked; nil: nothing, and
	// Silence says why. TooOld: since it does not know the question.
	Diagnosis *agentv1.Diagnosis
	Silence   string
	TooOld    bool
}

// finding is one, and whom it keeps from taking which VIP.
type finding struct {
	*tandemv1.DiagnosisFinding
	stopped map[string][]string // ids of nodes by those of VIPs
	hides   []string            // ids of the nodes of which it leaves open whether they would take the VIPs that it is about, all if it is about none
}

// judgement is one of them in the making.
type judgement struct {
	*Facts
	vips  []*tandemv1.Vip
	found []*finding
}

// Judge judges facts.
func Judge(f *Facts) *tandemv1.Diagnosis {
	j := &judgement{Facts: f}
	for _, v := range f.Config.Vips() {
		if f.VIP == "" || f.VIP == id(v.GetName()) {
			j.vips = append(j.vips, v)
		}
	}
	if len(j.vips) > 0 {
		j.cluster()
	}
	for n := range f.Nodes {
		if len(j.vips) > 0 {
			j.node(&f.Nodes[n])
		}
	}
	for _, v := range j.vips {
		j.vip(v)
	}
	j.rest()
	return j.diagnosis()
}

// diagnosis puts together what was found.
func (j *judgement) diagnosis() *tandemv1.Diagnosis {
	d := &tandemv1.Diagnosis{Name: state.ClusterName(j.Config.ID()).String()}
	for _, f := range j.found {
		f.Stops = len(f.stopped) > 0
		d.Findings = append(d.Findings, f.DiagnosisFinding)
	}
	slices.SortStableFunc(d.Findings, func(a, b *tandemv1.DiagnosisFinding) int {
		switch {
		case a.GetStops() == b.GetStops():
			return int(a.GetArea()) - int(b.GetArea())
		case a.GetStops():
			return -1
		default:
			return 1
		}
	})
	for _, v := range j.vips {
		d.Vips = append(d.Vips, j.verdict(v))
	}
	return d
}

// verdict tells of each standby of a VIP whether it would take it.
func (j *judgement) verdict(v *tandemv1.Vip) *tandemv1.VipDiagnosis {
	vip := id(v.GetName())
	d := &tandemv1.VipDiagnosis{Name: v.GetName()}
	if h := j.holder(vip); h != nil {
		d.Holder = h.ID
	}
	d.Heard, _ = j.heard(vip)
	var best uint32
	for n := range j.Nodes {
		x := &j.Nodes[n]
		if x.ID == d.GetHolder() || slices.Contains(d.GetHeard(), x.ID) {
			continue
		}
		s := &tandemv1.StandbyDiagnosis{Node: x.ID, Priority: x.priority(vip), Obstacles: j.obstacles(vip, x.ID), Unknowns: j.unknowns(v, x.ID)}
		s.Ready = len(s.GetObstacles())+len(s.GetUnknowns()) == 0
		if s.GetReady() && s.GetPriority() > best {
			d.Taker, best = x.ID, s.GetPriority()
		}
		d.Standbys = append(d.Standbys, s)
	}
	return d
}

// obstacles are the reasons of what keeps a node from taking a VIP.
func (j *judgement) obstacles(vip, node string) []string {
	var all []string
	for _, f := range j.found {
		if slices.Contains(f.stopped[vip], node) && !slices.Contains(all, f.GetReason()) {
			all = append(all, f.GetReason())
		}
	}
	return all
}

// unknowns are the reasons of what leaves open whether a node would take a VIP.
func (j *judgement) unknowns(v *tandemv1.Vip, node string) []string {
	var all []string
	for _, f := range j.found {
		about := len(f.GetVips()) == 0 || slices.Contains(f.GetVips(), v.GetName())
		if slices.Contains(f.hides, node) && about && !slices.Contains(all, f.GetReason()) {
			all = append(all, f.GetReason())
		}
	}
	return all
}

// add adds a finding, which keeps nobody from anything yet.
func (j *judgement) add(f *tandemv1.DiagnosisFinding) *finding {
	added := &finding{DiagnosisFinding: f}
	j.found = append(j.found, added)
	return added
}

// on adds a finding about a node.
func (j *judgement) on(n *Node, area tandemv1.DiagnosisArea, reason, message, evidence, cure string) *finding {
	return j.add(&tandemv1.DiagnosisFinding{
		Reason: reason, Area: area, Node: state.NodeName(j.Config.ID(), n.ID).String(), Message: message, Evidence: evidence, Cure: cure,
	})
}

// about adds VIPs that a finding is about.
func (f *finding) about(vips ...*tandemv1.Vip) *finding {
	for _, v := range vips {
		if !slices.Contains(f.Vips, v.GetName()) {
			f.Vips = append(f.Vips, v.GetName())
		}
	}
	return f
}

// stops notes that nodes cannot take a VIP because of it.
func (f *finding) stops(v *tandemv1.Vip, nodes ...string) *finding {
	if len(nodes) == 0 {
		return f
	}
	if f.stopped == nil {
		f.stopped = make(map[string][]string)
	}
	vip := id(v.GetName())
	f.stopped[vip] = append(f.stopped[vip], nodes...)
	return f.about(v)
}

// stopsNode notes that a node can take no VIP because of it.
func (j *judgement) stopsNode(f *finding, n *Node) *finding {
	for _, v := range j.vips {
		if j.holder(id(v.GetName())) != n {
			f.stops(v, n.ID)
		}
	}
	return f
}

// stopsPair notes that a node and whoever it would exchange a VIP with cannot do so
// because of it.
func (j *judgement) stopsPair(f *finding, v *tandemv1.Vip, n *Node) {
	if j.holder(id(v.GetName())) == n {
		f.stops(v, j.standbys(v)...)
	} else {
		f.stops(v, n.ID)
	}
}

// holder is the one node that holds a VIP, nil when there is none such.
func (j *judgement) holder(vip string) *Node {
	if all := j.holders(vip); len(all) == 1 {
		return all[0]
	}
	return nil
}

func (j *judgement) holders(vip string) []*Node {
	var all []*Node
	for n := range j.Nodes {
		if slices.ContainsFunc(j.Nodes[n].Instances[vip], (*agentv1.InstanceObservation).GetHolds) {
			all = append(all, &j.Nodes[n])
		}
	}
	return all
}

// standbys are the ids of all nodes but the holder.
func (j *judgement) standbys(v *tandemv1.Vip) []string {
	h := j.holder(id(v.GetName()))
	var all []string
	for n := range j.Nodes {
		if &j.Nodes[n] != h {
			all = append(all, j.Nodes[n].ID)
		}
	}
	return all
}

// priority is the lowest of a VIP's instances; 0: not known.
func (n *Node) priority(vip string) uint32 {
	lowest := uint32(0)
	for _, i := range n.Instances[vip] {
		if p := i.GetPriority(); lowest == 0 || p < lowest {
			lowest = p
		}
	}
	return lowest
}

// facts are those that its agent has found of an instance; nil: none.
func (n *Node) facts(instance string) *agentv1.InstanceFacts {
	for _, f := range n.Diagnosis.GetInstances() {
		if f.GetName() == instance {
			return f
		}
	}
	return nil
}

// id is the last one of a resource name.
func id(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
