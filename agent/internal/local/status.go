package local

import (
	"context"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/uplink"
	localv1 "github.com/tandem-lb/tandem/gen/tandem/agent/local/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// GetStatus tells what the node does now.
func (s *Server) GetStatus(context.Context, *localv1.GetStatusRequest) (*localv1.GetStatusResponse, error) {
	state, vrrp := s.Report.State(), s.VRRP.Snapshot()
	response := &localv1.GetStatusResponse{
		Node:         s.Node,
		AgentVersion: s.Version,
		Session:      session(s.Session()),
		Haproxy:      state.GetHaproxy(),
		Keepalived:   state.GetKeepalived(),
		Score:        &localv1.Score{Total: int32(vrrp.Score), Health: int32(vrrp.Health), Drain: int32(vrrp.Drain)},
		Backends:     state.GetBackends(),
		LocalChanges: s.Changes.All(),
		Problems:     slices.Clone(state.GetProblems().GetProblems()),
		Reloads:      state.GetReloads(),
		Process:      process(),
	}
	if applied := s.Reconciler.Applied(); applied != nil {
		response.Applied = applied.Version()
	}
	for _, i := range state.GetInstances().GetInstances() {
		response.Vips = append(response.Vips, vipStatus(i, vrrp))
		for _, f := range i.GetFindings() {
			response.Problems = append(response.Problems, "VIP "+i.GetVip()+": "+f.GetText())
		}
	}
	return response, nil
}

func session(s uplink.Status) *localv1.Session {
	out := &localv1.Session{Connected: s.Connected, Controller: s.Address, Problem: s.Problem}
	if !s.Since.IsZero() {
		out.Since = timestamppb.New(s.Since)
	}
	return out
}

// vipStatus is an instance with the parts of its priority.
func vipStatus(i *agentv1.InstanceObservation, vrrp keepalived.Snapshot) *localv1.VipStatus {
	v := &localv1.VipStatus{
		Vip: i.GetVip(), Instance: i.GetName(), State: i.GetState(), Holds: i.GetHolds(), Priority: i.GetPriority(),
		Fenced: i.GetFenced(), Listens: i.GetListens(), Heard: i.GetAdvertisers(),
	}
	for _, parts := range vrrp.Instances {
		if parts.Name != i.GetName() {
			continue
		}
		v.FailBack, v.Failover, v.Tracks = int32(parts.FailBack), int32(parts.Failover), int32(parts.TrackScore)
		if parts.Failover != 0 {
			v.FailoverEnd = timestamppb.New(parts.FailoverEnd)
		}
	}
	for _, t := range i.GetTracks() {
		if t.GetLost() {
			v.Lost = append(v.Lost, t.GetTrack()+" ("+t.GetReason()+")")
		}
	}
	return v
}
