package keepalived

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

var update = flag.Bool("update", false, "write the golden files")

var testLayout = layout{
	fifo:     "/run/tandem/keepalived/notify",
	trackDir: "/run/tandem/keepalived/track",
	user:     "root",
	noSwap:   true,
}

var testNetworks = map[string]string{"front": "eth0", "vrrp": "eth1.20"}

// keepalivedReads has the real keepalived read a configuration, in a network
// namespace that has the interfaces and ends with it.
func keepalivedReads(t testing.TB, config []byte) error {
	t.Helper()
	if _, err := exec.LookPath("keepalived"); err != nil {
		t.Skipf("needs keepalived: %v", err)
	}
	file := filepath.Join(t.TempDir(), "keepalived.conf")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	// checkFile cannot be in another namespace, so a shell is its keepalived.
	inside := exec.CommandContext(context.Background(), "/bin/sh", "-c",
		`ip link add eth0 type veth peer name eth1.20 && exec keepalived --config-test --vrrp --use-file "$1"`,
		"sh", file)
	inside.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	said, err := inside.CombinedOutput()
	if os.Getuid() != 0 && err != nil {
		t.Skipf("needs network namespaces (root): %v", err)
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	return nil
}

// base is an instance that each golden changes.
func base(change func(*keepalivedv1.Instance)) *keepalivedv1.Instance {
	i := web("", 230).Instances[0]
	if change != nil {
		change(i)
	}
	return i
}

var testSpeakers = []*keepalivedv1.Speaker{
	{Id: "one", Addresses: []string{"10.9.0.1", "fe80::1"}},
	{Id: "two", Addresses: []string{"10.9.0.3", "fe80::3"}},
	{Id: "three", Addresses: []string{"10.9.0.2", "fe80::2"}},
}

var goldens = map[string]*keepalivedv1.Config{
	"one-vip": {
		Global:    &keepalivedv1.Global{RouterId: "lb-master"},
		Instances: []*keepalivedv1.Instance{base(nil)},
	},
	"two-families-sorted": {
		Global: &keepalivedv1.Global{RouterId: "lb-backup.example", Drain: true},
		Instances: []*keepalivedv1.Instance{
			base(func(i *keepalivedv1.Instance) {
				i.Name, i.Anchor, i.Addresses = "web-v6", "FD09:0:0::100/64", []string{"fe80::5:100/64", "fd09::101/128"}
				i.AdvertInterval = durationpb.New(50 * time.Millisecond)
			}),
			base(func(i *keepalivedv1.Instance) { i.Addresses = []string{"10.9.0.102/24", "172.16.0.1/32"} }),
		},
	},
	"vrrp2-with-password": {
		Global: &keepalivedv1.Global{RouterId: "lb-master"},
		Instances: []*keepalivedv1.Instance{base(func(i *keepalivedv1.Instance) {
			i.Version, i.AuthPassword, i.Network, i.Priority = 2, "Secret01", "vrrp", 234
			i.AdvertInterval = durationpb.New(time.Second)
		})},
	},
	"announced-otherwise": {
		Global: &keepalivedv1.Global{RouterId: "lb-master"},
		Instances: []*keepalivedv1.Instance{base(func(i *keepalivedv1.Instance) {
			i.AnnounceRepeat, i.AnnounceRefresh = 3, durationpb.New(0)
		})},
	},
	"tracks": {
		Global: &keepalivedv1.Global{RouterId: "lb-master"},
		Instances: []*keepalivedv1.Instance{base(func(i *keepalivedv1.Instance) {
			i.Tracks = []*keepalivedv1.Track{pinged("10.9.0.2", -44), aTrack(keepalivedv1.TrackKind_TRACK_KIND_GATEWAY, "", -12), {Kind: keepalivedv1.TrackKind_TRACK_KIND_NETWORK, Target: "vrrp", Weight: -44}}
		})},
	},
	"unicast": {
		Global: &keepalivedv1.Global{RouterId: "lb-master"},
		Instances: []*keepalivedv1.Instance{
			base(func(i *keepalivedv1.Instance) { i.Speakers, i.UnicastSource = testSpeakers, "10.9.0.1" }),
			base(func(i *keepalivedv1.Instance) {
				i.Name, i.Anchor = "web-v6", "fd09::100/64"
				i.Speakers, i.UnicastSource = testSpeakers, "fe80::1"
			}),
			base(func(i *keepalivedv1.Instance) {
				i.Name, i.Vip, i.Anchor, i.Vrid = "alone", "alone", "10.9.0.200/24", 52
				i.Speakers, i.UnicastSource = testSpeakers[:1], "10.9.0.1"
			}),
		},
	},
	"vrrp-network": {
		Global: &keepalivedv1.Global{RouterId: "lb-master"},
		Instances: []*keepalivedv1.Instance{
			base(func(i *keepalivedv1.Instance) { i.VrrpNetwork, i.Addresses = "vrrp", []string{"10.9.0.101/24"} }),
			base(func(i *keepalivedv1.Instance) {
				i.Name, i.Anchor, i.VrrpNetwork = "web-v6", "fd09::100/64", "vrrp"
			}),
			base(func(i *keepalivedv1.Instance) {
				i.Name, i.Vip, i.Anchor, i.Vrid, i.VrrpNetwork = "same", "same", "10.9.0.200/24", 52, "front"
			}),
		},
	},
	"virtual-mac": {
		Global: &keepalivedv1.Global{RouterId: "lb-master"},
		Instances: []*keepalivedv1.Instance{
			base(func(i *keepalivedv1.Instance) { i.VirtualMac, i.Addresses = true, []string{"10.9.0.101/24"} }),
			base(func(i *keepalivedv1.Instance) {
				i.Name, i.Vip, i.Anchor, i.Network, i.VrrpNetwork, i.VirtualMac = "mail", "mail", "10.9.1.100/24", "vrrp", "vrrp", true
			}),
			base(func(i *keepalivedv1.Instance) {
				i.Name, i.Anchor, i.VirtualMac = "web6", "fd09::100/64", true
			}),
		},
	},
	"fail-back": {
		Global: &keepalivedv1.Global{RouterId: "lb-master"},
		Instances: []*keepalivedv1.Instance{
			base(func(i *keepalivedv1.Instance) { i.FailBack = keepalivedv1.FailBack_FAIL_BACK_NEVER }),
			base(func(i *keepalivedv1.Instance) {
				i.Name, i.Vip, i.Anchor, i.Vrid = "mail", "mail", "10.9.0.200/24", 52
				i.FailBack, i.FailBackDelay = keepalivedv1.FailBack_FAIL_BACK_DELAYED, durationpb.New(time.Minute)
				i.AdvertInterval = durationpb.New(1500 * time.Millisecond)
			}),
		},
	},
}

func TestRender(t *testing.T) {
	for name, config := range goldens {
		t.Run(name, func(t *testing.T) {
			in, err := resolve(config, testNetworks)
			if err != nil {
				t.Fatal(err)
			}
			got := render(in, testLayout)
			file := filepath.Join("testdata", name+".conf")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("-want +got; -update after checking:\n%s", diff)
			}
			if err := keepalivedReads(t, got); err != nil {
				t.Errorf("keepalived refuses it: %v", err)
			}
			if err := injected(config, got); err != nil {
				t.Error(err)
			}
		})
	}
}

// The order of instances is not a change, so it costs no reload.
func TestRenderIsStable(t *testing.T) {
	config := goldens["two-families-sorted"]
	turned := &keepalivedv1.Config{Global: config.Global, Instances: slices.Clone(config.Instances)}
	slices.Reverse(turned.Instances)
	var results [][]byte
	for _, c := range []*keepalivedv1.Config{config, turned} {
		in, err := resolve(c, testNetworks)
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, render(in, testLayout))
	}
	if !bytes.Equal(results[0], results[1]) {
		t.Errorf("differ:\n%s\n%s", results[0], results[1])
	}
}

func TestResolveRefuses(t *testing.T) {
	one := func(change func(*keepalivedv1.Instance)) *keepalivedv1.Config {
		return &keepalivedv1.Config{
			Global:    &keepalivedv1.Global{RouterId: "lb"},
			Instances: []*keepalivedv1.Instance{base(nil), base(change)},
		}
	}
	other := func(i *keepalivedv1.Instance) { i.Name, i.Vrid, i.Anchor = "mail", 52, "10.9.0.200/24" }
	if _, err := resolve(one(other), testNetworks); err != nil {
		t.Fatalf("the configuration that each case breaks: %v", err)
	}
	for name, test := range map[string]struct {
		change func(*keepalivedv1.Instance)
		words  string
	}{
		"name with newline":     {func(i *keepalivedv1.Instance) { i.Name = "a\n}" }, "instances[1].name"},
		"name empty":            {func(i *keepalivedv1.Instance) { i.Name = "" }, "1 to 32 letters"},
		"name too long":         {func(i *keepalivedv1.Instance) { i.Name = strings.Repeat("a", 33) }, "1 to 32 letters"},
		"vip":                   {func(i *keepalivedv1.Instance) { i.Vip = "a b" }, "instances[1].vip"},
		"version":               {func(i *keepalivedv1.Instance) { i.Version = 4 }, "must be 2 or 3"},
		"vrid 0":                {func(i *keepalivedv1.Instance) { i.Vrid = 0 }, "vrid is 0: must be 1 to 255"},
		"vrid 256":              {func(i *keepalivedv1.Instance) { i.Vrid = 256 }, "1 to 255"},
		"21 announcements":      {func(i *keepalivedv1.Instance) { i.AnnounceRepeat = 21 }, "announce_repeat is 21: must be 1 to 20"},
		"half a second":         {func(i *keepalivedv1.Instance) { i.AnnounceRefresh = durationpb.New(time.Second / 2) }, "announce_refresh is 500ms: must be whole seconds"},
		"priority 0":            {func(i *keepalivedv1.Instance) { i.Priority = 0 }, "priority is 0: must be 1 to 234"},
		"priority 235":          {func(i *keepalivedv1.Instance) { i.Priority = 235 }, "1 to 234"},
		"advert 0":              {func(i *keepalivedv1.Instance) { i.AdvertInterval = nil }, "advert_interval"},
		"advert 5ms":            {func(i *keepalivedv1.Instance) { i.AdvertInterval = durationpb.New(5e6) }, "multiple of 10ms"},
		"advert 15ms":           {func(i *keepalivedv1.Instance) { i.AdvertInterval = durationpb.New(15e6) }, "multiple of 10ms"},
		"advert 41s":            {func(i *keepalivedv1.Instance) { i.AdvertInterval = durationpb.New(41e9) }, "40.95s"},
		"v2 advert 1.5s":        {func(i *keepalivedv1.Instance) { i.Version, i.AdvertInterval = 2, durationpb.New(15e8) }, "whole seconds"},
		"v2 advert 0":           {func(i *keepalivedv1.Instance) { i.Version, i.AdvertInterval = 2, nil }, "whole seconds"},
		"v2 and IPv6":           {func(i *keepalivedv1.Instance) { i.Version, i.Anchor = 2, "fd09::1/64" }, "must be 3 for IPv6"},
		"v3 and password":       {func(i *keepalivedv1.Instance) { i.AuthPassword = "secret" }, "auth_password must be empty"},
		"password with comment": {password("ab!cd"), "1 to 8 letters or digits"},
		"password too long":     {password("abcdefghi"), "1 to 8 letters or digits"},
		"anchor":                {func(i *keepalivedv1.Instance) { i.Anchor = "10.9.0.300/24" }, "anchor is"},
		"anchor without length": {func(i *keepalivedv1.Instance) { i.Anchor = "10.9.0.3" }, "such as 192.168.1.100/24"},
		"anchor with zone":      {func(i *keepalivedv1.Instance) { i.Anchor = "fe80::1%eth0/64" }, "anchor is"},
		"anchor 4in6":           {func(i *keepalivedv1.Instance) { i.Anchor = "::ffff:10.9.0.3/120" }, "anchor is"},
		"anchor multicast":      {func(i *keepalivedv1.Instance) { i.Anchor = "224.0.0.1/24" }, "anchor is"},
		"anchor loopback":       {func(i *keepalivedv1.Instance) { i.Anchor = "127.0.0.1/8" }, "anchor is"},
		"anchor any":            {func(i *keepalivedv1.Instance) { i.Anchor = "0.0.0.0/0" }, "anchor is"},
		"address":               {func(i *keepalivedv1.Instance) { i.Addresses = []string{"10.9.0.1/24\n"} }, "addresses[0]"},
		"address of the family": {func(i *keepalivedv1.Instance) { i.Addresses = []string{"fd09::1/64"} }, "anchor's family"},
		"address twice":         {func(i *keepalivedv1.Instance) { i.Addresses = []string{"10.9.0.200/32"} }, "address 10.9.0.200 is taken"},
		"too many addresses":    {func(i *keepalivedv1.Instance) { i.Addresses = make([]string, 64) }, "at most 63"},
		"address of another":    {func(i *keepalivedv1.Instance) { i.Addresses = []string{"10.9.0.100/24"} }, "taken by instance"},
		"network of VRRP":       {func(i *keepalivedv1.Instance) { i.VrrpNetwork = "back" }, "network \"back\" has no interface on this node"},
		"vrid of another":       {func(i *keepalivedv1.Instance) { i.Vrid = 51 }, "IPv4 vrid 51 on eth0 is taken"},
		"name of another":       {func(i *keepalivedv1.Instance) { i.Name = "web" }, "web exists twice"},
		"no source":             {speakers("", "10.9.0.2"), "unicast_source has \"\": must be an IP address"},
		"source of no speaker":  {speakers("10.9.0.9", "10.9.0.2"), "must be an address of the speakers"},
		"source of IPv6":        {speakers("fe80::1", "fe80::1", "fe80::2"), "must be of the anchor's family"},
		"source with directive": {speakers("10.9.0.1\n}", "10.9.0.2"), "unicast_source has"},
		"speaker with zone":     {speakers("10.9.0.1", "10.9.0.1", "fe80::1%eth0"), "speakers[1] has"},
		"source alone":          {func(i *keepalivedv1.Instance) { i.UnicastSource = "10.9.0.1" }, "must be empty without speakers"},
		"virtual MAC, unicast": {func(i *keepalivedv1.Instance) {
			speakers("10.9.0.1", "10.9.0.1", "10.9.0.2")(i)
			i.VirtualMac = true
		}, "virtual_mac is true: must be false with unicast"},
		"virtual MAC, apart": {func(i *keepalivedv1.Instance) { i.VirtualMac, i.VrrpNetwork = true, "vrrp" },
			`must be false where the VIP is advertised over another network, "vrrp"`},
		"fail back":         {func(i *keepalivedv1.Instance) { i.FailBack = 0 }, "automatic, delayed or never"},
		"fail back unknown": {func(i *keepalivedv1.Instance) { i.FailBack = 9 }, "automatic, delayed or never"},
		"fail back delay": {func(i *keepalivedv1.Instance) {
			i.FailBack, i.FailBackDelay = keepalivedv1.FailBack_FAIL_BACK_DELAYED, durationpb.New(2*time.Hour)
		}, "0s to 1h"},
		"kind of track":          {trackOf(func(t *keepalivedv1.Track) { t.Kind = 9 }), "tracks[0].kind must be gateway, ping, url or network"},
		"ping without address":   {trackOf(func(t *keepalivedv1.Track) { t.Target = "" }), "must be an IP address without zone"},
		"ping with newline":      {trackOf(func(t *keepalivedv1.Track) { t.Target = "10.9.0.2\n" }), "must be an IP address without zone"},
		"URL with password":      {trackOf(func(t *keepalivedv1.Track) { t.Kind, t.Target = 3, "http://a:b@c/" }), "without user and password"},
		"URL of another scheme":  {trackOf(func(t *keepalivedv1.Track) { t.Kind, t.Target = 3, "file:///etc/passwd" }), "must be an http or https URL"},
		"statuses":               {trackOf(func(t *keepalivedv1.Track) { t.Kind, t.Target, t.HighestStatus = 3, "http://c/", 199 }), "highest_status is 199: must be 200 to 599"},
		"URL without host":       {trackOf(func(t *keepalivedv1.Track) { t.Kind, t.Target = 3, "http://:80/" }), "tracks[0].target must be an http or https URL with a host"},
		"network with newline":   {trackOf(func(t *keepalivedv1.Track) { t.Kind, t.Target = 4, "vrrp\n" }), "tracks[0].target is"},
		"network of no name":     {trackOf(func(t *keepalivedv1.Track) { t.Kind, t.Target = 4, "" }), "tracks[0].target is"},
		"network of its own":     {trackOf(func(t *keepalivedv1.Track) { t.Kind, t.Target = 4, "front" }), "which the VIP needs anyway"},
		"network unknown":        {trackOf(func(t *keepalivedv1.Track) { t.Kind, t.Target = 4, "back" }), "networks: {back: eth0}"},
		"weight of nothing":      {trackOf(func(t *keepalivedv1.Track) { t.Weight = 0 }), "weight is 0: must be -56 to -1"},
		"weight of a dead proxy": {trackOf(func(t *keepalivedv1.Track) { t.Weight = -57 }), "must be -56 to -1"},
		"fall":                   {trackOf(func(t *keepalivedv1.Track) { t.Fall = 0 }), "fall is 0: must be 1 to 100"},
		"rise":                   {trackOf(func(t *keepalivedv1.Track) { t.Rise = 101 }), "rise is 101"},
		"haste":                  {trackOf(func(t *keepalivedv1.Track) { t.Interval = durationpb.New(time.Millisecond) }), "interval is 1ms: must be 100ms to 1m"},
		"timeout":                {trackOf(func(t *keepalivedv1.Track) { t.Timeout = durationpb.New(2 * time.Second) }), "must be 10ms to the interval"},
		"unknown network":        {func(i *keepalivedv1.Instance) { i.Network = "back" }, "networks: {back: eth0}"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := resolve(one(func(i *keepalivedv1.Instance) { other(i); test.change(i) }), testNetworks)
			if err == nil || !strings.Contains(err.Error(), test.words) {
				t.Errorf("error %v, want one with %q", err, test.words)
			}
			if err != nil && strings.Contains(err.Error(), "ab!cd") {
				t.Errorf("error %v tells the password", err)
			}
		})
	}
}

func password(text string) func(*keepalivedv1.Instance) {
	return func(i *keepalivedv1.Instance) {
		i.Version, i.AuthPassword, i.AdvertInterval = 2, text, durationpb.New(time.Second)
	}
}

// speakers are a change of an instance: where it advertises from, and the nodes'
// addresses.
func speakers(source string, addresses ...string) func(*keepalivedv1.Instance) {
	return func(i *keepalivedv1.Instance) {
		i.UnicastSource = source
		for _, a := range addresses {
			i.Speakers = append(i.Speakers, &keepalivedv1.Speaker{Id: a, Addresses: []string{a}})
		}
	}
}
