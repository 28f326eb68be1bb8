package vrrp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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

// Packets as tcpdump shows them.
const (
	v3        = "45c0 0020 0001 0000 ff 70 0000 c0a8010a e0000012 31 33 e6 01 000a 8472 c0a80164"
	v3Bare    = "45c0 0020 0001 0000 ff 70 0000 c0a8010a e0000012 31 33 e6 01 000a 26b4 c0a80164"
	v3Unicast = "45c0 0024 0001 4000 ff 70 0000 c0a8010b c0a8010a 31 33 00 02 0064 c665 c0a80164 c0a80165"
	v2        = "46c0 002c 0001 0000 ff 70 0000 c0a8010a e0000012 01010101 21 33 e6 01 00 01 36bd c0a80164 0000000000000000"
	v2Secret  = "45c0 0028 0001 0000 ff 70 0000 c0a8010a e0000012 21 33 64 01 01 01 4a3f c0a80164 7365637265743132"
	v3Six     = "60000000 0018 70 ff fe800000000000000000000000000002 ff020000000000000000000000000012" +
		"31 34 e6 01 000a ed2e fd090000000000000000000100020064"
)

// v3SixUnicast is what keepalived 2.2.7 sends.
const v3SixUnicast = "6c0e6a72 0018 70 40 fe800000000000004c34b3fffecabba1 fe800000000000000ccfd9fffe1531a1" +
	"31 33 e6 01 000a 1c06 fd090000000000000000000000000100"

func TestParse(t *testing.T) {
	for name, test := range map[string]struct{ packet, want string }{
		"version 3":                           {v3, "192.168.1.10 to 224.0.0.18: version 3, vrid 51, priority 230, 100ms, auth 0, [192.168.1.100]"},
		"version 3 without its pseudo-header": {v3Bare, "192.168.1.10 to 224.0.0.18: version 3, vrid 51, priority 230, 100ms, auth 0, [192.168.1.100]"},
		"unicast, and its end":                {v3Unicast, "192.168.1.11 to 192.168.1.10: version 3, vrid 51, priority 0, 1s, auth 0, [192.168.1.100 192.168.1.101]"},
		"version 2, with options of IPv4":     {v2, "192.168.1.10 to 224.0.0.18: version 2, vrid 51, priority 230, 1s, auth 0, [192.168.1.100]"},
		"version 2 with a password":           {v2Secret, "192.168.1.10 to 224.0.0.18: version 2, vrid 51, priority 100, 1s, auth 1, [192.168.1.100] secret12"},
		"IPv6":                                {v3Six, "fe80::2 to ff02::12: version 3, vrid 52, priority 230, 100ms, auth 0, [fd09::1:2:64]"},
		"IPv6, unicast":                       {v3SixUnicast, "fe80::4c34:b3ff:feca:bba1 to fe80::ccf:d9ff:fe15:31a1: version 3, vrid 51, priority 230, 100ms, auth 0, [fd09::100]"},
		"padded, as a short Ethernet frame":   {v3 + "0000 0000", "192.168.1.10 to 224.0.0.18: version 3, vrid 51, priority 230, 100ms, auth 0, [192.168.1.100]"},
	} {
		a, err := Parse(unhex(t, test.packet))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := fmt.Sprintf("%v to %v: version %d, vrid %d, priority %d, %v, auth %d, %v %s", a.Source, a.Destination,
			a.Version, a.VRID, a.Priority, a.Interval, a.Auth, a.Addresses(), bytes.Trim(a.Password[:], "\x00"))
		if strings.TrimSpace(got) != test.want {
			t.Errorf("%s: %s\nwant %s", name, got, test.want)
		}
	}
}

// What a VRRP router must discard is no advertisement.
func TestDiscarded(t *testing.T) {
	change := func(packet string, at int, to byte) []byte {
		p := unhex(t, packet)
		p[at] = to
		return p
	}
	for name, test := range map[string]struct {
		packet []byte
		want   error
	}{
		"nothing":                     {nil, errOther},
		"a byte":                      {[]byte{0x45}, errOther},
		"another protocol":            {change(v3, 9, 17), errOther},
		"another one of IPv6":         {change(v3Six, 6, 58), errOther},
		"a fragment":                  {change(v3, 6, 0x20), errOther},
		"through a router":            {change(v3, 8, 254), errHops},
		"through a router, IPv6":      {change(v3Six, 7, 64), errHops},
		"cut off":                     {unhex(t, v3)[:28], errShort},
		"cut off, IPv6":               {unhex(t, v3Six)[:50], errShort},
		"a header of 16 bytes":        {change(v3, 0, 0x44), errShort},
		"more addresses than it has":  {change(v3, 23, 2), errShort},
		"version 2 without its end":   {change(v2Secret, 3, 0x20)[:32], errShort},
		"version 4":                   {change(v3, 20, 0x41), errKind},
		"version 2 over IPv6":         {change(v3Six, 40, 0x21), errKind},
		"another type":                {change(v3, 20, 0x32), errKind},
		"virtual router 0":            {change(v3, 21, 0), errVRID},
		"changed on its way":          {change(v3, 31, 0x65), errChecksum},
		"changed on its way, IPv6":    {change(v3Six, 63, 0x65), errChecksum},
		"a password that was changed": {change(v2Secret, 39, 0x33), errChecksum},
	} {
		if a, err := Parse(test.packet); !errors.Is(err, test.want) || a != (Advert{}) {
			t.Errorf("%s: %v, %+v; want %v", name, err, a, test.want)
		}
	}
}

// However many addresses there are, some are kept and all are counted.
func TestManyAddresses(t *testing.T) {
	p := unhex(t, v3)
	p[3], p[23] = byte(28+4*20), 20
	for n := range 19 {
		p = append(p, 10, 0, 0, byte(n))
	}
	p[26], p[27] = 0, 0
	ck := ^uint16(folded(sum(0, p[20:])))
	p[26], p[27] = byte(ck>>8), byte(ck)
	a, err := Parse(p)
	if err != nil || a.Count() != 20 || len(a.Addresses()) != MaxAddresses {
		t.Fatalf("%v: %d addresses, %v", err, a.Count(), a.Addresses())
	}
	if want := netip.MustParseAddr("10.0.0.0"); a.Addresses()[1] != want {
		t.Errorf("the second is %v", a.Addresses()[1])
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{v3, v3Bare, v3Unicast, v2, v2Secret, v3Six, "4f", "60"} {
		f.Add(unhex(f, text))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		before := bytes.Clone(p)
		a, err := Parse(p)
		if !bytes.Equal(p, before) {
			t.Fatal("the packet was changed")
		}
		if err != nil {
			return
		}
		if a.VRID == 0 || a.Version != 2 && a.Version != 3 || a.Interval < 0 || a.Interval > 255*time.Second ||
			len(p) < 28+4*a.Count() || !a.Source.IsValid() || slices.ContainsFunc(a.Addresses(), func(x netip.Addr) bool {
			return x.Is4() != a.Source.Is4()
		}) {
			t.Errorf("%x is %+v", p, a)
		}
	})
}
