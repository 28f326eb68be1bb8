package wire

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/vrrp"
)

const (
	// maxSpeakers, also of strays, and maxClaims bound what is kept of one virtual router:
	// anybody on the network can invent more. The one that was heard longest ago gives way.
	maxSpeakers = 8
	maxClaims   = 8
	// adverts are how many intervals a speaker may be silent before it counts as
	// gone (RFC 9568, 6.1: Active_Down_Interval), and slack the time on its way.
	adverts = 3
	slack   = 100 * time.Millisecond
	// claimLife is how long a claim counts. The holder asks for it each second.
	claimLife = 3500 * time.Millisecond
	// askedLife is how long it counts that a host has asked for the VIP.
	askedLife = 5 * time.Second
	// unknown is how long somebody who has an address may be a node that has not been
	// asked yet, where nobody advertises: two questions.
	unknown = 2*every + every/2
	// longest is how long a speaker may be silent that says that it advertises less
	// often than this node's own. One packet says up to 255 s (RFC 3768, 5.3.7).
	longest = 10 * time.Second
)

// table is what has been heard on one interface. It is pure: packets and the time
// come from outside.
type table struct {
	own     map[link.MAC]bool
	mac     link.MAC // the interface's
	gateway link.MAC // the gateway's; zero: not known
	routers []*router
	nodes   map[netip.Addr]link.MAC // of the Peers of routers that are Apart, those that have been heard
}

// router is what has been heard of one virtual router.
type router struct {
	Router
	speakers []speaker
	strays   []speaker // that advertise its addresses as another virtual router
	claims   []claim
	asked    time.Time
	spoke    time.Time // when somebody else advertised it last
	since    time.Time // listened to
	punctual punctuality
	beside   beside
}

// speaker is one who advertises or has lately done so.
type speaker struct {
	Speaker
	last time.Time
	end  time.Time // when it counts as gone if it is not heard again
	gone bool      // it has said that it gives the router up
}

// claim is a machine that has said that it has an address of the VIP, and has not
// advertised the router around that time.
type claim struct {
	Claim
	first, last time.Time
}

// watch makes the routers those given; what is known of them stays. But who speaks is
// learnt anew when the interval changes: the others' changes, too, and what they said
// before would count beside what they say now.
func (t *table) watch(routers []Router, now time.Time) {
	old := t.routers
	t.routers = nil
	for _, r := range routers {
		next := &router{Router: r, since: now}
		for _, was := range old {
			if !was.sameAs(&r) {
				continue
			}
			next.claims, next.asked, next.spoke = was.claims, was.asked, was.spoke
			if next.Yields > 0 {
				next.beside = was.beside
			}
			if was.Interval == r.Interval {
				next.speakers, next.strays, next.since, next.punctual = was.speakers, was.strays, was.since, was.punctual
			}
		}
		t.routers = append(t.routers, next)
	}
	maps.DeleteFunc(t.nodes, func(a netip.Addr, _ link.MAC) bool {
		return !slices.ContainsFunc(t.routers, func(r *router) bool { return r.Apart && slices.Contains(r.Peers, a) })
	})
}

// begin is called when listening begins after it could not.
func (t *table) begin(now time.Time) {
	for _, r := range t.routers {
		r.since = now
	}
}

// arrived measures an advertisement, which the kernel has received at a time.
func (t *table) arrived(a *vrrp.Advert, from link.MAC, at time.Time) {
	for _, r := range t.routers {
		if !t.own[from] && r.VRID == a.VRID && r.six() == a.Source.Is6() && a.Interval == r.Interval {
			r.punctual.arrive(a, from, at, r.patience())
		}
	}
}

// advert takes an advertisement.
func (t *table) advert(a *vrrp.Advert, from link.MAC, now time.Time) {
	if t.own[from] {
		return
	}
	for _, r := range t.routers {
		switch {
		case r.six() != a.Source.Is6():
		case r.VRID == a.VRID:
			// What the peer says it has is no claim.
			r.claims = slices.DeleteFunc(r.claims, func(c claim) bool { return c.MAC == from })
			r.speakers = r.advert(r.speakers, a, from, now)
			r.spoke = now
		case slices.ContainsFunc(a.Addresses(), func(has netip.Addr) bool { return slices.Contains(r.Addresses, has) }):
			r.strays = r.advert(r.strays, a, from, now)
		}
	}
}

// advert adds who advertises to those that do.
func (r *router) advert(all []speaker, a *vrrp.Advert, from link.MAC, now time.Time) []speaker {
	s := speaker{Speaker: Speaker{Advert: *a, MAC: from}, last: now, gone: a.Priority == 0}
	s.end = now.Add(min(adverts*a.Interval+slack, max(r.patience(), longest)))
	for n := range all {
		old := &all[n]
		// Two programs of one machine are two speakers.
		if said := old.Advert; old.MAC == from {
			said.Priority = a.Priority
			if said == *a {
				*old = s
				return all
			}
		}
	}
	if len(all) < maxSpeakers {
		return append(all, s)
	}
	*slices.MinFunc(pointers(all), func(a, b *speaker) int { return a.last.Compare(b.last) }) = s
	return all
}

// claim takes it that a machine says that it has an address.
func (t *table) claim(address netip.Addr, from link.MAC, now time.Time) {
	if t.own[from] {
		return
	}
	t.meet(address, from)
	if t.isNode(from) {
		t.answers(address, from, now)
		return
	}
	for _, r := range t.routers {
		if slices.Contains(r.Addresses, address) && from != r.virtualMAC() && !r.advertises(from, now) {
			r.claim(Claim{address, from}, now)
		}
	}
}

// meet learns the link-layer address of a node. What it said it has is no claim.
func (t *table) meet(address netip.Addr, from link.MAC) {
	for _, r := range t.routers {
		if !r.Apart || !slices.Contains(r.Peers, address) {
			continue
		}
		if t.nodes == nil {
			t.nodes = make(map[netip.Addr]link.MAC)
		}
		t.nodes[address] = from
	}
	if t.isNode(from) {
		for _, r := range t.routers {
			r.claims = slices.DeleteFunc(r.claims, func(c claim) bool { return c.MAC == from })
		}
	}
}

// isNode tells whether a machine is known to be a node where nobody advertises.
func (t *table) isNode(who link.MAC) bool {
	for _, mac := range t.nodes {
		if mac == who {
			return true
		}
	}
	return false
}

func (r *router) claim(c Claim, now time.Time) {
	for n := range r.claims {
		if old := &r.claims[n]; old.Claim == c {
			old.last = now
			return
		}
	}
	fresh := claim{Claim: c, first: now, last: now}
	if len(r.claims) < maxClaims {
		r.claims = append(r.claims, fresh)
		return
	}
	*slices.MinFunc(pointers(r.claims), func(a, b *claim) int { return a.last.Compare(b.last) }) = fresh
}

// ask takes it that a host asks for an address.
func (t *table) ask(address netip.Addr, from link.MAC, now time.Time) {
	if t.own[from] || t.isNode(from) {
		return
	}
	for _, r := range t.routers {
		if slices.Contains(r.Addresses, address) && !r.advertises(from, now) {
			r.asked = now
		}
	}
}

// advertises tells whether a machine advertises the router, or has done so a
// moment ago: the peer answers for the VIP until it has given it up.
func (r *router) advertises(who link.MAC, now time.Time) bool {
	return slices.ContainsFunc(r.speakers, func(s speaker) bool { return s.MAC == who && now.Sub(s.last) < r.patience() })
}

// patience is how long the peer that has an address may not be heard.
func (r *router) patience() time.Duration {
	if r.Apart {
		return unknown
	}
	return adverts*r.Interval + slack
}

// bears is how long an interface may carry nothing until that matters to the router. A
// holder gives up no sooner than the others would take over: three intervals and the
// skew (RFC 9568, 6.1). Whoever has no address has none to lose.
func (r *router) bears() time.Duration {
	if !r.Holds {
		return 0
	}
	return (adverts + 1) * r.Interval
}

// present tells whether a speaker advertises still.
func (s *speaker) present(now time.Time) bool {
	return !s.gone && now.Before(s.end)
}

// told tells whether a claim is to be told: no advertisement has explained it.
func (r *router) told(c *claim, now time.Time) bool {
	return !now.Before(c.first.Add(r.patience()))
}

// heard is what is known of a router now, after forget.
func (r *router) heard(now time.Time) Heard {
	var h Heard
	h.Speakers, h.Strays, h.Spoke = present(r.speakers, now), present(r.strays, now), r.spoke
	for n := range r.claims {
		if c := &r.claims[n]; r.told(c, now) {
			h.Claims = append(h.Claims, c.Claim)
		}
	}
	slices.SortFunc(h.Claims, func(a, b Claim) int {
		return cmp.Or(a.Address.Compare(b.Address), slices.Compare(a.MAC[:], b.MAC[:]))
	})
	h.Asked = !r.asked.IsZero() && now.Before(r.asked.Add(askedLife))
	h.Jitter = r.punctual.jitter(now)
	h.Listens = len(h.Speakers) > 0 || !now.Before(r.since.Add(r.patience()))
	return h
}

// present are those of all that advertise still, in order of their addresses.
func present(all []speaker, now time.Time) (out []Speaker) {
	for n := range all {
		if s := &all[n]; s.present(now) {
			out = append(out, s.Speaker)
		}
	}
	slices.SortStableFunc(out, func(a, b Speaker) int {
		return cmp.Or(a.Source.Compare(b.Source), slices.Compare(a.MAC[:], b.MAC[:]))
	})
	return out
}

// next is when what is known changes by time alone; zero when it does not.
func (t *table) next(now time.Time) (next time.Time) {
	due := func(at time.Time) {
		if at.After(now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for _, r := range t.routers {
		due(r.since.Add(r.patience()))
		for _, s := range r.speakers {
			due(s.end)
		}
		for _, s := range r.strays {
			due(s.end)
		}
		for _, c := range r.claims {
			due(c.first.Add(r.patience()))
			due(c.last.Add(claimLife))
		}
		if !r.asked.IsZero() {
			due(r.asked.Add(askedLife))
		}
	}
	return next
}

// forget drops what is over.
func (t *table) forget(now time.Time) {
	for _, r := range t.routers {
		over := func(s speaker) bool { return !now.Before(s.end) && now.Sub(s.last) > r.patience() }
		r.speakers, r.strays = slices.DeleteFunc(r.speakers, over), slices.DeleteFunc(r.strays, over)
		r.claims = slices.DeleteFunc(r.claims, func(c claim) bool { return !now.Before(c.last.Add(claimLife)) })
	}
}

func pointers[T any](all []T) []*T {
	out := make([]*T, len(all))
	for n := range all {
		out[n] = &all[n]
	}
	return out
}
