// Package live keeps a cluster's status up to date from a status watch.
package live

import (
	"maps"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/cli/internal/name"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Model is a cluster's status, made of the steps of one watch. A new watch
// needs a new model.
type Model struct {
	cluster  string
	epoch    string
	desired  uint64
	synced   bool
	nodes    ordered[*tandemv1.NodeStatus]
	alarms   ordered[*tandemv1.Alarm]
	vips     map[string]*tandemv1.VipStatus
	backends map[string]*tandemv1.BackendStatus
}

// New returns an empty model of the cluster with that full name.
func New(cluster string) *Model {
	return &Model{
		cluster:  cluster,
		vips:     map[string]*tandemv1.VipStatus{},
		backends: map[string]*tandemv1.BackendStatus{},
	}
}

// Apply takes one step and reports whether it changed what is shown.
func (m *Model) Apply(step *tandemv1.WatchStatusResponse) bool {
	if step.GetEpoch() != "" {
		m.epoch = step.GetEpoch()
	}
	switch change := step.GetChange().(type) {
	case *tandemv1.WatchStatusResponse_Desired:
		m.desired = change.Desired
	case *tandemv1.WatchStatusResponse_Node:
		m.nodes.put(change.Node.GetName(), change.Node)
	case *tandemv1.WatchStatusResponse_Vip:
		m.vips[change.Vip.GetName()] = change.Vip
	case *tandemv1.WatchStatusResponse_Backend:
		m.backends[change.Backend.GetName()] = change.Backend
	case *tandemv1.WatchStatusResponse_Alarm:
		m.alarms.put(change.Alarm.GetKey(), change.Alarm)
	case *tandemv1.WatchStatusResponse_Deleted:
		m.remove(change.Deleted)
	case *tandemv1.WatchStatusResponse_Synced:
		m.synced = true
	default:
		return false
	}
	return true
}

func (m *Model) remove(key string) {
	m.nodes.remove(key)
	m.alarms.remove(key)
	delete(m.vips, key)
	delete(m.backends, key)
}

// Synced reports whether the state at the start of the watch is complete.
func (m *Model) Synced() bool { return m.synced }

// Epoch returns the store's epoch, empty before the first step.
func (m *Model) Epoch() string { return m.epoch }

// Nodes returns the nodes in the order of their first appearance.
func (m *Model) Nodes() []*tandemv1.NodeStatus { return m.nodes.values() }

// Status returns the whole status, as GetStatus would. Its parts are shared
// with the model and must not be changed.
func (m *Model) Status() *tandemv1.ClusterStatus {
	return &tandemv1.ClusterStatus{
		Name:    m.cluster,
		Epoch:   m.epoch,
		Desired: m.desired,
		Nodes:   m.nodes.values(),
		Vips:    sorted(m.vips),
		Pools:   m.pools(),
		Alarms:  m.alarms.values(),
	}
}

func (m *Model) pools() []*tandemv1.PoolStatus {
	byName := map[string]*tandemv1.PoolStatus{}
	for _, backend := range sorted(m.backends) {
		pool := name.Parent(backend.GetName())
		if byName[pool] == nil {
			byName[pool] = &tandemv1.PoolStatus{Name: pool}
		}
		byName[pool].Backends = append(byName[pool].Backends, backend)
	}
	return sorted(byName)
}

func sorted[T any](byName map[string]T) []T {
	var values []T
	for _, key := range slices.SortedFunc(maps.Keys(byName), strings.Compare) {
		values = append(values, byName[key])
	}
	return values
}

// ordered is a map that remembers the order in which keys came.
type ordered[T any] struct {
	keys []string
	byID map[string]T
}

func (o *ordered[T]) put(key string, value T) {
	if o.byID == nil {
		o.byID = map[string]T{}
	}
	if _, known := o.byID[key]; !known {
		o.keys = append(o.keys, key)
	}
	o.byID[key] = value
}

func (o *ordered[T]) remove(key string) {
	if _, known := o.byID[key]; !known {
		return
	}
	delete(o.byID, key)
	o.keys = slices.DeleteFunc(o.keys, func(k string) bool { return k == key })
}

func (o *ordered[T]) values() []T {
	var values []T
	for _, key := range o.keys {
		values = append(values, o.byID[key])
	}
	return values
}
