package reconcile

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tandem-lb/tandem/agent/internal/haproxy"
	"github.com/tandem-lb/tandem/agent/internal/target"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

var errDiskFull = errors.New("no space left on device")

// renamed is a target of the structure a with servers, under another hash.
func renamed(t *testing.T, hash string, servers ...string) *target.Target {
	t.Helper()
	config := wanted(t, "a", "web", servers...).Config()
	config.Version = &agentv1.Version{Hash: hash}
	made, err := target.FromConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// begun runs a reconciler with the target a in effect and good.
func begun(t *testing.T, r *recorder) *Reconciler {
	t.Helper()
	reconciler := start(t, r, nil)
	reconciler.Submit("1", wanted(t, "a", "web", "web1"))
	if o := <-reconciler.Outcomes(); o.Err != nil {
		t.Fatal(o.Err)
	}
	r.taken(nil)
	return reconciler
}

// said is what Unsaved was told last.
func (r *recorder) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unsaved
}

func TestServersAreJournalledBeforeTheyAct(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		reconciler := begun(t, r)
		reconciler.Submit("2", renamed(t, "b", "web1", "web2"))
		<-reconciler.Outcomes()
		reconciler.Submit("3", renamed(t, "c", "web2"))
		<-reconciler.Outcomes()
		expect(t, r, "journal a to b", "haproxy a web1 web2", "journal b to c", "haproxy a web2")
	})
}

func TestALongJournalIsFolded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		reconciler := begun(t, r)
		r.long = true
		reconciler.Submit("2", renamed(t, "b", "web2"))
		<-reconciler.Outcomes()
		expect(t, r, "journal a to b", "haproxy a web2", "candidate b", "promote")
	})
}

// What fails after it was journalled must not come back at the next start.
func TestTheJournalTakesBackWhatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		reconciler := begun(t, r)
		refused := &haproxy.RefusedError{Words: "no"}
		r.taken(map[string]error{"haproxy a web2": refused})
		reconciler.Submit("2", renamed(t, "b", "web2"))
		if o := <-reconciler.Outcomes(); !errors.Is(o.Err, refused) {
			t.Fatalf("the outcome is %+v", o)
		}
		if got := r.taken(nil)[:3]; !slices.Equal(got, []string{"journal a to b", "haproxy a web2", "journal b to a"}) {
			t.Errorf("the steps begin with %q", got)
		}
	})
}

func TestServersActThoughTheDiskIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		reconciler := begun(t, r)
		r.taken(map[string]error{"journal a to b": errDiskFull, "candidate b": errDiskFull})
		// The journal fails once, and so does the attempt after the act.
		r.again = map[string]error{"journal a to b": errDiskFull}
		reconciler.Submit("2", renamed(t, "b", "web2"))
		if o := <-reconciler.Outcomes(); o.Err != nil {
			t.Fatalf("the outcome is %+v", o)
		}
		if said := r.said(); !strings.Contains(said, errDiskFull.Error()) || !strings.Contains(said, "free space") {
			t.Errorf("the outcome came with %q, want what is wrong and the cure", said)
		}
		expect(t, r, "journal a to b", "haproxy a web2", "journal a to b", "candidate b")
		// Nobody does anything but make space.
		synctest.Wait()
		<-until(r, func() bool { return r.unsaved == "" })
		expect(t, r, "journal a to b")
		reconciler.Submit("3", renamed(t, "c", "web3"))
		<-reconciler.Outcomes()
		expect(t, r, "journal b to c", "haproxy a web3")
	})
}

func TestANewStructureIsRefusedWhenTheDiskIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		reconciler := begun(t, r)
		r.taken(map[string]error{"candidate b": errDiskFull})
		reconciler.Submit("2", wanted(t, "b", "web", "web1"))
		o := <-reconciler.Outcomes()
		if !errors.Is(o.Err, errDiskFull) || o.Refused || !strings.Contains(o.Err.Error(), "free space") {
			t.Errorf("the outcome is %+v", o)
		}
		if r.said() != "" {
			t.Errorf("what is in effect is on disk and told not to be: %q", r.said())
		}
		if steps := r.taken(nil); slices.Contains(steps, "haproxy b web1") {
			t.Errorf("a structure that is not on disk acts: %q", steps)
		}
		if o := <-reconciler.Outcomes(); o.Err != nil {
			t.Errorf("with space again: %+v", o)
		}
	})
}

// The structure is in effect: it must neither be told as refused nor as kept.
func TestAStructureThatCannotBePromotedIsUnsaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		reconciler := begun(t, r)
		r.taken(map[string]error{"promote": errDiskFull})
		reconciler.Submit("2", wanted(t, "b", "web", "web1"))
		if o := <-reconciler.Outcomes(); o.Err != nil || r.said() == "" {
			t.Errorf("the outcome is %+v, unsaved %q", o, r.said())
		}
		<-until(r, func() bool { return r.unsaved == "" })
		expect(t, r, "candidate b", "haproxy b web1", "promote", "candidate b", "promote")
	})
}
