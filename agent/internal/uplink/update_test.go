package uplink

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/agent/internal/reconcile"
	"github.com/tandem-lb/tandem/agent/internal/target"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// at stands where the reconciler is: it has one target in effect.
type at struct{ applied *target.Target }

func (a at) Known(hash string) *target.Target {
	if a.applied.Hash() == hash {
		return a.applied
	}
	return nil
}
func (a at) Applied() *target.Target                   { return a.applied }
func (at) Begun() <-chan struct{}                      { return nil }
func (at) Submit(string, *target.Target)               {}
func (at) Outcomes() <-chan reconcile.Outcome          { return nil }
func (at) Check(context.Context, *target.Target) error { return nil }

func backend(name string) *agentv1.Resource {
	return &agentv1.Resource{Key: "haproxy/backend/" + name, Body: &agentv1.Resource_Backend{
		Backend: &haproxyv1.Backend{Name: name},
	}}
}

// newer adds a field that this version does not know.
func newer[M proto.Message](m M) M {
	m.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1))
	return m
}

// keys of a target, in order.
func keys(t *target.Target) (out []string) {
	for _, r := range t.Config().GetResources() {
		out = append(out, r.GetKey())
	}
	return out
}

func TestNextTarget(t *testing.T) {
	applied, err := target.FromConfig(&agentv1.NodeConfig{
		Version:   &agentv1.Version{Epoch: "e", Runtime: 7, Hash: "seven"},
		Resources: []*agentv1.Resource{backend("a"), backend("b")},
	})
	if err != nil {
		t.Fatal(err)
	}
	unknown := backend("c")
	unknown.GetBackend().Mode = 99
	eight := &agentv1.Version{Epoch: "e", Runtime: 8, Hash: "eight"}
	for name, test := range map[string]struct {
		update *agentv1.Update
		reason agentv1.NackReason
		want   []string
	}{
		"a difference": {
			update: &agentv1.Update{BaseHash: "seven", Version: eight, Upserts: []*agentv1.Resource{backend("c")}, Removals: []string{"haproxy/backend/a"}},
			want:   []string{"haproxy/backend/b", "haproxy/backend/c"},
		},
		"a snapshot": {
			update: &agentv1.Update{Version: eight, Upserts: []*agentv1.Resource{backend("c")}},
			want:   []string{"haproxy/backend/c"},
		},
		"another base": {
			update: &agentv1.Update{BaseHash: "six", Version: eight},
			reason: agentv1.NackReason_NACK_REASON_BASE_MISMATCH,
		},
		"an older revision": {
			update: &agentv1.Update{Version: &agentv1.Version{Epoch: "e", Runtime: 6}},
			reason: agentv1.NackReason_NACK_REASON_OLD_VERSION,
		},
		"a value of a newer controller": {
			update: &agentv1.Update{BaseHash: "seven", Version: eight, Upserts: []*agentv1.Resource{unknown}},
			reason: agentv1.NackReason_NACK_REASON_UNKNOWN_FIELD,
		},
		"a field of a newer controller's update": {
			update: newer(&agentv1.Update{BaseHash: "seven", Version: eight}),
			reason: agentv1.NackReason_NACK_REASON_UNKNOWN_FIELD,
		},
		"a field of a newer controller's version": {
			update: &agentv1.Update{BaseHash: "seven", Version: newer(&agentv1.Version{Epoch: "e", Runtime: 8, Hash: "eight"})},
			reason: agentv1.NackReason_NACK_REASON_UNKNOWN_FIELD,
		},
		"a resource of a newer controller": {
			update: &agentv1.Update{BaseHash: "seven", Version: eight, Upserts: []*agentv1.Resource{newer(&agentv1.Resource{Key: "haproxy/cache/a"})}},
			reason: agentv1.NackReason_NACK_REASON_UNKNOWN_FIELD,
		},
		"a key that is not its content's": {
			update: &agentv1.Update{BaseHash: "seven", Version: eight, Upserts: []*agentv1.Resource{{Key: "haproxy/global", Body: backend("c").GetBody()}}},
			reason: agentv1.NackReason_NACK_REASON_REFUSED,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &session{Uplink: &Uplink{Options: Options{Reconciler: at{applied}, Version: "1.0"}}, controller: "1.1"}
			next, reason, err := s.next(test.update)
			if reason != test.reason || (err == nil) != (test.reason == 0) {
				t.Fatalf("%v, %v, want %v", reason, err, test.reason)
			}
			if test.reason == agentv1.NackReason_NACK_REASON_UNKNOWN_FIELD && !strings.Contains(err.Error(), "it needs agent ≥ 1.1, the controller's version") {
				t.Errorf("%v: does not say which agent is needed", err)
			}
			if err == nil && !slices.Equal(keys(next), test.want) {
				t.Errorf("the target has %v, want %v", keys(next), test.want)
			}
		})
	}
}

func TestChunksMakeOneUpdate(t *testing.T) {
	var a assembly
	chunk := func(nonce, name string, more bool) *agentv1.Update {
		return &agentv1.Update{Nonce: nonce, More: more, Upserts: []*agentv1.Resource{backend(name)}}
	}
	// The first update is left unfinished by a newer one.
	for _, c := range []*agentv1.Update{chunk("1", "x", true), chunk("2", "a", true), chunk("2", "b", true)} {
		if u, err := a.add(c); u != nil || err != nil {
			t.Fatalf("an unfinished update gives %v, %v", u, err)
		}
	}
	u, err := a.add(chunk("2", "c", false))
	if err != nil || u.GetNonce() != "2" || len(u.GetUpserts()) != 3 {
		t.Errorf("%v, %v, want the three resources of update 2", u, err)
	}
	// Bytes are bounded as well: over all chunks of an update, not over updates.
	big := func(nonce string) *agentv1.Update {
		return &agentv1.Update{Nonce: nonce, More: true, Upserts: []*agentv1.Resource{backend(strings.Repeat("x", (maxMessage-64)/2))}}
	}
	for i := range 3 * maxUpdate / maxMessage {
		if _, err := a.add(big(fmt.Sprint(i))); err != nil {
			t.Fatalf("unfinished updates add up: %v", err)
		}
	}
	chunks := 0
	for _, err := a.add(big("endless")); err == nil; _, err = a.add(big("endless")) {
		chunks++
	}
	if want := maxUpdate / maxMessage; chunks != want {
		t.Errorf("%d chunks of %d MiB are taken, want %d", chunks, maxMessage>>20, want)
	}
	many := &agentv1.Update{Nonce: "3", More: true, Removals: make([]string, maxResources+1)}
	if _, err := a.add(many); err == nil {
		t.Error("an update without end is put together for ever")
	}
}
