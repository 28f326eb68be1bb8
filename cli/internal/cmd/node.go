package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

var nodeKind = kind{noun: "node", plural: "nodes", example: "lb-master", arg: "NODE", full: nameOf(name.Node)}

func (a *app) nodeCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "node",
		Aliases: []string{"nodes"},
		Short:   "Machines with an agent",
		Long: `A node is a machine with lb-agent, HAProxy and keepalived. It is made when its
agent joins, with a token from "lbctl node token create".`,
		Example: `  lbctl node token create lb-master -o name > join.token
  lbctl node list
  lbctl node drain lb-master`,
	},
		a.nodeToken(),
		list(a, nodeKind, nodesOf, func(r *tandemv1.ListNodesResponse) output.Table { return view.Nodes(r.GetNodes(), now()) }),
		show(a, nodeKind, a.firstName(listNodes), func(ctx context.Context, s *session, full string) (*tandemv1.Node, error) {
			return s.Fleet.GetNode(ctx, &tandemv1.GetNodeRequest{Name: full})
		}),
		a.nodeDrain(true, "drained", &cobra.Command{
			Use:   "drain NODE",
			Short: "Keep every VIP away from a node",
			Long: `Keep every VIP away from a node as long as another one can hold it, say to
upgrade the machine. It lasts until "lbctl node undrain".`,
			Example: "  lbctl node drain lb-master",
		}),
		a.nodeDrain(false, "undrained", &cobra.Command{
			Use:   "undrain NODE",
			Short: "Let a node hold VIPs again",
			Long: `Let a node hold VIPs again. Whether it takes them back at once is the VIP's
fail-back.`,
			Example: "  lbctl node undrain lb-master",
		}),
		a.nodeReplace(),
		a.nodeDrift(),
		remove(a, nodeKind, a.firstName(listNodes), func(ctx context.Context, s *session, c *change, full string) error {
			return send(ctx, s, c, name.ClusterOf(full), what("node", full), "removed, its certificate is revoked",
				&tandemv1.DeleteNodeRequest{Name: full, Etag: c.etag}, s.Fleet.DeleteNode)
		}),
	)
}

func (a *app) nodeDrain(drain bool, done string, cmd *cobra.Command) *cobra.Command {
	var c change
	cmd.Args = arguments("NODE")
	cmd.ValidArgsFunction = a.firstName(listNodes)
	cmd.RunE = a.connected(func(ctx context.Context, s *session, args []string) error {
		full, err := nodeKind.resolve(s, args[0])
		if err != nil {
			return err
		}
		return send(ctx, s, &c, name.ClusterOf(full), what("node", full), done, &tandemv1.UpdateNodeRequest{
			Node:       &tandemv1.Node{Name: full, Drain: drain, Etag: c.etag},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"drain"}},
		}, s.Fleet.UpdateNode)
	})
	c.bind(cmd)
	c.bindETag(cmd)
	return cmd
}

func (a *app) nodeToken() *cobra.Command {
	return group(&cobra.Command{
		Use:     "token",
		Short:   "One-time tokens that agents join with",
		Long:    `A join token lets the agent of one node join, once.`,
		Example: "  lbctl node token create lb-master -o name > join.token",
	}, a.nodeTokenCreate())
}

func (a *app) nodeTokenCreate() *cobra.Command {
	return a.joinToken(false, &cobra.Command{
		Use:   "create NODE",
		Short: "Make a token for one node's agent",
		Long: `Make a token that the agent of one node can join with, once. It holds the hash
of the controller's CA, so that the agent knows whom to trust. It is shown only
now: put it into the file that the agent's join_token_file names, readable by
root alone. "-o name" prints the token and nothing else.`,
		Example: `  lbctl node token create lb-master -o name > join.token
  lbctl node token create lb-master --ttl 1h`,
	})
}

func (a *app) nodeReplace() *cobra.Command {
	return a.joinToken(true, &cobra.Command{
		Use:   "replace NODE",
		Short: "Make a token for a machine that takes a node's place",
		Long: `Make a token with which a new machine, or the same one installed anew, takes the
place of a node: its priorities, drain and all else that is set for it stay. Put
it into the file that the new agent's join_token_file names, as with "lbctl node
token create"; "-o name" prints the token and nothing else.

Nothing changes until the new machine joins. At that moment the old one's
certificate is revoked; its agent, if it still runs, gives the VIPs up.`,
		Example: "  lbctl node replace lb-master -o name > join.token",
	})
}

// joinToken makes a token for a new node, or for one that is to be replaced.
func (a *app) joinToken(replace bool, cmd *cobra.Command) *cobra.Command {
	var ttl time.Duration
	cmd.Args = arguments("NODE")
	cmd.ValidArgsFunction = a.firstName(listNodes)
	cmd.RunE = a.connected(func(ctx context.Context, s *session, args []string) error {
		full, err := nodeKind.resolve(s, args[0])
		if err != nil {
			return err
		}
		request := &tandemv1.CreateJoinTokenRequest{
			Parent: name.Parent(full), JoinToken: &tandemv1.JoinToken{Node: name.ID(full), Replace: replace},
		}
		if ttl < 0 {
			return failure.Usagef("--ttl must be a time to come, such as 1h (got %s)", ttl)
		}
		if ttl > 0 {
			request.Ttl = durationpb.New(ttl)
		}
		token, err := s.Fleet.CreateJoinToken(ctx, request)
		if err != nil {
			return err
		}
		return s.printToken(token)
	})
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long it can be used, 1s to 30 days (default a day)")
	return cmd
}

// printToken prints the token alone, except where the whole message is wanted.
func (s *session) printToken(token *tandemv1.JoinToken) error {
	switch s.format {
	case output.FormatJSON, output.FormatYAML:
		return s.print(token, nil)
	default:
		purpose := "join token for node"
		if token.GetReplace() {
			purpose = "join token for a machine that takes the place of node"
		}
		s.say("%s %s, good for one use until %s", purpose, token.GetNode(), now().At(token.GetExpireTime()))
		_, err := fmt.Fprintln(s.env.Stdout, output.Clean(token.GetToken()))
		return err
	}
}

func nodesOf(ctx context.Context, s *session) (*tandemv1.ListNodesResponse, error) {
	return s.Fleet.ListNodes(ctx, &tandemv1.ListNodesRequest{Parent: s.cluster})
}
