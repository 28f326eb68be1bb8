package keepalived

import (
	"reflect"
	"slices"
	"time"
)

// State says whether keepalived runs.
type State string

// States of keepalived.
const (
	// StateRunning answers.
	StateRunning State = "running"
	// StateStopped should run and does not, or does not answer.
	StateStopped State = "stopped"
	// StateMissing is not installed or of no use.
	StateMissing State = "missing"
	// StateIdle has nothing to do, as there is no VIP.
	StateIdle State = "idle"
)

// InstanceState is keepalived's word about an instance.
type InstanceState string

// States of an instance.
const (
	// InstanceUnknown means that keepalived said nothing, or does not run.
	InstanceUnknown InstanceState = "unknown"
	// InstanceInit has not started.
	InstanceInit InstanceState = "init"
	// InstanceBackup stands by.
	InstanceBackup InstanceState = "backup"
	// InstanceMaster holds the VIP.
	InstanceMaster InstanceState = "master"
	// InstanceFault cannot hold it.
	InstanceFault InstanceState = "fault"
)

// Snapshot is all that the driver knows at one time. It is not changed after
// it was made.
type Snapshot struct {
	State   State
	Version string // such as "2.2.7"; empty: not known
	// StartTime of the running keepalived, or zero.
	StartTime time.Time
	// Message says in keepalived's own words why it is not running.
	Message string
	// Score is what health and drain add to every priority, 0 or below.
	Score int
	// Health and Drain are the parts of Score.
	Health, Drain int
	// Trial tells that the proxy works and is not trusted yet, see SetHealth.
	Trial bool
	// Instances in order of their names: those that keepalived has from the
	// driver, and those that Watch was told of.
	Instances []InstanceStatus
	// Networks in order of their names, with the node's own addresses. They are
	// shared: whoever gets them does not change them.
	Networks []NetworkStatus
	// Unguarded says why VRRP advertisements of strangers are not dropped, with the
	// cure; empty while they are, or need not be.
	Unguarded string
	// Handovers by the names of instances, those that keepalived has from the driver.
	// They are shared, and their changes no event. Nil: the driver does not know yet
	// what this node is to hold.
	Handovers map[string]Handover
}

// InstanceStatus is one VRRP instance.
type InstanceStatus struct {
	Name string
	// VIP is its id.
	VIP string
	// State is keepalived's word.
	State InstanceState
	// Priority in effect, 1 to 254; 0 while nothing is known.
	Priority int
	// Holds tells whether the kernel has the anchor address now, whatever
	// keepalived says.
	Holds bool
	// Wire is what reaches the interface.
	Wire Wire
	// Fenced tells that a fence keeps the VIP away.
	Fenced bool
	// Tracks are what the VIP needs beside the node, in the configuration's order, and
	// TrackScore what those that are lost add to the priority, 0 or below.
	Tracks     []TrackStatus
	TrackScore int
	// FailBack is what the fail-back policy adds to the priority, 0 or below.
	FailBack int
	// Failover is what a failover by hand adds to it until FailoverEnd; 0:
	// there is none.
	Failover    int
	FailoverEnd time.Time
}

// Event is a change. Exactly one of the fields beside Time is set.
type Event struct {
	Time time.Time
	// Instance that changed, as it is now.
	Instance *InstanceStatus
	// Daemon tells that anything but an instance's state changed: State,
	// StartTime, Version, Message, Score, Trial, Networks, Unguarded, or which
	// instances there are.
	Daemon *Snapshot
	// Transition of an instance, told for each one; Instance is told once for
	// what has come to the same.
	Transition *Transition
	// Note is one sentence for people.
	Note string
}

// changes turns the difference of two snapshots into events.
func changes(old, now *Snapshot, at time.Time) []Event {
	var events []Event
	sameInstance := func(a, b InstanceStatus) bool { return a.Name == b.Name && a.VIP == b.VIP }
	if old.State != now.State || old.Version != now.Version || old.Message != now.Message ||
		!old.StartTime.Equal(now.StartTime) || old.Score != now.Score || old.Trial != now.Trial || old.Unguarded != now.Unguarded ||
		!slices.EqualFunc(old.Networks, now.Networks, NetworkStatus.equal) ||
		!slices.EqualFunc(old.Instances, now.Instances, sameInstance) {
		events = append(events, Event{Time: at, Daemon: now})
	}
	for n := range now.Instances {
		i := &now.Instances[n]
		if !slices.ContainsFunc(old.Instances, func(was InstanceStatus) bool { return reflect.DeepEqual(was, *i) }) {
			events = append(events, Event{Time: at, Instance: i})
		}
	}
	return events
}
