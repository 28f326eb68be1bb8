package fleet

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tandem-lb/tandem/controlplane/internal/compile"
	"github.com/tandem-lb/tandem/controlplane/internal/rollout"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	// checkTimeout bounds the wait for one node's verdict.
	checkTimeout = 10 * time.Second
	// maxChecks bounds the nodes of one Check that are asked at a time.
	maxChecks = 32
)

// Check has the daemons of every node of a cluster check a configuration, as
// though it were the desired one, and changes nothing. The verdicts are in the
// order of the configuration's nodes; a node that does not say is unknown. The
// error is of ctx, or that the configuration cannot be compiled.
func (f *Fleet) Check(ctx context.Context, config *state.Config) ([]*tandemv1.NodeCheck, error) {
	var compiler compile.Compiler
	peers, speakers := f.options.Addresses.peers(config), f.options.Addresses.speakers(config, nil)
	verdicts := make([]*tandemv1.NodeCheck, len(config.Nodes()))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxChecks)
	for i, n := range config.Nodes() {
		id := lastID(n.GetName())
		target, err := compiler.Node(rollout.Target(config, peers, speakers, nil), id)
		if err != nil {
			return nil, err
		}
		group.Go(func() error {
			verdicts[i] = f.verdict(ctx, config.ID(), id, target)
			verdicts[i].Node = n.GetName()
			return context.Cause(ctx)
		})
	}
	return verdicts, group.Wait()
}

// verdict asks one node.
func (f *Fleet) verdict(ctx context.Context, cluster, node string, target *compile.Config) *tandemv1.NodeCheck {
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, errNoVerdict)
	defer cancel()
	result, err := f.Command(ctx, cluster, node, &agentv1.Command{Kind: &agentv1.Command_Check{
		Check: &agentv1.CheckCommand{Config: target.NodeConfig()},
	}})
	switch {
	case err != nil:
		return &tandemv1.NodeCheck{Verdict: tandemv1.NodeVerdict_NODE_VERDICT_UNKNOWN, Message: err.Error()}
	case result.GetError() != "":
		return &tandemv1.NodeCheck{Verdict: tandemv1.NodeVerdict_NODE_VERDICT_REFUSED, Message: result.GetError()}
	default:
		return &tandemv1.NodeCheck{Verdict: tandemv1.NodeVerdict_NODE_VERDICT_ACCEPTED}
	}
}

// errNoVerdict is why a node that does not answer is asked no longer.
var errNoVerdict = errors.New("no verdict within 10 s")
