package ledger

import (
	"testing"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Ports are reserved while a member is on the controller's machine.
func TestPortsAreReservedForMembersHere(t *testing.T) {
	config, _, err := state.New("default", "epoch", 0).Apply(state.CreateCluster(&tandemv1.Cluster{}), state.Env{Author: "test"})
	if err != nil {
		t.Fatal(err)
	}
	for node, uid := range map[string]string{"lb-a": "uid-a", "lb-b": "uid-b"} {
		next, _, err := config.Apply(state.AddNode(node, uid), state.Env{Author: "test"})
		if err != nil {
			t.Fatal(err)
		}
		config = next
	}
	for name, test := range map[string]struct {
		say  func(b *beside)
		want string
	}{
		"nobody is here":         {func(*beside) {}, ""},
		"a member is here":       {func(b *beside) { b.Beside("default", "lb-a", "uid-a", true) }, "lb-controller on lb-a"},
		"one of another cluster": {func(b *beside) { b.Beside("other", "lb-a", "uid-a", true) }, ""},
		"one that was replaced":  {func(b *beside) { b.Beside("default", "lb-a", "uid-of-old", true) }, ""},
		"one that was removed":   {func(b *beside) { b.Beside("default", "lb-gone", "uid", true) }, ""},
		"one that went elsewhere": {func(b *beside) {
			b.Beside("default", "lb-a", "uid-a", true)
			b.Beside("default", "lb-a", "uid-a", false)
		}, ""},
		"its old machine is elsewhere": {func(b *beside) {
			b.Beside("default", "lb-a", "uid-a", true)
			b.Beside("default", "lb-a", "uid-of-old", false)
		}, "lb-controller on lb-a"},
		"one of two was removed": {func(b *beside) { b.Beside("default", "lb-aa", "uid", true); b.Beside("default", "lb-b", "uid-b", true) }, "lb-controller on lb-b"},
	} {
		b := &beside{ports: []state.Reserved{{Port: 9443, Owner: "lb-controller"}}, nodes: map[string]map[string]string{}}
		test.say(b)
		got := ""
		if reserved := b.reserved(config); len(reserved) > 0 {
			got = reserved[0].Owner
		}
		if got != test.want {
			t.Errorf("%s: reserved for %q, want %q", name, got, test.want)
		}
	}
}
