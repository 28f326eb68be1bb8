package ledger

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
)

// keepConfigs is how many configurations of a cluster can be read by number.
const keepConfigs = 64

// board is what is published. The lock is held for moments only, never across
// I/O.
type board struct {
	mu       sync.RWMutex
	clusters map[string]*published
	lists    map[chan []string]bool // those who watch the list of clusters
}

// published is one cluster on the board.
type published struct {
	recent []*state.Config // by revision, the head last
	subs   map[chan *state.Config]bool
	expiry time.Time // when the next override ends; zero: none does
}

func (p *published) head() *state.Config { return p.recent[len(p.recent)-1] }

// Clusters returns the ids of all clusters, sorted.
func (b *board) Clusters() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.ids()
}

func (b *board) ids() []string { return slices.Sorted(maps.Keys(b.clusters)) }

// Head returns a cluster's newest configuration. The error is a NotFound
// *state.Error.
func (b *board) Head(cluster string) (*state.Config, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	p := b.clusters[cluster]
	if p == nil {
		return nil, unknown(cluster)
	}
	return p.head(), nil
}

// At returns a cluster's configuration at one of its last 64 revisions, for
// pages that must fit together. ErrRevisionGone for an older one.
func (b *board) At(cluster string, revision uint64) (*state.Config, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	p := b.clusters[cluster]
	if p == nil {
		return nil, unknown(cluster)
	}
	for _, c := range p.recent {
		if c.Revision() == revision {
			return c, nil
		}
	}
	return nil, fmt.Errorf("revision %d of cluster %q: %w", revision, cluster, ErrRevisionGone)
}

func unknown(cluster string) error {
	return &state.Error{Code: state.NotFound, Reason: state.ReasonNotFound, Name: state.ClusterName(cluster).String(),
		Message: fmt.Sprintf("cluster %q does not exist", cluster)}
}

// publish puts configurations on the board, in order of their revisions, and
// tells the subscribers.
func (b *board) publish(configs []*state.Config) {
	b.mu.Lock()
	defer b.mu.Unlock()
	listed := len(b.clusters)
	changed := map[*published]bool{}
	for _, c := range configs {
		p := b.clusters[c.ID()]
		if c.Deleted() {
			b.remove(c.ID(), p)
			delete(changed, p)
			listed = -1
			continue
		}
		if p == nil {
			p = &published{subs: map[chan *state.Config]bool{}}
			b.clusters[c.ID()] = p
		}
		if len(p.recent) == keepConfigs {
			p.recent = slices.Delete(p.recent, 0, 1)
		}
		p.recent = append(p.recent, c)
		changed[p] = true
	}
	for p := range changed {
		p.expiry = nextExpiry(p.head())
		for ch := range p.subs {
			replace(ch, p.head())
		}
	}
	if listed != len(b.clusters) {
		ids := b.ids()
		for ch := range b.lists {
			replace(ch, ids)
		}
	}
}

// remove takes a cluster that is deleted off the board.
func (b *board) remove(id string, p *published) {
	if p == nil {
		return // made and deleted at once
	}
	delete(b.clusters, id)
	for ch := range p.subs {
		close(ch)
	}
	p.subs = nil
}

// replace puts v into a channel of depth one, in place of what was not read.
// The board's lock makes its caller the only sender, so it never blocks.
func replace[T any](ch chan T, v T) {
	select {
	case <-ch:
	default:
	}
	ch <- v
}

// nextExpiry is when the first override of a cluster ends; zero: none does.
func nextExpiry(c *state.Config) time.Time {
	var next time.Time
	for _, o := range c.Overrides() {
		if t := o.GetExpireTime(); t != nil && (next.IsZero() || t.AsTime().Before(next)) {
			next = t.AsTime()
		}
	}
	return next
}

// expiries returns the clusters in which an override has ended by now, sorted,
// and when the next one ends; zero: none does.
func (b *board) expiries(now time.Time) (due []string, next time.Time) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for id, p := range b.clusters {
		switch {
		case p.expiry.IsZero():
		case !p.expiry.After(now):
			due = append(due, id)
		case next.IsZero() || p.expiry.Before(next):
			next = p.expiry
		}
	}
	slices.Sort(due)
	return due, next
}

// Subscription delivers the newest value: its channel holds one, and a newer
// one replaces what was not read.
type Subscription[T any] struct {
	// C delivers, first of all what is current. It is closed when there is
	// nothing more to come, but not by Close.
	C <-chan T
	// Close ends the subscription. It may be called more than once.
	Close func()
}

// Subscribe delivers a cluster's newest configuration, now and after every
// change. C is closed when the cluster is deleted. The error is a NotFound
// *state.Error.
func (b *board) Subscribe(cluster string) (*Subscription[*state.Config], error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.clusters[cluster]
	if p == nil {
		return nil, unknown(cluster)
	}
	ch := make(chan *state.Config, 1)
	ch <- p.head()
	p.subs[ch] = true
	return &Subscription[*state.Config]{C: ch, Close: func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(p.subs, ch)
	}}, nil
}

// SubscribeClusters delivers the sorted ids of all clusters, now and whenever
// one is added or removed.
func (b *board) SubscribeClusters() *Subscription[[]string] {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch := make(chan []string, 1)
	ch <- b.ids()
	b.lists[ch] = true
	return &Subscription[[]string]{C: ch, Close: func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.lists, ch)
	}}
}
