package state

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// span is a range of ports on one address. The zero address is every one.
type span struct {
	address  netip.Addr
	from, to uint32
	owner    place
	what     string // the owner in words
}

// binds holds that no two listeners, nor the statistics page, want one port of
// one address. What is bound to every address meets all others.
func (r *rules) binds() {
	anywhere, at := r.spans()
	order := func(a, b span) int { return cmp.Compare(a.from, b.from) }
	slices.SortStableFunc(anywhere, order)
	r.overlaps(anywhere)
	addresses := make([]netip.Addr, 0, len(at))
	for a := range at {
		addresses = append(addresses, a)
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	for _, a := range addresses {
		slices.SortStableFunc(at[a], order)
		r.overlaps(at[a])
		r.meets(at[a], anywhere)
	}
}

// spans returns what is bound, on every address and by address.
func (r *rules) spans() (anywhere []span, at map[netip.Addr][]span) {
	at = map[netip.Addr][]span{}
	add := func(s span) {
		if s.address.IsValid() && !s.address.IsUnspecified() {
			at[s.address] = append(at[s.address], s)
		} else {
			anywhere = append(anywhere, s)
		}
	}
	if page := EffectiveStatsPage(r.next); page != nil {
		add(span{addr(page.GetAddress()), page.GetPort(), page.GetPort(), r.cluster("stats_page.port"), "the statistics page"})
	}
	for i, l := range r.next.listeners.values {
		id := r.next.listeners.keys[i]
		for j, b := range l.GetBinds() {
			owner := r.listener(id, fmt.Sprintf("binds[%d].port", j))
			for _, a := range r.addresses(b) {
				add(span{a, b.GetPort(), max(b.GetPort(), b.GetPortEnd()), owner, fmt.Sprintf("listener %q", id)})
			}
		}
	}
	return anywhere, at
}

// addresses returns what a bind binds.
func (r *rules) addresses(b *tandemv1.Bind) []netip.Addr {
	if b.GetVip() == "" {
		return []netip.Addr{addr(b.GetAddress())}
	}
	var out []netip.Addr
	for _, a := range r.next.Vip(b.GetVip()).GetAddresses() {
		out = append(out, prefix(a).Addr())
	}
	return out
}

// overlaps reports spans of one sorted list that meet.
func (r *rules) overlaps(spans []span) {
	for i := 1; i < len(spans); i++ {
		a, b := &spans[i-1], &spans[i]
		if b.from <= a.to {
			r.taken(*b, *a)
			b.to = max(a.to, b.to)
		}
	}
}

// meets reports spans of two sorted lists that meet.
func (r *rules) meets(spans, anywhere []span) {
	for _, s := range spans {
		i, _ := slices.BinarySearchFunc(anywhere, s.from, func(a span, from uint32) int { return cmp.Compare(a.to, from) })
		if i < len(anywhere) && anywhere[i].from <= s.to {
			r.taken(s, anywhere[i])
		}
	}
}

func (r *rules) taken(a, b span) {
	where := "every address"
	if s := cmp.Or(a.address, b.address); s.IsValid() {
		where = s.String()
	}
	if _, ok := r.draft.fields[a.owner.name]; !ok {
		a, b = b, a
	}
	r.refuse(ReasonBindTaken, []place{a.owner, b.owner},
		"port %d of %s is bound by %s already: choose another port or address", max(a.from, b.from), where, b.what)
}
