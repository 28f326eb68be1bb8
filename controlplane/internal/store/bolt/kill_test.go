package bolt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

// victimEnv makes the test binary commit to the store that it names until it
// is killed.
const victimEnv = "TANDEM_BOLT_VICTIM"

// width is how many resources each of the victim's revisions sets.
const width = 200

// victim commits revision after revision, sets all resources to the revision's
// number in each, and prints the number once it is acknowledged.
func victim(path string) error {
	s, err := Open(path, Options{KeepRevisions: 50})
	if err != nil {
		return err
	}
	ctx := context.Background()
	heads, err := s.Heads(ctx)
	if err != nil {
		return err
	}
	base := uint64(0)
	if len(heads) > 0 {
		base = heads[0].Revision
	}
	for ; ; base++ {
		if err := s.Commit(ctx, []store.Commit{after(base)}); err != nil {
			return err
		}
		fmt.Println(base + 1)
	}
}

// after is a revision that sets everything to its number.
func after(base uint64) store.Commit {
	number := uint32(base + 1)
	r := &tandemv1.Revision{Number: base + 1}
	for i := range width {
		r.Changes = append(r.Changes, &tandemv1.Change{Name: fmt.Sprintf("r%03d", i),
			After: &tandemv1.Resource{Kind: &tandemv1.Resource_Backend{Backend: &tandemv1.Backend{Weight: &number}}}})
	}
	return store.Commit{Cluster: "a", Base: base, Revision: r,
		Secrets: map[string]string{"s": fmt.Sprint(number)}, Counters: state.Counters{Backend: number}}
}

// TestI2KilledAtAnyTime kills a committing process again and again: what it
// acknowledged is there, and what it did not is absent or whole.
func TestI2KilledAtAnyTime(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(t.TempDir(), "store.db")
	last := uint64(0)
	for round := range 12 {
		acknowledged := max(last, killAfter(t, path, 1+random.IntN(12), random))
		last = check(t, path)
		if last < acknowledged {
			t.Fatalf("round %d: revision %d was acknowledged and the head is %d", round, acknowledged, last)
		}
		if last > acknowledged+1 {
			t.Fatalf("round %d: the head is %d, and only %d and the next can have been committed", round, last, acknowledged)
		}
	}
}

// killAfter runs a victim until it has acknowledged n commits and is at a
// random place in the next ones, kills it, and returns the last number
// acknowledged.
func killAfter(t *testing.T, path string, n int, random *rand.Rand) uint64 {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), victimEnv+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := uint64(0)
	lines := bufio.NewScanner(out)
	for i := 0; lines.Scan(); i++ {
		if last, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
			t.Fatal(err)
		}
		if i == n {
			<-time.After(time.Duration(random.IntN(10_000)) * time.Microsecond) // about a commit's time
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("the victim was not killed: %v", err)
	}
	return last
}

// check returns the head, and fails when the content is not exactly its.
func check(t *testing.T, path string) uint64 {
	t.Helper()
	head, err := whole(path)
	if err != nil {
		t.Fatal(err)
	}
	return head
}

// whole returns the head, 0 if there is none; the error tells that the content
// is not exactly its.
func whole(path string) (uint64, error) {
	s, err := Open(path, Options{})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	ctx := context.Background()
	head, content, err := s.Content(ctx, "a")
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(content.Resources) != width {
		return 0, fmt.Errorf("%d resources, want %d", len(content.Resources), width)
	}
	for i, r := range content.Resources {
		if w := uint64(r.GetBackend().GetWeight()); w != head.Revision {
			return 0, fmt.Errorf("resource %d is of revision %d and the head is %d", i, w, head.Revision)
		}
	}
	if content.Secrets["s"] != fmt.Sprint(head.Revision) || uint64(content.Counters.Backend) != head.Revision {
		return 0, fmt.Errorf("secrets %v and counters %v are not of revision %d", content.Secrets, content.Counters, head.Revision)
	}
	r, err := s.Revision(ctx, "a", head.Revision)
	if err != nil || len(r.GetChanges()) != width {
		return 0, fmt.Errorf("revision %d has %d changes: %w", head.Revision, len(r.GetChanges()), err)
	}
	return head.Revision, nil
}
