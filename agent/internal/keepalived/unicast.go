package keepalived

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"time"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// resolveSpeakers finds where an instance advertises from and to by unicast. One that
// has nobody to advertise to does so by multicast: keepalived refuses a source
// without peers.
func resolveSpeakers(field string, c *keepalivedv1.Instance, i *instance) error {
	if len(c.GetSpeakers()) == 0 {
		if c.GetUnicastSource() != "" {
			return fmt.Errorf("%sunicast_source is %q: must be empty without speakers", field, c.GetUnicastSource())
		}
		return nil
	}
	source, err := parseSpeaker(field+"unicast_source", c.GetUnicastSource())
	if err != nil {
		return err
	}
	if source.Is4() != i.anchor.Addr().Is4() {
		return fmt.Errorf("%sunicast_source is %s: must be of the anchor's family (%s)", field, source, i.anchor)
	}
	var peers []netip.Addr
	known := false
	for n, speaker := range c.GetSpeakers() {
		for _, text := range speaker.GetAddresses() {
			a, err := parseSpeaker(fmt.Sprintf("%sspeakers[%d]", field, n), text)
			switch {
			case err != nil:
				return err
			case a == source:
				known = true
			case a.Is4() == source.Is4():
				peers = append(peers, a)
			}
		}
	}
	if !known {
		return fmt.Errorf("%sunicast_source is %s: must be an address of the speakers", field, source)
	}
	slices.SortFunc(peers, netip.Addr.Compare)
	if i.peers = slices.Compact(peers); len(i.peers) > 0 {
		i.source = source
	}
	return nil
}

// parseSpeaker parses an address of a node's own.
func parseSpeaker(field, text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return netip.Addr{}, fmt.Errorf("%s has %q: must be an IP address of a host without zone", field, text)
	}
	return a, nil
}

// sources are the places that instances advertise from by unicast.
func (in *intent) sources() []place {
	var all []place
	for n := range in.instances {
		if i := &in.instances[n]; len(i.peers) > 0 {
			all = append(all, place{i.over, netip.PrefixFrom(i.source, i.source.BitLen())})
		}
	}
	return all
}

// sourceCame tells whether a source is there that was not when this was asked last.
// keepalived does not notice: an instance without its source at the start of
// keepalived is in FAULT until the next reload (measured with 2.2.7). said is what
// keepalived says, in order of the names.
func (c *control) sourceCame(said []InstanceStatus) (bool, error) {
	sources := c.intent.sources()
	have, err := present(sources)
	if err != nil {
		return false, err
	}
	first := c.missing == nil
	was := c.missing
	c.missing = make(map[netip.Addr]bool)
	came := false
	for _, p := range sources {
		a := p.Address.Addr()
		if !slices.Contains(have, p) {
			c.missing[a] = true
			continue
		}
		came = came || was[a] || first && slices.ContainsFunc(said, func(s InstanceStatus) bool {
			return s.State == InstanceFault && c.intent.speaksFrom(s.Name, a)
		})
	}
	return came, nil
}

func (in *intent) speaksFrom(name string, source netip.Addr) bool {
	return slices.ContainsFunc(in.instances, func(i instance) bool { return i.name == name && i.source == source })
}

// sourceLines finds where the instances of a file of this driver advertise from.
var sourceLines = regexp.MustCompile(`(?m)^    interface (\S+)\n(?:    .*\n)*?    unicast_src_ip (\S+)$`)

// sourcesIn are the places that the instances in a file of this driver advertise
// from by unicast.
func sourcesIn(config []byte) []place {
	var all []place
	for _, match := range sourceLines.FindAllSubmatch(config, -1) {
		if a, err := netip.ParseAddr(string(match[2])); err == nil {
			all = append(all, place{string(match[1]), netip.PrefixFrom(a, a.BitLen())})
		}
	}
	return all
}

// untilSources waits until the sources in a file of this driver are there, for as
// long as for link-local addresses.
func untilSources(ctx context.Context, config []byte) error {
	ctx, cancel := context.WithTimeout(ctx, linkLocalTimeout)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for sources := sourcesIn(config); ; {
		have, err := present(sources)
		if err != nil || len(have) == len(sources) {
			return err
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			gone := sources[slices.IndexFunc(sources, func(p place) bool { return !slices.Contains(have, p) })]
			return fmt.Errorf("interface %s has not got the address %s, which advertisements are sent from, after %v", gone.Interface, gone.Address.Addr(), linkLocalTimeout)
		}
	}
}
