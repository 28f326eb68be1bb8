package neighbor

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
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

// Packets as tcpdump shows them.
const (
	arpReply   = "0001 0800 06 04 0002 020000000002 c0a80164 020000000001 00000000"
	arpRequest = "0001 0800 06 04 0001 020000000002 c0a80164 000000000000 c0a80101"
	otherProbe = "0001 0800 06 04 0001 020000000002 00000000 000000000000 c0a80164"
	na         = "60000000 0020 3a ff fe800000000000000000000000000002 ff020000000000000000000000000001" +
		"88 00 0000 20000000 fd090000000000000000000100020064 0201 020000000002"
	vrrp3  = "45c0 0020 0001 0000 ff 70 0000 c0a8010a e0000012 31 33 e6 01 000a 8472 c0a80164"
	vrrp2  = "46c0 002c 0001 0000 ff 70 0000 c0a8010a e0000012 01010101 21 33 e6 01 01 01 35bd c0a80164 0000000000000000"
	vrrp36 = "60000000 0018 70 ff fe800000000000000000000000000002 ff020000000000000000000000000012 31 34 e6 01 000a ed2e fd090000000000000000000100020064"
)

// Where the virtual router is advertised elsewhere, who has a node's own address is no
// unknown.
func TestNodesAreKnownByTheirAddresses(t *testing.T) {
	q := []Question{{Interface: "eth0", Address: vip4, VRID: 51, Advert: 100 * time.Millisecond, Nodes: []netip.Addr{netip.MustParseAddr("192.168.1.11")}}}
	nodeReply := strings.Replace(arpReply, "c0a80164", "c0a8010b", 1)
	for name, test := range map[string]struct {
		packets []string // MAC's last digit, packet
		want    int
	}{
		"a host beside a node":        {[]string{"2 " + arpReply, "3 " + nodeReply}, 1},
		"a node":                      {[]string{"2 " + arpReply, "2 " + nodeReply}, 0},
		"a node, the other way round": {[]string{"2 " + nodeReply, "2 " + arpReply}, 0},
	} {
		h := newHeard(nil)
		for _, p := range test.packets {
			h.packet(unhex(t, p[2:]), link.MAC{2, 0, 0, 0, 0, p[0] - '0'}, true, time.Unix(1000, 0))
		}
		if got := len(h.unknown(q)); got != test.want || h.patience(q).IsZero() != (test.want == 0) {
			t.Errorf("%s: %d unknown owners, patience until %v", name, got, h.patience(q))
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
		packets  []string // "arp " or "ip ", MAC's last digit or v for the virtual one, packet
		want     string
		patience time.Duration
	}{
		"nobody":                       {},
		"a host":                       {[]string{"arp 2 " + arpReply}, "02:00:00:00:00:02", 350 * time.Millisecond},
		"a host that asks":             {[]string{"arp 2 " + arpRequest}, "02:00:00:00:00:02", 350 * time.Millisecond},
		"the peer":                     {[]string{"arp 2 " + arpReply, "ip 2 " + vrrp3}, "", 0},
		"the peer, advert first":       {[]string{"ip 2 " + vrrp2, "arp 2 " + arpReply}, "", 0},
		"a host, IPv6":                 {[]string{"ip 2 " + na}, "02:00:00:00:00:02", 2350 * time.Millisecond},
		"the peer, IPv6":               {[]string{"ip 2 " + na, "ip 2 " + vrrp36}, "", 0},
		"another virtual router":       {[]string{"arp 2 " + arpReply, "ip 2 " + strings.Replace(vrrp3, "31 33 e6 01 000a 8472", "31 34 e6 01 000a 8471", 1)}, "02:00:00:00:00:02", 350 * time.Millisecond},
		"the peer's other interface":   {[]string{"ip 3 " + vrrp3, "arp 2 " + arpReply, "arp 2 " + strings.Replace(arpReply, "c0a80164", "c0a8010a", 1)}, "", 0},
		"that of another router's":     {[]string{"ip 3 " + strings.Replace(vrrp3, "31 33 e6 01 000a 8472", "31 34 e6 01 000a 8471", 1), "arp 2 " + arpReply, "arp 2 " + strings.Replace(arpReply, "c0a80164", "c0a8010a", 1)}, "02:00:00:00:00:02", 350 * time.Millisecond},
		"the peer and a host":          {[]string{"arp 2 " + arpReply, "arp 3 " + arpReply, "ip 2 " + vrrp3}, "02:00:00:00:00:03", 350 * time.Millisecond},
		"another node that brings up":  {[]string{"arp 2 " + otherProbe}, "", 0},
		"the peer, by its virtual MAC": {[]string{"arp v " + arpReply, "ip 2 " + vrrp3}, "", 0},
		"a virtual MAC that nobody advertises": {[]string{"arp v " + arpReply, "ip 2 " + strings.Replace(vrrp3, "31 33 e6 01 000a 8472", "31 34 e6 01 000a 8471", 1)},
			"00:00:5e:00:01:33", 350 * time.Millisecond},
		"this machine":   {[]string{"arp 1 " + arpReply}, "", 0},
		"what is no ARP": {[]string{"arp 2 " + vrrp3, "ip 2 " + arpReply}, "", 0},
	} {
		h := newHeard(map[link.MAC]bool{link.MAC(own): true})
		for _, p := range test.packets {
			kind, rest, _ := strings.Cut(p, " ")
			from := link.MAC{2, 0, 0, 0, 0, rest[0] - '0'}
			if rest[0] == 'v' {
				from = link.VirtualMAC(false, 51)
			}
			h.packet(unhex(t, rest[2:]), from, kind == "arp", at)
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
		h.packet(p, link.MAC{2}, true, time.Time{})
		h.packet(p, link.MAC{2}, false, time.Time{})
		if !bytes.Equal(p, before) {
			t.Error("the packet was changed")
		}
	})
}
