package reconcile

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// leave tells whether HAProxy is left with what it runs, at the start of an agent
// whose good target lacks what was in effect: what runs may have that. The next
// target puts an end to it, or a change on the node itself.
func (r *Reconciler) leave(ctx context.Context) bool {
	if !r.Behind {
		return false
	}
	effective := r.Overlay.Over(r.Good)
	config, err := effective.HAProxy()
	if err != nil {
		return false // as for any target
	}
	if other, err := r.Proxy.RunsOther(ctx, config); err == nil && !other {
		return false
	}
	version := r.Good.Version().GetRuntime()
	r.Logger.Warn("haproxy is left with what it runs: newer changes are lost on disk", "revision", version)
	r.Problem(fmt.Sprintf("HAProxy is left with what it runs, since on disk are only changes up to revision %d: "+
		"the controller sends the newer ones; a change with lb-agent on this node goes back to revision %d", version, version))
	r.watch(ctx, r.Good.Keepalived())
	r.goOn(ctx, effective.Keepalived())
	return true
}

// goOn has keepalived looked after with the drain that it has.
func (r *Reconciler) goOn(ctx context.Context, config *keepalivedv1.Config) {
	config = proto.CloneOf(config)
	if config.Global == nil {
		config.Global = &keepalivedv1.Global{}
	}
	config.Global.Drain = r.VRRP.Drained()
	if _, err := r.VRRP.Apply(ctx, config); err != nil {
		r.Logger.Error("keepalived is not looked after", "error", err)
		return
	}
	r.keepalived = config
}
