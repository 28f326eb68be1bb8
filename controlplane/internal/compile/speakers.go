package compile

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Speakers are where the nodes of a VIP advertise it from and to by unicast: by the
// nodes' uids, in order, one address of each family that the VIP has. Two can be
// compared.
type Speakers string

// SpeakersOf chooses them from the own addresses that the nodes told, by their uids.
// A node that told none of a family that the VIP has is left out. What was agreed
// stays as long as it serves: a node that has lost an address, or that was removed
// and has not heard of it, still listens where it did.
func SpeakersOf(v *tandemv1.Vip, told map[string][]string, agreed Speakers) Speakers {
	var chosen []*keepalivedv1.Speaker
	for _, uid := range slices.Sorted(maps.Keys(told)) {
		if addresses := speaksFrom(v, told[uid], agreed.of(uid)); addresses != nil {
			chosen = append(chosen, &keepalivedv1.Speaker{Id: uid, Addresses: addresses})
		}
	}
	if s := speakers(chosen); !agreed.cover(s) {
		return s
	}
	return agreed
}

// speaksFrom chooses one node's addresses, of each family that the VIP has: nil if it
// lacks one.
func speaksFrom(v *tandemv1.Vip, told, agreed []string) (chosen []string) {
	for _, v6 := range []bool{false, true} {
		if !slices.ContainsFunc(v.GetAddresses(), func(text string) bool { return is6(text) == v6 }) {
			continue
		}
		serves := func(text string) bool { return canSpeak(text, v6) }
		found := slices.IndexFunc(told, func(text string) bool { return serves(text) && slices.Contains(agreed, text) })
		if found < 0 {
			found = slices.IndexFunc(told, serves)
		}
		if found < 0 {
			return nil
		}
		chosen = append(chosen, told[found])
	}
	return chosen
}

func is6(text string) bool { return strings.Contains(text, ":") }

// canSpeak tells whether advertisements of a family may come from an address: with
// IPv6 a link-local one, as by multicast (RFC 9568, section 5.1.2.1).
func canSpeak(text string, v6 bool) bool {
	a, err := netip.ParseAddr(text)
	return err == nil && a.Is6() == v6 && (!v6 || a.IsLinkLocalUnicast())
}

// cover tells whether t has nothing that s has not.
func (s Speakers) cover(t Speakers) bool {
	return !slices.ContainsFunc(t.list(), func(one *keepalivedv1.Speaker) bool {
		mine := s.of(one.GetId())
		return slices.ContainsFunc(one.GetAddresses(), func(a string) bool { return !slices.Contains(mine, a) })
	})
}

// of returns a node's addresses, none if it is no speaker.
func (s Speakers) of(uid string) []string {
	for _, one := range s.list() {
		if one.GetId() == uid {
			return one.GetAddresses()
		}
	}
	return nil
}

// Has tells whether a node is a speaker.
func (s Speakers) Has(uid string) bool { return s.of(uid) != nil }

// source is a node's address of a family, "" if it has none.
func (s Speakers) source(uid string, v6 bool) string {
	for _, a := range s.of(uid) {
		if is6(a) == v6 {
			return a
		}
	}
	return ""
}

// speakers is what list takes apart.
func speakers(all []*keepalivedv1.Speaker) Speakers {
	var words []string
	for _, one := range all {
		words = append(words, one.GetId()+"="+strings.Join(one.GetAddresses(), ","))
	}
	return Speakers(strings.Join(words, " "))
}

func (s Speakers) list() (all []*keepalivedv1.Speaker) {
	for word := range strings.FieldsSeq(string(s)) {
		id, addresses, _ := strings.Cut(word, "=")
		all = append(all, &keepalivedv1.Speaker{Id: id, Addresses: strings.Split(addresses, ",")})
	}
	return all
}
