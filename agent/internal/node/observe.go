package node

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/agent/internal/haproxy"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/wire"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// fromHAProxy takes what the HAProxy driver notices. That HAProxy is dead goes
// into the score before anything else: the VIP must move.
func (n *node) fromHAProxy(event haproxy.Event) {
	switch e := event.(type) {
	case haproxy.DaemonChanged:
		n.setHealth(e.State == haproxy.Running, e.Ended)
		n.report.HAProxy(&agentv1.DaemonObservation{
			State: proxyStates[e.State], Version: e.Version, StartTime: timestamp(e.StartTime), Message: e.Message,
		})
	case haproxy.ServerChanged:
		n.report.Backend(&agentv1.BackendObservation{
			Pool: e.Backend, Backend: e.Name, State: serverStates[e.State],
			Weight: e.Weight, Reason: e.Reason, Since: timestamp(e.Since),
		})
	case haproxy.ServerRemoved:
		n.report.RemoveBackend(e.Backend, e.Name)
	case haproxy.Reloaded:
		n.report.Reloads(e.Count)
	case haproxy.AccessLogLost:
		if e.Text != "" {
			n.logger.Warn(e.Text)
		}
		n.report.Problem("access log", e.Text)
	case haproxy.FileWritten:
		n.fileWritten(e.Err)
	}
}

// setHealth tells keepalived, and then people, whether HAProxy serves, and whether it
// has ended where it does not.
func (n *node) setHealth(serves, ended bool) {
	var proven time.Time
	if now := time.Now(); serves {
		proven = n.trial.serves(now)
	} else {
		n.trial.ended(now)
	}
	tell := func() error { return n.vrrp.SetHealth(serves, proven) }
	if !serves && !ended {
		tell = n.vrrp.SetHung
	}
	if err := tell(); err != nil {
		n.logger.Error("score not written", "error", err)
	}
	if text := n.trial.problem(); text != "" && time.Now().Before(proven) || !serves {
		n.report.Problem(trialProblem, text)
	}
}

// trialProblem is the key of what trial.problem says. It is taken back when keepalived
// tells that the trial is over.
const trialProblem = "haproxy's trial"

// fromKeepalived takes what the keepalived driver notices.
func (n *node) fromKeepalived(event keepalived.Event) {
	if event.Transition != nil {
		n.states.Transition(event.Transition, event.Time)
		return // Instance tells the rest
	}
	if event.Note != "" {
		n.states.Note(event.Note, event.Time)
		n.report.Note(event.Note)
	}
	n.handover.Wake()
	s := n.vrrp.Snapshot()
	n.report.Keepalived(&agentv1.DaemonObservation{
		State: vrrpDaemonStates[s.State], Version: s.Version, StartTime: timestamp(s.StartTime), Message: s.Message,
	})
	instances := make([]*agentv1.InstanceObservation, 0, len(s.Instances))
	for _, i := range s.Instances {
		o := &agentv1.InstanceObservation{
			Name: i.Name, Vip: i.VIP, State: instanceStates[i.State],
			Priority: uint32(max(0, i.Priority)),
			Holds:    i.Holds,
			Fenced:   i.Fenced,
		}
		fromWire(o, &i.Wire)
		for _, t := range i.Tracks {
			o.Tracks = append(o.Tracks, &agentv1.TrackObservation{Track: t.Name, Lost: t.Lost, Reason: t.Reason, Since: timestamp(t.Since)})
		}
		instances = append(instances, o)
	}
	n.report.Instances(instances)
	n.report.Score(int32(s.Score))
	if s.Health == 0 && !s.Trial {
		n.report.Problem(trialProblem, "")
	}
	n.report.Networks(networks(s.Networks))
	n.report.Problem("vrrp guard", s.Unguarded)
}

// networks are the node's own addresses in the controller's words.
func networks(all []keepalived.NetworkStatus) *agentv1.NetworkSet {
	set := &agentv1.NetworkSet{}
	for _, s := range all {
		o := &agentv1.NetworkObservation{Network: s.Network}
		for _, a := range s.Addresses {
			o.Addresses = append(o.Addresses, a.String())
		}
		set.Networks = append(set.Networks, o)
	}
	return set
}

// fromWire fills in what reaches the interface.
func fromWire(o *agentv1.InstanceObservation, w *keepalived.Wire) {
	o.Listens, o.Mac, o.Gateway, o.Asked = w.Listens, w.MAC, gatewayStates[w.Gateway], w.Asked
	if j := w.Jitter; j.Measured > 0 {
		o.Jitter = &agentv1.Jitter{Mean: durationpb.New(j.Mean), Worst: durationpb.New(j.Worst), Measured: durationpb.New(j.Measured)}
	}
	for _, a := range w.Advertisers {
		o.Advertisers = append(o.Advertisers, &agentv1.Advertiser{
			Address: a.Address.String(), Mac: a.MAC, Node: a.Node, Priority: uint32(a.Priority),
		})
	}
	for _, f := range w.Findings {
		o.Findings = append(o.Findings, &agentv1.Finding{Kind: findingKinds[f.Kind], Who: f.Who, Text: f.Text})
	}
}

// fileWritten reports whether HAProxy's file says what is in effect.
func (n *node) fileWritten(err error) {
	text := ""
	if err != nil {
		text = fmt.Sprintf("haproxy.cfg is behind what is in effect: %v: free space there, or make it writable", err)
	}
	n.report.Unsaved("haproxy.cfg", text)
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

var proxyStates = map[haproxy.State]agentv1.DaemonState{
	haproxy.Running: agentv1.DaemonState_DAEMON_STATE_RUNNING,
	haproxy.Stopped: agentv1.DaemonState_DAEMON_STATE_STOPPED,
	haproxy.Missing: agentv1.DaemonState_DAEMON_STATE_MISSING,
	haproxy.Idle:    agentv1.DaemonState_DAEMON_STATE_IDLE,
}

var serverStates = map[haproxy.ServerState]agentv1.ServerState{
	haproxy.Up:          agentv1.ServerState_SERVER_STATE_UP,
	haproxy.NoCheck:     agentv1.ServerState_SERVER_STATE_NO_CHECK,
	haproxy.Drain:       agentv1.ServerState_SERVER_STATE_DRAIN,
	haproxy.Maintenance: agentv1.ServerState_SERVER_STATE_MAINTENANCE,
	haproxy.Down:        agentv1.ServerState_SERVER_STATE_DOWN,
}

var vrrpDaemonStates = map[keepalived.State]agentv1.DaemonState{
	keepalived.StateRunning: agentv1.DaemonState_DAEMON_STATE_RUNNING,
	keepalived.StateStopped: agentv1.DaemonState_DAEMON_STATE_STOPPED,
	keepalived.StateMissing: agentv1.DaemonState_DAEMON_STATE_MISSING,
	keepalived.StateIdle:    agentv1.DaemonState_DAEMON_STATE_IDLE,
}

var gatewayStates = map[wire.Gateway]agentv1.GatewayState{
	wire.GatewayAnswers: agentv1.GatewayState_GATEWAY_STATE_ANSWERS,
	wire.GatewaySilent:  agentv1.GatewayState_GATEWAY_STATE_SILENT,
}

var findingKinds = map[keepalived.FindingKind]agentv1.FindingKind{
	keepalived.FindingMismatch:  agentv1.FindingKind_FINDING_KIND_ADVERT_MISMATCH,
	keepalived.FindingForeign:   agentv1.FindingKind_FINDING_KIND_FOREIGN_SPEAKER,
	keepalived.FindingDuplicate: agentv1.FindingKind_FINDING_KIND_DUPLICATE_ADDRESS,
	keepalived.FindingDeaf:      agentv1.FindingKind_FINDING_KIND_NOTHING_RECEIVED,
	keepalived.FindingMute:      agentv1.FindingKind_FINDING_KIND_NOTHING_SENT,
}

var instanceStates = map[keepalived.InstanceState]agentv1.VrrpState{
	keepalived.InstanceInit:   agentv1.VrrpState_VRRP_STATE_INIT,
	keepalived.InstanceBackup: agentv1.VrrpState_VRRP_STATE_BACKUP,
	keepalived.InstanceMaster: agentv1.VrrpState_VRRP_STATE_MASTER,
	keepalived.InstanceFault:  agentv1.VrrpState_VRRP_STATE_FAULT,
}
