package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

const (
	holdsBucket = "held-nodes"
	// maxHoldWrites bounds what is written of one node from one start of the
	// controller to the next, so that no agent can keep the disk busy.
	maxHoldWrites = 16
)

// Holds remembers over restarts which nodes are ahead of the store: once its
// numbers have overtaken theirs, their agents no longer show it. A nil Holds
// remembers nothing.
type Holds struct {
	records store.Records
	epoch   string

	mu     sync.Mutex        // held for moments only
	ahead  map[string]uint64 // by uid
	writes map[string]int    // by uid
}

// hold is what is kept of a node, by its uid.
type hold struct {
	Epoch    string `json:"epoch"`
	Revision uint64 `json:"revision"`
}

// OpenHolds reads what is remembered of nodes in a store of that epoch. What was
// held in an earlier epoch is held no longer.
func OpenHolds(ctx context.Context, records store.Records, epoch string) (*Holds, error) {
	h := &Holds{records: records, epoch: epoch, ahead: map[string]uint64{}, writes: map[string]int{}}
	all, err := records.List(ctx, holdsBucket)
	if err != nil {
		return nil, fmt.Errorf("read which nodes are held: %w", err)
	}
	for uid, v := range all {
		var kept hold
		if err := json.Unmarshal(v, &kept); err != nil {
			return nil, fmt.Errorf("record %s/%s: %w", holdsBucket, uid, err)
		}
		if kept.Epoch == epoch {
			h.ahead[uid] = kept.Revision
		}
	}
	return h, nil
}

// of returns the revision that a node is ahead with, 0 if it is not.
func (h *Holds) of(uid string) uint64 {
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ahead[uid]
}

// note keeps what a node's hello makes of it, as compare does.
func (h *Holds) note(ctx context.Context, uid string, told *agentv1.Version, head uint64) error {
	if h == nil {
		return nil
	}
	same, has := told.GetEpoch() == h.epoch, told.GetRuntime()
	switch {
	case same && has > head:
		return h.remember(ctx, uid, has)
	case !same || has < h.of(uid):
		return h.forget(ctx, uid)
	}
	return nil
}

// remember keeps that a node is ahead, once.
func (h *Holds) remember(ctx context.Context, uid string, revision uint64) error {
	if h.of(uid) != 0 || !h.mayWrite(uid) {
		return nil
	}
	v, err := json.Marshal(hold{Epoch: h.epoch, Revision: revision})
	if err != nil {
		return err
	}
	if err := h.records.Put(ctx, holdsBucket, uid, v); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ahead[uid] = revision
	return nil
}

// forget ends what is remembered of a node that is ahead no longer.
func (h *Holds) forget(ctx context.Context, uid string) error {
	if h.of(uid) == 0 || !h.mayWrite(uid) {
		return nil
	}
	if err := h.records.Delete(ctx, holdsBucket, uid); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.ahead, uid)
	return nil
}

// mayWrite counts a write about a node.
func (h *Holds) mayWrite(uid string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writes[uid]++
	return h.writes[uid] <= maxHoldWrites
}
