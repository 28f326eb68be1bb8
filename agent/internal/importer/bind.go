package importer

import (
	"net/netip"
	"strings"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// bind is one address and ports of a bind line.
type bind struct {
	address     netip.Addr // unspecified: every address of its family
	first, last uint32
}

// parseBind takes a bind line. Tandem sets transparent and v6only itself where
// they are needed.
func parseBind(words []string) ([]bind, verdict) {
	if len(words) < 2 {
		return nil, lacking(notInModel)
	}
	for _, word := range words[2:] {
		if word != "transparent" && word != "v6only" {
			return nil, lacking("the model lacks the bind option " + word)
		}
	}
	var binds []bind
	v := typed
	for text := range strings.SplitSeq(words[1], ",") {
		b, ok := parseOneBind(text)
		if !ok {
			return nil, lacking("the model has binds of IP addresses and ports")
		}
		if b.address == netip.IPv4Unspecified() {
			v = differs("Tandem listens on every IPv6 address too")
		}
		binds = append(binds, b)
	}
	return binds, v
}

// meets tells whether two binds want one port of one address. What is bound to
// every address meets all others, as the model has it.
func (b bind) meets(other bind) bool {
	return b.first <= other.last && other.first <= b.last &&
		(b.address == other.address || b.address.IsUnspecified() || other.address.IsUnspecified())
}

// parseOneBind reads address:port or address:port-port (manual, 4.2 "bind").
func parseOneBind(text string) (bind, bool) {
	at := strings.LastIndexByte(text, ':')
	if at < 0 {
		return bind{}, false
	}
	host, ports := text[:at], text[at+1:]
	var b bind
	low, high, ranged := strings.Cut(ports, "-")
	first, err := number(low, 1, 65535)
	if err != nil {
		return bind{}, false
	}
	b.first, b.last = first, first
	if ranged {
		if b.last, err = number(high, uint64(first), 65535); err != nil {
			return bind{}, false
		}
	}
	switch host {
	case "", "*":
		b.address = netip.IPv4Unspecified()
		return b, true
	}
	b.address, err = netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	if err != nil || b.address.Zone() != "" {
		return bind{}, false
	}
	b.address = b.address.Unmap()
	return b, true
}

// binds are those of a listener in the model's form. One of every IPv4 address
// becomes one of every address.
func modelBinds(all []bind, vips []*tandemv1.Vip) ([]*tandemv1.Bind, bool) {
	var out []*tandemv1.Bind
	any4 := map[bind]bool{}
	for _, b := range all {
		if b.address == netip.IPv4Unspecified() {
			any4[bind{first: b.first, last: b.last}] = true
		}
	}
	for _, b := range all {
		ports := bind{first: b.first, last: b.last}
		if b.address == netip.IPv6Unspecified() {
			if !any4[ports] {
				return nil, false // every IPv6 address alone
			}
			continue
		}
		m := &tandemv1.Bind{Port: b.first}
		if b.last > b.first {
			m.PortEnd = b.last
		}
		if !b.address.IsUnspecified() {
			if m.Vip = soleAddressOf(b.address, vips); m.Vip == "" {
				m.Address = b.address.String()
			}
		}
		out = append(out, m)
	}
	return out, true
}

// soleAddressOf returns the VIP that has that address and no other one.
func soleAddressOf(address netip.Addr, vips []*tandemv1.Vip) string {
	for _, v := range vips {
		if p, err := netip.ParsePrefix(v.GetAddresses()[0]); err == nil && p.Addr() == address && len(v.GetAddresses()) == 1 {
			return v.GetName()
		}
	}
	return ""
}
