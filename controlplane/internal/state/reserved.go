package state

import "cmp"

// reserved holds that nothing which the request touches binds a port that
// something else on the machines has. What was there before stays: the node
// tells whether it could have it.
func (r *rules) reserved() {
	if len(r.draft.env.Reserved) == 0 {
		return
	}
	anywhere, at := r.spans()
	all := anywhere
	for _, spans := range at {
		all = append(all, spans...)
	}
	for _, p := range r.draft.env.Reserved {
		everywhere := !p.Address.IsValid() || p.Address.IsUnspecified()
		for _, s := range all {
			meets := everywhere || !s.address.IsValid() || s.address.IsUnspecified() || s.address == p.Address
			if !meets || p.Port < s.from || p.Port > s.to || !r.draft.touched[s.owner.name] {
				continue
			}
			where := "every address"
			if a := cmp.Or(s.address, p.Address); a.IsValid() && !a.IsUnspecified() {
				where = a.String()
			}
			r.refuse(ReasonPortReserved, []place{s.owner},
				"port %d of %s is taken by %s: choose another port, or let that one listen elsewhere", p.Port, where, p.Owner)
		}
	}
}
