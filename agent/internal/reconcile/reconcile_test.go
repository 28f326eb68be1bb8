package reconcile

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/agent/internal/haproxy"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/target"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// recorder stands where drivers and disk are, and writes down the order in
// which the reconciler asks them. The daemons themselves are tested beside
// their drivers and in the lab.
type recorder struct {
	mu      sync.Mutex
	steps   []string
	watched []string // instances that keepalived's driver was told to watch
	unsaved string
	long    bool
	// fail gives a step its error, once.
	fail map[string]error
	// again gives it the error a second time.
	again map[string]error
	// other is what RunsOther says, drained what Drained does.
	other   bool
	unasked error // of RunsOther
	drained bool
	problem string
	// begun is closed by the first step, which then waits for proceed.
	begun, proceed chan struct{}
}

func (r *recorder) step(name string) error {
	if r.begun != nil {
		close(r.begun)
		r.begun = nil
		<-r.proceed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, name)
	err := r.fail[name]
	delete(r.fail, name)
	if next := r.again[name]; err != nil && next != nil {
		r.fail[name] = next
		delete(r.again, name)
	}
	return err
}

// until is closed when a condition on the recorder holds. Time is synctest's.
func until(r *recorder, holds func() bool) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r.mu.Lock()
			ok := holds()
			r.mu.Unlock()
			if ok {
				return
			}
			<-time.After(10 * time.Millisecond)
		}
	}()
	return done
}

type proxy struct{ *recorder }

func (p proxy) Apply(_ context.Context, c *haproxyv1.Config) (haproxy.Result, error) {
	step := "haproxy " + c.GetFrontends()[0].GetName()
	for _, s := range c.GetBackends()[0].GetServers() {
		step += " " + s.GetName()
	}
	return haproxy.Result{}, p.step(step)
}
func (p proxy) Check(context.Context, *haproxyv1.Config) error { return p.step("haproxy -c") }

func (p proxy) RunsOther(context.Context, *haproxyv1.Config) (bool, error) {
	return p.other, p.unasked
}

type vrrp struct{ *recorder }

func (v vrrp) Apply(_ context.Context, c *keepalivedv1.Config) (keepalived.Result, error) {
	step := "keepalived " + c.GetInstances()[0].GetName()
	if c.GetGlobal().GetDrain() {
		step += " drained"
	}
	return keepalived.Result{}, v.step(step)
}
func (v vrrp) Watch(_ context.Context, c *keepalivedv1.Config) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.watched = append(v.watched, c.GetInstances()[0].GetName())
	return nil
}
func (v vrrp) Check(context.Context, *keepalivedv1.Config) error { return v.step("keepalived -t") }
func (v vrrp) Drained() bool                                     { return v.drained }

type store struct{ *recorder }

func (s store) Candidate(c *agentv1.NodeConfig) error {
	return s.step("candidate " + c.GetVersion().GetHash())
}
func (s store) Promote() error { return s.step("promote") }
func (s store) Append(u *agentv1.Update) error {
	return s.step("journal " + u.GetBaseHash() + " to " + u.GetVersion().GetHash())
}
func (s store) Long() bool { return s.long }

// wanted is a target with one frontend called hash, one VRRP instance and a
// backend "pool" with servers.
func wanted(t *testing.T, hash, instance string, servers ...string) *target.Target {
	t.Helper()
	config := &agentv1.NodeConfig{Version: &agentv1.Version{Hash: hash}, Resources: []*agentv1.Resource{
		{Key: "haproxy/frontend/" + hash, Body: &agentv1.Resource_Frontend{Frontend: &haproxyv1.Frontend{Name: hash}}},
		{Key: "keepalived/instance/" + instance, Body: &agentv1.Resource_Instance{Instance: &keepalivedv1.Instance{Name: instance}}},
	}}
	config.Resources = append(config.Resources, &agentv1.Resource{Key: "haproxy/backend/pool",
		Body: &agentv1.Resource_Backend{Backend: &haproxyv1.Backend{Name: "pool"}}})
	for i, name := range servers {
		config.Resources = append(config.Resources, &agentv1.Resource{Key: "haproxy/server/pool/" + name,
			Body: &agentv1.Resource_Server{Server: &haproxyv1.Server{Backend: "pool", Name: name, Id: uint32(1 + i)}}})
	}
	made, err := target.FromConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// start runs a reconciler in the synctest bubble.
func start(t *testing.T, r *recorder, good *target.Target) *Reconciler {
	t.Helper()
	return startOver(t, r, good, nil)
}

// startOver is start with an overlay.
func startOver(t *testing.T, r *recorder, good *target.Target, o Overlay) *Reconciler {
	t.Helper()
	return startWith(t, r, Options{Good: good, Overlay: o})
}

// startWith is start with other options.
func startWith(t *testing.T, r *recorder, o Options) *Reconciler {
	t.Helper()
	reconciler := New(Options{
		Proxy: proxy{r}, VRRP: vrrp{r}, Store: store{r}, Good: o.Good, Behind: o.Behind, Overlay: o.Overlay,
		Logger: hclog.NewNullLogger(), Problem: func(text string) { r.mu.Lock(); defer r.mu.Unlock(); r.problem = text },
		Unsaved: func(text string) { r.mu.Lock(); defer r.mu.Unlock(); r.unsaved = text },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- reconciler.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return reconciler
}

// taken returns the steps so far and begins anew, failing as told from then on.
func (r *recorder) taken(fail map[string]error) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	steps := r.steps
	r.steps, r.fail = nil, fail
	return steps
}

func expect(t *testing.T, r *recorder, want ...string) {
	t.Helper()
	if got := r.taken(nil); !slices.Equal(got, want) {
		t.Errorf("the steps are %q, want %q", got, want)
	}
}

func TestTheWayOfATarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		reconciler := start(t, r, nil)
		reconciler.Submit("1", wanted(t, "a", "web"))
		if o := <-reconciler.Outcomes(); o.Err != nil || o.Nonce != "1" {
			t.Fatalf("the outcome is %+v", o)
		}
		expect(t, r, "candidate a", "keepalived -t", "haproxy a", "keepalived web", "promote")
		if reconciler.Applied().Hash() != "a" {
			t.Error("the target does not count as applied")
		}
		reconciler.Submit("2", wanted(t, "b", "web"))
		<-reconciler.Outcomes()
		// keepalived has nothing new to do and is left alone.
		expect(t, r, "candidate b", "haproxy b", "promote")
	})
}

func TestTheGoodOneIsAppliedAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		reconciler := start(t, r, wanted(t, "good", "web"))
		synctest.Wait()
		expect(t, r, "keepalived -t", "haproxy good", "keepalived web")
		<-reconciler.Begun()
		if reconciler.Applied().Hash() != "good" {
			t.Error("the good target does not count as applied")
		}
	})
}

func TestLatestWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{begun: make(chan struct{}), proceed: make(chan struct{})}
		begun := r.begun
		reconciler := start(t, r, nil)
		reconciler.Submit("1", wanted(t, "a", "web"))
		<-begun
		reconciler.Submit("2", wanted(t, "b", "web"))
		reconciler.Submit("3", wanted(t, "c", "web"))
		close(r.proceed)
		synctest.Wait()
		if steps := r.taken(nil); slices.Contains(steps, "haproxy b") {
			t.Errorf("a target that a newer one had replaced was applied: %q", steps)
		}
		if o := <-reconciler.Outcomes(); o.Nonce != "3" || reconciler.Applied().Hash() != "c" {
			t.Errorf("the outcome is %+v, applied is %q, want the third", o, reconciler.Applied().Hash())
		}
	})
}

// An agent at rest has the target in effect alone, and what a controller may build upon.
func TestAtRestTheOldOnesAreForgotten(t *testing.T) {
	known := func(r *Reconciler) (hashes []string) {
		for _, hash := range []string{"a", "b", "c"} {
			if r.Known(hash) != nil {
				hashes = append(hashes, hash)
			}
		}
		return hashes
	}
	synctest.Test(t, func(t *testing.T) {
		reconciler := start(t, &recorder{}, nil)
		for n, step := range []struct {
			submit string
			after  time.Duration
			want   []string
		}{
			{"a", 0, []string{"a"}},
			{"b", restAfter - time.Millisecond, []string{"a", "b"}},
			{"", time.Second, []string{"b"}},
			{"c", 0, []string{"b", "c"}},
		} {
			if step.submit != "" {
				reconciler.Submit(step.submit, wanted(t, step.submit, "web"))
			}
			<-time.After(step.after)
			synctest.Wait()
			if got := known(reconciler); !slices.Equal(got, step.want) {
				t.Errorf("step %d: it knows %q, want %q", n, got, step.want)
			}
		}
	})
}

func TestWhatFailsOrIsRefusedIsTriedAgain(t *testing.T) {
	for name, test := range map[string]struct {
		err     error
		refused bool
	}{
		"failed":  {errors.New("port taken"), false},
		"refused": {&haproxy.RefusedError{Words: "no such group"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{fail: map[string]error{"haproxy a": test.err}}
				reconciler := start(t, r, nil)
				reconciler.Submit("1", wanted(t, "a", "web"))
				o := <-reconciler.Outcomes()
				if !errors.Is(o.Err, test.err) || o.Refused != test.refused {
					t.Errorf("the outcome is %+v", o)
				}
				if slices.Contains(r.taken(nil), "promote") || reconciler.Applied() != nil {
					t.Error("a target that is not in effect became the good one")
				}
				if o := <-reconciler.Outcomes(); o.Err != nil || o.Nonce != "1" {
					t.Errorf("the next outcome is %+v, want success", o)
				}
			})
		})
	}
}

// The VIPs of a target are looked for whatever becomes of it, until the next one;
// the servers of a bad one that follow do not bring the old VIPs back.
func TestWhatIsNotInEffectIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{fail: map[string]error{"haproxy a": errors.New("nothing is touched")}}
		reconciler := start(t, r, nil)
		for i, target := range []*target.Target{
			wanted(t, "a", "web"), wanted(t, "b", "web", "web1", "web2"), wanted(t, "c", "mail", "web2"), wanted(t, "d", "web", "web2"),
		} {
			reconciler.Submit(target.Hash(), target)
			for o := range reconciler.Outcomes() {
				if o.Err == nil || i == 2 {
					break
				}
			}
			r.taken(map[string]error{"keepalived -t": &keepalived.RefusedError{Reason: "no"}})
		}
		if want := []string{"web", "mail", "web"}; !slices.Equal(r.watched, want) {
			t.Errorf("watched are %q in turn, want %q", r.watched, want)
		}
	})
}

func TestHAProxyGoesBackWhenKeepalivedFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		reconciler := start(t, r, nil)
		reconciler.Submit("1", wanted(t, "a", "web"))
		<-reconciler.Outcomes()
		r.taken(map[string]error{"keepalived mail": &keepalived.RefusedError{Reason: "no"}})
		reconciler.Submit("2", wanted(t, "b", "mail"))
		if o := <-reconciler.Outcomes(); o.Err == nil {
			t.Fatal("a failure is told as success")
		}
		expect(t, r, "candidate b", "keepalived -t", "haproxy b", "keepalived mail", "haproxy a")
		if reconciler.Applied().Hash() != "a" {
			t.Error("what is not in effect counts as applied")
		}
	})
}

func TestServersFollowThoughTheStructureFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		reconciler := start(t, r, nil)
		reconciler.Submit("1", wanted(t, "a", "web", "web1", "web2"))
		<-reconciler.Outcomes()
		r.taken(map[string]error{"keepalived -t": &keepalived.RefusedError{Reason: "no"}})
		reconciler.Submit("2", wanted(t, "b", "mail", "web2"))
		if o := <-reconciler.Outcomes(); o.Err == nil || o.Target.Hash() != "b" {
			t.Fatalf("the outcome is %+v", o)
		}
		expect(t, r, "candidate b", "keepalived -t", "journal a to a+b", "haproxy a web2")
		if reconciler.Applied().Hash() != "a+b" {
			t.Errorf("%q counts as applied", reconciler.Applied().Hash())
		}
		// Once the cause is gone, the whole target follows by itself.
		if o := <-reconciler.Outcomes(); o.Err != nil || reconciler.Applied().Hash() != "b" {
			t.Errorf("the outcome is %+v, applied is %q", o, reconciler.Applied().Hash())
		}
	})
}
