package machines

import (
	"context"
	"fmt"
	"testing"

	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
)

// virtualMAC: the units' own hooks remove the device that a killed keepalived leaves, and
// make the interface fit for one at boot.
func (s *site) virtualMAC(t *testing.T) {
	s.run(t, controller, "lbctl", "vip", "set", "web", "--virtual-mac")
	s.well(t)
	s.run(t, master, "systemctl", "stop", "lb-agent")
	s.override(t, master, "keepalived", "Restart=no")
	s.run(t, master, "systemctl", "kill", "--signal=KILL", "keepalived")
	s.held(t, backup)
	s.serves(t)
	s.until(t, "the device to be gone", func(ctx context.Context) error {
		out, err := s.Host(master).Output(ctx, "ip", "link", "show", "type", "macvlan")
		if err == nil && len(out) > 0 {
			err = fmt.Errorf("there is %s", out)
		}
		return err
	})
	s.override(t, master, "keepalived", "Restart=always")
	s.run(t, master, "systemctl", "start", "keepalived", "lb-agent")
	s.well(t)

	s.disableAgents(t)
	for _, node := range clustertest.Both {
		s.run(t, node, "systemctl", "stop", "lb-agent")                      // it would set this anew
		s.run(t, node, "sysctl", "-qw", "net.ipv4.conf.eth0.arp_announce=0") // as at a boot of a machine with a kernel of its own
	}
	s.off(t)
	s.on(t)
	s.held(t, master)
	s.serves(t)
	s.announce(t, "2")
	s.enableAgents(t)
	s.well(t)
	s.run(t, controller, "lbctl", "vip", "set", "web", "--virtual-mac=false")
	s.well(t)
	s.announce(t, "0")
}

// announce holds that the interfaces have that arp_announce.
func (s *site) announce(t *testing.T, want string) {
	t.Helper()
	for _, node := range clustertest.Both {
		if got := s.run(t, node, "sysctl", "-n", "net.ipv4.conf.eth0.arp_announce"); got != want {
			t.Errorf("%s: arp_announce of eth0 is %s, want %s", node, got, want)
		}
	}
}
