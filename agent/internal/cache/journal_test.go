package cache

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

func server(name string, weight uint32) *agentv1.Resource {
	return &agentv1.Resource{Key: "haproxy/server/web/" + name, Body: &agentv1.Resource_Server{
		Server: &haproxyv1.Server{Backend: "web", Name: name, Weight: weight},
	}}
}

// hash names the state after n changes.
func hash(n int) string { return fmt.Sprintf("hash-%d", n) }

// step is the nth change: it sets a server's weight to n, and every third one
// removes another server.
func step(n int) *agentv1.Update {
	u := &agentv1.Update{
		BaseHash: hash(n - 1), Version: &agentv1.Version{Epoch: "e", Hash: hash(n), Runtime: uint64(n)},
		Upserts: []*agentv1.Resource{server(fmt.Sprintf("s%d", n%5), uint32(n))},
	}
	if n%3 == 0 {
		u.Removals = []string{fmt.Sprintf("haproxy/server/web/s%d", (n+2)%5)}
	}
	return u
}

// after is the configuration after n changes.
func after(t *testing.T, n int) *agentv1.NodeConfig {
	t.Helper()
	config := &agentv1.NodeConfig{Version: &agentv1.Version{Epoch: "e", Hash: hash(0)}, Resources: []*agentv1.Resource{server("s0", 0)}}
	var changes []*agentv1.Update
	for i := range n {
		changes = append(changes, step(i+1))
	}
	config, _, err := replay(config, changes)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// journalled returns a cache with n changes after the good configuration.
func journalled(t *testing.T, n int) *Cache {
	t.Helper()
	c, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Candidate(after(t, 0)), c.Promote()); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := c.Append(step(i + 1)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// again opens the cache as another process does.
func again(c *Cache) *Cache {
	return &Cache{candidate: c.candidate, good: c.good, journal: journal{path: c.journal.path}}
}

// holds fails the test unless the cache gives the configuration after n changes.
func holds(t *testing.T, c *Cache, n int) {
	t.Helper()
	got, err := again(c).Good()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(after(t, n), got, protocmp.Transform()); diff != "" {
		t.Fatalf("not what was acknowledged, %d changes (-want +got):\n%s", n, diff)
	}
}

func TestGoodIsWithTheJournal(t *testing.T) {
	c := journalled(t, 7)
	holds(t, c, 7)
	// A new process goes on behind it.
	next := again(c)
	if _, err := next.Good(); err != nil {
		t.Fatal(err)
	}
	for n := 8; n <= 9; n++ {
		if err := next.Append(step(n)); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, c, 9)
}

// A kill between the rename of Promote and anything later finds the journal of
// the configuration before.
func TestAnOldJournalCountsForNothing(t *testing.T) {
	c := journalled(t, 3)
	if err := errors.Join(c.Candidate(after(t, 5)), c.Promote()); err != nil {
		t.Fatal(err)
	}
	holds(t, c, 5)
	if err := c.Append(step(6)); err != nil {
		t.Fatal(err)
	}
	holds(t, c, 6)
}

func TestNothingIsAppendedToNothing(t *testing.T) {
	c, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Append(step(1)); err == nil {
		t.Error("a change is kept that no good configuration precedes")
	}
}

// A crash while the last record is written leaves any part of it, or its length
// with another content.
func TestTornTailIsCut(t *testing.T) {
	c := journalled(t, 4)
	data, err := os.ReadFile(c.journal.path)
	if err != nil {
		t.Fatal(err)
	}
	last, err := record(step(4))
	if err != nil {
		t.Fatal(err)
	}
	torn := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(c.journal.path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		holds(t, c, 3)
		next := again(c)
		if _, err := next.Good(); err != nil {
			t.Fatal(err)
		}
		if err := next.Append(step(4)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		holds(t, c, 4)
	}
	begin := len(data) - len(last)
	for cut := begin; cut < len(data); cut++ {
		torn(fmt.Sprintf("cut at %d", cut), data[:cut])
	}
	for at := begin; at < len(data); at++ {
		torn(fmt.Sprintf("zeros from %d", at), append(append([]byte{}, data[:at]...), make([]byte, len(data)-at)...))
	}
	torn("a first page lost", append(append(append([]byte{}, data[:begin]...), make([]byte, 20)...), data[begin+20:]...))
}

// What was acknowledged and is followed by more is never left out silently, and
// what precedes the damage counts.
func TestDamagedJournalCountsUpToTheDamage(t *testing.T) {
	c := journalled(t, 0)
	var ends []int // of the records
	for n := 1; n <= 4; n++ {
		if err := c.Append(step(n)); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, int(c.journal.size))
	}
	data, err := os.ReadFile(c.journal.path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := func(data []byte, n int) {
		t.Helper()
		if err := os.WriteFile(c.journal.path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		next := again(c)
		got, err := next.Good()
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("got %v, want ErrCorrupt", err)
		}
		if diff := cmp.Diff(after(t, n), got, protocmp.Transform()); diff != "" {
			t.Fatalf("not what precedes the damage, %d changes (-want +got):\n%s", n, diff)
		}
		// The controller sends what is missing anew.
		if err := next.Append(step(n + 1)); err != nil {
			t.Fatal(err)
		}
		holds(t, c, n+1)
	}
	for at := range ends[2] {
		whole := 0
		for whole < len(ends) && ends[whole] <= at {
			whole++
		}
		wrong := append([]byte{}, data...)
		wrong[at] ^= 0x40
		damaged(wrong, whole)
	}
	missing, err := record(step(6))
	if err != nil {
		t.Fatal(err)
	}
	damaged(append(data, missing...), 4)
}

// A journal that is damaged while it is in use does not lose what it was told to
// keep for the sake of one change more.
func TestNothingIsAppendedBehindUnseenDamage(t *testing.T) {
	c := journalled(t, 3)
	data, err := os.ReadFile(c.journal.path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 0x40
	if err := os.WriteFile(c.journal.path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	c.journal.close() // as after a failed fsync
	if err := c.Append(step(4)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
}

// A write that fails leaves nothing, and the next one works again.
func TestAppendAfterAFailedOne(t *testing.T) {
	c := journalled(t, 2)
	file := c.journal.file
	readOnly, err := os.Open(c.journal.path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	c.journal.file = readOnly
	if err := c.Append(step(3)); err == nil {
		t.Fatal("a change that was not written is acknowledged")
	}
	// As if a part of it had been written.
	c.journal.file = file
	if _, err := file.WriteString("a part"); err != nil {
		t.Fatal(err)
	}
	holds(t, c, 2)
	if err := c.Append(step(3)); err != nil {
		t.Fatal(err)
	}
	holds(t, c, 3)
	// After a failed fsync the file is not to be trusted.
	c.journal.close()
	if err := c.Append(step(4)); err != nil {
		t.Fatal(err)
	}
	holds(t, c, 4)
}

// One change of a server costs the same few bytes however many there are, and
// what is rewritten now and then is no more than was appended.
func TestBytesWrittenDoNotGrowWithServers(t *testing.T) {
	c := journalled(t, 0)
	u := step(1)
	u.BaseHash = strings.Repeat("h", 64)
	u.Version.Hash = u.BaseHash
	one, err := record(u)
	if err != nil {
		t.Fatal(err)
	}
	if len(one) > 400 {
		t.Errorf("one change takes %d bytes", len(one))
	}
	changes := 0
	for ; !c.Long(); changes++ {
		if err := c.Append(u); err != nil {
			t.Fatal(err)
		}
	}
	if changes < 2500 {
		t.Errorf("after %d changes everything is written anew", changes)
	}
}

func FuzzParse(f *testing.F) {
	one, err := record(step(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one)
	f.Add(append(one, one[:len(one)-3]...))
	f.Fuzz(func(t *testing.T, data []byte) {
		changes, whole, err := parse(data)
		if err != nil {
			return
		}
		again, same, err := parse(data[:whole])
		if err != nil || same != whole || len(again) != len(changes) {
			t.Errorf("%d changes in %d bytes, read again %d in %d: %v", len(changes), whole, len(again), same, err)
		}
	})
}
