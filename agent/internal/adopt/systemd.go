package adopt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/running"
)

// Files that the packages' units start their daemons with.
var (
	packagedProxyFile = "/etc/haproxy/haproxy.cfg"
	packagedVRRPFile  = "/etc/keepalived/keepalived.conf"
)

// proxyUnit is HAProxy's.
const proxyUnit = "haproxy.service"

// claim makes the units Tandem's, on a machine that has no files of its own. What
// does not run now may be about to: at a boot the agent is not the last to start.
func (t *Takeover) claim(ctx context.Context) error {
	for path, unused := range map[string]func([]byte) bool{
		packagedProxyFile: func(text []byte) bool { return config.IsOurs(text) || servesNobody(text) },
		packagedVRRPFile:  func(text []byte) bool { return keepalived.IsOurs(text) || len(bytes.TrimSpace(text)) == 0 },
	} {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && !unused(text) {
			return fmt.Errorf("%s is what systemd starts its daemon with here, and Tandem did not write it: "+
				"start the daemon and take it over (lb-agent adopt), or move the file away", path)
		}
	}
	proxies, err := running.HAProxies()
	if err != nil {
		return err
	}
	idle := slices.ContainsFunc(proxies, func(d running.Daemon) bool {
		return d.Unit == proxyUnit && reads(servesNobody)(d) && !reads(config.IsOurs)(d)
	})
	return t.Units.Claim(ctx, idle)
}
