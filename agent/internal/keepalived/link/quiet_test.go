package link

import (
	"bytes"
	"net"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// advert4 is a datagram by IPv4 to VRRP's routers, as a kernel sends it: with a number of
// its own.
func advert4(number uint16, said ...byte) []byte {
	p := []byte{0x45, 0xc0, 0, byte(20 + len(said)), byte(number >> 8), byte(number), 0, 0, 255, 112, byte(number), 7, 192, 168, 1, 11, 224, 0, 0, 18}
	return append(p, said...)
}

// Packets that are alike and hushed wake nobody, are handed over all the same, and in the
// order in which they came with what else has come. All others wake.
func TestHushedPacketsWakeNobody(t *testing.T) {
	here, there := cable(t)
	const protocol = 112
	said := []byte{0x31, 51, 100, 1, 0, 10, 0x5c, 0x11, 192, 168, 1} // no multiple of four
	ears, err := Open(here.Index, unix.ETH_P_IP, Only(Protocol4, protocol), Routers4)
	if err != nil {
		t.Fatal(err)
	}
	defer ears.Close()
	mouth, err := Open(there.Index, unix.ETH_P_IP, Filter{{Code: unix.BPF_RET | unix.BPF_K}})
	if err != nil {
		t.Fatal(err)
	}
	defer mouth.Close()
	wakes := func() bool {
		t.Helper()
		n, err := unix.Poll([]unix.PollFd{{Fd: ears.FD(), Events: unix.POLLIN}}, 0) // a cable takes no time
		if err != nil {
			t.Fatal(err)
		}
		return n > 0
	}
	take := func(receive func(int, func([]byte, MAC, time.Time)) (int, error)) (all [][]byte) {
		t.Helper()
		if _, err := receive(10, func(p []byte, _ MAC, _ time.Time) { all = append(all, bytes.Clone(p)) }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	heard := func() [][]byte { t.Helper(); return take(ears.Receive) }
	send := func(packets ...[]byte) {
		t.Helper()
		for _, p := range packets {
			if err := mouth.Send(p, Routers4); err != nil {
				t.Fatal(err)
			}
		}
	}
	kind, ok := AppendKind(nil, advert4(1, said...), MAC(there.HardwareAddr))
	if !ok {
		t.Fatal("it has no kind")
	}
	if err := ears.Hush([]Kind{Kind(kind[:len(kind)-1]), Kind(kind)}); err != nil {
		t.Fatal(err)
	}
	hushed := [][]byte{advert4(1, said...), advert4(2, said...), advert4(0xffff, said...)}
	if send(hushed...); wakes() {
		t.Error("hushed packets wake")
	}
	if got := heard(); !slices.EqualFunc(got, hushed, bytes.Equal) {
		t.Errorf("heard %x, want %x", got, hushed)
	}
	other := advert4(1, said...)
	other[8] = 254
	// Whoever knows that nothing woke him need not look for what does.
	send(hushed[0], other)
	if got := take(ears.ReceiveAside); len(got) != 1 || !bytes.Equal(got[0], hushed[0]) {
		t.Errorf("aside is %x, want %x", got, hushed[0])
	}
	if got := heard(); len(got) != 1 || !bytes.Equal(got[0], other) {
		t.Errorf("heard %x after that, want %x", got, other)
	}
	for name, p := range map[string][]byte{
		"another priority":     advert4(1, append([]byte{0x31, 51, 0}, said[3:]...)...),
		"another last byte":    advert4(1, append(slices.Clone(said[:10]), 2)...),
		"a longer one":         advert4(1, append(slices.Clone(said), 0)...),
		"a shorter one":        advert4(1, said[:10]...),
		"another time to live": other,
	} {
		if send(hushed[0], p, hushed[1]); !wakes() {
			t.Errorf("%s: wakes nobody", name)
		}
		if got, want := heard(), [][]byte{hushed[0], p, hushed[1]}; !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%s: heard %x, want %x", name, got, want)
		}
	}
	if send(udp4()); wakes() || len(heard()) > 0 {
		t.Error("another protocol is heard")
	}
	// Those of somebody else are not alike.
	rename(t, there, "02:00:00:00:00:77")
	if send(hushed[0]); !wakes() || len(heard()) != 1 {
		t.Error("another machine's wakes nobody")
	}
	rename(t, there, there.HardwareAddr.String())
	if err := ears.Hush(nil); err != nil {
		t.Fatal(err)
	}
	if send(hushed[0]); !wakes() || len(heard()) != 1 {
		t.Error("what is hushed no longer wakes nobody")
	}
}

// As many kinds as there may be, each as long as it may be, make a program that the kernel
// takes, for each protocol.
func TestManyKindsAreHushed(t *testing.T) {
	here, _ := cable(t)
	for _, ethertype := range []uint16{unix.ETH_P_ARP, unix.ETH_P_IP, unix.ETH_P_IPV6} {
		s, err := Open(here.Index, ethertype, nil)
		if err != nil {
			t.Fatal(err)
		}
		var kinds []Kind
		for n := range maxKinds + 1 {
			p := bytes.Repeat([]byte{byte(n)}, longestKind-n)
			p[0] = 0x45
			kind, ok := AppendKind(nil, p, MAC{byte(n)})
			if !ok {
				t.Fatalf("a packet of %d bytes has no kind", len(p))
			}
			kinds = append(kinds, Kind(kind))
		}
		if err := s.Hush(kinds); err != nil {
			t.Errorf("protocol %x: %v", ethertype, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, ok := AppendKind(nil, make([]byte, longestKind+1), MAC{}); ok {
		t.Error("a long packet has a kind")
	}
}

func udp4() []byte {
	p := advert4(1, make([]byte, 8)...)
	p[9] = unix.IPPROTO_UDP
	return p
}

// rename gives an interface another link-layer address.
func rename(t *testing.T, on *net.Interface, address string) {
	t.Helper()
	if said, err := exec.Command("ip", "link", "set", on.Name, "address", address).CombinedOutput(); err != nil {
		t.Fatalf("ip: %v: %s", err, said)
	}
}
