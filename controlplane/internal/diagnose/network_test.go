package diagnose

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// setVip changes fields of the VIP.
func setVip(t *testing.T, f *Facts, v *tandemv1.Vip, paths ...string) {
	t.Helper()
	v.Name = "clusters/default/vips/web"
	next, _, err := f.Config.Apply(state.UpdateVip(v, &fieldmaskpb.FieldMask{Paths: paths}), state.Env{Author: "test"})
	if err != nil {
		t.Fatal(err)
	}
	f.Config = next
}

// foundOf are the reasons of all that is found.
func foundOf(d *tandemv1.Diagnosis) []string {
	var all []string
	for _, f := range d.GetFindings() {
		all = append(all, f.GetReason())
	}
	return all
}

// A VIP with an address of IPv6 needs that to be on, and a link-local address to
// advertise from; by unicast any of its own will do.
func TestWhatAVIPOfIPv6Needs(t *testing.T) {
	for name, test := range map[string]struct {
		spoil   func(*agentv1.NetworkFacts)
		unicast bool
		reason  string // empty: nothing is found
		says    string
	}{
		"well": {spoil: func(*agentv1.NetworkFacts) {}},
		"switched off": {spoil: func(n *agentv1.NetworkFacts) { n.Ipv6Disabled, n.Addresses = true, n.Addresses[:1] },
			reason: "IPV6_DISABLED", says: "on lb-backup: sysctl -w net.ipv6.conf.eth0.disable_ipv6=0"},
		"no link-local address": {spoil: func(n *agentv1.NetworkFacts) { n.Addresses = n.Addresses[:2] },
			reason: "NO_ADDRESS", says: "no link-local IPv6 address of its own"},
		"none, by unicast":   {spoil: func(n *agentv1.NetworkFacts) { n.Addresses = n.Addresses[:2] }, unicast: true},
		"another subnet":     {spoil: func(n *agentv1.NetworkFacts) { n.Addresses[1] = "fd08::11/64" }, reason: "VIP_OUTSIDE_SUBNET", says: "fd09::100/64 of VIP web"},
		"no IPv4 of its own": {spoil: func(n *agentv1.NetworkFacts) { n.Addresses, n.ReversePathFilter = n.Addresses[1:], 0 }, reason: "NO_ADDRESS", says: "no IPv4 address"},
	} {
		facts := well(t)
		setVip(t, facts, &tandemv1.Vip{Addresses: []string{"192.168.1.100/24", "fd09::100/64"}, Unicast: proto.Bool(test.unicast)}, "addresses", "unicast")
		for n, own := range [][]string{{"192.168.1.10/24", "fd09::10/64", "fe80::10/64"}, {"192.168.1.11/24", "fd09::11/64", "fe80::11/64"}} {
			facts.Nodes[n].Diagnosis.GetNetworks()[0].Addresses = own
		}
		test.spoil(facts.Nodes[1].Diagnosis.GetNetworks()[0])
		d := Judge(facts)
		switch got := foundOf(d); {
		case test.reason == "" && len(got) > 0, test.reason != "" && !slices.Equal(got, []string{test.reason}):
			t.Errorf("%s: found %v, want %q", name, d.GetFindings(), test.reason)
		case test.reason == "":
		default:
			f := d.GetFindings()[0]
			if said := f.GetMessage() + "\n" + f.GetCure(); !strings.Contains(said, test.says) {
				t.Errorf("%s: it says %s, not %q", name, said, test.says)
			}
		}
	}
}

// Routed VIPs of one host alone are meant to be in no subnet.
func TestAVIPOfOneHostIsInNoSubnet(t *testing.T) {
	for prefix, want := range map[string]bool{"192.168.9.100/24": true, "192.168.9.100/32": false} {
		facts := well(t)
		setVip(t, facts, &tandemv1.Vip{Addresses: []string{"192.168.1.100/24", prefix}}, "addresses")
		got := foundOf(Judge(facts))
		if slices.Contains(got, "VIP_OUTSIDE_SUBNET") != want {
			t.Errorf("%s: found %v", prefix, got)
		}
	}
}

// A rule that drops what has nothing to do with a VIP keeps nobody from it.
func TestDropsOfOtherAdvertisementsAreNone(t *testing.T) {
	for name, drop := range map[string]*agentv1.FirewallDrop{
		"another network": {Certain: true, Network: "back"}, "the other family": {Certain: true, Network: "front", Ipv6: true},
	} {
		facts := well(t)
		facts.Nodes[1].Diagnosis.Drops = []*agentv1.FirewallDrop{drop}
		if got := foundOf(Judge(facts)); len(got) > 0 {
			t.Errorf("%s: found %v", name, got)
		}
	}
}

// A listener on every address is one on the VIP, too.
func TestAListenerOnEveryAddressIsTheVIPs(t *testing.T) {
	facts := well(t)
	next, _, err := facts.Config.Apply(state.CreateListener("any", &tandemv1.Listener{Binds: []*tandemv1.Bind{{Port: 8080}}, Pool: "web_servers"}), state.Env{Author: "test"})
	if err != nil {
		t.Fatal(err)
	}
	facts.Config = next
	facts.Nodes[1].Diagnosis.Binds = append(facts.Nodes[1].Diagnosis.Binds, &agentv1.BindFacts{Frontend: "any", Port: 8080})
	d := Judge(facts)
	if got := foundOf(d); !slices.Equal(got, []string{"LISTENER_CLOSED"}) || !strings.Contains(d.GetFindings()[0].GetEvidence(), "*:8080") {
		t.Errorf("found %v", d.GetFindings())
	}
}

// Backends that are taken out of service are none that a standby does not reach, also
// before its HAProxy has said so.
func TestBackendsOutOfServiceNeedNotBeReached(t *testing.T) {
	facts := well(t)
	for _, backend := range []string{"web1", "web2"} {
		next, _, err := facts.Config.Apply(state.Administer("web_servers", backend, "drain", nil, "rebuilt"), state.Env{Author: "test"})
		if err != nil {
			t.Fatal(err)
		}
		facts.Config = next
	}
	allDown(&facts.Nodes[1])
	if got := foundOf(Judge(facts)); len(got) > 0 {
		t.Errorf("found %v", got)
	}
}
