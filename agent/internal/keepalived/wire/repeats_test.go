package wire

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/netnstest"
)

// What is said again and again wakes nobody, and counts all the same from when it came.
// Anything else wakes at once, and after news everything does.
func TestWhatIsSaidAgainWakesNobody(t *testing.T) {
	e, mouth := newOpenEar(t)
	// The kernel begins to take the time of packets a moment after somebody wants it.
	for due := time.Now().Add(10 * time.Second); ; {
		sent := time.Now()
		if err := mouth.Send(advertisement(t, 100), link.Routers4); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond)
		if _, err := e.poll(context.Background(), sent.Add(beat.Every)); err != nil {
			t.Fatal(err)
		}
		if e.table.routers[0].speakers[0].last.Sub(sent) < 5*time.Millisecond {
			break
		} else if time.Now().After(due) {
			t.Fatal("the kernel takes no time of packets")
		}
	}
	// wakes tells whether the ear wakes for an advertisement, and what is heard then.
	wakes := func(priority byte) (woken bool, said string) {
		t.Helper()
		sent := time.Now()
		if err := mouth.Send(advertisement(t, priority), link.Routers4); err != nil {
			t.Fatal(err)
		}
		until := sent.Add(beat.Every)
		now, err := e.poll(context.Background(), until)
		if err != nil {
			t.Fatal(err)
		}
		if late := e.table.routers[0].speakers[0].last.Sub(sent); late < -time.Millisecond || late > beat.Every/2 {
			t.Errorf("an advertisement counts from %v after it was sent", late)
		}
		e.told = time.Time{} // without a calm
		e.publish(now)
		if e.news {
			if err := e.stir(); err != nil {
				t.Fatal(err)
			}
		}
		return now.Before(until), say(e.listener.Heard("web"))
	}
	second := func() {
		t.Helper()
		if err := e.settle(time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	// Each line is an advertisement.
	second()
	for n, step := range []struct {
		priority byte
		wakes    bool
		said     string
		second   bool // is over after it
	}{
		{100, true, "192.168.1.10:100", true},
		{100, true, "192.168.1.10:100", true}, // the second before had news
		{100, false, "192.168.1.10:100", false},
		{100, false, "192.168.1.10:100", true},
		{100, false, "192.168.1.10:100", false},
		{50, true, "192.168.1.10:50", false},
		{100, true, "192.168.1.10:100", true},
		{100, true, "192.168.1.10:100", true},
		{100, false, "192.168.1.10:100", false},
		{0, true, "", false}, // it gives the router up
		{100, true, "192.168.1.10:100", true},
	} {
		woken, said := wakes(step.priority)
		if woken != step.wakes || said != step.said {
			t.Errorf("step %d: woken: %v, %q is told; want %v, %q", n, woken, said, step.wakes, step.said)
		}
		if step.second {
			second()
		}
	}
}

// newOpenEar is one that listens on one end of a cable, on whose other end somebody can
// speak.
func newOpenEar(t *testing.T) (e *ear, mouth *link.Socket) {
	t.Helper()
	netnstest.Enter(t)
	for _, command := range []string{"link add eth0 type veth peer name eth1", "link set eth1 up", "link set eth0 up"} {
		execute(t, "ip", command)
	}
	e = newTestEar(t, hclog.NewNullLogger(), Router{Name: "web", Interface: "eth0", VRID: 51, Interval: interval, Addresses: []netip.Addr{vip}})
	t.Cleanup(e.close)
	e.take()
	if err := e.begin(); err != nil {
		t.Fatal(err)
	}
	for due := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		if err := e.look(); err == nil {
			break
		} else if time.Now().After(due) { // the kernel sees a cable a moment later
			t.Fatal(err)
		}
	}
	if err := e.open(); err != nil {
		t.Fatal(err)
	}
	delete(e.table.own, link.MAC(named(t, "eth1").HardwareAddr)) // here it is the other machine
	mouth, err := link.Open(named(t, "eth1").Index, unix.ETH_P_IP, link.Filter{{Code: unix.BPF_RET | unix.BPF_K}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mouth.Close() })
	return e, mouth
}

// advertisement is one of the virtual router 51 as it comes from the network.
func advertisement(t *testing.T, priority byte) []byte {
	t.Helper()
	p, err := hex.DecodeString("45c0002000010000ff700000c0a8010ae000001231330001000a0000c0a80164")
	if err != nil {
		t.Fatal(err)
	}
	body := p[20:]
	body[2] = priority
	sum := uint32(0)
	for n := 0; n < len(body); n += 2 {
		sum += uint32(binary.BigEndian.Uint16(body[n:]))
	}
	binary.BigEndian.PutUint16(body[6:], ^uint16(sum>>16+sum&0xffff))
	return p
}

func named(t *testing.T, name string) *net.Interface {
	t.Helper()
	on, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return on
}

// What is said counts from when it came, by whatever clock, and no longer before than a
// beat: an agent that had no processor has not missed anybody.
func TestArrival(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct{ before, want time.Duration }{
		"a moment ago":                     {time.Millisecond, time.Millisecond},
		"a beat ago":                       {beat.Every, beat.Every},
		"long ago, or the clock was set":   {time.Hour, beat.Every},
		"later, as the clock was set back": {-time.Hour, 0},
	} {
		if got := now.Sub(arrival(now.Round(0).Add(-test.before), now)); got != test.want {
			t.Errorf("%s: %v before, want %v", name, got, test.want)
		}
	}
}

// Where the kernel lays nothing aside, as an old one, whatever comes wakes, and is heard.
func TestAKernelThatLaysNothingAside(t *testing.T) {
	e, mouth := newOpenEar(t)
	for _, s := range e.sockets { // it takes no second group
		if err := unix.SetsockoptInt(int(s.FD()), unix.SOL_PACKET, unix.PACKET_FANOUT, (unix.PACKET_FANOUT_HASH|unix.PACKET_FANOUT_FLAG_UNIQUEID)<<16); err != nil {
			t.Fatal(err)
		}
	}
	e.news = false
	for range 5 {
		if err := mouth.Send(advertisement(t, 100), link.Routers4); err != nil {
			t.Fatal(err)
		}
		if _, err := e.poll(context.Background(), time.Now().Add(beat.Every)); err != nil {
			t.Fatal(err)
		}
		if err := e.settle(time.Now()); err != nil {
			t.Fatalf("it is deaf: %v", err)
		}
	}
	if len(e.table.routers[0].speakers) != 1 {
		t.Error("nobody is heard")
	}
}

// What was laid aside before there was news is heard with the next look, not when
// something else comes some time.
func TestNothingStaysAside(t *testing.T) {
	e, mouth := newOpenEar(t)
	send := func() {
		t.Helper()
		if err := mouth.Send(advertisement(t, 100), link.Routers4); err != nil {
			t.Fatal(err)
		}
	}
	poll := func() {
		t.Helper()
		if _, err := e.poll(context.Background(), time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
	}
	send()
	poll()
	e.news = false
	if err := e.settle(time.Now()); err != nil {
		t.Fatal(err)
	}
	heard := e.table.routers[0].speakers[0].last
	send()
	if err := e.stir(); err != nil { // by what another socket has received
		t.Fatal(err)
	}
	poll()
	if !e.table.routers[0].speakers[0].last.After(heard) {
		t.Error("an advertisement stays aside")
	}
}
