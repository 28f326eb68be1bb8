package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"

	"github.com/tandem-lb/tandem/e2e/bench/guide"
	"github.com/tandem-lb/tandem/e2e/lab"
)

// peer is the guide's pair, with an administrator who has scripted his edits.
type peer struct {
	lab  *lab.Lab
	pair *guide.Pair
}

// startPeer starts the guide's pair on a lab of its own.
func startPeer(ctx context.Context, options Options) (side, error) {
	l, err := open(ctx, guide.Spec(), options.Labhost)
	p := &peer{lab: l}
	if err == nil {
		p.pair, err = guide.Start(ctx, l)
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *peer) close() error {
	if p.lab == nil {
		return nil
	}
	return p.lab.Close()
}

func (p *peer) network() *lab.Lab { return p.lab }

// port is that of the VIP: the guide's HAProxy binds every address.
func (p *peer) port() uint16 { return port }

// shown takes the kernels' word: a master that was cut off goes on with the VIP.
func (p *peer) shown(ctx context.Context, to string) error {
	switch to {
	case "":
		return nil
	case master:
		return held(ctx, p.lab, master)
	}
	return lab.Until(ctx, "the VIP on "+to, func(ctx context.Context) error {
		addresses, err := p.lab.Host(to).Addresses(ctx)
		if err == nil && !slices.ContainsFunc(addresses, func(a netip.Prefix) bool { return a.Addr() == lab.VIP.Addr() }) {
			err = fmt.Errorf("%s has %v", to, addresses)
		}
		return err
	})
}

func (p *peer) forbid(context.Context) error        { return p.pair.Master.Break() }
func (p *peer) permit(ctx context.Context) error    { return p.pair.Master.Mend(ctx) }
func (p *peer) powerBack(ctx context.Context) error { return p.pair.Master.PowerBack(ctx) }

// moveAway is "systemctl stop keepalived".
func (p *peer) moveAway(ctx context.Context) error { return stopVRRP(ctx, p) }
func (p *peer) moveBack(ctx context.Context) error { return p.pair.Master.StartKeepalived(ctx) }

func (p *peer) nodes() []*guide.Node { return []*guide.Node{p.pair.Master, p.pair.Backup} }

func (p *peer) reload(ctx context.Context, _ int) error {
	for _, n := range p.nodes() {
		if err := n.Systemctl(ctx, "reload"); err != nil {
			return err
		}
	}
	return nil
}

// webLine is the line of web1 in the guide's haproxy.cfg, with or without a
// weight.
var webLine = regexp.MustCompile(`(?m)^(\s*server web1 \S+ check inter 2000 rise 2 fall 3).*$`)

func (p *peer) weigh(ctx context.Context, weight uint32) error {
	for _, n := range p.nodes() {
		path := n.Host.Path("/etc/haproxy/haproxy.cfg")
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !webLine.Match(text) {
			return fmt.Errorf("%s has no line for web1", path)
		}
		text = webLine.ReplaceAll(text, fmt.Appendf(nil, "${1} weight %d", weight))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return err
		}
	}
	return p.reload(ctx, 0)
}

func (p *peer) repair(ctx context.Context) error {
	errs := []error{heal(ctx, p), plug(ctx, p)} // a measurement may have been cut off
	for _, n := range p.nodes() {
		errs = append(errs, n.Repair(ctx))
	}
	return errors.Join(errs...)
}

func (p *peer) well(ctx context.Context) error { return held(ctx, p.lab, master) }
