package ledger

import (
	"context"
	"sync"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

// gate keeps changes out while a restored store waits for an operator.
type gate struct {
	confirmed chan struct{} // closed when the store does not wait, or no longer

	confirming sync.Mutex // held while the store writes; only Confirm waits for it

	restoredMu sync.Mutex // held for moments only
	restored   *store.Restored
}

func (g *gate) begin(restored *store.Restored) {
	if g.restored = restored; restored == nil {
		close(g.confirmed)
	}
}

// Restored tells where the store comes from while it waits for an operator;
// nil: it does not.
func (g *gate) Restored() *store.Restored {
	g.restoredMu.Lock()
	defer g.restoredMu.Unlock()
	return g.restored
}

// Confirmed returns a channel that is closed when changes are taken, and
// configurations may go to the nodes.
func (g *gate) Confirmed() <-chan struct{} { return g.confirmed }

// Ready returns nil when changes are taken, else ErrWaiting.
func (g *gate) Ready() error {
	if g.Restored() != nil {
		return ErrWaiting
	}
	return nil
}

// Confirm is an operator's word that the restored configuration shall go to the
// nodes. It is durable when Confirm returns. ErrNotWaiting if nothing waits.
func (l *Ledger) Confirm(ctx context.Context) error {
	l.confirming.Lock()
	defer l.confirming.Unlock()
	if l.Restored() == nil {
		return ErrNotWaiting
	}
	if err := l.store.Confirm(ctx); err != nil {
		return err
	}
	l.restoredMu.Lock()
	l.restored = nil
	l.restoredMu.Unlock()
	close(l.confirmed)
	return nil
}
