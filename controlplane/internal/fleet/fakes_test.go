package fleet

import (
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/tandem-lb/tandem/controlplane/internal/events"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// heads is a ledger in memory, with the real rules of state.
type heads struct {
	mu      sync.Mutex
	configs map[string]*state.Config
	subs    map[string]map[mailbox[*state.Config]]bool
	lists   map[mailbox[[]string]]bool

	restored  *store.Restored
	confirmed chan struct{}
}

var _ Ledger = (*heads)(nil)

func newHeads() *heads {
	return &heads{
		configs: make(map[string]*state.Config),
		subs:    make(map[string]map[mailbox[*state.Config]]bool),
		lists:   make(map[mailbox[[]string]]bool),

		confirmed: make(chan struct{}),
	}
}

// Restored is what the test says; confirm ends it.
func (h *heads) Restored() *store.Restored {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.restored
}

func (h *heads) Confirmed() <-chan struct{} { return h.confirmed }

func (h *heads) confirm() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.restored = nil
	close(h.confirmed)
}

func (h *heads) Clusters() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.configs))
}

func (h *heads) Head(cluster string) (*state.Config, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.configs[cluster]; c != nil {
		return c, nil
	}
	return nil, errors.New("no such cluster")
}

func (h *heads) Subscribe(cluster string) (*ledger.Subscription[*state.Config], error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.configs[cluster]
	if c == nil {
		return nil, errors.New("no such cluster")
	}
	box := newMailbox[*state.Config]()
	box.put(c)
	if h.subs[cluster] == nil {
		h.subs[cluster] = make(map[mailbox[*state.Config]]bool)
	}
	h.subs[cluster][box] = true
	return &ledger.Subscription[*state.Config]{C: box, Close: func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subs[cluster], box)
	}}, nil
}

func (h *heads) SubscribeClusters() *ledger.Subscription[[]string] {
	h.mu.Lock()
	defer h.mu.Unlock()
	box := newMailbox[[]string]()
	box.put(slices.Sorted(maps.Keys(h.configs)))
	h.lists[box] = true
	return &ledger.Subscription[[]string]{C: box, Close: func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.lists, box)
	}}
}

// set publishes a configuration.
func (h *heads) set(c *state.Config) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fresh := h.configs[c.ID()] == nil
	h.configs[c.ID()] = c
	for box := range h.subs[c.ID()] {
		box.put(c)
	}
	if fresh {
		h.list()
	}
}

// drop deletes a cluster.
func (h *heads) drop(cluster string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.configs, home)
	for box := range h.subs[cluster] {
		close(box)
	}
	delete(h.subs, home)
	h.list()
}

func (h *heads) list() {
	for box := range h.lists {
		box.put(slices.Sorted(maps.Keys(h.configs)))
	}
}

// journal keeps the events that were appended. They are durable at once, or,
// while held, when release is called.
type journal struct {
	mu     sync.Mutex
	all    []*tandemv1.Event
	held   bool
	queued []func()
	spent  bool // there is room for no more than the next few
	room   int

	asked    func()                     // nil, or called with each Position
	durable  map[string]events.Position // by node
	flushing sync.Mutex
}

func (j *journal) Append(_ string, e *tandemv1.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.all = append(j.all, e)
}

func (j *journal) Position(_, node string) events.Position {
	if j.asked != nil {
		j.asked()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.durable[node]
}

func (j *journal) AppendFrom(_ string, from events.Source, e *tandemv1.Event, then func()) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.spent {
		if j.room == 0 {
			return false
		}
		j.room--
	}
	j.all = append(j.all, e)
	written := func() {
		j.mu.Lock()
		if j.durable == nil {
			j.durable = make(map[string]events.Position)
		}
		j.durable[from.Node] = from.Position
		j.mu.Unlock()
		then()
	}
	j.queued = append(j.queued, written)
	if !j.held {
		go j.flush()
	}
	return true
}

// fill leaves room for n more events of agents; negative: for all.
func (j *journal) fill(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.spent, j.room = n >= 0, n
}

func (j *journal) release() {
	j.mu.Lock()
	j.held = false
	j.mu.Unlock()
	j.flush()
}

// flush makes what is queued durable, in order.
func (j *journal) flush() {
	j.flushing.Lock()
	defer j.flushing.Unlock()
	j.mu.Lock()
	queued := j.queued
	j.queued = nil
	j.mu.Unlock()
	for _, written := range queued {
		written()
	}
}

// reasons returns the reasons of a subject's events, in order; "" means all.
func (j *journal) reasons(subject string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []string
	for _, e := range j.all {
		if subject == "" || e.GetSubject() == subject {
			out = append(out, e.GetReason())
		}
	}
	return out
}
