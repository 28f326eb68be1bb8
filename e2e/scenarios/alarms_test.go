package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// raising is a fault that is made and ended for real, and all the alarms that are raised
// meanwhile, as a reason and the id of what it is about.
type raising struct {
	name      string
	make, end func() error
	alarms    []string
	says      cluster.Condition // nil: nothing more
}

// raises holds when these alarms are raised, each with a cure, and no others.
func raises(want ...string) cluster.Condition {
	return func(s *tandemv1.ClusterStatus) error {
		var raised []string
		for _, a := range s.GetAlarms() {
			if a.GetCure() == "" || a.GetMessage() == "" {
				return fmt.Errorf("%s says %q and is cured by %q", a.GetKey(), a.GetMessage(), a.GetCure())
			}
			raised = append(raised, a.GetReason()+" "+a.GetSubject()[strings.LastIndexByte(a.GetSubject(), '/')+1:])
		}
		slices.Sort(raised)
		if !slices.Equal(raised, want) {
			return fmt.Errorf("%q are raised, want %q: %v", raised, want, s.GetAlarms())
		}
		return nil
	}
}

// isRaised makes each fault in turn: its alarms are raised, they alone, and are over with
// it.
func (s *site) isRaised(t *testing.T, all []raising) {
	t.Helper()
	for _, f := range all {
		t.Run(f.name, func(t *testing.T) {
			s := s.in(t)
			s.healthy(labtest.Deadline(t, 30*time.Second))
			began := time.Now()
			if err := f.make(); err != nil {
				t.Fatal(err)
			}
			conditions := []cluster.Condition{raises(f.alarms...)}
			if f.says != nil {
				conditions = append(conditions, f.says)
			}
			if _, err := s.Until(labtest.Deadline(t, 30*time.Second), "its alarms", conditions...); err != nil {
				t.Error(err)
			}
			raised := time.Since(began)
			began = time.Now()
			if err := f.end(); err != nil {
				t.Fatal(err)
			}
			s.healthy(labtest.Deadline(t, 30*time.Second))
			t.Logf("raised within %v, over within %v", raised, time.Since(began))
		})
	}
}

// acquainted waits until each node has all addresses of the other one in effect. The kernel
// gives those of IPv6 a second after a link is up, and with them comes another
// configuration, which could not be applied without keepalived: an alarm of its own. What is
// on a node's disk is in effect when a later change is.
func (s *site) acquainted(ctx context.Context) {
	s.t.Helper()
	s.until(30*time.Second, "each node to have the other's addresses", func(context.Context) error {
		return errors.Join(knows(ctx, s.Master(), s.Backup()), knows(ctx, s.Backup(), s.Master()))
	})
	s.lbctl(ctx, "pool", "set", "web_servers", "--connect-timeout", "6s")
}

// knows tells which address of another node a node does not have in its configuration.
func knows(ctx context.Context, n, other *cluster.Node) error {
	good, err := os.ReadFile(filepath.Join(n.StateDir, "good.pb"))
	changes, err2 := os.ReadFile(filepath.Join(n.StateDir, "journal"))
	if errors.Is(err2, fs.ErrNotExist) { // none since
		err2 = nil
	}
	addresses, err3 := other.Host.Addresses(ctx)
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	if !slices.ContainsFunc(addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		return fmt.Errorf("%s has no address of IPv6", other.Host.Name)
	}
	for _, p := range addresses {
		if address := []byte(p.Addr().String()); !bytes.Contains(good, address) && !bytes.Contains(changes, address) {
			return fmt.Errorf("%s does not know %s of %s", n.Host.Name, p, other.Host.Name)
		}
	}
	return nil
}

// Each of these faults raises its own alarm, and no other one, with what is wrong and a
// cure, and the alarm is over with it. (Those of the wire, of tracks, of what is dead
// everywhere, of clones and of restored stores have tests of their own.)
func TestEachFaultRaisesItsAlarm(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 5*time.Minute)
	master, backup := s.Master(), s.Backup()
	lbctl := func(args ...string) error { _, err := s.Lbctl(ctx, args...); return err }
	lbAgent := func(args ...string) func() error {
		return func() error { _, err := backup.LbAgent(ctx, args...); return err }
	}
	noKeepalived := func(nodes ...*cluster.Node) func() error {
		return func() (err error) {
			for _, n := range nodes {
				err = errors.Join(err, n.Uninstall("keepalived"))
			}
			for _, n := range nodes {
				err = errors.Join(err, n.KillKeepalived(ctx))
			}
			return err
		}
	}
	advertised := func(flags ...string) func() error {
		return func() error {
			s.Controller.Flags = flags
			return errors.Join(s.Controller.Stop(10*time.Second), s.Controller.Start(ctx))
		}
	}
	if _, err := backup.Host.Output(ctx, "sysctl", "--quiet", "--write", "net.ipv4.conf.all.arp_ignore=1"); err != nil {
		t.Fatal(err)
	}
	s.acquainted(ctx)
	strayBegins, strayEnds := otherKeepalived(ctx, t, backup.Host, 52, "192.168.1.100/32 dev lo")
	s.isRaised(t, []raising{
		{
			name: "keepalived has ended", make: noKeepalived(backup), end: func() error { return backup.Install("keepalived") },
			alarms: []string{"KEEPALIVED_DEAD lb-backup"}, says: alarmed("KEEPALIVED_DEAD", "keepalived on lb-backup is "),
		},
		{
			name: "keepalived has ended, and there is a change",
			make: func() error {
				return errors.Join(noKeepalived(backup)(), lbctl("vip", "set", "web", "--fail-back", "never", "--no-wait"))
			},
			end: func() error {
				return errors.Join(backup.Install("keepalived"), lbctl("vip", "set", "web", "--fail-back", "automatic", "--no-wait"))
			},
			alarms: []string{"KEEPALIVED_DEAD lb-backup"}, says: alarmed("KEEPALIVED_DEAD", "keepalived on lb-backup is ", "is not in effect there"),
		},
		{
			name: "keepalived has ended on both nodes", make: noKeepalived(master, backup),
			end:    func() error { return errors.Join(master.Install("keepalived"), backup.Install("keepalived")) },
			alarms: []string{"KEEPALIVED_DEAD lb-backup", "KEEPALIVED_DEAD lb-master", "NO_HOLDER web"},
			says:   alarmed("NO_HOLDER", "no node holds VIP web"),
		},
		{
			name: "HAProxy has ended", make: func() error { return backup.StopHAProxy(ctx) }, end: backup.LetHAProxyRun,
			alarms: []string{"PROXY_DEAD lb-backup"}, says: alarmed("PROXY_DEAD", "HAProxy on lb-backup is "),
		},
		{
			name: "an agent is dead", make: backup.KillAgent, end: func() error { return backup.StartAgent(ctx) },
			alarms: []string{"NODE_DISCONNECTED lb-backup"}, says: alarmed("NODE_DISCONNECTED", "the agent of lb-backup is not connected"),
		},
		{
			name: "a node is drained on the machine", make: lbAgent("drain", "--reason", "new kernel"), end: lbAgent("undrain", "--reason", "done"),
			alarms: []string{"DRIFT lb-backup"}, says: alarmed("DRIFT", "lb-backup"),
		},
		{
			// On lo, where the agent leaves it.
			name: "another virtual router with the address on a node", make: strayBegins, end: strayEnds,
			alarms: []string{"ADVERT_MISMATCH web"},
			says:   alarmed("ADVERT_MISMATCH", "lb-backup (192.168.1.11) advertises [192.168.1.100] with virtual router id 52 and not 51"),
		},
		{
			name: "a change waits for a node",
			make: func() error {
				return errors.Join(backup.KillAgent(), lbctl("vip", "set", "web", "--vrid", "77", "--no-wait"))
			},
			end: func() error {
				return errors.Join(lbctl("vip", "set", "web", "--vrid", "51", "--no-wait"), backup.StartAgent(ctx))
			},
			alarms: []string{"NODE_DISCONNECTED lb-backup", "VIP_CHANGE_WAITS web"},
			says:   alarmed("VIP_CHANGE_WAITS", "VIP web keeps the VRRP settings that it had", "lb-backup"),
		},
		{
			name: "a VIP on a network that no node has",
			make: func() error {
				return lbctl("vip", "add", "more", "192.168.7.100/24", "--vrid", "57", "--network", "seven", "--no-wait")
			},
			end:    func() error { return lbctl("vip", "remove", "more") },
			alarms: []string{"APPLY_FAILED lb-backup", "APPLY_FAILED lb-master", "NO_HOLDER more"},
			says:   alarmed("APPLY_FAILED", "seven"),
		},
		{
			name: "a controller behind its own VIP", make: advertised("--advertise", "192.168.1.100"), end: advertised(),
			alarms: []string{"ADVERTISED_VIP web"}, says: alarmed("ADVERTISED_VIP", "192.168.1.100"),
		},
	})
}

// What happens to a network beside the one over which the nodes reach the controller is
// told while it lasts.
func TestFaultsOfAnotherNetworkRaiseAlarms(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 4*time.Minute)
	on := func(host string, name string, args ...string) func() error {
		return func() error { _, err := s.Lab.Host(host).Output(ctx, name, args...); return err }
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(on("client2", "ip", "address", "add", "192.168.7.51/24", "dev", "eth0")())
	for number, name := range clustertest.Both {
		n := s.Nodes[name]
		s.link(ctx, n, fmt.Sprintf("192.168.7.1%d/24", number))
		must(on(name, "ip", "route", "add", "default", "via", "192.168.7.51", "dev", "second")())
		must(mapNetwork(n, "seven", "second"))
		must(errors.Join(n.KillAgent(), n.StartAgent(ctx)))
	}
	s.wait(ctx, "both agents", cluster.Settled(clustertest.Both...))
	s.lbctl(ctx, "vip", "add", "seven", "192.168.7.100/24", "--vrid", "57", "--network", "seven")
	s.wait(ctx, "the second VIP", cluster.HeldBy("seven", cluster.Master), cluster.NoAlarms)
	must(pause(ctx, 3*time.Second)) // until gateway and nodes have been asked by turns
	s.isRaised(t, []raising{
		{
			name: "nothing comes in",
			make: on(cluster.Backup, "nft", "add table netdev cut; add chain netdev cut in { type filter hook ingress device second priority 0; }; add rule netdev cut in counter drop"),
			end:  on(cluster.Backup, "nft", "delete table netdev cut"),
			// It does not hear the holder, either.
			alarms: []string{"NOTHING_RECEIVED seven", "PEER_SILENT seven"},
			says:   alarmed("NOTHING_RECEIVED", "nothing is received on second", "seen by lb-backup"),
		},
		{
			// lb-master holds it on, and nobody can say so.
			name: "the one agent that tells does not listen there",
			make: func() error {
				return errors.Join(on(cluster.Backup, "ip", "link", "set", "second", "down")(), s.Master().KillAgent())
			},
			end: func() error {
				return errors.Join(on(cluster.Backup, "ip", "link", "set", "second", "up")(),
					on(cluster.Backup, "ip", "route", "add", "default", "via", "192.168.7.51", "dev", "second")(), s.Master().StartAgent(ctx))
			},
			alarms: []string{"HOLDER_UNKNOWN seven", "NODE_DISCONNECTED lb-master"},
			says:   alarmed("HOLDER_UNKNOWN", "lb-master is not connected, and lb-backup does not listen on the VIP's network"),
		},
		{
			name: "no address to advertise from by unicast",
			make: func() error {
				if err := on(cluster.Backup, "ip", "address", "delete", "192.168.7.11/24", "dev", "second")(); err != nil {
					return err
				}
				_ = pause(ctx, 2*time.Second) // until its agent has told
				_, err := s.Lbctl(ctx, "vip", "add", "eight", "192.168.7.101/24", "--vrid", "58", "--network", "seven", "--unicast", "--no-wait")
				return err
			},
			end:    on(cluster.Backup, "ip", "address", "add", "192.168.7.11/24", "dev", "second"),
			alarms: []string{"NO_UNICAST_ADDRESS eight"},
			says:   alarmed("NO_UNICAST_ADDRESS", "VIP eight is advertised by unicast and does without lb-backup"),
		},
	})
}

// wasRaised fails the test unless an alarm was raised whose message has the words. It is
// in the event log a moment after it is raised.
func wasRaised(ctx context.Context, t *testing.T, c *cluster.Cluster, reason, words string) {
	t.Helper()
	conn, err := c.Controller.Conn()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := lab.Until(ctx, "the event of its alarm", func(ctx context.Context) error {
		list, err := tandemv1.NewEventServiceClient(conn).ListEvents(ctx, &tandemv1.ListEventsRequest{Parent: cluster.Name, PageSize: 1000})
		if err == nil && !slices.ContainsFunc(list.GetEvents(), func(e *tandemv1.Event) bool {
			return e.GetReason() == "ALARM_RAISED" && strings.HasPrefix(e.GetMessage(), reason+": ") && strings.Contains(e.GetMessage(), words)
		}) {
			err = fmt.Errorf("no alarm %s was raised that says %q", reason, words)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}
