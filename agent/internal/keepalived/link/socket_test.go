package link

import (
	"bytes"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/netnstest"
)

// A frame of a VLAN that this machine does not have is no word of its own network,
// whoever it is for.
func TestOtherVLANsAreNotHeard(t *testing.T) {
	here, there := cable(t)
	ears, err := Open(here.Index, unix.ETH_P_ARP, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ears.Close()
	mouth, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(mouth)
	tagged := []byte{0x81, 0x00, 0, 77}
	for _, to := range []net.HardwareAddr{Everyone, here.HardwareAddr} {
		for _, tag := range [][]byte{tagged, nil} { // the one that counts is the last
			frame := append(append(append([]byte{}, to...), there.HardwareAddr...), tag...)
			frame = append(append(frame, 0x08, 0x06), unhex(t, arpReply)...)
			if tag != nil {
				frame[len(frame)-1] = 77
			}
			if err := unix.Sendto(mouth, frame, 0, &unix.SockaddrLinklayer{Ifindex: there.Index}); err != nil {
				t.Fatal(err)
			}
		}
	}
	heard := 0
	for heard < 2 {
		fds := []unix.PollFd{{Fd: ears.FD(), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 5000); err != nil || n == 0 {
			t.Fatalf("%d frames are heard, want 2: %v", heard, err)
		}
		if _, err := ears.Receive(10, func(packet []byte, from MAC, _ time.Time) {
			if heard++; from != MAC(there.HardwareAddr) || packet[len(packet)-1] == 77 {
				t.Errorf("heard %x from %s", packet, from)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// cable puts the test's thread into a network namespace with a cable from here to there.
func cable(t *testing.T) (here, there *net.Interface) {
	t.Helper()
	netnstest.Enter(t)
	for _, command := range []string{"link add eth0 type veth peer name eth1", "link set eth0 up", "link set eth1 up"} {
		if said, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", command, err, said)
		}
	}
	return named(t, "eth0"), named(t, "eth1")
}

// A packet's time is when the kernel received it, however late this process looks. (The
// kernel begins with that a moment after it was asked to.)
func TestPacketsHaveTheKernelsTime(t *testing.T) {
	here, there := cable(t)
	ears, err := Open(here.Index, unix.ETH_P_ARP, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ears.Close()
	mouth, err := Open(there.Index, unix.ETH_P_ARP, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer mouth.Close()
	for due, stamped := time.Now().Add(5*time.Second), false; !stamped; {
		began := time.Now()
		if err := mouth.Send(unhex(t, arpReply), Everyone); err != nil {
			t.Fatal(err)
		}
		fds := []unix.PollFd{{Fd: ears.FD(), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 5000); err != nil || n == 0 {
			t.Fatalf("nothing is heard: %v", err)
		}
		looked := time.Now()
		if _, err := ears.Receive(10, func(_ []byte, _ MAC, at time.Time) { stamped = at.After(began) && at.Before(looked) }); err != nil {
			t.Fatal(err)
		}
		if looked.After(due) {
			t.Fatal("no packet has the kernel's time")
		}
	}
}

// Everybody is told, by both ARP packets, since some hosts take only one of them, and by
// a neighbour advertisement.
func TestAnnounceTellsEverybody(t *testing.T) {
	here, there := cable(t)
	for ethertype, want := range map[uint16][][]byte{
		unix.ETH_P_ARP:  {gratuitous(there.HardwareAddr, vip4, 1), gratuitous(there.HardwareAddr, vip4, 2)},
		unix.ETH_P_IPV6: {advertisement(there.HardwareAddr, vip6)},
	} {
		ears, err := Open(here.Index, ethertype, nil, AllNodes)
		if err != nil {
			t.Fatal(err)
		}
		if err := Announce(there, []netip.Addr{vip4, vip6}); err != nil {
			t.Fatal(err)
		}
		for len(want) > 0 {
			fds := []unix.PollFd{{Fd: ears.FD(), Events: unix.POLLIN}}
			if n, err := unix.Poll(fds, 5000); err != nil || n == 0 {
				t.Fatalf("not heard: %x, %v", want, err)
			}
			// The kernel says something of its own by IPv6.
			if _, err := ears.Receive(10, func(packet []byte, _ MAC, _ time.Time) {
				want = slices.DeleteFunc(want, func(w []byte) bool { return bytes.Equal(w, packet) })
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := ears.Close(); err != nil {
			t.Error(err)
		}
	}
}

func named(t *testing.T, name string) *net.Interface {
	t.Helper()
	on, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return on
}
