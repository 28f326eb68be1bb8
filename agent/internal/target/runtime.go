package target

import (
	"strings"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// mixed separates the hashes of a mixed target's two halves; the controller's
// own hashes do not hold it.
const mixed = "+"

// WithRuntimeOf returns t's structure with the servers of another target, those
// of them whose backend t has, and with its drain of the node; t itself when
// that changes nothing. It carries t's revisions, since it is not the other one,
// and a hash that no controller gives: in an exchange about it, the controller
// sends everything anew.
func (t *Target) WithRuntimeOf(other *Target) *Target {
	structure, _, _ := strings.Cut(t.Hash(), mixed)
	version := proto.CloneOf(t.version)
	version.Hash = structure + mixed + other.Hash()
	next := &Target{version: version, resources: make(map[string]*agentv1.Resource, len(t.resources))}
	backends := make(map[string]bool)
	before := 0 // servers that stay or go
	drained := false
	for key, r := range t.resources {
		if key == globalKey && other.resources[key] != nil && t.Drained() != other.Drained() {
			r, drained = t.DrainResource(other.Drained()), true
		}
		if r.GetServer() != nil {
			before++
		} else {
			next.resources[key] = r
			next.size += proto.Size(r)
		}
		if b := r.GetBackend(); b != nil {
			backends[b.GetName()] = true
		}
	}
	same := 0
	for key, r := range other.resources {
		if s := r.GetServer(); s != nil && backends[s.GetBackend()] {
			next.resources[key] = r
			next.size += proto.Size(r)
			if old := t.resources[key]; old != nil && proto.Equal(old, r) {
				same++
			}
		}
	}
	if same == before && len(next.resources) == len(t.resources) && !drained {
		return t
	}
	return next
}
