package cache

import (
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

func TestGoodIsWhatWasPromoted(t *testing.T) {
	c, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Good(); got != nil || err != nil {
		t.Fatalf("an empty cache gives %v, %v, want nothing", got, err)
	}
	first := &agentv1.NodeConfig{Version: &agentv1.Version{Hash: "one", Runtime: 1}}
	second := &agentv1.NodeConfig{Version: &agentv1.Version{Hash: "two", Runtime: 2}}
	for _, err := range []error{c.Candidate(first), c.Promote(), c.Candidate(second)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.Good()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, got, protocmp.Transform()); diff != "" {
		t.Errorf("good is not what was promoted, though a candidate waits (-want +got):\n%s", diff)
	}
}

func TestDamagedFilesAreReported(t *testing.T) {
	config := &agentv1.NodeConfig{Version: &agentv1.Version{Epoch: "epoch", Hash: "hash"}}
	for name, damage := range map[string]func([]byte) []byte{
		"truncated":   func(b []byte) []byte { return b[:len(b)-3] },
		"empty":       func([]byte) []byte { return nil },
		"a bit flips": func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"foreign":     func([]byte) []byte { return []byte("global\n  daemon\n") },
	} {
		t.Run(name, func(t *testing.T) {
			c, err := New(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(c.Candidate(config), c.Promote()); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(c.good)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(c.good, damage(data), 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := c.Good(); !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v, %v, want ErrCorrupt", got, err)
			}
		})
	}
}
