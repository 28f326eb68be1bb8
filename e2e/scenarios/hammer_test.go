package scenarios

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// hammer makes one change after the other, whoever dies meanwhile: a call that
// gets no answer is repeated with the same request id until it does. It
// remembers what was acknowledged.
type hammer struct {
	site   *site
	random *rand.Rand
	prefix string // of the request ids
	out    map[string]bool
	extra  bool // there is a backend more

	mu    sync.Mutex // held while a change is made
	acked []acknowledged
	err   error
}

// acknowledged is a request and the revision that the answer named.
type acknowledged struct {
	request  string
	revision uint64
}

func newHammer(s *site, seed uint64) *hammer {
	return &hammer{site: s, out: map[string]bool{}, random: rand.New(rand.NewPCG(seed, 1)), prefix: fmt.Sprintf("hammer-%d-%d", seed, time.Now().UnixNano())}
}

// run makes changes until the context ends. Who holds the lock stops it
// between two.
func (h *hammer) run(ctx context.Context) {
	for ctx.Err() == nil {
		h.mu.Lock()
		err := h.change(ctx)
		if err != nil && ctx.Err() == nil {
			h.err = err
		}
		h.mu.Unlock()
		if err != nil {
			return
		}
		if !wait(ctx, time.Duration(50+h.random.IntN(50))*time.Millisecond) {
			return
		}
	}
}

// wait returns false when the context ends first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// change makes one change and returns when it is acknowledged.
func (h *hammer) change(ctx context.Context) error {
	n := len(h.acked)
	request := fmt.Sprintf("%s-%d", h.prefix, n)
	do := h.draw(n, request)
	for {
		revision, err := revisionOf(ctx, do)
		switch {
		case err == nil:
			h.acked = append(h.acked, acknowledged{request, revision})
			return nil
		case status.Code(err) != codes.Unavailable:
			return fmt.Errorf("change %d: %w", n, err)
		case !wait(ctx, 20*time.Millisecond):
			return ctx.Err()
		}
	}
}

// revisionOf makes a call and returns the revision that its answer names.
func revisionOf(ctx context.Context, do func(context.Context, ...grpc.CallOption) error) (uint64, error) {
	var header metadata.MD
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := do(ctx, grpc.Header(&header))
	if status.Code(err) == codes.DeadlineExceeded {
		err = status.Error(codes.Unavailable, "no answer") // as a client that asks again sees it
	}
	if err != nil {
		return 0, err
	}
	values := header.Get("tandem-revision")
	if len(values) != 1 {
		return 0, fmt.Errorf("header tandem-revision is %v, want one number", values)
	}
	return strconv.ParseUint(values[0], 10, 64)
}

// draw draws a change that makes a revision of its own: of servers mostly, and
// in between of HAProxy's structure and of keepalived's, as often as reloads are
// over in time. web3 is left alone, so that a request always has somewhere to go.
func (h *hammer) draw(n int, request string) func(context.Context, ...grpc.CallOption) error {
	config, step := h.site.config, uint32(n/40%10)
	switch n % 40 {
	case 39:
		return func(ctx context.Context, o ...grpc.CallOption) error {
			_, err := config.UpdateVip(ctx, &tandemv1.UpdateVipRequest{
				Vip: &tandemv1.Vip{Name: cluster.Name + "/vips/web",
					Priorities: map[string]uint32{cluster.Master: 220 + step, cluster.Backup: 210 + step}},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"priorities"}}, RequestId: request,
			}, o...)
			return err
		}
	case 19:
		return func(ctx context.Context, o ...grpc.CallOption) error {
			_, err := config.UpdateCluster(ctx, &tandemv1.UpdateClusterRequest{
				Cluster: &tandemv1.Cluster{Name: cluster.Name,
					Defaults: &tandemv1.ProxySettings{ClientTimeout: durationpb.New(time.Minute + time.Duration(n)*time.Second)}},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"defaults.client_timeout"}}, RequestId: request,
			}, o...)
			return err
		}
	}
	if n%2 == 1 {
		return h.addOrRemove(request)
	}
	weight := uint32(1 + n%250)
	backend := &tandemv1.Backend{Name: backendName([]string{"web1", "web2"}[n/2%2]), Weight: &weight}
	if n%8 < 4 {
		return func(ctx context.Context, o ...grpc.CallOption) error {
			_, err := config.UpdateBackend(ctx, &tandemv1.UpdateBackendRequest{
				Backend: backend, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"weight"}}, RequestId: request,
			}, o...)
			return err
		}
	}
	// Out of service and back, in turn: each makes a difference.
	state := []string{"drain", "maintenance"}[h.random.IntN(2)]
	if h.out[backend.GetName()] {
		state = "ready"
	}
	h.out[backend.GetName()] = state != "ready"
	x := &tandemv1.Override{Name: backend.GetName() + "/override", State: state}
	return func(ctx context.Context, o ...grpc.CallOption) error {
		_, err := config.UpdateOverride(ctx, &tandemv1.UpdateOverrideRequest{Override: x, RequestId: request}, o...)
		return err
	}
}

// addOrRemove adds a backend, or removes the one that is there: made twice,
// either is an error. Nobody listens at its address, so that it gets no traffic.
func (h *hammer) addOrRemove(request string) func(context.Context, ...grpc.CallOption) error {
	const id = "extra"
	h.extra = !h.extra
	if h.extra {
		return func(ctx context.Context, o ...grpc.CallOption) error {
			_, err := h.site.config.CreateBackend(ctx, &tandemv1.CreateBackendRequest{
				Parent: cluster.Name + "/pools/web_servers", BackendId: id, RequestId: request,
				Backend: &tandemv1.Backend{Address: "192.168.1.20", Port: 81},
			}, o...)
			return err
		}
	}
	return func(ctx context.Context, o ...grpc.CallOption) error {
		_, err := h.site.config.DeleteBackend(ctx, &tandemv1.DeleteBackendRequest{Name: backendName(id), RequestId: request}, o...)
		return err
	}
}

// verify checks that every acknowledged change is there exactly once, in the
// revision that was named, and that revisions grow.
func (h *hammer) verify(ctx context.Context, t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		t.Errorf("a change was refused: %v", h.err)
	}
	there := map[string][]uint64{}
	last := uint64(0) // of the page before, newest first
	for token := ""; ; {
		page, err := h.site.config.ListRevisions(ctx, &tandemv1.ListRevisionsRequest{Parent: cluster.Name, PageSize: 1000, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.GetRevisions() {
			if last != 0 && r.GetNumber() >= last {
				t.Errorf("revision %d comes after %d", last, r.GetNumber())
			}
			last = r.GetNumber()
			there[r.GetRequestId()] = append(there[r.GetRequestId()], r.GetNumber())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	before := uint64(0)
	for _, a := range h.acked {
		if got := there[a.request]; len(got) != 1 || got[0] != a.revision {
			t.Errorf("%s was acknowledged as revision %d and is there as %v", a.request, a.revision, got)
		}
		if a.revision <= before {
			t.Errorf("revision %d was acknowledged after %d", a.revision, before)
		}
		before = a.revision
	}
	t.Logf("%d changes were acknowledged, up to revision %d", len(h.acked), before)
}
