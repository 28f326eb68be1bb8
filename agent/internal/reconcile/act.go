package reconcile

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// watch has the VIPs of a target looked for. They may live on this node although
// the target is not in effect: a keepalived that is not the agent's may hold them.
func (r *Reconciler) watch(ctx context.Context, c *keepalivedv1.Config) {
	if proto.Equal(c, r.watched) {
		return
	}
	if err := r.VRRP.Watch(ctx, c); err != nil {
		r.Logger.Error("who holds the VIPs of this configuration is not known here", "error", err)
		return
	}
	r.watched = c
}

// act gives both daemons their part. proven: it has been in effect before.
func (r *Reconciler) act(ctx context.Context, proxyConfig *haproxyv1.Config, vrrpConfig *keepalivedv1.Config, proven bool) (reloaded bool, err error) {
	r.drain(ctx, vrrpConfig.GetGlobal().GetDrain())
	// keepalived's checker takes 20 ms: ask it only about something new, and
	// before HAProxy is touched.
	vrrpChanged := !proto.Equal(vrrpConfig, r.keepalived)
	if vrrpChanged {
		if err := r.VRRP.Check(ctx, vrrpConfig); err != nil {
			return false, err
		}
	}
	result, err := r.Proxy.Apply(ctx, proxyConfig)
	if err != nil && (r.keepalived != nil || !proven) {
		return false, err
	}
	if err != nil {
		// A HAProxy that does not start must not keep the VIP from living
		// anywhere: keepalived goes on with what it had, with the score of a
		// node that does not serve.
		_, failed := r.VRRP.Apply(ctx, vrrpConfig)
		if failed == nil {
			r.keepalived = vrrpConfig
		}
		return false, errors.Join(err, failed)
	}
	if vrrpChanged {
		if _, err := r.VRRP.Apply(ctx, vrrpConfig); err != nil {
			return false, errors.Join(err, r.putBack(ctx))
		}
		r.keepalived = vrrpConfig
	}
	return result.Reloaded, nil
}

// drain has keepalived drain the node, or end that, before anything else of a
// target: a score waits neither for HAProxy nor for a VIP that may be wrong.
func (r *Reconciler) drain(ctx context.Context, drain bool) {
	if r.keepalived == nil || r.keepalived.GetGlobal().GetDrain() == drain {
		return
	}
	next := proto.CloneOf(r.keepalived)
	if next.Global == nil {
		next.Global = &keepalivedv1.Global{}
	}
	next.Global.Drain = drain
	if _, err := r.VRRP.Apply(ctx, next); err != nil {
		r.Logger.Error("the drain of this node is not in effect", "drain", drain, "error", err)
		return
	}
	r.keepalived = next
}

// putBack gives HAProxy the configuration that is in effect again, after
// keepalived would not take its part of a new one.
func (r *Reconciler) putBack(ctx context.Context) error {
	applied := r.Applied()
	if applied == nil {
		return nil
	}
	config, err := r.Overlay.Over(applied).HAProxy()
	if err != nil {
		return err
	}
	if _, err := r.Proxy.Apply(ctx, config); err != nil {
		return fmt.Errorf("and HAProxy would not go back: %w", err)
	}
	return nil
}
