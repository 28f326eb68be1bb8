package keepalived

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// intent is a configuration of which every value may stand in keepalived.conf
// as it is: numbers are in range, texts are on the whitelist, addresses are
// parsed.
type intent struct {
	routerID  string
	drain     bool
	instances []instance      // in order of their names
	peers     map[string]peer // the other nodes, by their ids
}

// instance is one VRRP instance.
type instance struct {
	name, vip  string
	iface      string // of the addresses
	over       string // interface that advertisements go over
	version    int
	vrid       int
	priority   int
	advert     time.Duration
	password   string
	anchor     netip.Prefix
	extra      []netip.Prefix
	source     netip.Addr   // that it advertises from, with unicast
	peers      []netip.Addr // that it advertises to; none: by multicast
	virtualMAC bool         // its addresses are on a device with the virtual router's own
	failBack   keepalivedv1.FailBack
	delay      time.Duration
	peered     bool          // another node is known on its network
	handover   time.Duration // how long connections may outlive a move; 0: not at all
	repeat     int           // announcements of each address by a new holder
	refresh    time.Duration // between announcements later; 0: none
	tracks     []tracked     // what it needs beside the node
}

// apart tells whether advertisements go over another interface than the addresses are
// on.
func (i *instance) apart() bool { return i.over != i.iface }

// addresses are the anchor and all others.
func (i *instance) addresses() []netip.Prefix {
	return append([]netip.Prefix{i.anchor}, i.extra...)
}

// sticky tells whether the instance stands back for a holder, for a while at least,
// and so has a track file for that.
func (i *instance) sticky() bool {
	return i.failBack == keepalivedv1.FailBack_FAIL_BACK_NEVER || i.failBack == keepalivedv1.FailBack_FAIL_BACK_DELAYED && i.delay > 0
}

// between returns the intent without those addresses that the old one has in
// another instance, or with another prefix length, and whether there are any.
// keepalived gives such an address to its new owner first and then takes it
// from the old one; the new owner sees it vanish and gives up the whole VIP.
func (in *intent) between(old *intent) (*intent, bool) {
	type owner struct {
		instance string
		prefix   netip.Prefix
	}
	was := make(map[netip.Addr]owner)
	existed := make(map[string]bool)
	for n := range old.instances {
		i := &old.instances[n]
		existed[i.name] = true
		for _, a := range i.addresses() {
			was[a.Addr()] = owner{i.name, a}
		}
	}
	result := *in
	result.instances = slices.Clone(in.instances)
	moved := false
	for n := range result.instances {
		i := &result.instances[n]
		if !existed[i.name] {
			continue // it comes up later than the old owner goes
		}
		i.extra = slices.DeleteFunc(slices.Clone(i.extra), func(a netip.Prefix) bool {
			before, known := was[a.Addr()]
			return known && before != owner{i.name, a}
		})
		moved = moved || len(i.extra) != len(in.instances[n].extra)
	}
	return &result, moved
}

// token is a kind of text that keepalived reads without quotes. keepalived has
// no escapes: a newline begins a directive, "!" and "#" a comment, "$" a
// substitution, "@" a condition, a space ends the text. So only texts without
// any of these get through.
type token struct {
	allowed *regexp.Regexp
	rule    string
}

func (t token) check(field, value string) error {
	if !t.allowed.MatchString(value) {
		return fmt.Errorf("%s is %q: must be %s", field, value, t.rule)
	}
	return nil
}

var (
	nameToken = token{regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`),
		"1 to 32 letters, digits, _ or -"}
	routerToken = token{regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`),
		"1 to 64 letters, digits, dots, _ or -"}
	interfaceToken = token{regexp.MustCompile(`^[A-Za-z0-9._-]{1,15}$`),
		"the name of an interface: 1 to 15 letters, digits, dots, _ or -"}
	passwordToken = token{regexp.MustCompile(`^[A-Za-z0-9]{1,8}$`),
		"1 to 8 letters or digits (VRRPv2 sends no more)"}
	pathToken = token{regexp.MustCompile(`^/[A-Za-z0-9._/-]{1,200}$`),
		"an absolute path of letters, digits, dots, _, - and /"}
)

// maxAddresses of one instance.
const maxAddresses = 64

// resolve checks a configuration and gives every network its interface. The
// errors name the field and say what would be right.
func resolve(c *keepalivedv1.Config, networks map[string]string) (*intent, error) {
	in := &intent{routerID: c.GetGlobal().GetRouterId(), drain: c.GetGlobal().GetDrain()}
	if len(c.GetInstances()) == 0 {
		return in, nil
	}
	if err := routerToken.check("global.router_id", in.routerID); err != nil {
		return nil, &RefusedError{err.Error()}
	}
	var err error
	if in.peers, err = resolvePeers(c.GetGlobal().GetPeers(), networks); err != nil {
		return nil, &RefusedError{err.Error()}
	}
	for n, i := range c.GetInstances() {
		field := fmt.Sprintf("instances[%d]", n)
		resolved, err := resolveInstance(field, i)
		if err != nil {
			return nil, &RefusedError{err.Error()}
		}
		over := cmp.Or(i.GetVrrpNetwork(), i.GetNetwork(), front)
		if resolved.iface, err = interfaceOf(i.GetNetwork(), networks); err != nil {
			return nil, &FailedError{fmt.Errorf("VIP %s: %w", resolved.vip, err)}
		}
		if resolved.over, err = interfaceOf(over, networks); err != nil {
			return nil, &FailedError{fmt.Errorf("VIP %s: %w", resolved.vip, err)}
		}
		if err := resolveTracks(i, resolved, networks); err != nil {
			return nil, err
		}
		resolved.peered = slices.ContainsFunc(c.GetGlobal().GetPeers(), func(p *keepalivedv1.Peer) bool {
			return len(p.GetAddresses()) > 0 && cmp.Or(p.GetNetwork(), front) == over
		})
		in.instances = append(in.instances, *resolved)
	}
	slices.SortFunc(in.instances, func(a, b instance) int { return strings.Compare(a.name, b.name) })
	if err := checkUnique(in.instances); err != nil {
		return nil, &RefusedError{err.Error()}
	}
	return in, nil
}

// front is the network of an instance that names none.
const front = "front"

// interfaceOf finds the interface of a network; empty means front.
func interfaceOf(network string, networks map[string]string) (string, error) {
	network = cmp.Or(network, front)
	name, ok := networks[network]
	if !ok {
		return "", fmt.Errorf("network %q has no interface on this node (known: %s): "+
			"map it in the agent's configuration file, such as \"networks: {%s: eth0}\"",
			network, strings.Join(slices.Sorted(maps.Keys(networks)), ", "), network)
	}
	if err := interfaceToken.check("interface of network "+network, name); err != nil {
		return "", err
	}
	return name, nil
}

// resolveInstance checks all of an instance but its interface.
func resolveInstance(field string, c *keepalivedv1.Instance) (*instance, error) {
	if err := nameToken.check(field+".name", c.GetName()); err != nil {
		return nil, err
	}
	if err := nameToken.check(field+".vip", c.GetVip()); err != nil {
		return nil, err
	}
	field = "instance " + c.GetName() + ": "
	i := &instance{
		name:     c.GetName(),
		vip:      c.GetVip(),
		version:  int(c.GetVersion()),
		vrid:     int(c.GetVrid()),
		priority: int(c.GetPriority()),
		advert:   c.GetAdvertInterval().AsDuration(),
		password: c.GetAuthPassword(),
		failBack: c.GetFailBack(),
		delay:    c.GetFailBackDelay().AsDuration(),
		handover: c.GetHandoverTimeout().AsDuration(),
		repeat:   int(cmp.Or(c.GetAnnounceRepeat(), announceRepeat)),
		refresh:  announceRefresh,

		virtualMAC: c.GetVirtualMac(),
	}
	if d := c.GetAnnounceRefresh(); d != nil {
		i.refresh = d.AsDuration()
	}
	if err := resolveAddresses(field, c, i); err != nil {
		return nil, err
	}
	if err := resolveSpeakers(field, c, i); err != nil {
		return nil, err
	}
	for _, err := range []error{
		checkRange(field+"vrid", i.vrid, 1, 255),
		checkRange(field+"priority", i.priority, 1, 234),
		checkRange(field+"announce_repeat", i.repeat, 1, 20),
		checkRefresh(field, i),
		checkVersion(field, i),
		checkFailBack(field, i),
		checkHandover(field, i),
		checkVirtualMAC(field, c, i),
	} {
		if err != nil {
			return nil, err
		}
	}
	return i, nil
}

func checkRange(field string, value, low, high int) error {
	if value < low || value > high {
		return fmt.Errorf("%s is %d: must be %d to %d", field, value, low, high)
	}
	return nil
}

// What is announced unless the VIP says otherwise.
const (
	announceRepeat  = 5 // keepalived's own default
	announceRefresh = time.Minute
)

func checkRefresh(field string, i *instance) error {
	if i.refresh < 0 || i.refresh > time.Hour || i.refresh%time.Second != 0 {
		return fmt.Errorf("%sannounce_refresh is %v: must be whole seconds, 0s to 1h", field, i.refresh)
	}
	return nil
}

// checkVersion checks what depends on the version of VRRP.
func checkVersion(field string, i *instance) error {
	switch i.version {
	case 2:
		if i.anchor.Addr().Is6() {
			return fmt.Errorf("%sversion is 2: must be 3 for IPv6", field)
		}
		if i.advert%time.Second != 0 || i.advert < time.Second || i.advert > 255*time.Second {
			return fmt.Errorf("%sadvert_interval is %v: must be whole seconds, 1s to 255s, with VRRPv2", field, i.advert)
		}
		if i.password == "" {
			return nil
		}
		// The value is a secret and stays out of the error.
		if !passwordToken.allowed.MatchString(i.password) {
			return fmt.Errorf("%sauth_password must be %s", field, passwordToken.rule)
		}
	case 3:
		const step = 10 * time.Millisecond
		if i.advert%step != 0 || i.advert < step || i.advert > 4095*step {
			return fmt.Errorf("%sadvert_interval is %v: must be a multiple of 10ms, 10ms to 40.95s, with VRRPv3", field, i.advert)
		}
		if i.password != "" {
			return fmt.Errorf("%sauth_password must be empty: VRRPv3 has no authentication", field)
		}
	default:
		return fmt.Errorf("%sversion is %d: must be 2 or 3", field, i.version)
	}
	return nil
}

func checkFailBack(field string, i *instance) error {
	switch i.failBack {
	case keepalivedv1.FailBack_FAIL_BACK_AUTOMATIC, keepalivedv1.FailBack_FAIL_BACK_NEVER:
		return nil
	case keepalivedv1.FailBack_FAIL_BACK_DELAYED:
		if i.delay < 0 || i.delay > time.Hour {
			return fmt.Errorf("%sfail_back_delay is %v: must be 0s to 1h", field, i.delay)
		}
		return nil
	default:
		return fmt.Errorf("%sfail_back is %v: must be automatic, delayed or never", field, i.failBack)
	}
}

// resolveAddresses parses the anchor and the other addresses.
func resolveAddresses(field string, c *keepalivedv1.Instance, i *instance) error {
	var err error
	if i.anchor, err = parseAddress(field+"anchor", c.GetAnchor()); err != nil {
		return err
	}
	if n := len(c.GetAddresses()); n >= maxAddresses {
		return fmt.Errorf("%saddresses has %d entries: must have at most %d", field, n, maxAddresses-1)
	}
	for n, text := range c.GetAddresses() {
		field := fmt.Sprintf("%saddresses[%d]", field, n)
		address, err := parseAddress(field, text)
		if err != nil {
			return err
		}
		if address.Addr().Is4() != i.anchor.Addr().Is4() {
			return fmt.Errorf("%s is %s: must be of the anchor's family (%s)", field, address, i.anchor)
		}
		i.extra = append(i.extra, address)
	}
	return nil
}

// parseAddress parses an address that a machine can have.
func parseAddress(field, text string) (netip.Prefix, error) {
	address, err := netip.ParsePrefix(text)
	a := address.Addr()
	if err != nil || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || address.Bits() == 0 {
		return netip.Prefix{}, fmt.Errorf("%s is %q: must be an address of a host with its prefix length, "+
			"such as 192.168.1.100/24", field, text)
	}
	return address, nil
}

// checkUnique finds what two instances must not share.
func checkUnique(instances []instance) error {
	names := make(map[string]bool)
	owners := make(map[string]string)
	claim := func(what, owner string) error {
		if other, taken := owners[what]; taken {
			return fmt.Errorf("instance %s: %s is taken by instance %s: must be unique on this node", owner, what, other)
		}
		owners[what] = owner
		return nil
	}
	for _, i := range instances {
		if names[i.name] {
			return fmt.Errorf("instance %s exists twice: names must be unique", i.name)
		}
		names[i.name] = true
		family := "IPv6"
		if i.anchor.Addr().Is4() {
			family = "IPv4"
		}
		if err := claim(fmt.Sprintf("%s vrid %d on %s", family, i.vrid, i.over), i.name); err != nil {
			return err
		}
		for _, a := range i.addresses() {
			if err := claim("address "+a.Addr().String(), i.name); err != nil {
				return err
			}
		}
	}
	return nil
}
