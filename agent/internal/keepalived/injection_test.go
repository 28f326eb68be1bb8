package keepalived

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// directives reads keepalived.conf as keepalived does: "!" and "#" begin a
// comment anywhere, words are parted by spaces, "{" opens and "}" closes a
// block. Each directive comes with its blocks before it. A substitution or a
// condition is one too many.
func directives(config []byte) ([]string, error) {
	var found, blocks []string
	for line := range strings.Lines(string(config)) {
		if end := strings.IndexAny(line, "!#"); end >= 0 {
			line = line[:end]
		}
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case strings.ContainsAny(line, "$\\~\x00\r") || strings.HasPrefix(words[0], "@"):
			return nil, fmt.Errorf("line %q does more than it says", line)
		case words[len(words)-1] == "{":
			blocks = append(blocks, strings.Join(words[:len(words)-1], " "))
			found = append(found, strings.Join(blocks, " / "))
		case words[0] == "}":
			if len(words) > 1 || len(blocks) == 0 {
				return nil, fmt.Errorf("line %q does not just close a block", line)
			}
			blocks = blocks[:len(blocks)-1]
		default:
			found = append(found, strings.Join(append(slices.Clone(blocks), strings.Join(words, " ")), " / "))
		}
	}
	if len(blocks) > 0 {
		return nil, fmt.Errorf("blocks %v are open at the end", blocks)
	}
	slices.Sort(found)
	return found, nil
}

// expected are the directives that a configuration stands for.
func expected(c *keepalivedv1.Config) []string {
	all := []string{
		"global_defs",
		"global_defs / router_id " + c.GetGlobal().GetRouterId(),
		"global_defs / script_user root",
		"global_defs / enable_script_security",
		"global_defs / vrrp_notify_fifo /run/tandem/keepalived/notify",
		"global_defs / vrrp_notify_priority_changes true",
		"global_defs / vrrp_higher_prio_send_advert true",
		"global_defs / vrrp_garp_master_refresh 60",
		"global_defs / vrrp_no_swap",
	}
	track := func(name string) {
		block := "vrrp_track_file " + name
		all = append(all, block, block+" / weight 1", block+" / file \"/run/tandem/keepalived/track/"+name+"\"")
	}
	track("score")
	if slices.ContainsFunc(c.GetInstances(), func(i *keepalivedv1.Instance) bool { return len(unicastPeers(i)) > 0 }) {
		all = append(all, "global_defs / vrrp_check_unicast_src")
	}
	for _, i := range c.GetInstances() {
		block := "vrrp_instance " + i.GetName()
		add := func(text string, args ...any) { all = append(all, block+" / "+fmt.Sprintf(text, args...)) }
		all = append(all, block)
		add("state BACKUP")
		add("version %d", i.GetVersion())
		over, on := i.GetVrrpNetwork(), ""
		if over == "" || over == i.GetNetwork() {
			over = i.GetNetwork()
		} else {
			on = " dev " + testNetworks[i.GetNetwork()]
			add("track_interface")
			add("track_interface / %s", testNetworks[i.GetNetwork()])
			add("dont_track_primary")
		}
		add("interface %s", testNetworks[over])
		add("virtual_router_id %d", i.GetVrid())
		add("priority %d", i.GetPriority())
		add("advert_int %s", strings.TrimSuffix(
			fmt.Sprintf("%.2f", i.GetAdvertInterval().AsDuration().Seconds()), ".00"))
		add("notify_deleted")
		settings := on // of each address
		if i.GetVirtualMac() {
			settings = " noprefixroute"
			add("use_vmac %s", virtualDevice(strings.Contains(i.GetAnchor(), ":"), int(i.GetVrid()), testNetworks[i.GetNetwork()]))
			add("vmac_xmit_base")
			add("garp_master_delay 1")
		} else {
			add("promote_secondaries")
		}
		if n := i.GetAnnounceRepeat(); n != 0 && n != 5 {
			add("garp_master_repeat %d", n)
		}
		if d := i.GetAnnounceRefresh(); d != nil && d.AsDuration() != time.Minute {
			add("garp_master_refresh %d", d.GetSeconds())
		}
		if i.GetAuthPassword() != "" {
			add("authentication")
			add("authentication / auth_type PASS")
			add("authentication / auth_pass %s", i.GetAuthPassword())
		}
		if peers := unicastPeers(i); len(peers) > 0 {
			add("unicast_src_ip %s", i.GetUnicastSource())
			add("unicast_peer")
			for _, peer := range peers {
				add("unicast_peer / %s", peer)
			}
		}
		add("virtual_ipaddress")
		add("virtual_ipaddress / %s%s", canonical(i.GetAnchor()), settings)
		for n, address := range i.GetAddresses() {
			if n == 0 {
				add("virtual_ipaddress_excluded")
			}
			add("virtual_ipaddress_excluded / %s%s", canonical(address), settings)
		}
		add("track_file")
		add("track_file / score")
		add("track_file / away.%s", i.GetName())
		track("away." + i.GetName())
		add("track_file / fence.%s", i.GetName())
		track("fence." + i.GetName())
		for n, tr := range i.GetTracks() {
			if tr.GetKind() == keepalivedv1.TrackKind_TRACK_KIND_NETWORK {
				if on == "" && !slices.ContainsFunc(i.GetTracks()[:n], func(o *keepalivedv1.Track) bool { return o.GetKind() == tr.GetKind() }) {
					add("track_interface")
				}
				add("track_interface / %s weight %d", testNetworks[tr.GetTarget()], tr.GetWeight())
			}
		}
		if len(i.GetTracks()) > 0 || on != "" {
			add("track_file / track.%s", i.GetName())
			track("track." + i.GetName())
		}
		if i.GetFailBack() == keepalivedv1.FailBack_FAIL_BACK_NEVER || i.GetFailBackDelay().AsDuration() > 0 {
			add("track_file / standby.%s", i.GetName())
			track("standby." + i.GetName())
		}
	}
	slices.Sort(all)
	return all
}

// unicastPeers are whom an instance advertises to.
func unicastPeers(i *keepalivedv1.Instance) (peers []string) {
	for _, s := range i.GetSpeakers() {
		for _, a := range s.GetAddresses() {
			if a != i.GetUnicastSource() && strings.Contains(a, ":") == strings.Contains(i.GetUnicastSource(), ":") {
				peers = append(peers, a)
			}
		}
	}
	return peers
}

func canonical(address string) string {
	prefix, err := netip.ParsePrefix(address)
	if err != nil {
		return "not an address"
	}
	return prefix.String()
}

// injected finds directives in the rendered bytes that the configuration does
// not stand for, and those that are lost.
func injected(c *keepalivedv1.Config, rendered []byte) error {
	got, err := directives(rendered)
	if err != nil {
		return err
	}
	if diff := cmp.Diff(expected(c), got); diff != "" {
		return fmt.Errorf("keepalived reads something else (-want +got):\n%s", diff)
	}
	return nil
}

// hostile texts, each of which does something in keepalived.conf.
var hostile = []string{
	"a\nscript_user root", "a\n}\nvrrp_instance evil {", "a b", "a\tb", "a!b", "a#b", "!", "#", "a{", "}", "{",
	"$ROUTER", "${_ENV_PATH}", "@lb a", "a\\", "a\\x0ab", "\"a", "a\"", "'a'", "~SEQ(a,1,3)", "a\r", "a\x00b",
	"include /etc/passwd", "", ".", "..", "-", "--", "a/b", "é", "\u2028", "a\u00a0b", strings.Repeat("x", 300),
	"virtual_ipaddress", "10.9.0.9/24 dev eth1", "10.9.0.9/24\n10.9.0.8/24", "fd09::1%eth0/64", "true",
}

// anyConfig draws a configuration in which a text may be hostile.
func anyConfig(t *rapid.T) *keepalivedv1.Config {
	text := func(label, pattern string) string {
		if rapid.IntRange(0, 19).Draw(t, label+" hostile") == 0 {
			return rapid.SampledFrom(hostile).Draw(t, label)
		}
		return rapid.StringMatching(pattern).Draw(t, label)
	}
	c := &keepalivedv1.Config{Global: &keepalivedv1.Global{
		RouterId: text("router", `[A-Za-z0-9._-]{1,20}`),
		Drain:    rapid.Bool().Draw(t, "drain"),
	}}
	for n := range rapid.IntRange(1, 3).Draw(t, "instances") {
		six := rapid.Bool().Draw(t, "six")
		address := `10\.[0-9]\.[0-9]{1,2}\.[1-9][0-9]?/(24|32)`
		if six {
			address = `fd0[0-9a-f]::[1-9a-f][0-9a-f]{0,3}/(64|128)`
		}
		i := &keepalivedv1.Instance{
			Name:           text("name", `[A-Za-z0-9_-]{1,32}`),
			Vip:            text("vip", `[A-Za-z0-9_-]{1,32}`),
			Version:        3,
			Network:        rapid.SampledFrom([]string{"front", "vrrp"}).Draw(t, "network"),
			Vrid:           uint32(n*50 + rapid.IntRange(1, 50).Draw(t, "vrid")),
			Priority:       rapid.Uint32Range(1, 234).Draw(t, "priority"),
			AdvertInterval: durationpb.New(time.Duration(rapid.IntRange(1, 4095).Draw(t, "advert")) * 10 * time.Millisecond),
			Anchor:         text("anchor", address),
			FailBack:       keepalivedv1.FailBack(rapid.IntRange(1, 3).Draw(t, "fail back")),
		}
		if i.GetFailBack() == keepalivedv1.FailBack_FAIL_BACK_DELAYED {
			i.FailBackDelay = durationpb.New(time.Duration(rapid.IntRange(0, 3600).Draw(t, "delay")) * time.Second)
		}
		switch rapid.IntRange(0, 5).Draw(t, "track") {
		case 0:
			i.Tracks = append(i.Tracks, pinged(text("pinged", `10\.9\.0\.[1-9]`), -44))
		case 1:
			i.Tracks = append(i.Tracks, aTrack(keepalivedv1.TrackKind_TRACK_KIND_URL, text("asked", `http://[a-z]{1,5}/`), -44))
		case 2:
			other := map[string]string{"front": "vrrp", "vrrp": "front"}[i.GetNetwork()]
			i.Tracks = append(i.Tracks, aTrack(keepalivedv1.TrackKind_TRACK_KIND_NETWORK, text("network", other), rapid.Int32Range(-57, -1).Draw(t, "weight")))
		default:
		}
		for range rapid.IntRange(0, 3).Draw(t, "addresses") {
			i.Addresses = append(i.Addresses, text("address", address))
		}
		if !six && rapid.Bool().Draw(t, "v2") {
			i.Version = 2
			i.AdvertInterval = durationpb.New(time.Duration(rapid.IntRange(1, 255).Draw(t, "seconds")) * time.Second)
			i.AuthPassword = text("password", `[A-Za-z0-9]{1,8}`)
		}
		if rapid.Bool().Draw(t, "apart") {
			i.VrrpNetwork = rapid.SampledFrom([]string{"front", "vrrp"}).Draw(t, "vrrp network")
		}
		if rapid.Bool().Draw(t, "unicast") {
			i.UnicastSource = text("source", map[bool]string{false: `10\.9\.0\.[1-9]`, true: `fe80::[1-9]`}[six])
			i.Speakers = []*keepalivedv1.Speaker{
				{Id: "one", Addresses: []string{i.GetUnicastSource()}},
				{Id: "two", Addresses: []string{text("peer", map[bool]string{false: `10\.9\.1\.[1-9]`, true: `fe80::a[1-9]`}[six])}},
			}
		}
		c.Instances = append(c.Instances, i)
	}
	return c
}

// I6: whatever is accepted, keepalived reads it, and reads just that.
func TestI6NothingIsInjected(t *testing.T) {
	accepted := 0
	rapid.Check(t, func(r *rapid.T) {
		config := anyConfig(r)
		in, err := resolve(config, testNetworks)
		if err != nil {
			return
		}
		accepted++
		rendered := render(in, testLayout)
		if err := injected(config, rendered); err != nil {
			r.Fatal(err)
		}
		if err := keepalivedReads(t, rendered); err != nil {
			r.Fatalf("keepalived refuses what was accepted: %v\n%s", err, rendered)
		}
	})
	t.Logf("%d configurations accepted and read", accepted)
	if accepted < 5 {
		t.Errorf("only %d configurations were accepted: that shows nothing", accepted)
	}
}

// The check above finds each of the rules missing.
func TestI6MissingRulesAreFound(t *testing.T) {
	anything := regexp.MustCompile(`(?s)^.*$`)
	for name, defect := range map[string]struct {
		token *token
		put   func(c *keepalivedv1.Config, text string)
	}{
		"name":   {&nameToken, func(c *keepalivedv1.Config, text string) { c.Instances[0].Name = text }},
		"router": {&routerToken, func(c *keepalivedv1.Config, text string) { c.Global.RouterId = text }},
		"password": {&passwordToken, func(c *keepalivedv1.Config, text string) {
			password(text)(c.Instances[0])
		}},
	} {
		t.Run(name, func(t *testing.T) {
			found := func() (first string, got error) {
				for _, text := range hostile {
					c := web("lb", 230)
					defect.put(c, text)
					in, err := resolve(c, testNetworks)
					if err != nil {
						continue
					}
					if err := injected(c, render(in, testLayout)); err != nil {
						return text, err
					}
				}
				return "", nil
			}
			if text, err := found(); err != nil {
				t.Fatalf("injected with the rule: %q: %v", text, err)
			}
			rule := defect.token.allowed
			defer func() { defect.token.allowed = rule }()
			defect.token.allowed = anything
			if _, err := found(); err == nil {
				t.Error("the rule was turned off and nothing was found")
			}
			// Only control characters let through.
			defect.token.allowed = regexp.MustCompile(`^[A-Za-z0-9_ {}\n]{1,64}$`)
			if _, err := found(); err == nil {
				t.Error("the check for control characters was turned off and nothing was found")
			}
		})
	}
}

func FuzzRender(f *testing.F) {
	for _, text := range hostile {
		f.Add(text, "web", "10.9.0.100/24", "10.9.0.101/24", "secret")
		f.Add("lb", text, "10.9.0.100/24", "10.9.0.101/24", "secret")
		f.Add("lb", "web", text, "10.9.0.101/24", "secret")
		f.Add("lb", "web", "10.9.0.100/24", text, "secret")
		f.Add("lb", "web", "10.9.0.100/24", "10.9.0.101/24", text)
	}
	f.Fuzz(func(t *testing.T, router, name, anchor, address, secret string) {
		c := web(router, 230)
		c.Instances[0].Name, c.Instances[0].Anchor = name, anchor
		c.Instances[0].Addresses = []string{address}
		password(secret)(c.Instances[0])
		in, err := resolve(c, testNetworks)
		if err != nil {
			return
		}
		rendered := render(in, testLayout)
		if err := injected(c, rendered); err != nil {
			t.Fatal(err)
		}
		if err := keepalivedReads(t, rendered); err != nil {
			t.Fatalf("keepalived refuses what was accepted: %v\n%s", err, rendered)
		}
	})
}
