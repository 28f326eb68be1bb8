package importer

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// importVRRP reads one keepalived.conf and nothing else.
func importVRRP(t testing.TB, text string) *vrrpReader {
	t.Helper()
	r, err := readKeepalived(Node{ID: "n", Keepalived: Source{"keepalived.conf", text}})
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return r
}

// refusals of a reader, as "number: reason".
func (r *vrrpReader) refusals() string {
	var all []string
	for _, l := range r.lines.list {
		if l.Fate == Refused {
			all = append(all, fmt.Sprintf("%d: %s", l.Number, l.Reason))
		}
	}
	return strings.Join(all, "; ")
}

const oneInstance = `vrrp_instance a {
interface eth0
virtual_router_id 1
%s
virtual_ipaddress {
192.0.2.1/24
%s
}
}
%s
`

// What cannot be taken over is refused at its line, with the cure.
func TestRefusedVRRP(t *testing.T) {
	for _, tt := range []struct{ setting, address, after, want string }{
		{setting: "priority 255", want: `4: "255" must be a number from 1 to 254`},
		{setting: "use_ipvlan", want: "4: the model lacks it: remove it on both nodes, if the pair can do without, and reload"},
		{setting: "use_vmac", want: "4: Tandem has the virtual router's own MAC address, on a device of another name, and a reload that changes that takes the addresses away: " +
			"say use_vmac v4-1-eth0 on both nodes, and restart keepalived; " +
			"6: Tandem gives the device with the virtual MAC address no routes: add noprefixroute on both nodes, and restart keepalived"},
		{setting: "interface enp129s0f0np0\nuse_vmac v4-1-enp129s0f0\nvmac_xmit_base", want: "5: the name of interface enp129s0f0np0 is too long for a device that both keepalived and Tandem would call v4-1-enp129s0f0np0: " +
			"remove use_vmac on both nodes, restart keepalived, and turn it on again with \"lbctl vip set --virtual-mac\"; " +
			"8: Tandem gives the device with the virtual MAC address no routes: add noprefixroute on both nodes, and restart keepalived"},
		{setting: "virtual_ipaddress_excluded { 192.0.2.2/24 noprefixroute }", want: "4: Tandem has noprefixroute with use_vmac only: remove it on both nodes"},
		{setting: "advert_int 1.5", want: "1: VRRPv2 counts in whole seconds: change advert_int on both nodes"},
		{setting: "advert_int 0.001", want: `4: "0.001" must be seconds with at most two decimals`},
		{setting: "authentication { auth_type AH }", want: "4: Tandem knows auth_type PASS and auth_pass only: change it on both nodes"},
		{setting: `authentication { auth_pass "a b" }`, want: "4: the password's first 8 characters must be letters and digits: change it on both nodes"},
		{setting: "preempt_delay 0", want: "1: preempt_delay must be more than 0 and at most an hour"},
		{setting: "dont_track_primary", want: "4: Tandem gives a VIP up where the interface of its addresses is down: remove it on both nodes"},
		{setting: "track_interface { eth1 }", want: "4: Tandem tracks another interface than the VIP's own by a weight of -56 to -1 only: " +
			"without one, and lost on both nodes, it would leave the VIP to nobody"},
		{address: "192.0.2.2/24 dev eth1", want: "7: Tandem has one address in the advertisement, and nodes that have others there both become master: " +
			"move this one to virtual_ipaddress_excluded on both nodes at the same time"},
		{setting: "virtual_ipaddress_excluded { 192.0.2.2/24 dev eth1 }", want: "6: a VIP has all its addresses on one interface, eth1 here: make an instance of its own of what is on eth0, on both nodes"},
		{address: "192.0.2.2/24", want: "7: Tandem has one address in the advertisement, and nodes that have others there both become master: " +
			"move this one to virtual_ipaddress_excluded on both nodes at the same time"},
		{address: "192.0.2.2/24 label x", want: "7: the model has the address alone, on one interface: remove what follows 192.0.2.2/24 on both nodes"},
		{after: "vrrp_sync_group g { group { a } }", want: "10: Tandem moves each VIP by itself: put the addresses that must stay together into one instance " +
			"(virtual_ipaddress_excluded), and remove the group"},
		{after: "virtual_server 192.0.2.1 80 { }", want: "10: Tandem manages VRRP instances only: run this in a keepalived of its own"},
		{after: "global_defs { vrrp_strict }", want: "10: the model lacks it: remove it, if the pair can do without, and reload"},
		{after: "vrrp_instance a.b { }", want: "10: a VIP is called by 1 to 32 letters, digits, _ or - and its instance must keep its name: rename it on both nodes"},
		{after: "vrrp_instance b { interface eth0\n virtual_router_id 2\n version 3\n virtual_ipaddress { 192.0.2.9 } }",
			want: "10: a cluster has one version of VRRP: a speaks 2 and b speaks 3"},
		{after: "vrrp_instance b { interface eth0\n virtual_router_id 2\n authentication { auth_pass x }\n virtual_ipaddress { 192.0.2.9 } }",
			want: "10: a cluster has one VRRP password: that of a is another"},
		{after: "vrrp_instance b { }", want: "10: the instance has no interface"},
	} {
		r := importVRRP(t, fmt.Sprintf(oneInstance, tt.setting, tt.address, tt.after))
		if got := r.refusals(); got != tt.want {
			t.Errorf("%s%s%s: refused %q, want %q", tt.setting, tt.address, tt.after, got, tt.want)
		}
	}
	if got := importVRRP(t, fmt.Sprintf(oneInstance, "", "", "")).refusals(); got != "" {
		t.Errorf("nothing to refuse: %s", got)
	}
}

// The running pair's own values, defaults included, are what Tandem gets.
func TestVIPs(t *testing.T) {
	r := importVRRP(t, `vrrp_instance a {
interface eth0
virtual_router_id 51
authentication { auth_type PASS
auth_pass mypassword123 }
preempt_delay 60
virtual_ipaddress { 192.0.2.1 }
virtual_ipaddress_excluded { 192.0.2.2/24
192.0.2.3/24 dev eth0 }
}
vrrp_instance c {
virtual_ipaddress { 203.0.113.1/24 dev eth2 }
virtual_ipaddress_excluded { 203.0.113.2/24 dev eth2 }
track_interface { eth2
eth1
eth3 weight -20 }
authentication { auth_pass mypasswoZ }
dont_track_primary
interface eth1
virtual_router_id 53
}
vrrp_instance b {
interface eth1
virtual_router_id 52
priority 90
advert_int 3
nopreempt
authentication { auth_pass mypasswoX }
unicast_src_ip 198.51.100.2
unicast_peer { 198.51.100.3
198.51.100.4 }
check_unicast_src
virtual_ipaddress { 198.51.100.1/24 }
}
vrrp_instance d {
interface eth0
virtual_router_id 54
authentication { auth_pass mypasswoX }
use_vmac v4-54-eth0
vmac_xmit_base
virtual_ipaddress { 192.0.2.4/24 noprefixroute }
}
`)
	if got := r.refusals(); got != "" {
		t.Fatal(got)
	}
	want := &tandemv1.ClusterConfig{
		Cluster: &tandemv1.Cluster{Vrrp: &tandemv1.Vrrp{Version: new(uint32(2)), AdvertInterval: duration(1e9), AuthPassword: "mypasswo"}},
		Vips: []*tandemv1.Vip{
			{
				Name: "a", Vrid: 51, Addresses: []string{"192.0.2.1/32", "192.0.2.2/24", "192.0.2.3/24"},
				Priorities: map[string]uint32{"n": 100}, FailBack: "delayed", FailBackDelay: duration(60e9),
			},
			{
				Name: "c", Vrid: 53, Addresses: []string{"203.0.113.1/24", "203.0.113.2/24"}, Network: "eth2", VrrpNetwork: "eth1",
				Priorities: map[string]uint32{"n": 100},
				Tracks:     []*tandemv1.Track{{Kind: "network", Target: "eth3", Weight: new(int32(-20))}},
			},
			{
				Name: "b", Vrid: 52, Addresses: []string{"198.51.100.1/24"}, Network: "eth1",
				Priorities: map[string]uint32{"n": 90}, FailBack: "never", AdvertInterval: duration(3e9), Unicast: new(true),
			},
			{Name: "d", Vrid: 54, Addresses: []string{"192.0.2.4/24"}, Priorities: map[string]uint32{"n": 100}, VirtualMac: true},
		},
	}
	got := &tandemv1.ClusterConfig{Cluster: &tandemv1.Cluster{Vrrp: r.vrrp}, Vips: r.vips}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// Tandem's own files come back as they are: nothing in them is refused.
func TestOwnKeepalivedFiles(t *testing.T) {
	paths, err := filepath.Glob("../keepalived/testdata/*.conf")
	if err != nil || len(paths) < 4 {
		t.Fatalf("%v, %v", paths, err)
	}
	for _, path := range paths {
		source := read(t, path)
		// A VIP has one interval for both its families.
		r := importVRRP(t, strings.ReplaceAll(source.Text, "advert_int 0.05", "advert_int 0.10"))
		if got := r.refusals(); got != "" {
			t.Errorf("%s: %s", path, got)
		}
		if len(r.vips) == 0 {
			t.Errorf("%s: no VIPs", path)
		}
	}
}

// Two nodes that differ in what must be alike are not put together.
func TestMerge(t *testing.T) {
	node := func(setting string) *Import {
		i, err := Read(Node{ID: "a", HAProxy: Source{"h", ""}, Keepalived: Source{"own", fmt.Sprintf(oneInstance, setting, "", "")}})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	own := node("priority 110")
	peer := func(setting string) Peer {
		return Peer{"b", Source{"peer", fmt.Sprintf(oneInstance, setting, "", "")}}
	}
	if err := own.Merge(peer("priority 90"), nil); err != nil {
		t.Fatal(err)
	}
	if p := own.Config.GetVips()[0].GetPriorities(); p["a"] != 110 || p["b"] != 90 {
		t.Errorf("priorities %v", p)
	}
	for setting, want := range map[string]string{
		"advert_int 2":               "own and peer differ in VRRP's version, interval or password: both nodes would hold the VIP",
		"unicast_peer { 192.0.2.9 }": "a is not alike on b: VRID, addresses, interface, interval, preemption, unicast and virtual MAC must be the same on both nodes",
		"nopreempt":                  "a is not alike on b: VRID, addresses, interface, interval, preemption, unicast and virtual MAC must be the same on both nodes",
		"use_ipvlan":                 "peer:4: use_ipvlan: the model lacks it: remove it on both nodes, if the pair can do without, and reload",
	} {
		if err := node("").Merge(peer(setting), nil); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", setting, err, want)
		}
	}
}

func TestFit(t *testing.T) {
	for _, tt := range []struct{ in, want map[string]uint32 }{
		{map[string]uint32{"a": 100, "b": 90}, map[string]uint32{"a": 100, "b": 90}},
		{map[string]uint32{"a": 100, "b": 150}, map[string]uint32{"a": 140, "b": 150}},
		{map[string]uint32{"a": 254, "b": 253}, map[string]uint32{"a": 234, "b": 224}},
		{map[string]uint32{"a": 200, "b": 150, "c": 100, "d": 1}, map[string]uint32{"a": 200, "b": 190, "c": 180, "d": 179}},
		{map[string]uint32{"a": 250, "b": 250}, map[string]uint32{"a": 234, "b": 234}},
		{map[string]uint32{"a": 22, "b": 0}, map[string]uint32{"a": 22, "b": 12}},
	} {
		if got := fit(tt.in); !cmp.Equal(got, tt.want) {
			t.Errorf("%v becomes %v, want %v", tt.in, got, tt.want)
		}
	}
}

// Whatever the file, nothing but comments says nothing.
func FuzzKeepalived(f *testing.F) {
	f.Add(read(f, guideFiles+"keepalived-master.conf").Text)
	f.Add(read(f, handmadeFiles+"keepalived-lb-master.conf").Text)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := readKeepalived(Node{ID: "n", Keepalived: Source{"f", text}})
		if err != nil {
			return
		}
		for _, l := range r.lines.list {
			said := strings.TrimFunc(strings.FieldsFunc(l.Text+" ", func(c rune) bool { return c == '!' || c == '#' })[0], func(c rune) bool { return c <= ' ' })
			if text := strings.TrimSpace(l.Text); text != "" && !strings.ContainsAny(text[:1], "!#{") && said != "" && l.Fate == Blank {
				t.Fatalf("line %d %q is %s", l.Number, l.Text, l.Fate)
			}
		}
	})
}
