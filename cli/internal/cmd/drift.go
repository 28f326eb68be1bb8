package cmd

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (a *app) nodeDrift() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "drift [NODE]",
		Short: "What was changed on a machine itself",
		Long: `Show where nodes depart from what is desired, because somebody has changed them
on the machine itself, with "lb-agent drain" or "lb-agent backend". "keep" makes
that desired, "discard" undoes it.`,
		Example: `  lbctl node drift
  lbctl node drift lb-master
  lbctl node drift keep lb-master
  lbctl node drift discard lb-master --backend web_servers/web1`,
		RunE: a.connected(showDrift),
	}, a.driftKeep(), a.driftDiscard())
	cmd.Args = arguments("[NODE]")
	cmd.ValidArgsFunction = a.firstName(listNodes)
	return cmd
}

func showDrift(ctx context.Context, s *session, args []string) error {
	status, err := s.Fleet.GetStatus(ctx, &tandemv1.GetStatusRequest{Name: s.cluster})
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return s.print(status, func() output.Table { return view.Drift(status.GetNodes(), now()) })
	}
	full, err := nodeKind.resolve(s, args[0])
	if err != nil {
		return err
	}
	for _, node := range status.GetNodes() {
		if node.GetName() == full {
			if !node.GetConnected() {
				s.say("%s is not connected: what was changed on it is not known", args[0])
			}
			return s.print(node, func() output.Table { return view.Drift([]*tandemv1.NodeStatus{node}, now()) })
		}
	}
	_, err = s.Fleet.GetNode(ctx, &tandemv1.GetNodeRequest{Name: full}) // it says what is wrong with the name
	return err
}

// subjects are the flags that choose among what was changed on a node.
type subjects struct {
	drain    bool
	backends []string
}

func (x *subjects) bind(a *app, cmd *cobra.Command) {
	cmd.Flags().BoolVar(&x.drain, "drain", false, "the node's own drain or undrain only")
	cmd.Flags().StringArrayVar(&x.backends, "backend", nil, "the change of this backend only, POOL/BACKEND; may be given several times")
	complete(cmd, "backend", a.backendNames)
	cmd.Args = arguments("NODE")
	cmd.ValidArgsFunction = a.firstName(listNodes)
}

// names are the full names of the subjects; none means all.
func (x *subjects) names(s *session, node string) ([]string, error) {
	var names []string
	if x.drain {
		names = append(names, node)
	}
	for _, arg := range x.backends {
		full, err := name.Backend.Full(s.cluster, arg)
		if err != nil {
			return nil, failure.Usage(err)
		}
		names = append(names, full)
	}
	return names, nil
}

func (a *app) driftKeep() *cobra.Command {
	var c change
	var x subjects
	cmd := &cobra.Command{
		Use:   "keep NODE",
		Short: "Make what was changed on a machine desired",
		Long: `Make what was changed on a machine itself desired, in one revision: a backend's
state and weight become its override, on all nodes, and a drain the node's own.
Without a flag all of it is kept, except of backends that exist no more.`,
		Example: "  lbctl node drift keep lb-master\n  lbctl node drift keep lb-master --backend web_servers/web1",
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := nodeKind.resolve(s, args[0])
			if err != nil {
				return err
			}
			request := &tandemv1.KeepDriftRequest{Name: full}
			if request.Subjects, err = x.names(s, full); err != nil {
				return err
			}
			c.stamp(request)
			var header metadata.MD
			reply, err := s.Fleet.KeepDrift(ctx, request, grpc.Header(&header))
			if err != nil {
				return err
			}
			if !s.isTable() {
				if err := s.print(reply, nil); err != nil {
					return err
				}
			}
			if gone := reply.GetGone(); len(gone) > 0 {
				s.say("not kept, as it exists no more: %s; \"lbctl node drift discard %s\" ends what is left", view.DriftWords(gone), name.Short(full))
			}
			if len(reply.GetKept()) == 0 {
				s.say("there is nothing to keep on %s", name.Short(full))
				return nil
			}
			return s.finish(ctx, &c, name.ClusterOf(full), "kept from "+name.Short(full)+": "+view.DriftWords(reply.GetKept()), header)
		}),
	}
	x.bind(a, cmd)
	c.bind(cmd)
	return cmd
}

func (a *app) driftDiscard() *cobra.Command {
	var x subjects
	cmd := &cobra.Command{
		Use:   "discard NODE",
		Short: "Undo what was changed on a machine itself",
		Long: `Have a node drop what was changed on the machine itself: what is desired is in
effect there again when the command returns. The node must be connected.
Without a flag all of it is dropped.`,
		Example: "  lbctl node drift discard lb-master\n  lbctl node drift discard lb-master --drain",
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := nodeKind.resolve(s, args[0])
			if err != nil {
				return err
			}
			request := &tandemv1.DiscardDriftRequest{Name: full}
			if request.Subjects, err = x.names(s, full); err != nil {
				return err
			}
			reply, err := s.Fleet.DiscardDrift(ctx, request)
			if err != nil {
				return err
			}
			if !s.isTable() {
				return s.print(reply, nil)
			}
			if len(reply.GetDiscarded()) == 0 {
				s.say("there is nothing to discard on %s", name.Short(full))
				return nil
			}
			s.say("discarded on %s: %s", name.Short(full), view.DriftWords(reply.GetDiscarded()))
			return nil
		}),
	}
	x.bind(a, cmd)
	return cmd
}
