package node

import (
	"context"
	"os"
	"path/filepath"

	"github.com/tandem-lb/tandem/agent/internal/adopt"
	"github.com/tandem-lb/tandem/agent/internal/unit"
)

// units are the packages' units of both daemons.
type units struct {
	dropIns             unit.DropIns
	haproxy, keepalived *unit.Unit
}

var _ adopt.Units = (*units)(nil)

// newUnits finds the drop-ins where "make install" puts them beside this program.
func newUnits(haproxy, keepalived *unit.Unit) (*units, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return &units{haproxy: haproxy, keepalived: keepalived, dropIns: unit.DropIns{
		Units: []string{"haproxy.service", "keepalived.service"},
		From:  filepath.Join(filepath.Dir(filepath.Dir(program)), "lib", "tandem"),
		To:    "/etc/systemd/system",
	}}, nil
}

// Claim implements adopt.Units.
func (u *units) Claim(ctx context.Context, idle bool) error {
	if err := u.dropIns.Link(ctx); err != nil || !idle {
		return err
	}
	return u.haproxy.Stop(ctx, nil)
}

// Disclaim implements adopt.Units.
func (u *units) Disclaim(ctx context.Context) error { return u.dropIns.Unlink(ctx) }

// StartHAProxy implements adopt.Units.
func (u *units) StartHAProxy(ctx context.Context) error { return u.haproxy.Begin(ctx) }

// StartKeepalived implements adopt.Units.
func (u *units) StartKeepalived(ctx context.Context) error { return u.keepalived.Begin(ctx) }
