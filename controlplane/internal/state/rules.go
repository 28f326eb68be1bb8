package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// rules are the rules between resources, over the configuration as it would
// be. Only those run that what was touched can break.
type rules struct {
	violations
	draft *Draft
	next  *Config
}

// check returns the rules that next breaks as an *Error.
func (d *Draft) check(next *Config) error {
	if next.deleted {
		return nil
	}
	r := &rules{draft: d, next: next}
	if d.kinds[KindVip] || d.kinds[KindCluster] {
		r.vips()
	}
	if d.kinds[KindListener] || d.kinds[KindPool] || d.kinds[KindVip] {
		r.references()
	}
	if d.kinds[KindPool] {
		r.pools()
	}
	if d.kinds[KindListener] || d.kinds[KindVip] || d.kinds[KindCluster] {
		r.limits()
		if len(r.list) == 0 { // binds need VIPs that exist
			r.binds()
			r.reserved()
		}
	}
	if d.kinds[KindBackend] {
		r.backends()
	}
	if err := r.err(); err != nil {
		return err
	}
	return nil
}

// place is a field of a resource.
type place struct {
	name  Name
	field string
}

// refuse adds a violation at the first of the places that the request holds:
// the one that the user can put right in it. The first place is the fallback.
func (r *rules) refuse(reason string, places []place, format string, args ...any) {
	at := join(places[0].name.String(), places[0].field)
	for _, p := range places {
		if f, ok := r.draft.fields[p.name]; ok {
			at = join(f, p.field)
			break
		}
	}
	r.add(FailedPrecondition, at, reason, format, args...)
}

func (r *rules) vip(id, field string) place      { return place{VipName(r.next.id, id), field} }
func (r *rules) listener(id, field string) place { return place{ListenerName(r.next.id, id), field} }
func (r *rules) cluster(field string) place      { return place{ClusterName(r.next.id), field} }

// references holds that listeners refer to what exists and speaks their
// protocol.
func (r *rules) references() {
	for i, l := range r.next.listeners.values {
		id := r.next.listeners.keys[i]
		pool := r.next.Pool(l.GetPool())
		if pool == nil {
			r.unknown(ReasonUnknownPool, ReasonPoolInUse, r.listener(id, "pool"), PoolName(r.next.id, l.GetPool()), r.next.pools.keys)
		} else if want, is := EffectiveProtocol(l.GetProtocol()), EffectiveProtocol(pool.GetProtocol()); want != is {
			r.refuse(ReasonProtocolMismatch,
				[]place{r.listener(id, "pool"), {PoolName(r.next.id, l.GetPool()), "protocol"}},
				"listener %q speaks %s and pool %q %s: give both the same protocol", id, want, l.GetPool(), is)
		}
		for j, b := range l.GetBinds() {
			if b.GetVip() != "" && r.next.Vip(b.GetVip()) == nil {
				at := r.listener(id, fmt.Sprintf("binds[%d].vip", j))
				r.unknown(ReasonUnknownVip, ReasonVipInUse, at, VipName(r.next.id, b.GetVip()), r.next.vips.keys)
			}
		}
	}
}

// unknown reports a reference from a listener to what does not exist: as the
// listener's fault if the request holds it, else as one of the removal.
func (r *rules) unknown(unknown, inUse string, from place, to Name, known []string) {
	if _, ok := r.draft.fields[from.name]; ok {
		r.refuse(unknown, []place{from}, "%s %q does not exist: %s", to.Kind, to.ID, oneOf(known))
		return
	}
	r.add(FailedPrecondition, "name", inUse, "%s %q is used by listener %q: change or delete that first",
		to.Kind, to.ID, from.name.ID)
}

func oneOf(known []string) string {
	switch {
	case len(known) == 0:
		return "there is none yet, create it first"
	case len(known) > 10:
		return "must be one of " + strings.Join(known[:10], ", ") + ", …"
	default:
		return "must be one of " + strings.Join(known, ", ")
	}
}

// pools holds the rules within one pool.
func (r *rules) pools() {
	for i, p := range r.next.pools.values {
		n := PoolName(r.next.id, r.next.pools.keys[i])
		if !r.draft.touched[n] {
			continue
		}
		if p.GetBalance() == "uri" && EffectiveProtocol(p.GetProtocol()) != "http" {
			r.refuse(ReasonBalanceNeedsHTTP, []place{{n, "balance"}}, "uri needs protocol http: requests have one, TCP connections do not")
		}
		lo, hi, ok := strings.Cut(p.GetCheck().GetHttp().GetExpectedStatus(), "-")
		if ok && lo > hi { // both have three digits
			r.refuse(ReasonStatusRange, []place{{n, "check.http.expected_status"}}, "%s-%s is no range: must be lowest-highest, such as 200-399", lo, hi)
		}
	}
}

// limits holds that the process can take what a listener may accept.
func (r *rules) limits() {
	limit := EffectiveMaxConnections(r.next)
	for i, l := range r.next.listeners.values {
		id := r.next.listeners.keys[i]
		if m := EffectiveListener(r.next, l).GetMaxConnections(); m > limit {
			r.refuse(ReasonMaxConnections, []place{r.listener(id, "max_connections"), r.cluster("max_connections")},
				"listener %q may have %d connections and the cluster's max_connections allows %d in all: lower the one or raise the other",
				id, m, limit)
		}
	}
}

// endpoint is where a backend is.
type endpoint struct {
	address string
	port    uint32
}

// backends holds that no two backends of a pool have one address and port.
func (r *rules) backends() {
	moved := map[string]map[endpoint]string{} // by pool: new endpoint → backend
	for n := range r.draft.touched {
		if n.Kind != KindBackend || !r.moved(n) {
			continue
		}
		b := r.next.Backend(n.Pool, n.ID)
		at := endpoint{b.Address, b.Port}
		if moved[n.Pool] == nil {
			moved[n.Pool] = map[endpoint]string{}
		}
		// Of two new ones the first by name keeps the place.
		if first, ok := moved[n.Pool][at]; !ok || n.ID < first {
			moved[n.Pool][at] = n.ID
		}
	}
	for pool, places := range moved {
		ids := r.next.backendIDs(pool)
		for i, b := range r.next.Backends(pool) {
			wrong, ok := places[endpoint{b.Address, b.Port}]
			other := ids[i]
			if !ok || wrong == other {
				continue
			}
			if r.moved(BackendName(r.next.id, pool, other)) {
				wrong, other = other, wrong
			}
			r.refuse(ReasonAddressTaken, []place{{BackendName(r.next.id, pool, wrong), "address"}},
				"%s is the address of backend %q already: a pool has each address and port once",
				netip.AddrPortFrom(addr(b.Address), uint16(b.Port)), other)
		}
	}
}

// moved tells whether a backend is where it was not before.
func (r *rules) moved(n Name) bool {
	b, old := r.next.Backend(n.Pool, n.ID), r.draft.base.Backend(n.Pool, n.ID)
	return b != nil && (old == nil || old.Address != b.Address || old.Port != b.Port)
}

// vips holds the rules of VRRP.
func (r *rules) vips() {
	if c := r.next.cluster.GetVrrp(); c.GetProfile() != "" && c.GetAdvertInterval() != nil {
		r.twoPaces(r.cluster("vrrp.profile"))
	}
	owners := newVipIndex(r.draft.env.Others)
	for i, v := range r.next.vips.values {
		id := r.next.vips.keys[i]
		r.anchors(id, v)
		r.vrrp(id, v)
		r.priorities(id, v)
		r.tracks(id, v)
		for _, c := range owners.claim(r.next.id, id, v) {
			r.refuse(c.reason, []place{r.vip(id, c.field), {c.other, c.otherField}}, "%s", c.message)
		}
	}
}

// anchors holds that the first address of each family stays: nodes that
// disagree about it would both hold the VIP.
func (r *rules) anchors(id string, v *tandemv1.Vip) {
	old := r.draft.base.Vip(id)
	if old == nil || !r.draft.touched[VipName(r.next.id, id)] {
		return
	}
	for _, v6 := range []bool{false, true} {
		was, _ := anchor(old, v6)
		is, at := anchor(v, v6)
		if was == "" || is == was {
			continue
		}
		r.refuse(ReasonAnchorImmutable, []place{r.vip(id, fmt.Sprintf("addresses[%d]", at))},
			"the first %s address of VIP %q is %s and cannot change: add the new one after it, or make another VIP", family(v6), id, was)
	}
}

// vrrp holds what the protocol's version can do.
func (r *rules) vrrp(id string, v *tandemv1.Vip) {
	version, interval := EffectiveVrrpVersion(r.next), EffectiveAdvertInterval(r.next, v)
	if a, at := anchor(v, true); version == 2 && a != "" {
		r.refuse(ReasonV2IPv6, []place{r.vip(id, fmt.Sprintf("addresses[%d]", at)), r.cluster("vrrp.version")},
			"VRRPv2 cannot carry the IPv6 address %s of VIP %q: use version 3", a, id)
	}
	unit, words := 10*time.Millisecond, "VRRPv3 counts in hundredths of a second: must be a multiple of 10ms"
	if version == 2 {
		unit, words = time.Second, "VRRPv2 counts in seconds: must be a whole number of them"
	}
	if interval%unit != 0 {
		r.refuse(ReasonAdvertInterval,
			[]place{r.vip(id, "advert_interval"), r.cluster("vrrp.advert_interval")}, "%s, not %s", words, interval)
	}
	if v.GetProfile() != "" && v.GetAdvertInterval() != nil {
		r.twoPaces(r.vip(id, "profile"))
	}
	r.virtualMAC(id, v)
	if v.GetFailBack() == "delayed" && v.GetFailBackDelay().AsDuration() <= 0 {
		r.refuse(ReasonFailBackDelay, []place{r.vip(id, "fail_back_delay")}, "fail_back delayed needs a delay, such as 60s")
	}
}

// virtualMAC holds what the virtual router's own link-layer address needs: the nodes hear
// each other on the network that has it (RFC 9568, section 7.2).
func (r *rules) virtualMAC(id string, v *tandemv1.Vip) {
	if !v.GetVirtualMac() {
		return
	}
	at := r.vip(id, "virtual_mac")
	if EffectiveUnicast(r.next, v) {
		r.refuse(ReasonVirtualMac, []place{at, r.vip(id, "unicast"), r.cluster("vrrp.unicast")},
			"VIP %q has a virtual MAC address, which goes with multicast only: set unicast to false for it, or virtual_mac to false", id)
	}
	if over := EffectiveVrrpNetwork(v); over != EffectiveNetwork(v) {
		r.refuse(ReasonVirtualMac, []place{at, r.vip(id, "vrrp_network")},
			"VIP %q has a virtual MAC address on network %q, where it must be advertised, too, and not over %q: unset vrrp_network, or set virtual_mac to false",
			id, EffectiveNetwork(v), over)
	}
}

// twoPaces refuses a profile beside an interval: which of them counts would be a
// guess.
func (r *rules) twoPaces(at place) {
	r.refuse(ReasonProfile, []place{at}, "profile and advert_interval both say how often to advertise: unset one of them")
}

// maxPriorityGap is how far the priorities of one VIP may be apart. The agents'
// scores rely on it: what they take off a node without a proxy, or a drained
// one, must outweigh any gap (docs/decisions/0006-scores.md).
const maxPriorityGap = 21

// priorities holds that they are of nodes that exist, and near each other.
func (r *rules) priorities(id string, v *tandemv1.Vip) {
	if !r.draft.touched[VipName(r.next.id, id)] {
		return
	}
	lowest, highest := uint32(255), uint32(0)
	for _, n := range r.next.nodes.values {
		p := EffectivePriority(r.next, v, n)
		lowest, highest = min(lowest, p), max(highest, p)
	}
	if highest > lowest && highest-lowest > maxPriorityGap {
		r.refuse(ReasonPriorityGap, []place{r.vip(id, "priorities")},
			"from %d to %d are too far apart for a drain or a dead proxy to move the VIP: at most %d, such as 230 and 220",
			lowest, highest, maxPriorityGap)
	}
	nodes := make([]string, 0, len(v.GetPriorities()))
	for node := range v.GetPriorities() {
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	for _, node := range nodes {
		if r.next.Node(node) == nil {
			r.refuse(ReasonUnknownNode, []place{r.vip(id, fmt.Sprintf("priorities[%q]", node))},
				"node %q has not joined the cluster: %s", node, oneOf(r.next.nodes.keys))
		}
	}
}
