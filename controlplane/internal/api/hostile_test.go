package api_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// maxNodeCalls is what docs/operations.md says.
const maxNodeCalls = 4

// converse opens a stream of a node on a connection of its own and says hello.
func (c *controller) converse(ctx context.Context, t *testing.T, certificate tls.Certificate) grpc.BidiStreamingClient[agentv1.SessionRequest, agentv1.SessionResponse] {
	t.Helper()
	stream, err := agentv1.NewAgentServiceClient(c.dial(t, certificate)).Session(ctx)
	must(t, err)
	must(t, stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Hello{Hello: &agentv1.Hello{Protocol: 1, BootId: fmt.Sprintf("%p", stream)}}}))
	return stream
}

// serve acknowledges every update on a stream, as an agent does, and tells of
// the revisions.
func serve(stream grpc.BidiStreamingClient[agentv1.SessionRequest, agentv1.SessionResponse]) <-chan uint64 {
	applied := make(chan uint64, 64)
	go func() {
		defer close(applied)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			u := m.GetUpdate()
			if u == nil || u.GetMore() {
				continue
			}
			ack := &agentv1.Ack{Nonce: u.GetNonce(), Version: u.GetVersion()}
			if stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Ack{Ack: ack}}) != nil {
				return
			}
			applied <- u.GetVersion().GetRuntime()
		}
	}()
	return applied
}

// A node with a valid certificate that does all the harm it can, over real TLS,
// does not delay another node's change.
func TestI9HostileNode(t *testing.T) {
	c := start(t)
	good, bad := c.join(t, "lb-master"), c.join(t, "lb-backup")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	applied := serve(c.converse(ctx, t, good))
	<-applied

	t.Run("too many streams at a time", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		bad := c.join(t, "lb-mute") // whose places, free a moment later, nobody else needs
		// It opens them and says nothing, each on a connection of its own. Those
		// that are let in stay open, so it does not matter which come first.
		ended := make(chan error, 2*maxNodeCalls)
		for range 2 * maxNodeCalls {
			stream, err := agentv1.NewAgentServiceClient(c.dial(t, bad)).Session(ctx)
			must(t, err)
			go func() {
				_, err := stream.Recv()
				ended <- err
			}()
		}
		for range maxNodeCalls {
			if err := <-ended; status.Code(err) != codes.ResourceExhausted {
				t.Fatalf("of %d streams of one node one ends with %v; want %d with RESOURCE_EXHAUSTED, the others open", 2*maxNodeCalls, err, maxNodeCalls)
			}
		}
		c.changes(t, applied)
		select {
		case err := <-ended:
			t.Errorf("more than %d streams of one node end, the next with %v", maxNodeCalls, err)
		default:
		}
	})
	t.Run("headers without end", func(t *testing.T) {
		flood := metadata.AppendToOutgoingContext(ctx, "x-flood", strings.Repeat("x", 1<<20))
		stream, err := agentv1.NewAgentServiceClient(c.dial(t, bad)).Session(flood)
		if err == nil {
			_, err = stream.Recv()
		}
		if err == nil {
			t.Error("1 MiB of headers is taken")
		}
		c.changes(t, applied)
	})
	t.Run("a giant message", func(t *testing.T) {
		stream := c.converse(ctx, t, bad)
		_, err := stream.Recv()
		must(t, err)
		_ = stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{Result: &agentv1.CommandResult{Output: strings.Repeat("x", 17<<20)}}})
		for err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a message of 17 MiB: %v; want RESOURCE_EXHAUSTED", err)
		}
		c.changes(t, applied)
	})
	t.Run("floods, and never reads", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream := c.converse(ctx, t, bad)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for i := 0; ; i++ {
				if stream.Send(observations(i)) != nil || stream.Send(happenings(i)) != nil {
					return
				}
			}
		}()
		for range 10 {
			c.changes(t, applied)
		}
		cancel()
		<-ended
	})
}

// observations is a report of 10,000 backends with names of its own.
func observations(turn int) *agentv1.SessionRequest {
	o := &agentv1.Observation{Whole: turn%10 == 0}
	for i := range 10_000 {
		o.Backends = append(o.Backends, &agentv1.BackendObservation{Pool: "p", Backend: fmt.Sprintf("%d-%d", turn, i), State: 1})
	}
	return &agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Observation{Observation: o}}
}

// happenings is 1,000 events.
func happenings(turn int) *agentv1.SessionRequest {
	batch := &agentv1.EventBatch{BootId: "boot"}
	for i := range 1000 {
		batch.Events = append(batch.Events, &agentv1.Event{Sequence: uint64(1000*turn + i + 1), Kind: &agentv1.Event_Note{Note: "flood"}})
	}
	return &agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Events{Events: batch}}
}

// maxDelay is well over ten times what a change takes beside a flood, on a busy
// machine of two cores.
const maxDelay = 5 * time.Second

// changes makes a change and waits until a node has it.
func (c *controller) changes(t *testing.T, applied <-chan uint64) {
	t.Helper()
	begin := time.Now()
	_, err := tandemv1.NewConfigServiceClient(c.dial(t)).CreatePool(c.admin(t), &tandemv1.CreatePoolRequest{
		Parent: "clusters/default", PoolId: fmt.Sprintf("p%d", begin.UnixNano()),
	})
	must(t, err)
	select {
	case _, ok := <-applied:
		if !ok {
			t.Fatal("the session of the node that is well has ended")
		}
	case <-time.After(maxDelay):
		t.Fatalf("the node that is well has no change after %v", maxDelay)
	}
	t.Logf("a change took %v", time.Since(begin).Round(time.Millisecond))
}
