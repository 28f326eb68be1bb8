package events

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func open(t *testing.T, path string, keep int) *Log {
	t.Helper()
	l, err := Open(path, Options{Keep: keep})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// start opens a log and runs its writer; the function returned ends both.
func start(t *testing.T, path string, keep int) (l *Log, stop func()) {
	t.Helper()
	l = open(t, path, keep)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, l.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return l, stop
}

func file(t *testing.T) string { return filepath.Join(t.TempDir(), "events.db") }

func event(message any) *tandemv1.Event {
	return &tandemv1.Event{Message: fmt.Sprint(message), Reason: "TEST"}
}

// next reads one event that must come.
func next(t *testing.T, w *Watch) *tandemv1.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	e, err := w.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func watch(t *testing.T, l *Log, cluster string, after uint64) *Watch {
	t.Helper()
	w, err := l.Watch(cluster, after)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestAppendedIsSeenAndListed(t *testing.T) {
	path := file(t)
	l, stop := start(t, path, 0)
	w := watch(t, l, "a", 0)
	at := timestamppb.New(time.Unix(1_700_000_000, 0))
	l.Append("b", event("elsewhere"))
	l.Append("a", &tandemv1.Event{Message: "one", Time: at, ReceiveTime: at, Node: "lb-master", Revision: 7})
	l.Append("a", event("two"))
	one, two := next(t, w), next(t, w)
	want := &tandemv1.Event{Name: "clusters/a/events/1", Message: "one", Time: at, ReceiveTime: at, Node: "lb-master", Revision: 7}
	if d := cmp.Diff(want, one, protocmp.Transform()); d != "" {
		t.Errorf("first event (-want +got): %s", d)
	}
	if two.GetMessage() != "two" || ID(two) != 2 || two.GetTime() == nil || two.GetReceiveTime() == nil {
		t.Errorf("second event: %v", two)
	}
	epoch := l.Epoch()
	stop()

	l, _ = start(t, path, 0)
	if l.Epoch() != epoch || l.Last("a") != 2 || l.Last("nonsense") != 0 {
		t.Errorf("after a restart: epoch %s, was %s; last %d", l.Epoch(), epoch, l.Last("a"))
	}
	got, err := l.List("a", 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]*tandemv1.Event{two, one}, got, protocmp.Transform()); d != "" {
		t.Errorf("listed (-want +got): %s", d)
	}
	l.Append("a", event("three"))
	if e := next(t, watch(t, l, "a", 2)); ID(e) != 3 || e.GetMessage() != "three" {
		t.Errorf("after a restart came %v", e)
	}
}

func TestListPages(t *testing.T) {
	l, _ := start(t, file(t), 0)
	w := watch(t, l, "a", 0)
	for i := range 10 {
		l.Append("a", event(i))
	}
	for range 10 {
		next(t, w)
	}
	tests := []struct {
		before uint64
		limit  int
		first  uint64
		n      int
	}{{0, 3, 10, 3}, {8, 3, 7, 3}, {3, 9, 2, 2}, {1, 9, 0, 0}, {99, 1, 10, 1}}
	for _, tt := range tests {
		got, err := l.List("a", tt.before, tt.limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != tt.n || (tt.n > 0 && ID(got[0]) != tt.first) {
			t.Errorf("before %d: got %v, want %d from %d on", tt.before, got, tt.n, tt.first)
		}
	}
}

// TestRetention keeps the newest events only, and tells a watcher who wants
// older ones.
func TestRetention(t *testing.T) {
	l, _ := start(t, file(t), 100)
	slow := watch(t, l, "a", 0)
	w := watch(t, l, "a", 0)
	for i := range 1000 {
		l.Append("a", event(i))
		next(t, w)
	}
	got, err := l.List("a", 0, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 100 || ID(got[0]) != 1000 || ID(got[99]) != 901 {
		t.Errorf("kept %d events from %d on", len(got), ID(got[0]))
	}
	if _, err := slow.Next(context.Background()); !errors.Is(err, ErrExpired) {
		t.Errorf("slow watcher: %v", err)
	}
	for after, want := range map[uint64]error{0: ErrExpired, 899: ErrExpired, 900: nil, 1000: nil, 1001: ErrExpired} {
		if _, err := l.Watch("a", after); !errors.Is(err, want) {
			t.Errorf("watch after %d: got %v, want %v", after, err, want)
		}
	}
	if _, err := l.Watch("new", 0); err != nil {
		t.Errorf("watch of a cluster without events: %v", err)
	}
	if _, err := l.Watch("new", 1); !errors.Is(err, ErrExpired) {
		t.Errorf("watch after an event that never was: %v", err)
	}
}

// TestWatchersSeeAllInOrder has many watchers read while many append.
func TestWatchersSeeAllInOrder(t *testing.T) {
	l, _ := start(t, file(t), 0)
	const events = 2000 // less than the queue takes
	var wg sync.WaitGroup
	for range 5 {
		w := watch(t, l, "a", 0)
		wg.Go(func() {
			for id := uint64(1); id <= events; id++ {
				if e, err := w.Next(context.Background()); err != nil || ID(e) != id {
					t.Errorf("got %v, %v, want event %d", e, err, id)
					return
				}
			}
		})
	}
	for range 4 {
		wg.Go(func() {
			for i := range events / 4 {
				l.Append("a", event(i))
			}
		})
	}
	wg.Wait()
}

func TestNextEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := start(t, file(t), 0)
		w := watch(t, l, "a", 0)
		ctx, cancel := context.WithCancel(context.Background())
		got := make(chan error)
		go func() {
			_, err := w.Next(ctx)
			got <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		l.Append("a", event("later")) // and it is still good
		if e := next(t, w); e.GetMessage() != "later" {
			t.Errorf("got %v", e)
		}
	})
}

// TestAppendNeverBlocks appends more than fits while nothing writes: the rest
// is dropped, and an event says how many.
func TestAppendNeverBlocks(t *testing.T) {
	l := open(t, file(t), 0)
	defer l.Close()
	for i := range queueDepth + 123 {
		l.Append("a", event(i))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // Run writes what waits, and ends
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got := l.Last("a"); got != queueDepth+1 {
		t.Errorf("%d events written, want %d and one", got, queueDepth)
	}
	got, err := l.List("a", 0, queueDepth+1)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, e := range got {
		if e.GetReason() == ReasonEventsLost {
			told++
			if want := "123 events"; e.GetMessage()[:len(want)] != want {
				t.Errorf("message %q", e.GetMessage())
			}
		}
	}
	if told != 1 {
		t.Errorf("the loss was told %d times", told)
	}
}

func TestID(t *testing.T) {
	for name, want := range map[string]uint64{"clusters/a/events/12": 12, "": 0, "clusters/a/events/x": 0} {
		if got := ID(&tandemv1.Event{Name: name}); got != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
}

func BenchmarkAppendToWatcher(b *testing.B) {
	l, err := Open(filepath.Join(b.TempDir(), "events.db"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	w, err := l.Watch("a", 0)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		l.Append("a", event("x"))
		if _, err := w.Next(ctx); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	if err := errors.Join(<-ended, l.Close()); err != nil {
		b.Fatal(err)
	}
}

func source(sequence int) Source {
	return Source{Node: "uid", Position: Position{Boot: "boot", Sequence: uint64(sequence)}}
}

// An event that a source sends again is not written again, in one batch, in
// another, or after a restart; another boot counts from the beginning.
func TestEachEventOfASourceOnce(t *testing.T) {
	path := file(t)
	l := open(t, path, 0)
	run := func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // Run writes what waits, and ends
		if err := errors.Join(l.Run(ctx), l.Close()); err != nil {
			t.Fatal(err)
		}
		l = open(t, path, 0)
	}
	told := 0
	send := func(boot string, sequence uint64) {
		from := Source{Node: "uid", Position: Position{Boot: boot, Sequence: sequence}}
		if !l.AppendFrom("default", from, event(fmt.Sprint(boot, sequence)), func() { told++ }) {
			t.Fatal("the queue is full")
		}
	}
	send("a", 1)
	send("a", 2)
	send("a", 2)
	run()
	send("a", 1)
	send("a", 2)
	send("a", 3)
	l.AppendFrom("default", Source{Node: "another", Position: Position{Boot: "a", Sequence: 2}}, event("of another node"), nil)
	send("b", 0) // a gap before its first event
	send("b", 1)
	run()
	send("b", 1)
	run()
	var got []string
	list, err := l.List("default", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		got = append([]string{e.GetMessage()}, got...)
	}
	if d := cmp.Diff([]string{"a1", "a2", "a3", "of another node", "b0", "b1"}, got); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	if told != 9 {
		t.Errorf("%d of 9 were told that their event is safe", told)
	}
	if p := l.Position("default", "uid"); p != (Position{"b", 1}) {
		t.Errorf("position %v, want b 1", p)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// Who waits is told once the event can be read, and not before.
func TestAppendFrom(t *testing.T) {
	path := file(t)
	l := open(t, path, 10)
	told := make(chan int, 2)
	count := func() {
		list, err := l.List("default", 0, 10)
		if err != nil {
			t.Error(err)
		}
		told <- len(list)
	}
	l.AppendFrom("default", source(1), event("a"), count)
	l.AppendFrom("default", source(2), event("b"), count)
	if len(told) != 0 {
		t.Error("told before anything was written")
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	for range 2 {
		if n := <-told; n != 2 {
			t.Errorf("told when %d events could be read, want 2: they share a transaction", n)
		}
	}
	cancel()
	if err := errors.Join(<-ended, l.Close()); err != nil {
		t.Error(err)
	}
}

// Who can try again is told that the queue is full; what others append then is
// counted as lost.
func TestAppendFromToAFullQueue(t *testing.T) {
	l := open(t, file(t), 10)
	for i := range queueDepth {
		if !l.AppendFrom("default", source(i), event("a"), nil) {
			t.Fatalf("the queue is full after %d events, want %d", i, queueDepth)
		}
	}
	if l.AppendFrom("default", source(queueDepth), event("b"), nil) || l.lost.Load() != 0 {
		t.Errorf("a full queue took an event, or %d count as lost", l.lost.Load())
	}
	l.Append("default", event("c"))
	if got := l.lost.Load(); got != 1 {
		t.Errorf("%d events count as lost, want 1", got)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
