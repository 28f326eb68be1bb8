package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// part is a run of resources in order of their keys, which all begin with its
// prefix. No part's prefix begins with another's, so parts in order of their
// prefixes hold resources in order of their keys. A part never changes.
type part struct {
	prefix    string
	resources []*agentv1.Resource
	hash      [sha256.Size]byte
}

func newPart(prefix string, resources []*agentv1.Resource) *part {
	h := sha256.New()
	h.Write([]byte(prefix))
	for _, r := range resources {
		h.Write([]byte(r.GetVersion()))
	}
	p := &part{prefix: prefix, resources: resources}
	h.Sum(p.hash[:0])
	return p
}

func hashParts(parts []*part) [sha256.Size]byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p.hash[:])
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return sum
}

func (p *part) has(key string) bool { return p.get(key) != nil }

// get returns a resource, nil if there is none.
func (p *part) get(key string) *agentv1.Resource {
	if !strings.HasPrefix(key, p.prefix) {
		return nil
	}
	n, ok := slices.BinarySearchFunc(p.resources, key, func(r *agentv1.Resource, key string) int {
		return strings.Compare(r.GetKey(), key)
	})
	if !ok {
		return nil
	}
	return p.resources[n]
}

// seal sets the version of a resource: a hash of its key and content.
func seal(r *agentv1.Resource) *agentv1.Resource {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		// Only a message that was built wrong here does not marshal.
		panic(fmt.Sprintf("resource %s: %v", r.GetKey(), err))
	}
	sum := sha256.Sum256(b)
	r.Version = hex.EncodeToString(sum[:12])
	return r
}

// memo remembers a part that has one resource for each input. Inputs come in
// order of their names, which is that of the resources' keys.
type memo[V interface {
	comparable
	GetName() string
}] struct {
	inputs []V
	part   *part
}

// compile returns the part for inputs. With reuse, the resources of inputs
// that it has seen the last time are taken over.
func (m *memo[V]) compile(prefix string, inputs []V, reuse bool, resource func(V) (*agentv1.Resource, error)) (*part, error) {
	reuse = reuse && m.part != nil
	if reuse && sameSlice(m.inputs, inputs) {
		return m.part, nil
	}
	resources := make([]*agentv1.Resource, len(inputs))
	old := 0
	for i, in := range inputs {
		for reuse && old < len(m.inputs) && m.inputs[old] != in && m.inputs[old].GetName() < in.GetName() {
			old++
		}
		if reuse && old < len(m.inputs) && m.inputs[old] == in {
			resources[i] = m.part.resources[old]
			old++
			continue
		}
		r, err := resource(in)
		if err != nil {
			return nil, err
		}
		resources[i] = seal(r)
	}
	m.inputs, m.part = inputs, newPart(prefix, resources)
	return m.part, nil
}

// sameSlice tells whether two slices are the same memory.
func sameSlice[V any](a, b []V) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// Diff returns what makes base into target: resources that are new or changed,
// and keys of those that are no more, both in order of their keys. A nil base
// has nothing.
func Diff(base, target *Config) (upserts []*agentv1.Resource, removals []string) {
	was, is := base.parts(), target.parts()
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(was) == 0 || len(is) > 0 && is[0].prefix < was[0].prefix:
			upserts = append(upserts, is[0].resources...)
			is = is[1:]
		case len(is) == 0 || was[0].prefix < is[0].prefix:
			for _, r := range was[0].resources {
				removals = append(removals, r.GetKey())
			}
			was = was[1:]
		default:
			if was[0] != is[0] {
				upserts, removals = diffPart(upserts, removals, was[0].resources, is[0].resources)
			}
			was, is = was[1:], is[1:]
		}
	}
	return upserts, removals
}

func diffPart(upserts []*agentv1.Resource, removals []string, was, is []*agentv1.Resource) ([]*agentv1.Resource, []string) {
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(was) > 0 && len(is) > 0 && was[0] == is[0]:
			was, is = was[1:], is[1:]
		case len(was) == 0 || len(is) > 0 && is[0].GetKey() < was[0].GetKey():
			upserts = append(upserts, is[0])
			is = is[1:]
		case len(is) == 0 || was[0].GetKey() < is[0].GetKey():
			removals = append(removals, was[0].GetKey())
			was = was[1:]
		default:
			if was[0].GetVersion() != is[0].GetVersion() {
				upserts = append(upserts, is[0])
			}
			was, is = was[1:], is[1:]
		}
	}
	return upserts, removals
}
