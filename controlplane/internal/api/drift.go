package api

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (f *fleetService) KeepDrift(ctx context.Context, r *tandemv1.KeepDriftRequest) (*tandemv1.KeepDriftResponse, error) {
	name, drift, err := f.drift(r)
	if err != nil {
		return nil, err
	}
	response := &tandemv1.KeepDriftResponse{Kept: drift}
	if len(r.GetSubjects()) == 0 {
		response.Kept, response.Gone = apart(drift)
	}
	if _, err := f.writer.commit(ctx, name.Cluster, r, keep(response.GetKept())); err != nil {
		return nil, err
	}
	return response, nil
}

// apart tells drift of what exists from drift of backends that exist no more.
func apart(drift []*tandemv1.Drift) (of, gone []*tandemv1.Drift) {
	for _, x := range drift {
		if x.GetDesired() != nil {
			of = append(of, x)
		} else {
			gone = append(gone, x)
		}
	}
	return of, gone
}

// keep makes drift desired, all of it or nothing.
func keep(drift []*tandemv1.Drift) state.Change {
	return func(d *state.Draft) error {
		for _, x := range drift {
			name, err := state.ParseName(x.GetName())
			if err != nil {
				return err
			}
			var change state.Change
			if name.Kind == state.KindNode {
				change = state.UpdateNode(&tandemv1.Node{Name: x.GetName(), Drain: x.GetLocal().GetState() == "drain"},
					&fieldmaskpb.FieldMask{Paths: []string{"drain"}})
			} else {
				change = state.Administer(name.Pool, name.ID, x.GetLocal().GetState(), keptWeight(x), x.GetReason())
			}
			if err := change(d); err != nil {
				return err
			}
		}
		return nil
	}
}

// keptWeight is the weight that was changed, nil when it was not.
func keptWeight(x *tandemv1.Drift) *uint32 {
	if x.GetLocal().GetWeight() == x.GetDesired().GetWeight() {
		return nil
	}
	return x.GetLocal().Weight
}

func (f *fleetService) DiscardDrift(ctx context.Context, r *tandemv1.DiscardDriftRequest) (*tandemv1.DiscardDriftResponse, error) {
	// Nodes keep serving what they have while a restored store waits.
	if err := f.writer.Ready(); err != nil {
		return nil, err
	}
	name, drift, err := f.drift(r)
	if err != nil || len(drift) == 0 {
		return &tandemv1.DiscardDriftResponse{}, err
	}
	command := &agentv1.DiscardCommand{Author: callerOf(ctx).operator}
	for _, x := range drift {
		subject, err := state.ParseName(x.GetName())
		if err != nil {
			return nil, err
		}
		if subject.Kind == state.KindNode {
			command.Drain = true
		} else {
			command.Backends = append(command.Backends, subject.Pool+"/"+subject.ID)
		}
	}
	result, err := f.fleet.Command(ctx, name.Cluster, name.ID, &agentv1.Command{Kind: &agentv1.Command_Discard{Discard: command}})
	if err != nil {
		return nil, err
	}
	if result.GetError() != "" {
		return nil, fail(codes.FailedPrecondition, reasonNodeFailed, "node %s: %s", name.ID, result.GetError())
	}
	return &tandemv1.DiscardDriftResponse{Discarded: drift}, nil
}

// drift returns the drift of the node and subjects that a request names.
func (f *fleetService) drift(r interface {
	GetName() string
	GetSubjects() []string
}) (state.Name, []*tandemv1.Drift, error) {
	name, err := parse(r.GetName(), state.KindNode, "name")
	if err != nil {
		return name, nil, err
	}
	if _, err := get(f.writer.Ledger, nodeNoun, r.GetName()); err != nil {
		return name, nil, err
	}
	for i, subject := range r.GetSubjects() {
		if err := checkSubject(name, subject, fmt.Sprintf("subjects[%d]", i)); err != nil {
			return name, nil, err
		}
	}
	drift, err := f.fleet.Drift(name.Cluster, name.ID)
	if len(r.GetSubjects()) > 0 {
		drift = slices.DeleteFunc(drift, func(d *tandemv1.Drift) bool { return !slices.Contains(r.GetSubjects(), d.GetName()) })
	}
	return name, drift, err
}

// checkSubject refuses what cannot drift on a node: only the node itself and
// backends of its cluster can.
func checkSubject(node state.Name, subject, field string) error {
	name, err := state.ParseName(subject)
	if err == nil && (name == node || name.Kind == state.KindBackend && name.Cluster == node.Cluster) {
		return nil
	}
	return refuse(field, state.ReasonNameInvalid, fmt.Sprintf("%q must be %s or the full name of a backend, such as %s",
		strings.ToValidUTF8(subject, "?"), node, examples[state.KindBackend]))
}
