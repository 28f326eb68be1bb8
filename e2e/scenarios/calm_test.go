package scenarios

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
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

// pausedTogether is how far apart two pairs on one machine move their addresses when it is
// the machine that has paused.
const pausedTogether = 5 * time.Second

// No VIP moves and no alarm is raised in ten minutes in which nothing happens: on an
// idle machine, on a busy one, and with a reload each second. Witnesses are the kernels, and
// the product's own log says the same. A move is excused where an idle pair of keepalived
// beside it has moved its address at about that time: the machine itself was paused, and
// a standby that did not take over then would be wrong. That excuses no alarm, and no move
// at another time.
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
			told := s.watchEvents()
			ours := watchMoves(t, s.Lab, clustertest.Both, lab.VIP.Addr())
			idle := watchMoves(t, beside, idleHosts, idleAddress)
			ctx, cancel := context.WithTimeout(t.Context(), length)
			defer cancel()
			run.do(ctx, s)
			moved, noise := ours(), idle()
			alarms, roles := told()
			for _, alarm := range alarms {
				t.Errorf("an alarm without a reason: %s", alarm)
			}
			if len(moved) == 0 && len(roles) > 0 {
				t.Errorf("the VIP has not moved, and the log tells %q", roles)
			}
			t.Logf("%d changes of the VIP in %s, %d of the idle pair's address", len(moved), length, len(noise))
			alone := unexcused(moved, noise)
			switch {
			case len(alone) > 0:
				t.Errorf("the VIP moved: %v; the idle pair's address: %v", moved, noise)
			case len(moved) > 0:
				t.Skipf("this machine is too noisy to tell: an idle keepalived of real-time priority beside it moved its address (%v); ours: %v", noise, moved)
			}
		})
	}
}

// unexcused are the changes for which the machine is not to blame.
func unexcused(moved, noise []lab.AddressChange) []lab.AddressChange {
	return slices.DeleteFunc(slices.Clone(moved), func(c lab.AddressChange) bool {
		return slices.ContainsFunc(noise, func(n lab.AddressChange) bool { return n.At.Sub(c.At).Abs() < pausedTogether })
	})
}

func TestUnexcused(t *testing.T) {
	start := time.Now()
	at := func(seconds ...int) (changes []lab.AddressChange) {
		for _, s := range seconds {
			changes = append(changes, lab.AddressChange{At: start.Add(time.Duration(s) * time.Second)})
		}
		return changes
	}
	for _, test := range []struct{ moved, noise, want []lab.AddressChange }{
		{at(), at(10), at()},
		{at(10, 11), at(), at(10, 11)},
		{at(10, 11), at(8), at()},
		{at(10, 11), at(13), at()},
		{at(10, 11, 40), at(10), at(40)},
		{at(10), at(5, 15), at(10)},
	} {
		if got := unexcused(test.moved, test.noise); !slices.Equal(got, test.want) {
			t.Errorf("%v beside %v: %v, want %v", test.moved, test.noise, got, test.want)
		}
	}
}

// watchEvents returns what tells the alarms that were raised since, and the roles that a
// VIP has taken on a node.
func (s *site) watchEvents() func() (alarms, roles []string) {
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
	return func() (alarms, roles []string) {
		for _, e := range read()[before:] {
			switch {
			case e.GetReason() == "ALARM_RAISED":
				alarms = append(alarms, e.GetMessage())
			case e.GetReason() == "VIP_MASTER" || e.GetReason() == "VIP_BACKUP" || e.GetReason() == "VIP_FAULT":
				roles = append(roles, e.GetMessage())
			}
		}
		return alarms, roles
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
