package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Condition tells what a status lacks, or returns nil.
type Condition func(*tandemv1.ClusterStatus) error

// all returns what the first unfulfilled condition says.
func all(s *tandemv1.ClusterStatus, conditions []Condition) error {
	for _, holds := range conditions {
		if err := holds(s); err != nil {
			return err
		}
	}
	return nil
}

// Connected holds when the agents of these nodes have a session.
func Connected(nodes ...string) Condition {
	return eachNode(nodes, func(n *tandemv1.NodeStatus) error {
		if !n.GetConnected() {
			return errors.New("is not connected")
		}
		return nil
	})
}

// Settled holds when these nodes are connected, the newest revision is in
// effect on them and their HAProxy runs.
func Settled(nodes ...string) Condition {
	return func(s *tandemv1.ClusterStatus) error {
		return eachNode(nodes, func(n *tandemv1.NodeStatus) error {
			switch {
			case !n.GetConnected():
				return errors.New("is not connected")
			case n.GetFailed() != 0:
				return fmt.Errorf("could not apply revision %d: %s", n.GetFailed(), n.GetFailure())
			case n.GetApplied() != s.GetDesired():
				return fmt.Errorf("has applied revision %d of %d", n.GetApplied(), s.GetDesired())
			case n.GetHaproxy().GetState() != tandemv1.DaemonState_DAEMON_STATE_RUNNING:
				return fmt.Errorf("has HAProxy %s: %s", n.GetHaproxy().GetState(), n.GetHaproxy().GetMessage())
			}
			return nil
		})(s)
	}
}

// HAProxyIs holds when HAProxy on a node is in that state.
func HAProxyIs(node string, state tandemv1.DaemonState) Condition {
	return eachNode([]string{node}, func(n *tandemv1.NodeStatus) error {
		if got := n.GetHaproxy(); got.GetState() != state {
			return fmt.Errorf("has HAProxy %s: %s", got.GetState(), got.GetMessage())
		}
		return nil
	})
}

// HeldBy holds when that node, and no other, holds the VIP.
func HeldBy(vip, node string) Condition {
	return func(s *tandemv1.ClusterStatus) error {
		for _, v := range s.GetVips() {
			if last(v.GetName()) != vip {
				continue
			}
			if !slices.Equal(v.GetHolders(), []string{node}) {
				return fmt.Errorf("VIP %s is held by [%s], want %s alone", vip, strings.Join(v.GetHolders(), " "), node)
			}
			return nil
		}
		return fmt.Errorf("no VIP %s", vip)
	}
}

// BackendIs holds when every one of these nodes reports that state of a
// backend, named pool/backend.
func BackendIs(backend string, state tandemv1.BackendState, nodes ...string) Condition {
	pool, id, _ := strings.Cut(backend, "/")
	name := Name + "/pools/" + pool + "/backends/" + id
	return func(s *tandemv1.ClusterStatus) error {
		for _, p := range s.GetPools() {
			for _, b := range p.GetBackends() {
				if b.GetName() == name {
					return backendOn(b, state, nodes)
				}
			}
		}
		return fmt.Errorf("no backend %s", backend)
	}
}

func backendOn(b *tandemv1.BackendStatus, want tandemv1.BackendState, nodes []string) error {
	got := map[string]*tandemv1.BackendNodeStatus{}
	for _, n := range b.GetNodes() {
		got[n.GetNode()] = n
	}
	for _, node := range nodes {
		if state := got[node].GetState(); state != want {
			return fmt.Errorf("%s is %s on %s (%s), want %s", last(b.GetName()), state, node, got[node].GetReason(), want)
		}
	}
	return nil
}

// NoAlarms holds when no alarm is raised.
func NoAlarms(s *tandemv1.ClusterStatus) error {
	if alarms := s.GetAlarms(); len(alarms) > 0 {
		return fmt.Errorf("alarm %s: %s", alarms[0].GetKey(), alarms[0].GetMessage())
	}
	return nil
}

func eachNode(nodes []string, holds func(*tandemv1.NodeStatus) error) Condition {
	return func(s *tandemv1.ClusterStatus) error {
		for _, node := range nodes {
			n := FindNode(s, node)
			if n == nil {
				return fmt.Errorf("no node %s", node)
			}
			if err := holds(n); err != nil {
				return fmt.Errorf("%s %w", node, err)
			}
		}
		return nil
	}
}

// FindNode returns the status of the node with that id, or nil.
func FindNode(s *tandemv1.ClusterStatus, id string) *tandemv1.NodeStatus {
	for _, n := range s.GetNodes() {
		if last(n.GetName()) == id {
			return n
		}
	}
	return nil
}

// last returns the id at the end of a resource name.
func last(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
