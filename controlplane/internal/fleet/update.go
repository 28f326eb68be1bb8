package fleet

import (
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/compile"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// maxChunk bounds one message of an update, in bytes. A single resource is far
// smaller.
const maxChunk = 1 << 20

// update is a configuration on its way to a node.
type update struct {
	nonce    string
	target   *compile.Config
	snapshot bool
	// changes tells that the target's content differs from the base's, not
	// only its revision.
	changes bool
}

// messages returns what to send to bring a node from base to target; base nil
// makes a snapshot. All but the last message have more set.
func messages(nonce string, base, target *compile.Config) (*update, []*agentv1.Update) {
	upserts, removals := compile.Diff(base, target)
	u := &update{
		nonce:    nonce,
		target:   target,
		snapshot: base == nil,
		changes:  base == nil || len(upserts)+len(removals) > 0,
	}
	chunk := func() *agentv1.Update {
		m := &agentv1.Update{Nonce: u.nonce, Version: target.Version(), More: true}
		if base != nil {
			m.BaseHash = base.Version().GetHash()
		}
		return m
	}
	last, size := chunk(), 0
	all := []*agentv1.Update{last}
	room := func(n int) {
		if size+n > maxChunk && size > 0 {
			last, size = chunk(), 0
			all = append(all, last)
		}
		size += n
	}
	const header = 256 // nonce, hashes and the framing of one field
	size = header
	for _, r := range upserts {
		room(proto.Size(r) + 8)
		last.Upserts = append(last.Upserts, r)
	}
	for _, key := range removals {
		room(len(key) + 8)
		last.Removals = append(last.Removals, key)
	}
	last.More = false
	return u, all
}
