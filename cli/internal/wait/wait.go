// Package wait tells when a change is in effect.
package wait

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tandem-lb/tandem/cli/internal/client"
	"github.com/tandem-lb/tandem/cli/internal/live"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Target is the revision to wait for.
type Target struct {
	// Cluster is its full name.
	Cluster string
	// Epoch is the store's epoch in which Revision counts.
	Epoch string
	// Revision is the number that each node must have applied.
	Revision uint64
}

// Progress is how far a revision has come. Nodes are given by their ids.
type Progress struct {
	// Applied have it in effect.
	Applied []string
	// Pending are connected and still at it.
	Pending []string
	// Failed refused it, or could not apply it.
	Failed []Failure
	// Waiting have all of it but what waits for other nodes.
	Waiting []Failure
	// Offline are not connected: they get it when they come back.
	Offline []string
}

// Failure is why one node does not have a revision, or what it waits for.
type Failure struct {
	// Node is its id.
	Node string
	// Revision is the one that failed: the target or a later one with it.
	Revision uint64
	// Words are the daemon's own.
	Words string
}

// Stream is the receiving end of a status watch.
type Stream interface {
	Recv() (*tandemv1.WatchStatusResponse, error)
}

// Watch starts a status watch of the target's cluster.
type Watch func(ctx context.Context) (Stream, error)

// FailedError tells that nodes refused a revision or could not apply it.
type FailedError struct {
	// Failures holds at least one.
	Failures []Failure
}

// Error gives the daemon's words for each node, indented.
func (e *FailedError) Error() string {
	var lines []string
	for _, f := range e.Failures {
		lines = append(lines, fmt.Sprintf("%s did not apply revision %d; its last good configuration keeps serving:", f.Node, f.Revision))
		for line := range strings.Lines(output.CleanLines(f.Words)) {
			lines = append(lines, "    "+strings.TrimRight(line, " \n"))
		}
	}
	return strings.Join(lines, "\n")
}

// TimeoutError tells that the time to wait was over first.
type TimeoutError struct {
	// Target is what was waited for.
	Target Target
	// Pending are the nodes that did not have it; none means that the
	// controller could not be asked.
	Pending []string
	cause   error
}

// Error says what is certain and what is not.
func (e *TimeoutError) Error() string {
	verb := "waited too long"
	if errors.Is(e.cause, context.Canceled) {
		verb = "interrupted"
	}
	who := "what the nodes do is not known"
	if len(e.Pending) > 0 {
		who = "not applied yet on " + strings.Join(e.Pending, ", ")
	}
	return fmt.Sprintf("%s: %s; revision %d is accepted and goes on to the nodes, see \"lbctl status\"", verb, who, e.Target.Revision)
}

// Unwrap returns the context's error.
func (e *TimeoutError) Unwrap() error { return e.cause }

// Applied blocks until every connected node has the target in effect or waits for
// others, one has failed and no other is pending, or ctx ends. It tells report, from its own
// goroutine, whenever the progress may have changed. The error is a
// *FailedError, a *TimeoutError, or a call's.
func Applied(ctx context.Context, watch Watch, target Target, report func(Progress)) (Progress, error) {
	var last Progress
	err := client.Follow(ctx, func(ctx context.Context, alive func()) error {
		stream, err := watch(ctx)
		if err != nil {
			return err
		}
		model := live.New(target.Cluster)
		for {
			step, err := stream.Recv()
			if err != nil {
				return err
			}
			alive()
			if !model.Apply(step) || !model.Synced() {
				continue
			}
			if model.Epoch() != "" && target.Epoch != "" && model.Epoch() != target.Epoch {
				return fmt.Errorf("the controller's store was replaced meanwhile: revision %d of epoch %s may be lost, look at \"lbctl history\"", target.Revision, target.Epoch)
			}
			last = judge(model.Nodes(), target.Revision)
			report(last)
			if len(last.Pending) == 0 {
				return nil
			}
		}
	}, nil)
	switch {
	case ctx.Err() != nil && err != nil:
		return last, &TimeoutError{Target: target, Pending: last.Pending, cause: context.Cause(ctx)}
	case err != nil:
		return last, err
	case len(last.Failed) > 0:
		return last, &FailedError{last.Failed}
	}
	return last, nil
}

func judge(nodes []*tandemv1.NodeStatus, revision uint64) Progress {
	var p Progress
	for _, node := range nodes {
		id := output.Clean(name.ID(node.GetName()))
		switch {
		case node.GetConnected() && node.GetApplied() >= revision:
			p.Applied = append(p.Applied, id)
		case !node.GetConnected():
			p.Offline = append(p.Offline, id)
		case node.GetFailed() >= revision:
			p.Failed = append(p.Failed, Failure{id, node.GetFailed(), node.GetFailure()})
		case node.GetWaiting() != "" && node.GetRuntime() >= revision:
			p.Waiting = append(p.Waiting, Failure{id, revision, node.GetWaiting()})
		default:
			p.Pending = append(p.Pending, id)
		}
	}
	return p
}
