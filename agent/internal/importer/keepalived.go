package importer

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/agent/internal/importer/keepalivedconf"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// vrrpReader reads a keepalived.conf.
type vrrpReader struct {
	node      Node
	lines     *lines
	version   uint32 // of global_defs
	instances []*instance

	vrrp *tandemv1.Vrrp
	vips []*tandemv1.Vip
}

// instance is a vrrp_instance as keepalived takes it, with its defaults.
type instance struct {
	name      string
	line      int
	version   uint32 // 0: not given
	iface     string
	vrid      uint32
	priority  uint32
	advert    time.Duration
	password  string
	passLine  int
	anchor    netip.Prefix
	further   []netip.Prefix
	failBack  string
	failDelay time.Duration
	speaking  Speaking
	on        map[int]string // by line: the device that an address is on, "": the interface
	tracked   map[int]string // likewise the interfaces that are tracked
	device    string         // of all addresses
	needs     []need         // interfaces beside these
	untracked int            // line of dont_track_primary; 0: there is none
	virtual   virtual
}

// need is an interface whose loss takes a weight off the priority.
type need struct {
	iface  string
	weight int32
}

// readKeepalived reads the file and builds the VIPs.
func readKeepalived(n Node) (*vrrpReader, error) {
	statements, err := keepalivedconf.Parse(n.Keepalived.Text)
	if err != nil {
		return nil, err
	}
	r := &vrrpReader{node: n, lines: newLines(n.Keepalived.Text), version: 2}
	for i := range statements {
		r.top(&statements[i])
	}
	r.cluster()
	for _, i := range r.instances {
		r.vip(i)
	}
	return r, nil
}

// all gives a statement, its braces and everything between them one fate.
func (r *vrrpReader) all(s *keepalivedconf.Statement, fate Fate, reason string) {
	r.lines.set(s.Line, fate, reason)
	for i := range s.Block {
		r.all(&s.Block[i], fate, reason)
	}
	if s.HasBlock {
		r.lines.set(s.Close, fate, reason)
	}
}

// frame gives a block's first and last line a fate.
func (r *vrrpReader) frame(s *keepalivedconf.Statement, fate Fate) {
	r.lines.set(s.Line, fate, "")
	if s.HasBlock {
		r.lines.set(s.Close, fate, "")
	}
}

// refuse stops the takeover at a line.
func (r *vrrpReader) refuse(line int, format string, args ...any) {
	r.lines.set(line, Refused, fmt.Sprintf(format, args...))
}

const (
	ownScore = "Tandem watches HAProxy itself and moves the VIP by a score; what else this may look at is looked at no more"
	ownLog   = "Tandem records each change of state: lbctl events"
	noScript = "Tandem has keepalived run no scripts"
	noMail   = "Tandem sends no mail: watch lbctl events"
	ownSpeed = "Tandem gives keepalived real-time priority itself"
	ownGarp  = "Tandem has values of its own for gratuitous ARP"
	always   = "Tandem always does"
	ownPeers = "Tandem uses the first address that each node has of its own on the interface, as its agent tells (IPv6: the link-local one)"
)

// topLevel are the blocks that Tandem does without.
var topLevel = map[string]string{
	"vrrp_script": ownScore, "vrrp_track_process": ownScore, "vrrp_track_file": ownScore, "track_file": ownScore,
}

func (r *vrrpReader) top(s *keepalivedconf.Statement) {
	switch keyword := s.Words[0]; {
	case keyword == "global_defs":
		r.frame(s, Ignored)
		for i := range s.Block {
			r.global(&s.Block[i])
		}
	case keyword == "vrrp_instance":
		r.instance(s)
	case topLevel[keyword] != "":
		r.all(s, Ignored, topLevel[keyword])
	case keyword == "vrrp_sync_group":
		r.all(s, Refused, "Tandem moves each VIP by itself: put the addresses that must stay together into one instance "+
			"(virtual_ipaddress_excluded), and remove the group")
	default:
		r.all(s, Refused, "Tandem manages VRRP instances only: run this in a keepalived of its own")
	}
}

// globalDefs are the settings that Tandem does without, or has its own of.
var globalDefs = map[string]string{
	"router_id":   "Tandem uses the node's id",
	"script_user": noScript, "enable_script_security": noScript,
	"notification_email": noMail, "notification_email_from": noMail, "smtp_server": noMail,
	"smtp_connect_timeout": noMail, "smtp_helo_name": noMail, "smtp_alert": noMail, "smtp_alert_vrrp": noMail,
	"vrrp_notify_fifo":             "Tandem reads keepalived's notices itself; nobody else gets them any more",
	"vrrp_notify_fifo_script":      noScript,
	"vrrp_notify_priority_changes": always, "vrrp_higher_prio_send_advert": always, "vrrp_check_unicast_src": always,
	"vrrp_skip_check_adv_addr": "one address alone is in the advertisement",
	"vrrp_priority":            ownSpeed, "vrrp_rt_priority": ownSpeed, "vrrp_rlimit_rttime": ownSpeed, "vrrp_no_swap": ownSpeed,
	"vrrp_garp_master_delay": ownGarp, "vrrp_garp_master_repeat": ownGarp, "vrrp_garp_master_refresh": ownGarp,
	"vrrp_garp_master_refresh_repeat": ownGarp, "vrrp_garp_interval": ownGarp, "vrrp_gna_interval": ownGarp,
}

func (r *vrrpReader) global(s *keepalivedconf.Statement) {
	keyword := s.Words[0]
	if keyword == "vrrp_version" && len(s.Words) == 2 && (s.Words[1] == "2" || s.Words[1] == "3") {
		r.version = uint32(s.Words[1][0] - '0')
		r.lines.set(s.Line, Typed, "")
		return
	}
	if reason := globalDefs[keyword]; reason != "" {
		r.all(s, Ignored, reason)
		return
	}
	r.all(s, Refused, "the model lacks it: remove it, if the pair can do without, and reload")
}

// vipID is what a VIP can be called.
var vipID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)

func (r *vrrpReader) instance(s *keepalivedconf.Statement) {
	// keepalived's own defaults (man page keepalived.conf).
	i := &instance{line: s.Line, priority: 100, advert: time.Second, on: map[int]string{}, tracked: map[int]string{}, virtual: virtual{unrouted: map[int]bool{}}}
	r.frame(s, Typed)
	if len(s.Words) != 2 || !vipID.MatchString(s.Words[1]) {
		r.refuse(s.Line, "a VIP is called by 1 to 32 letters, digits, _ or - and its instance must keep its name: rename it on both nodes")
		return
	}
	i.name = s.Words[1]
	for _, other := range r.instances {
		if other.name == i.name {
			r.refuse(s.Line, "there are two instances of that name")
			return
		}
	}
	for n := range s.Block {
		r.setting(i, &s.Block[n])
	}
	r.complete(i)
	r.instances = append(r.instances, i)
}

// instanceSettings are the settings that Tandem does without, or has its own
// of.
var instanceSettings = map[string]string{
	"state":        "Tandem lets the priorities alone decide who begins",
	"track_script": ownScore, "track_process": ownScore, "track_file": ownScore,
	"notify": ownLog, "notify_master": ownLog, "notify_backup": ownLog, "notify_fault": ownLog, "notify_stop": ownLog,
	"notify_master_rx_lower_pri": ownLog, "smtp_alert": noMail,
	"notify_deleted": always, "promote_secondaries": always, "higher_prio_send_advert": always,
	"check_unicast_src": always,
	"preempt":           "keepalived's default", "debug": "Tandem has keepalived log what it needs",
	"garp_master_delay": ownGarp, "garp_master_repeat": ownGarp, "garp_master_refresh": ownGarp,
	"garp_master_refresh_repeat": ownGarp, "garp_lower_prio_delay": ownGarp, "garp_lower_prio_repeat": ownGarp,
}

// setting reads one statement of an instance.
func (r *vrrpReader) setting(i *instance, s *keepalivedconf.Statement) {
	keyword := s.Words[0]
	if reason := instanceSettings[keyword]; reason != "" {
		r.all(s, Ignored, reason)
		return
	}
	switch keyword {
	case "authentication":
		r.authentication(i, s)
	case "virtual_ipaddress":
		r.frame(s, Typed)
		r.addresses(i, s, false)
	case "virtual_ipaddress_excluded":
		r.frame(s, Typed)
		r.addresses(i, s, true)
	case "unicast_peer":
		r.all(s, Typed, ownPeers)
		for n := range s.Block {
			i.speaking.Peers = append(i.speaking.Peers, s.Block[n].Words[0])
		}
	case "unicast_src_ip":
		r.lines.set(s.Line, Ignored, ownPeers)
		if len(s.Words) > 1 {
			i.speaking.Source = s.Words[1]
		}
	case "track_interface":
		r.trackInterface(i, s)
	case "dont_track_primary":
		i.untracked = s.Line
	case "use_vmac":
		r.lines.set(s.Line, Typed, "")
		i.virtual.line, i.virtual.words = s.Line, s.Words[1:]
	case "vmac_xmit_base":
		r.lines.set(s.Line, Typed, "")
		i.virtual.overBase = true
	case "nopreempt":
		i.failBack = "never"
		r.lines.set(s.Line, Typed, "")
	default:
		r.value(i, s)
	}
}

// value reads a setting of one word.
func (r *vrrpReader) value(i *instance, s *keepalivedconf.Statement) {
	r.lines.set(s.Line, Typed, "")
	text := ""
	if len(s.Words) == 2 && !s.HasBlock {
		text = s.Words[1]
	}
	var err error
	switch s.Words[0] {
	case "interface":
		i.iface = text
	case "virtual_router_id":
		err = set(&i.vrid, text, numbered(1, 255))
	case "priority":
		err = set(&i.priority, text, numbered(1, 254))
	case "version":
		err = set(&i.version, text, numbered(2, 3))
	case "advert_int":
		err = set(&i.advert, text, seconds)
	case "preempt_delay":
		i.failBack = "delayed"
		err = set(&i.failDelay, text, seconds)
	default:
		r.all(s, Refused, "the model lacks it: remove it on both nodes, if the pair can do without, and reload")
		return
	}
	if err != nil {
		r.refuse(s.Line, "%v", err)
	}
}

// set reads a value; one that cannot be read leaves the default.
func set[T any](to *T, text string, read func(string) (T, error)) error {
	value, err := read(text)
	if err == nil {
		*to = value
	}
	return err
}

func numbered(low, high uint64) func(string) (uint32, error) {
	return func(text string) (uint32, error) { return number(text, low, high) }
}

func number(text string, low, high uint64) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("%q must be a number from %d to %d", text, low, high)
	}
	return uint32(n), nil
}

// seconds reads a number with at most two decimals, as keepalived counts in
// hundredths; more would be rounded.
func seconds(text string) (time.Duration, error) {
	whole, part, _ := strings.Cut(text, ".")
	n, err := strconv.ParseUint(whole, 10, 16)
	hundredths, errPart := strconv.ParseUint((part + "00")[:2], 10, 8)
	if err != nil || errPart != nil || len(part) > 2 {
		return 0, fmt.Errorf("%q must be seconds with at most two decimals", text)
	}
	return time.Duration(n)*time.Second + time.Duration(hundredths)*10*time.Millisecond, nil
}

// authentication reads VRRPv2's password, which keepalived cuts to eight
// characters.
func (r *vrrpReader) authentication(i *instance, s *keepalivedconf.Statement) {
	r.frame(s, Typed)
	for n := range s.Block {
		switch b := &s.Block[n]; {
		case len(b.Words) == 2 && b.Words[0] == "auth_type" && b.Words[1] == "PASS":
			r.lines.set(b.Line, Typed, "")
		case len(b.Words) == 2 && b.Words[0] == "auth_pass":
			i.password, i.passLine = b.Words[1], b.Line
			reason := ""
			if len(i.password) > 8 {
				i.password, reason = i.password[:8], "only the first 8 characters, as keepalived itself does"
			}
			r.lines.set(b.Line, Typed, reason)
			if !passwordText.MatchString(i.password) {
				r.refuse(b.Line, "the password's first 8 characters must be letters and digits: change it on both nodes")
			}
		default:
			r.refuse(b.Line, "Tandem knows auth_type PASS and auth_pass only: change it on both nodes")
		}
	}
}

var passwordText = regexp.MustCompile(`^[A-Za-z0-9]{1,8}$`)

// addresses reads virtual_ipaddress or virtual_ipaddress_excluded. What is in
// the advertisement must stay as it is, or both nodes hold the VIP.
func (r *vrrpReader) addresses(i *instance, s *keepalivedconf.Statement, excluded bool) {
	for n := range s.Block {
		line, words := s.Block[n].Line, s.Block[n].Words
		r.lines.set(line, Typed, "")
		prefix, err := hostPrefix(words[0])
		i.on[line] = ""
		if len(words) == 3 && words[1] == "dev" {
			i.on[line], words = words[2], words[:1]
		}
		if i.virtual.unrouted[line] = len(words) == 2 && words[1] == "noprefixroute"; i.virtual.unrouted[line] {
			words = words[:1]
		}
		switch {
		case err != nil:
			r.refuse(line, "%v", err)
		case len(words) != 1:
			r.refuse(line, "the model has the address alone, on one interface: remove what follows %s on both nodes", words[0])
		case excluded:
			i.further = append(i.further, prefix)
		case i.anchor.IsValid():
			r.refuse(line, "Tandem has one address in the advertisement, and nodes that have others there both become master: "+
				"move this one to virtual_ipaddress_excluded on both nodes at the same time")
		default:
			i.anchor = prefix
		}
	}
}

// hostPrefix reads an address as keepalived does: without a prefix length it is
// alone in its network.
func hostPrefix(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if address, errAlone := netip.ParseAddr(text); errAlone == nil {
		prefix, err = netip.PrefixFrom(address, address.BitLen()), nil
	}
	a := prefix.Addr()
	if err != nil || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || prefix.Bits() == 0 {
		return netip.Prefix{}, fmt.Errorf("%q must be an address of a host, such as 192.168.1.100/24", text)
	}
	return prefix, nil
}

func (r *vrrpReader) trackInterface(i *instance, s *keepalivedconf.Statement) {
	r.frame(s, Ignored)
	for n := range s.Block {
		b := &s.Block[n]
		i.tracked[b.Line] = strings.Join(b.Words, " ")
	}
}

// complete refuses an instance that lacks what it needs.
func (r *vrrpReader) complete(i *instance) {
	r.interfaces(i)
	r.virtualMAC(i)
	switch {
	case i.iface == "":
		r.refuse(i.line, "the instance has no interface")
	case i.vrid == 0:
		r.refuse(i.line, "the instance has no virtual_router_id")
	case !i.anchor.IsValid():
		r.refuse(i.line, "the instance has no virtual_ipaddress")
	case i.failBack == "delayed" && (i.failDelay == 0 || i.failDelay > time.Hour):
		r.refuse(i.line, "preempt_delay must be more than 0 and at most an hour")
	}
	for _, p := range i.further {
		if i.anchor.IsValid() && p.Addr().Is4() != i.anchor.Addr().Is4() {
			r.refuse(i.line, "Tandem has an instance for each family: give %s one of its own", p)
		}
	}
}

func duration(d time.Duration) *durationpb.Duration { return durationpb.New(d) }
