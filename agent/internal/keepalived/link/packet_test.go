package link

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	own  = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	vip4 = netip.MustParseAddr("192.168.1.100")
	vip6 = netip.MustParseAddr("fd09::1:2:64")
)

func TestProbes(t *testing.T) {
	want := "0001 0800 06 04 0001 020000000001 00000000 000000000000 c0a80164"
	if got := ARPProbe(own, vip4); !bytes.Equal(got, unhex(t, want)) {
		t.Errorf("ARP: %x", got)
	}
	want = "0001 0800 06 04 0001 020000000001 c0a8010b 000000000000 c0a80164"
	if got := ARPRequest(own, netip.MustParseAddr("192.168.1.11"), vip4); !bytes.Equal(got, unhex(t, want)) {
		t.Errorf("ARP request: %x", got)
	}
	want = "60000000 0018 3a ff 00000000000000000000000000000000 ff0200000000000000000001ff020064" +
		"87 00 7cd1 00000000 fd090000000000000000000100020064"
	if got := Solicitation(vip6); !bytes.Equal(got, unhex(t, want)) {
		t.Errorf("ND: %x", got)
	}
	if group, to := SolicitedNode(vip6); group.String() != "ff02::1:ff02:64" || to.String() != "33:33:ff:02:00:64" {
		t.Errorf("%v, %v", group, to)
	}
}

// Packets as tcpdump shows them.
const (
	arpReply   = "0001 0800 06 04 0002 020000000002 c0a80164 020000000001 00000000"
	arpRequest = "0001 0800 06 04 0001 020000000002 c0a80164 000000000000 c0a80101"
	otherProbe = "0001 0800 06 04 0001 020000000002 00000000 000000000000 c0a80164"
	na         = "60000000 0020 3a ff fe800000000000000000000000000002 ff020000000000000000000000000001" +
		"88 00 0000 20000000 fd090000000000000000000100020064 0201 020000000002"
)

func TestParse(t *testing.T) {
	for _, text := range []string{arpReply, arpRequest} {
		if got, ok := ParseARP(unhex(t, text)); !ok || got != vip4 {
			t.Errorf("%s: %v, %v", text, got, ok)
		}
	}
	if got, ok := ParseARP(unhex(t, otherProbe)); ok {
		t.Errorf("a probe claims %v", got)
	}
	if got, ok := ParseAdvertisement(unhex(t, na)); !ok || got != vip6 {
		t.Errorf("%v, %v", got, ok)
	}
	forwarded := unhex(t, na)
	forwarded[7] = 254
	if got, ok := ParseAdvertisement(forwarded); ok {
		t.Errorf("one from beyond a router claims %v", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{arpReply, arpRequest, otherProbe, na, "4f", "60"} {
		f.Add(unhex(f, text))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		before := bytes.Clone(p)
		if address, ok := ParseARP(p); ok && (!address.Is4() || address.IsUnspecified()) {
			t.Errorf("%x claims %v", p, address)
		}
		if address, ok := ParseAdvertisement(p); ok && !address.Is6() {
			t.Errorf("%x claims %v", p, address)
		}
		if !bytes.Equal(p, before) {
			t.Error("the packet was changed")
		}
	})
}

func TestAnnouncements(t *testing.T) {
	for operation, want := range map[byte]string{
		1: "0001 0800 06 04 0001 020000000001 c0a80164 ffffffffffff c0a80164",
		2: "0001 0800 06 04 0002 020000000001 c0a80164 ffffffffffff c0a80164",
	} {
		got := gratuitous(own, vip4, operation)
		if !bytes.Equal(got, unhex(t, want)) {
			t.Errorf("ARP: %x", got)
		}
		if claimed, ok := ParseARP(got); !ok || claimed != vip4 {
			t.Errorf("it claims %v, %v", claimed, ok)
		}
	}
	// From the address to all nodes: not solicited, and it overrides.
	want := "60000000 0020 3a ff fd090000000000000000000100020064 ff020000000000000000000000000001" +
		"88 00 59bd 20000000 fd090000000000000000000100020064 0201 020000000001"
	got := advertisement(own, vip6)
	if !bytes.Equal(got, unhex(t, want)) {
		t.Errorf("ND: %x", got)
	}
	if claimed, ok := ParseAdvertisement(got); !ok || claimed != vip6 {
		t.Errorf("it claims %v, %v", claimed, ok)
	}
}
