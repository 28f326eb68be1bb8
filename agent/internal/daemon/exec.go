package daemon

import (
	"context"
)

// Exec runs daemons as processes that the agent starts itself: in containers,
// and where no service manager is to do it.
type Exec struct{}

// Find is Adopt.
func (Exec) Find(_ context.Context, spec Spec) (*Process, error) { return Adopt(spec) }

// Start is Start.
func (Exec) Start(ctx context.Context, spec Spec) (*Process, error) { return Start(ctx, spec) }

// Stop is Process.Stop.
func (Exec) Stop(ctx context.Context, p *Process) error { return p.Stop(ctx) }

// Changed is never ready: nobody else starts the daemon.
func (Exec) Changed() <-chan struct{} { return nil }
