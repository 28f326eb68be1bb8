package uplink

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/tandem-lb/tandem/agent/internal/identity"
)

const (
	// minRenewal and maxRenewal bound the wait between two tries of a renewal.
	minRenewal = time.Minute
	maxRenewal = time.Hour
	// glance is how often the clock is read: the machine may have slept, or its
	// clock may have been set.
	glance = time.Hour
)

// renewer renews the certificate beside a session: at half of its life, and
// when the controller asks. The session goes on with the certificate that it
// began with; the next one shows the new one.
type renewer struct {
	dir     string
	conn    grpc.ClientConnInterface
	problem func(text string) // "" ends it
	log     hclog.Logger
	asked   chan struct{}           // depth one
	renewed chan *identity.Identity // depth one, the newest
}

func newRenewer(dir string, conn grpc.ClientConnInterface, problem func(string), log hclog.Logger) *renewer {
	return &renewer{
		dir: dir, conn: conn, problem: problem, log: log,
		asked: make(chan struct{}, 1), renewed: make(chan *identity.Identity, 1),
	}
}

// ask has the certificate renewed now. It does not block.
func (r *renewer) ask() {
	select {
	case r.asked <- struct{}{}:
	default:
	}
}

// run renews until ctx ends. What fails is tried again with growing delays, and
// told long before the certificate ends.
func (r *renewer) run(ctx context.Context, id *identity.Identity) {
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval, delay.MaxInterval = minRenewal, maxRenewal
	due := id.RenewAt()
	for {
		timer := time.NewTimer(min(max(time.Until(due), 0), glance))
		asked := false
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.asked:
			asked = true
		case <-timer.C:
		}
		timer.Stop()
		if !asked && time.Now().Before(due) {
			continue
		}
		next, err := r.renew(ctx)
		switch {
		case ctx.Err() != nil && err != nil:
			return
		case err != nil:
			wait := delay.NextBackOff()
			due = time.Now().Add(wait)
			r.problem(fmt.Sprintf("%v; it ends at %s, and is tried again: see the controller's log",
				err, id.ExpireTime().UTC().Format("2006-01-02 15:04 MST")))
			r.log.Warn("certificate not renewed", "error", err, "ends", id.ExpireTime(), "retry_in", wait.Round(time.Second))
		default:
			id, due = next, next.RenewAt()
			delay.Reset()
			r.problem("")
			r.log.Info("certificate renewed", "next", due)
			r.hand(id)
		}
	}
}

func (r *renewer) renew(ctx context.Context) (*identity.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return identity.Renew(ctx, r.dir, r.conn)
}

// hand puts the newest identity where the session takes it.
func (r *renewer) hand(id *identity.Identity) {
	select {
	case <-r.renewed:
	default:
	}
	r.renewed <- id
}
