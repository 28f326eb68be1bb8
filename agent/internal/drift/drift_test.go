package drift

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/tandem-lb/tandem/agent/internal/target"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

const (
	ready       = agentv1.AdminState_ADMIN_STATE_READY
	drain       = agentv1.AdminState_ADMIN_STATE_DRAIN
	maintenance = agentv1.AdminState_ADMIN_STATE_MAINTENANCE
	asItIs      = agentv1.AdminState_ADMIN_STATE_UNSPECIFIED
)

// told writes down what a set reports.
type told struct {
	mu      sync.Mutex
	now     []string
	events  []string
	unsaved string
}

func (r *told) LocalChanges(all []*agentv1.LocalChange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = nil
	for _, c := range all {
		r.now = append(r.now, Subject(c))
	}
}
func (r *told) LocalBegun(c *agentv1.LocalChange) { r.event("begun " + Subject(c)) }
func (r *told) LocalEnded(c *agentv1.LocalChange, how string) {
	r.event("ended " + Subject(c) + ": " + how)
}
func (r *told) Unsaved(_, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unsaved = text
}
func (r *told) event(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, text)
}

// failer is a test, or rapid's.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// wanted is a target with these servers of the pool "web".
func wanted(t failer, drained bool, servers ...*haproxyv1.Server) *target.Target {
	t.Helper()
	config := &agentv1.NodeConfig{Version: &agentv1.Version{Hash: "h"}, Resources: []*agentv1.Resource{
		{Key: "keepalived/global", Body: &agentv1.Resource_KeepalivedGlobal{KeepalivedGlobal: &keepalivedv1.Global{RouterId: "n", Drain: drained}}},
		{Key: "haproxy/backend/web", Body: &agentv1.Resource_Backend{Backend: &haproxyv1.Backend{Name: "web"}}},
	}}
	for _, s := range servers {
		s.Backend = "web"
		config.Resources = append(config.Resources, target.ServerResource(s))
	}
	made, err := target.FromConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// Servers as the controller compiles them.
func isReady(weight uint32) *haproxyv1.Server { return &haproxyv1.Server{Name: "a", Weight: weight} }
func isDrained(weight uint32) *haproxyv1.Server {
	return &haproxyv1.Server{Name: "a", ReadyWeight: proto.Uint32(weight)}
}
func inMaintenance(weight uint32) *haproxyv1.Server {
	return &haproxyv1.Server{Name: "a", Weight: weight, Maintenance: true}
}

func load(t testing.TB, dir string) (*Set, *told) {
	t.Helper()
	r := &told{}
	s, err := Load(dir, r)
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

var root = By{Author: "root", Reason: "why"}

func backend(state agentv1.AdminState, weight *uint32) *agentv1.LocalBackend {
	return &agentv1.LocalBackend{Pool: "web", Backend: "a", State: state, Weight: weight}
}

func TestBackendOnTopOfTheTarget(t *testing.T) {
	for name, test := range map[string]struct {
		target *haproxyv1.Server
		state  agentv1.AdminState
		weight *uint32
		want   *haproxyv1.Server
		none   bool // it is what the controller wants
	}{
		"drain":                        {isReady(5), drain, nil, isDrained(5), false},
		"maintenance":                  {isReady(5), maintenance, nil, inMaintenance(5), false},
		"weight":                       {isReady(5), asItIs, proto.Uint32(9), isReady(9), false},
		"weight 0":                     {isReady(5), asItIs, proto.Uint32(0), isReady(0), false},
		"ready though drained":         {isDrained(5), ready, nil, isReady(5), false},
		"ready though in maintenance":  {inMaintenance(5), ready, nil, isReady(5), false},
		"maintenance instead of drain": {isDrained(5), maintenance, nil, inMaintenance(5), false},
		"weight of a drained one":      {isDrained(5), asItIs, proto.Uint32(9), isDrained(9), false},
		"weight of one in maintenance": {inMaintenance(5), asItIs, proto.Uint32(9), inMaintenance(9), false},
		"drained already":              {isDrained(5), drain, nil, isDrained(5), true},
		"ready already":                {isReady(5), ready, nil, isReady(5), true},
		"has the weight already":       {isReady(5), asItIs, proto.Uint32(5), isReady(5), true},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := load(t, t.TempDir())
			base := wanted(t, false, test.target)
			change, err := s.SetBackend(base, backend(test.state, test.weight), root)
			if err != nil {
				t.Fatal(err)
			}
			if (change == nil) != test.none {
				t.Errorf("the change is %v", change)
			}
			test.want.Backend = "web"
			if diff := cmp.Diff(test.want, s.Over(base).Server("web", "a"), protocmp.Transform()); diff != "" {
				t.Errorf("in effect (-want +got):\n%s", diff)
			}
			if got := s.Over(base).Hash(); got != "h" {
				t.Errorf("the hash is %q: the controller would send everything anew", got)
			}
		})
	}
}

func TestDrainOnTopOfTheTarget(t *testing.T) {
	for _, desired := range []bool{false, true} {
		for _, here := range []bool{false, true} {
			s, _ := load(t, t.TempDir())
			base := wanted(t, desired)
			change, err := s.SetDrain(base, here, root)
			if err != nil {
				t.Fatal(err)
			}
			if (change == nil) != (desired == here) || s.Over(base).Drained() != here {
				t.Errorf("desired %v, here %v: change %v, in effect %v", desired, here, change, s.Over(base).Drained())
			}
		}
	}
}

func TestAChangeKeepsItsAuthorUntilItIsAnotherOne(t *testing.T) {
	s, r := load(t, t.TempDir())
	base := wanted(t, false, isReady(1))
	step := func(by string, state agentv1.AdminState, weight *uint32) *agentv1.LocalChange {
		t.Helper()
		c, err := s.SetBackend(base, backend(state, weight), By{Author: by})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	step("ann", drain, nil)
	if c := step("bob", drain, nil); c.GetAuthor() != "ann" {
		t.Errorf("a repeated change is %s's", c.GetAuthor())
	}
	if c := step("bob", asItIs, proto.Uint32(7)); c.GetAuthor() != "bob" || c.GetBackend().GetState() != drain {
		t.Errorf("with a weight it is %v, want a drain of bob's", c)
	}
	// The weight stays: ready is about the state.
	if c := step("bob", ready, nil); c.GetBackend().GetWeight() != 7 {
		t.Errorf("ready again it is %v, want weight 7", c)
	}
	if c := step("cyd", asItIs, proto.Uint32(1)); c != nil {
		t.Errorf("with the controller's weight it is %v, want none", c)
	}
	want := []string{"begun web/a", "begun web/a", "begun web/a", "ended web/a: undone on the node by cyd"}
	if !slices.Equal(r.events, want) || len(r.now) > 0 {
		t.Errorf("told %q, now %q", r.events, r.now)
	}
}

func TestOnlyTheControllersConsentEndsAChange(t *testing.T) {
	s, r := load(t, t.TempDir())
	base := wanted(t, false, isReady(1))
	if _, err := s.SetBackend(base, backend(drain, nil), root); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SetDrain(base, true, root); err != nil {
		t.Fatal(err)
	}
	for name, later := range map[string]*target.Target{
		"the same":              base,
		"another weight":        wanted(t, false, isReady(9)),
		"without the backend":   wanted(t, false),
		"another state":         wanted(t, false, inMaintenance(1)),
		"drained and undrained": wanted(t, false, isReady(1)),
	} {
		s.Settle(later)
		if len(s.All()) != 2 {
			t.Fatalf("%s: %v is left", name, s.All())
		}
	}
	s.Settle(wanted(t, false, isDrained(4)))
	if all := s.All(); len(all) != 1 || Subject(all[0]) != Node {
		t.Errorf("%v is left, want the node's drain", all)
	}
	s.Settle(wanted(t, true))
	if want := "ended : the controller wants the same"; len(s.All()) > 0 || r.events[len(r.events)-1] != want {
		t.Errorf("%v is left, told %q", s.All(), r.events)
	}
}

func TestDiscard(t *testing.T) {
	fill := func() *Set {
		s, _ := load(t, t.TempDir())
		base := wanted(t, false, isReady(1))
		_, drained := s.SetDrain(base, true, root)
		_, set := s.SetBackend(base, backend(drain, nil), root)
		if err := errors.Join(drained, set); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, test := range map[string]struct{ subjects, left []string }{
		"all":         {nil, nil},
		"the node's":  {[]string{Node}, []string{"web/a"}},
		"a backend's": {[]string{"web/a"}, []string{Node}},
		"no such":     {[]string{"web/b"}, []string{Node, "web/a"}},
	} {
		s := fill()
		discarded, err := s.Discard(test.subjects, "how")
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, c := range s.All() {
			left = append(left, Subject(c))
		}
		if !slices.Equal(left, test.left) || len(discarded)+len(left) != 2 {
			t.Errorf("%s: %q is left, %v discarded", name, left, discarded)
		}
		if again, _ := s.Discard(test.subjects, "how"); len(again) > 0 {
			t.Errorf("%s: discarded twice: %v", name, again)
		}
	}
}

func TestChangesSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	s, _ := load(t, dir)
	base := wanted(t, false, isReady(1))
	if _, err := s.SetBackend(base, backend(drain, proto.Uint32(3)), root); err != nil {
		t.Fatal(err)
	}
	again, r := load(t, dir)
	if diff := cmp.Diff(s.All(), again.All(), protocmp.Transform()); diff != "" {
		t.Errorf("a new agent reads (-want +got):\n%s", diff)
	}
	if !slices.Equal(r.now, []string{"web/a"}) || len(r.events) > 0 {
		t.Errorf("it reports %q and tells %q", r.now, r.events)
	}
	if info, err := os.Stat(filepath.Join(dir, "local.pb")); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
}

func TestADamagedFileIsTold(t *testing.T) {
	dir := t.TempDir()
	s, _ := load(t, dir)
	if _, err := s.SetDrain(wanted(t, false), true, root); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "local.pb")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		damaged := slices.Clone(data)
		damaged[i] ^= 1
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Load(dir, &told{}); !errors.Is(err, ErrCorrupt) || len(s.All()) > 0 {
			t.Fatalf("byte %d: %v, %v", i, s.All(), err)
		}
	}
}

// A disk that takes nothing holds back no change; it is told, and made good.
func TestChangesGoOnWithoutADisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "state")
		s, r := load(t, dir)
		done := make(chan error, 1)
		go func() { done <- s.Run(t.Context()) }()
		base := wanted(t, false)
		change, warning := s.SetDrain(base, true, root)
		if change == nil || warning == nil || !strings.Contains(r.unsaved, "not on disk") || !s.Over(base).Drained() {
			t.Errorf("change %v, warning %v, told %q", change, warning, r.unsaved)
		}
		<-time.After(2 * saveAgain)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * saveAgain)
		synctest.Wait()
		if again, _ := load(t, dir); len(again.All()) != 1 || r.unsaved != "" {
			t.Errorf("on disk is %v, told %q", again.All(), r.unsaved)
		}
	})
}

// Whatever is wanted and whatever is changed: what is in effect is stable, and a
// controller that comes to want it ends every change.
func TestWhatIsInEffectSettles(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		weight := rapid.Uint32Range(0, 256)
		servers := []func(uint32) *haproxyv1.Server{isReady, isDrained, inMaintenance}
		drawn := func() *target.Target {
			server := rapid.SampledFrom(servers).Draw(t, "server")(weight.Draw(t, "weight"))
			return wanted(t, rapid.Bool().Draw(t, "drained"), server)
		}
		s := &Set{report: &told{}, file: newFile(dir), changes: map[string]*agentv1.LocalChange{}}
		base := drawn()
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			if rapid.Bool().Draw(t, "of the node") {
				_, _ = s.SetDrain(base, rapid.Bool().Draw(t, "drain"), root)
			} else {
				var w *uint32
				if rapid.Bool().Draw(t, "with a weight") {
					w = proto.Uint32(weight.Draw(t, "local weight"))
				}
				state := rapid.SampledFrom([]agentv1.AdminState{asItIs, ready, drain, maintenance}).Draw(t, "state")
				_, _ = s.SetBackend(base, backend(state, w), root)
			}
			if rapid.Bool().Draw(t, "a later target") {
				base = drawn()
			}
		}
		once := s.Over(base)
		if diff := cmp.Diff(once.Config(), s.Over(once).Config(), protocmp.Transform()); diff != "" {
			t.Fatalf("twice on top is not once (-once +twice):\n%s", diff)
		}
		s.Settle(once)
		if len(s.All()) > 0 {
			t.Fatalf("%v outlives a controller that wants it", s.All())
		}
	})
}
