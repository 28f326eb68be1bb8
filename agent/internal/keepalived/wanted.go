package keepalived

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// Watch has the VIPs of a configuration looked for in the kernel, whether or not
// keepalived gets it, and until the next Watch: who has an address is the truth
// also while another keepalived than the agent's holds it. It touches nothing. It
// fails when Run has returned, or with ctx's error.
func (d *Driver) Watch(ctx context.Context, config *keepalivedv1.Config) error {
	wanted := anywhere(config)
	return d.do(ctx, func(o *observer) {
		o.wanted = wanted
		o.look()
	})
}

// anywhere returns the instances of a configuration with no more than what it
// takes to look for them. The interface is none of that: a keepalived that
// somebody else has set up may use another one. What cannot be read is left to
// Apply, which refuses it.
func anywhere(config *keepalivedv1.Config) []watched {
	var wanted []watched
	for _, i := range config.GetInstances() {
		anchor, err := parseAddress("anchor", i.GetAnchor())
		if err != nil {
			continue
		}
		wanted = append(wanted, watched{
			instance:       instance{name: i.GetName(), vip: i.GetVip(), anchor: anchor, extra: further(i)},
			InstanceStatus: InstanceStatus{Name: i.GetName(), VIP: i.GetVip(), State: InstanceUnknown},
		})
	}
	return wanted
}

// further returns the addresses beside the anchor, those that can be read.
func further(i *keepalivedv1.Instance) (all []netip.Prefix) {
	for _, text := range i.GetAddresses() {
		if a, err := parseAddress("addresses", text); err == nil {
			all = append(all, a)
		}
	}
	return all
}

// apart returns the wanted instances that keepalived does not have from the
// driver.
func (o *observer) apart() []*watched {
	var apart []*watched
	for n := range o.wanted {
		if w := &o.wanted[n]; o.find(w.name) == nil {
			apart = append(apart, w)
		}
	}
	return apart
}

// wants tells whether a VIP is looked for.
func (o *observer) wants(vip string) bool {
	return slices.ContainsFunc(o.wanted, func(w watched) bool { return w.vip == vip })
}

// statuses of all instances, in order of their names.
func (o *observer) statuses() []InstanceStatus {
	var all []InstanceStatus
	for n := range o.watched {
		all = append(all, o.watched[n].InstanceStatus)
	}
	for _, w := range o.apart() {
		all = append(all, w.InstanceStatus)
	}
	slices.SortFunc(all, func(a, b InstanceStatus) int { return strings.Compare(a.Name, b.Name) })
	return all
}
