package cmd

import (
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// bindFlags say where a listener accepts connections: each port at each place.
type bindFlags struct {
	vips, addresses, ports []string
}

// place is a VIP, an address, or with neither every address.
type place struct{ vip, address string }

// ports is one port or a range.
type ports struct{ first, last uint32 }

// anyAddress is what --address takes for every address.
const anyAddress = "*"

func (b *bindFlags) bind(a *app, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&b.vips, "vip", nil, "VIP to listen at; may be repeated")
	flags.StringArrayVar(&b.addresses, "address", nil, "IP address of the nodes to listen at, or * for every one; may be repeated")
	flags.StringArrayVar(&b.ports, "port", nil, "port or range, such as 80 or 7000-7010; may be repeated")
	complete(cmd, "vip", a.names(listVips))
	complete(cmd, "port", fixed("80", "443"))
}

func (b *bindFlags) given() bool {
	return len(b.vips)+len(b.addresses)+len(b.ports) > 0
}

// binds returns each port at each place. What was not given is taken from the
// present binds.
func (b *bindFlags) binds(present []*tandemv1.Bind) ([]*tandemv1.Bind, error) {
	var places []place
	for _, vip := range b.vips {
		places = append(places, place{vip: vip})
	}
	for _, address := range b.addresses {
		places = append(places, place{address: strings.TrimPrefix(address, anyAddress)})
	}
	var ranges []ports
	for _, text := range b.ports {
		r, err := parsePorts(text)
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, r)
	}
	givenPlaces, givenPorts := places != nil, ranges != nil
	for _, bind := range present {
		if at := (place{bind.GetVip(), bind.GetAddress()}); !givenPlaces && !slices.Contains(places, at) {
			places = append(places, at)
		}
		if at := (ports{bind.GetPort(), bind.GetPortEnd()}); !givenPorts && !slices.Contains(ranges, at) {
			ranges = append(ranges, at)
		}
	}
	if len(ranges) == 0 {
		return nil, failure.Usagef("--port is missing, such as --port 80")
	}
	if len(places) == 0 {
		places = []place{{}}
	}
	var binds []*tandemv1.Bind
	for _, at := range places {
		for _, r := range ranges {
			binds = append(binds, &tandemv1.Bind{Vip: at.vip, Address: at.address, Port: r.first, PortEnd: r.last})
		}
	}
	return binds, nil
}

func parsePorts(text string) (ports, error) {
	first, last, isRange := strings.Cut(text, "-")
	from, err := strconv.ParseUint(first, 10, 32)
	if err != nil {
		return ports{}, failure.Usagef("--port must be a number or a range, such as 80 or 7000-7010 (got %q)", text)
	}
	if !isRange {
		return ports{first: uint32(from)}, nil
	}
	to, err := strconv.ParseUint(last, 10, 32)
	if err != nil {
		return ports{}, failure.Usagef("--port must be a number or a range, such as 80 or 7000-7010 (got %q)", text)
	}
	return ports{uint32(from), uint32(to)}, nil
}
