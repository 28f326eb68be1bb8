package scenarios

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// busyLoops is how many processes compute without end on a busy machine.
const busyLoops = 32

// No VIP moves and no alarm is raised in ten minutes in which nothing happens: on an
// idle machine, on a busy one, and with a reload each second. Witnesses are the kernels. An
// idle pair of keepalived beside it must be calm as well, else the machine itself
// was paused, which excuses a move and no alarm.
func TestRandomCalm(t *testing.T) {
	length := runTime(t)
	s := newSite(t)
	beside := startIdlePair(t)
	for _, run := range []struct {
		name string
		do   func(context.Context, *site)
	}{
		{"idle", func(ctx context.Context, _ *site) { <-ctx.Done() }},
		{"busy", beBusy},
		{"reload each second", reloadEachSecond},
	} {
		t.Run(run.name, func(t *testing.T) {
			s := s.in(t)
			s.healthy(labtest.Deadline(t, repair))
			alarms := s.watchAlarms()
			ours := watchMoves(t, s.Lab, clustertest.Both, lab.VIP.Addr())
			idle := watchMoves(t, beside, idleHosts, idleAddress)
			ctx, cancel := context.WithTimeout(t.Context(), length)
			defer cancel()
			run.do(ctx, s)
			moved, noise := ours(), idle()
			for _, alarm := range alarms() {
				t.Errorf("an alarm without a reason: %s", alarm)
			}
			switch {
			case len(noise) > 0: // what failed has failed
				t.Skipf("this machine is too noisy to tell: an idle keepalived of real-time priority beside it moved its address (%v); ours: %v", noise, moved)
			case len(moved) > 0:
				t.Errorf("the VIP moved: %v", moved)
			}
			t.Logf("%d changes of the VIP in %s", len(moved), length)
		})
	}
}

// watchAlarms returns what tells the alarms that were raised since.
func (s *site) watchAlarms() func() []string {
	s.t.Helper()
	read := func() []*tandemv1.Event {
		s.t.Helper()
		events, err := s.allEvents(labtest.Deadline(s.t, time.Minute))
		if err != nil {
			s.t.Fatal(err)
		}
		return events
	}
	before := len(read())
	return func() (alarms []string) {
		for _, e := range read()[before:] {
			if e.GetReason() == "ALARM_RAISED" {
				alarms = append(alarms, e.GetMessage())
			}
		}
		return alarms
	}
}

// watchMoves watches an address on hosts of a lab and returns what ends that and
// returns its changes.
func watchMoves(t *testing.T, l *lab.Lab, hosts []string, address netip.Addr) func() []lab.AddressChange {
	t.Helper()
	var on []*lab.Host
	for _, name := range hosts {
		on = append(on, l.Host(name))
	}
	watch, err := lab.WatchAddresses(t.Context(), on, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = watch.Close() })
	return func() []lab.AddressChange {
		t.Helper()
		changes, err := watch.Changes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(changes) == 0 || changes[0].Host != hosts[0] {
			t.Fatalf("changes of %s: %v; want %s to have it at the start", address, changes, hosts[0])
		}
		return changes[1:] // the first is how it was at the start
	}
}

// beBusy computes in every host of the lab's nodes until the context ends. The
// loops end by themselves, too, a minute later.
func beBusy(ctx context.Context, s *site) {
	s.t.Helper()
	deadline, _ := ctx.Deadline()
	seconds := strconv.Itoa(60 + int(time.Until(deadline).Seconds()))
	var loops sync.WaitGroup
	for i := range busyLoops {
		host := s.Lab.Host(clustertest.Both[i%2])
		loops.Go(func() {
			err := host.Command(ctx, "timeout", seconds, "bash", "-c", "while :; do :; done").Run()
			if ctx.Err() == nil {
				s.t.Errorf("a busy loop ended: %v", err)
			}
		})
	}
	loops.Wait()
}

// reloadEachSecond changes what HAProxy is reloaded for on both nodes, and each
// tenth time what keepalived is.
func reloadEachSecond(ctx context.Context, s *site) {
	s.t.Helper()
	bounded := labtest.Deadline(s.t, time.Hour) // a change under way is finished
	before := s.reloads(bounded)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	changes := 0
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Logf("%d changes, %d reloads of HAProxy", changes, s.reloads(bounded)-before)
			return
		}
		changes++
		s.inEffect(bounded, s.change("a change with a reload", s.restructuring(bounded, changes)))
	}
}

// idleHosts are the hosts of the idle pair.
var idleHosts = []string{"idle1", "idle2"}

var idleAddress = netip.MustParseAddr("192.168.1.100")

// startIdlePair starts a pair of keepalived alone, of real-time priority and with
// the product's interval, written by hand. It ends with the test.
func startIdlePair(t *testing.T) *lab.Lab {
	t.Helper()
	var spec lab.Spec
	for i, name := range idleHosts {
		spec.Hosts = append(spec.Hosts, lab.HostSpec{Name: name, Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 1, byte(10 + i)}), 24)})
	}
	l := labtest.Start(t, spec)
	ctx := labtest.Deadline(t, time.Minute)
	for i, name := range idleHosts {
		h := l.Host(name)
		file := filepath.Join(h.Dir(), "keepalived.conf")
		if err := os.WriteFile(file, fmt.Appendf(nil, idleConfig, 230-10*i, idleAddress), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Start(ctx, lab.ProcessSpec{
			Name: "keepalived",
			Args: []string{"keepalived", "--dont-fork", "--log-console", "--use-file", file},
			Env:  []string{"TMPDIR=/run"}, // the hosts share /tmp, where it would dump its state
		}); err != nil {
			t.Fatal(err)
		}
		// The first of them takes the address before the second can.
		if err := lab.Until(ctx, "the idle pair's address on "+idleHosts[0], func(ctx context.Context) error {
			holders, err := l.Holders(ctx, idleAddress)
			if err == nil && (len(holders) != 1 || holders[0] != idleHosts[0]) {
				err = fmt.Errorf("held by %v", holders)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// idleConfig takes the priority and the address.
const idleConfig = `
global_defs {
    vrrp_version 3
    vrrp_rt_priority 50
    vrrp_no_swap
    vrrp_rlimit_rttime 100000
}
vrrp_instance idle {
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority %d
    advert_int 0.1
    virtual_ipaddress {
        %s/24
    }
}
`
