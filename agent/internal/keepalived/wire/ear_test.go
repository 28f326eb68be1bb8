package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/netnstest"
)

func newTestEar(t *testing.T, log hclog.Logger, routers ...Router) *ear {
	t.Helper()
	l := New(log)
	l.Watch(routers)
	e, err := l.newEar(routers[0].Interface)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(e.wake) })
	e.watch(routers)
	return e
}

// Whoever floods the network with news does not have the agent tell all of it: what is
// new after a calm is told at once, and then what is known in the end.
func TestAFloodOfNewsIsToldNowAndThen(t *testing.T) {
	e := newTestEar(t, hclog.NewNullLogger(), Router{Name: "web", Interface: "eth0", VRID: 51, Interval: interval, Addresses: []netip.Addr{vip}})
	e.on = &net.Interface{HardwareAddr: mine[:]}
	e.take()
	told := func() bool {
		select {
		case <-e.listener.Changed():
			return true
		default:
			return false
		}
	}
	now, count := start.Add(time.Minute), 0
	e.table.advert(advert(11, 1), peer, now)
	if due := e.publish(now); !due.IsZero() || !told() {
		t.Error("the first news is not told at once")
	}
	const flood = 2000
	for n := range flood {
		now = now.Add(time.Second / flood)
		e.table.advert(advert(11, byte(1+n%200)), peer, now)
		e.publish(now)
		if told() {
			count++
		}
	}
	if most := int(time.Second / calm); count == 0 || count > most {
		t.Errorf("news is told %d times in a second, want 1 to %d", count, most)
	}
	e.table.advert(advert(11, 255), peer, now)
	if due := e.publish(now); due.IsZero() || due.After(now.Add(calm)) {
		t.Errorf("the last news is due at %v, want within %v", due, calm)
	} else if e.publish(due); e.listener.Heard("web").Speakers[0].Priority != 255 {
		t.Errorf("the last news is not told: %+v", e.listener.Heard("web"))
	}
}

// What was heard of a virtual router says nothing of it where it is now, even before the
// ears know that it has moved: the other node's advertisements on the network before
// would be those of a stranger on this one.
func TestWhatWasHeardElsewhereIsForgotten(t *testing.T) {
	was := Router{Name: "web", Interface: "eth0", VRID: 51, Interval: interval, Addresses: []netip.Addr{vip}}
	for _, test := range []struct {
		name  string
		watch func(l *Listener)
		stays bool // the interface's own address
	}{
		{"another interface", func(l *Listener) { r := was; r.Interface = "eth2"; l.Watch([]Router{r}) }, false},
		{"another virtual router", func(l *Listener) { r := was; r.VRID = 52; l.Watch([]Router{r}) }, false},
		{"another family", func(l *Listener) {
			r := was
			r.Addresses = []netip.Addr{netip.MustParseAddr("2001:db8::100")}
			l.Watch([]Router{r})
		}, false},
		{"none for a while", func(l *Listener) { l.Watch(nil); r := was; r.Interface = "eth2"; l.Watch([]Router{r}) }, false},
		{"another interval", func(l *Listener) { r := was; r.Interval *= 2; l.Watch([]Router{r}) }, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newTestEar(t, hclog.NewNullLogger(), was)
			e.on = &net.Interface{HardwareAddr: mine[:]}
			e.take()
			now := start.Add(time.Minute)
			e.table.advert(advert(11, 230), peer, now)
			e.publish(now)
			if h := e.listener.Heard("web"); len(h.Speakers) != 1 || !h.Listens {
				t.Fatalf("heard at first: %+v", h)
			}
			test.watch(e.listener)
			forgotten := func(when string) {
				t.Helper()
				if h := e.listener.Heard("web"); len(h.Speakers) != 0 || h.Listens || (h.MAC == mine) != test.stays {
					t.Errorf("heard %s: %+v", when, h)
				}
			}
			forgotten("after the change")
			e.publish(now.Add(calm))
			forgotten("from an ear that knows of no change yet")
		})
	}
}

// An interface that works by turns does not fill the log.
func TestDeafnessIsLoggedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		e := newTestEar(t, hclog.New(&hclog.LoggerOptions{Output: &out}), Router{Name: "web", Interface: "eth0", VRID: 51, Interval: interval, Addresses: []netip.Addr{vip}})
		for begin := time.Now(); time.Since(begin) < 3*quiet; <-time.After(again) {
			e.deaf(errDown)
			e.hears()
		}
		if warned, over := strings.Count(out.String(), "[WARN]"), strings.Count(out.String(), "[INFO]"); warned != 3 || over != 3 {
			t.Errorf("deafness is told %d times, its end %d times, want 3 times each", warned, over)
		}
		e.deaf(errDown) // for good
		<-time.After(quiet)
		if e.deaf(errDown); strings.Count(out.String(), "[WARN]") < 4 {
			t.Error("deafness that lasts is not told")
		}
	})
}

// Other sockets for other addresses are no reason to wait for a peer anew; not to have
// listened is.
func TestListensOnWithOtherSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEar(t, hclog.NewNullLogger(), Router{Name: "web", Interface: "eth0", VRID: 51, Interval: interval, Addresses: []netip.Addr{vip}})
		listens := func() bool { return e.table.routers[0].heard(time.Now()).Listens }
		e.take()
		e.hears()
		<-time.After(e.table.routers[0].patience())
		if e.hears(); !listens() {
			t.Error("it listens no longer with other sockets")
		}
		e.deaf(errDown)
		if e.hears(); listens() {
			t.Error("it claims to have listened")
		}
	})
}

// A full transmit queue loses this node's questions, and nothing else.
func TestAFullQueueIsNotDeafness(t *testing.T) {
	netnstest.Enter(t)
	for _, command := range []string{
		"link add eth0 type veth peer name eth1",
		"link set eth1 up",
		"address add 192.168.1.10/24 dev eth0",
		"link set eth0 up",
		"route add default via 192.168.1.1",
	} {
		execute(t, "ip", command)
	}
	execute(t, "tc", "qdisc replace dev eth0 root bfifo limit 1")
	six := netip.MustParseAddr("fd09::100")
	e := newTestEar(t, hclog.NewNullLogger(),
		Router{Name: "web", Interface: "eth0", VRID: 51, Interval: interval, Addresses: []netip.Addr{vip}, Holds: true},
		Router{Name: "web6", Interface: "eth0", VRID: 51, Interval: interval, Addresses: []netip.Addr{six}, Holds: true})
	defer e.close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go func() {
		for ctx.Err() == nil && !e.listener.Heard("web").Listens {
			select {
			case <-e.listener.Changed():
			case <-ctx.Done():
			}
		}
		cancel()
	}()
	if err := listens(ctx, e); err != nil || !e.listener.Heard("web").Listens {
		t.Errorf("it does not listen: %v", err)
	}
	if sent := execute(t, "tc", "-s qdisc show dev eth0"); strings.Contains(sent, "dropped 0,") {
		t.Errorf("the queue is not full: %s", sent)
	}
}

// What becomes of the interface is seen without being asked for: here, a gateway.
func TestAChangeOfTheInterfaceIsSeen(t *testing.T) {
	netnstest.Enter(t)
	for _, command := range []string{
		"link add eth0 type veth peer name eth1", "link set eth1 up",
		"address add 192.168.1.10/24 dev eth0", "link set eth0 up",
	} {
		execute(t, "ip", command)
	}
	e := newTestEar(t, hclog.NewNullLogger(), Router{Name: "web", Interface: "eth0", VRID: 51, Interval: interval, Addresses: []netip.Addr{vip}})
	defer e.close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	here, changed := unix.Gettid(), make(chan error, 1)
	await := func(seen func(Heard) bool) {
		for ctx.Err() == nil && !seen(e.listener.Heard("web")) {
			select {
			case <-e.listener.Changed():
			case <-ctx.Done():
			}
		}
	}
	go func() {
		defer cancel()
		await(func(h Heard) bool { return h.Listens })
		changed <- changeBeside(here, "route", "add", "default", "via", "192.168.1.1")
		await(func(h Heard) bool { return h.Gateway == GatewaySilent })
	}()
	err := listens(ctx, e)
	if err := errors.Join(err, <-changed); err != nil || e.listener.Heard("web").Gateway != GatewaySilent {
		t.Errorf("the gateway is not seen: %v, %+v", err, e.listener.Heard("web"))
	}
}

// listens has an ear listen until the end, as run does, on this thread.
func listens(ctx context.Context, e *ear) (err error) {
	for ctx.Err() == nil {
		err = e.listen(ctx)
		e.close()
		switch {
		case errors.Is(err, errDown): // the kernel sees a cable a moment later
			<-time.After(again)
		case err != nil:
			return err
		}
	}
	return err
}

// changeBeside runs ip where another thread is.
func changeBeside(thread int, args ...string) error {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	in, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", thread))
	if err != nil {
		return err
	}
	defer in.Close()
	if err := unix.Setns(int(in.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	said, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("ip %v: %w: %s", args, err, said)
	}
	return err
}

func execute(t *testing.T, name, args string) string {
	t.Helper()
	said, err := exec.Command(name, strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, args, err, said)
	}
	return string(said)
}

// What an ear at rest does at a beat beside what it asks the kernel.
func BenchmarkPublish(b *testing.B) {
	e := &ear{listener: New(hclog.NewNullLogger()), on: &net.Interface{HardwareAddr: mine[:]}, routers: []Router{
		{Name: "web", Interface: "eth0", VRID: 51, Interval: interval, Addresses: []netip.Addr{vip}},
	}}
	e.listener.Watch(e.routers)
	e.take()
	now := start.Add(time.Minute)
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(interval)
		e.table.advert(advert(11, 100), peer, now)
		e.due(now, now.Add(every))
	}
}
