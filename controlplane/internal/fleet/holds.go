package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

const holdsBucket = "held-nodes"

// Holds remembers over restarts which nodes are ahead of the store: once its
// numbers have overtaken theirs, their agents no longer show it. A nil Holds
// remembers nothing.
type Holds struct {
	records store.Records
	epoch   string

	mu    sync.Mutex // held for moments only
	ahead map[string]uint64
}

// hold is what is kept of a node, by its uid.
type hold struct {
	Epoch    string `json:"epoch"`
	Revision uint64 `json:"revision"`
}

// OpenHolds reads what is remembered of nodes in a store of that epoch. What was
// held in an earlier epoch is held no longer.
func OpenHolds(ctx context.Context, records store.Records, epoch string) (*Holds, error) {
	h := &Holds{records: records, epoch: epoch, ahead: map[string]uint64{}}
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

// remember keeps that a node is ahead: once for each start of the controller, so
// that no agent can keep the disk busy.
func (h *Holds) remember(ctx context.Context, uid string, revision uint64) error {
	if h == nil || h.of(uid) != 0 {
		return nil
	}
	v, err := json.Marshal(hold{Epoch: h.epoch, Revision: revision})
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.ahead[uid] = revision
	h.mu.Unlock()
	return h.records.Put(ctx, holdsBucket, uid, v)
}
