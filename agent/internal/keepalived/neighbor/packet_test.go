package neighbor

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
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
	if got := arpProbe(own, vip4); !bytes.Equal(got, unhex(t, want)) {
		t.Errorf("ARP: %x", got)
	}
	want = "60000000 0018 3a ff 00000000000000000000000000000000 ff0200000000000000000001ff020064" +
		"87 00 7cd1 00000000 fd090000000000000000000100020064"
	if got := solicitation(vip6); !bytes.Equal(got, unhex(t, want)) {
		t.Errorf("ND: %x", got)
	}
	if group, to := solicitedNode(vip6); group.String() != "ff02::1:ff02:64" || to.String() != "33:33:ff:02:00:64" {
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
	vrrp3  = "45c0 0020 0001 0000 ff 70 0000 c0a8010a e0000012 31 33 e6 01 000a 0000 c0a80164"
	vrrp2  = "46c0 002c 0001 0000 ff 70 0000 c0a8010a e0000012 01010101 21 33 e6 01 01 01 0000 c0a80164 0000000000000000"
	vrrp36 = "60000000 0018 70 ff fe800000000000000000000000000002 ff020000000000000000000000000012 31 34 e6 01 000a 0000 fd090000000000000000000100020064"
)

func TestParse(t *testing.T) {
	for _, text := range []string{arpReply, arpRequest} {
		if got, ok := parseARP(unhex(t, text)); !ok || got != vip4 {
			t.Errorf("%s: %v, %v", text, got, ok)
		}
	}
	if got, ok := parseARP(unhex(t, otherProbe)); ok {
		t.Errorf("a probe claims %v", got)
	}
	if got, ok := parseAdvertisement(unhex(t, na)); !ok || got != vip6 {
		t.Errorf("%v, %v", got, ok)
	}
	forwarded := unhex(t, na)
	forwarded[7] = 254
	if got, ok := parseAdvertisement(forwarded); ok {
		t.Errorf("one from beyond a router claims %v", got)
	}
	for text, want := range map[string]uint8{vrrp3: 51, vrrp2: 51, vrrp36: 52} {
		if got, ok := parseVRRP(unhex(t, text)); !ok || got != want {
			t.Errorf("%s: %d, %v", text, got, ok)
		}
	}
}

// Whoever has the address is unknown, but for the one that advertises the
// virtual router, and this machine.
func TestUnknown(t *testing.T) {
	q := []Question{
		{Interface: "eth0", Address: vip4, VRID: 51, Advert: 100 * time.Millisecond},
		{Interface: "eth0", Address: vip6, VRID: 52, Advert: 100 * time.Millisecond},
	}
	at := time.Unix(1000, 0)
	for name, test := range map[string]struct {
		packets  []string // "arp " or "ip ", MAC's last digit, packet
		want     string
		patience time.Duration
	}{
		"nobody":                      {},
		"a host":                      {[]string{"arp 2 " + arpReply}, "02:00:00:00:00:02", 350 * time.Millisecond},
		"a host that asks":            {[]string{"arp 2 " + arpRequest}, "02:00:00:00:00:02", 350 * time.Millisecond},
		"the peer":                    {[]string{"arp 2 " + arpReply, "ip 2 " + vrrp3}, "", 0},
		"the peer, advert first":      {[]string{"ip 2 " + vrrp2, "arp 2 " + arpReply}, "", 0},
		"a host, IPv6":                {[]string{"ip 2 " + na}, "02:00:00:00:00:02", 2350 * time.Millisecond},
		"the peer, IPv6":              {[]string{"ip 2 " + na, "ip 2 " + vrrp36}, "", 0},
		"another virtual router":      {[]string{"arp 2 " + arpReply, "ip 2 " + strings.Replace(vrrp3, "31 33", "31 34", 1)}, "02:00:00:00:00:02", 350 * time.Millisecond},
		"the peer and a host":         {[]string{"arp 2 " + arpReply, "arp 3 " + arpReply, "ip 2 " + vrrp3}, "02:00:00:00:00:03", 350 * time.Millisecond},
		"another node that brings up": {[]string{"arp 2 " + otherProbe}, "", 0},
		"this machine":                {[]string{"arp 1 " + arpReply}, "", 0},
		"what is no ARP":              {[]string{"arp 2 " + vrrp3, "ip 2 " + arpReply}, "", 0},
	} {
		h := newHeard(map[mac]bool{mac(own): true})
		for _, p := range test.packets {
			kind, rest, _ := strings.Cut(p, " ")
			h.packet(unhex(t, rest[2:]), mac{2, 0, 0, 0, 0, rest[0] - '0'}, kind == "arp", at)
		}
		got := ""
		for _, o := range h.unknown(q) {
			got += o.MAC.String()
		}
		if got != test.want {
			t.Errorf("%s: unknown %q, want %q", name, got, test.want)
		}
		if until := h.patience(q); test.patience == 0 != until.IsZero() || test.patience != 0 && until.Sub(at) != test.patience {
			t.Errorf("%s: patience until %v", name, until)
		}
	}
}

func FuzzPacket(f *testing.F) {
	for _, text := range []string{arpReply, arpRequest, otherProbe, na, vrrp3, vrrp2, vrrp36, "4f", "60"} {
		f.Add(unhex(f, text))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		before := bytes.Clone(p)
		h := newHeard(nil)
		h.packet(p, mac{2}, true, time.Time{})
		h.packet(p, mac{2}, false, time.Time{})
		if vrid, ok := parseVRRP(p); ok && (vrid == 0 || len(p) < 28) {
			t.Errorf("%x is an advertisement of %d", p, vrid)
		}
		if address, ok := parseARP(p); ok && (!address.Is4() || address.IsUnspecified()) {
			t.Errorf("%x claims %v", p, address)
		}
		if !bytes.Equal(p, before) {
			t.Error("the packet was changed")
		}
	})
}
