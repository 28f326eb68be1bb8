package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"

	"github.com/tandem-lb/tandem/e2e/bench/guide"
	"github.com/tandem-lb/tandem/e2e/lab"
)

// peer is the guide's pair, with an administrator who has scripted his edits.
type peer struct {
	lab  *lab.Lab
	pair *guide.Pair
}

func (p *peer) network() *lab.Lab { return p.lab }

func (p *peer) killProxy(ctx context.Context) error { return p.pair.Master.KillHAProxy(ctx) }
func (p *peer) forbid(context.Context) error        { return p.pair.Master.Break() }
func (p *peer) permit(ctx context.Context) error    { return p.pair.Master.Mend(ctx) }

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

func (p *peer) well(ctx context.Context) error {
	for _, n := range p.nodes() {
		if err := lab.Until(ctx, "HAProxy on "+n.Host.Name, func(context.Context) error {
			pids, err := n.Host.Pids("haproxy")
			if err == nil && len(pids) == 0 {
				err = errors.New("it does not run")
			}
			return err
		}); err != nil {
			return err
		}
	}
	return held(ctx, p.lab, master)
}
