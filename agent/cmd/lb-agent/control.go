package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	localv1 "github.com/tandem-lb/tandem/gen/tandem/agent/local/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// onTop closes the help of commands that change something.
const onTop = `

It needs no controller, takes effect at once and without a reload, and lasts
across restarts and reboots, on this node only. When the controller is there it
shows the change as drift, and an operator keeps or discards it there ("lbctl
node drift"); here "lb-agent discard" ends it.`

func reasonFlag(cmd *cobra.Command, reason *string) {
	cmd.Flags().StringVar(reason, "reason", "", "note for the next operator")
}

func (h *here) drain() *cobra.Command {
	return h.setDrain(true, &cobra.Command{
		Use:   "drain",
		Short: "Keep every VIP away from this node",
		Long: `Keep every VIP away from this node as long as another one can hold it, whatever
the controller wants.` + onTop,
		Example: "  lb-agent drain --reason \"new kernel\"",
	})
}

func (h *here) undrain() *cobra.Command {
	return h.setDrain(false, &cobra.Command{
		Use:   "undrain",
		Short: "Let this node hold VIPs again",
		Long: `Let this node hold VIPs again, also when it is the controller that has drained
it. Whether it takes them back at once is the VIP's fail-back.` + onTop,
		Example: "  lb-agent undrain",
	})
}

func (h *here) setDrain(drain bool, cmd *cobra.Command) *cobra.Command {
	var reason string
	cmd.Args = arguments(cobra.NoArgs)
	cmd.RunE = h.run(func(ctx context.Context, c localv1.LocalServiceClient, cmd *cobra.Command, _ []string) error {
		r, err := c.SetDrain(ctx, &localv1.SetDrainRequest{Drain: drain, Reason: reason})
		if err != nil {
			return err
		}
		warn(r.GetWarning())
		return h.print(cmd, r, func() error {
			switch {
			case !drain:
				say("this node is not drained")
			case len(r.GetHeld()) > 0:
				say("this node is drained, and still holds %s, which no other node takes", list("VIP", r.GetHeld()))
			default:
				say("this node is drained and holds no VIP")
			}
			sayDrift(r.GetChange())
			return nil
		})
	})
	reasonFlag(cmd, &reason)
	return cmd
}

// sayDrift tells how a change stands to what the controller wants.
func sayDrift(change *agentv1.LocalChange) {
	if change == nil {
		say("this is what the controller wants, too")
		return
	}
	say("on top of what the controller wants, until \"lb-agent discard\"")
}

// list is "VIP web" or "VIPs mail, web".
func list(noun string, names []string) string {
	if len(names) != 1 {
		noun += "s"
	}
	return noun + " " + strings.Join(names, ", ")
}

func (h *here) failover() *cobra.Command {
	var all bool
	var lease time.Duration
	var reason string
	cmd := &cobra.Command{
		Use:   "failover VIP... | --all",
		Short: "Move VIPs to the other node, once",
		Long: `Move VIPs that this node holds to another node, now, and return when they are
there. This node keeps away from them for a minute, or as long as --for says, or
until no other node can hold them; after that the VIP's fail-back rules: with
"automatic" a VIP comes back to the better node, with "never" it stays.

When no other node takes a VIP it stays here. Nothing lasts and nothing is to be
undone: to keep VIPs away for longer, use "lb-agent drain".`,
		Example: "  lb-agent failover web\n  lb-agent failover --all --for 10m",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usagef("give the VIPs to move, or --all for all that this node holds")
			}
			return nil
		},
		RunE: h.run(func(ctx context.Context, c localv1.LocalServiceClient, cmd *cobra.Command, args []string) error {
			request := &localv1.FailoverRequest{Vips: args, Reason: reason}
			if cmd.Flags().Changed("for") {
				request.Lease = durationpb.New(lease)
			}
			r, err := c.Failover(ctx, request)
			if err != nil {
				return err
			}
			return h.print(cmd, r, func() error {
				say("another node holds %s; this one keeps away for %s, then the fail-back rules",
					list("VIP", r.GetVips()), r.GetLease().AsDuration())
				return nil
			})
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "all VIPs that this node holds")
	cmd.Flags().DurationVar(&lease, "for", time.Minute, "how long this node keeps away at most, 1s to 1h")
	reasonFlag(cmd, &reason)
	return cmd
}

func (h *here) backend() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backend",
		Short: "Drain a backend, make it ready, or set its weight, on this node",
		Long:  `Change a backend on this node, whatever the controller wants.` + onTop,
		Example: `  lb-agent backend drain web_servers/web1 --reason "answers garbage"
  lb-agent backend ready web_servers/web1
  lb-agent backend set web_servers/web1 --weight 5`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("say what to do: %s drain, maintenance, ready or set", cmd.CommandPath())
		},
	}
	cmd.AddCommand(
		h.backendState("drain", "Send a backend nothing new; what is connected stays", "drained", agentv1.AdminState_ADMIN_STATE_DRAIN),
		h.backendState("maintenance", "Take a backend out of service: no traffic and no checks", "in maintenance", agentv1.AdminState_ADMIN_STATE_MAINTENANCE),
		h.backendState("ready", "Give a backend traffic again", "ready", agentv1.AdminState_ADMIN_STATE_READY),
		h.backendSet(),
	)
	return cmd
}

func (h *here) backendState(verb, short, done string, state agentv1.AdminState) *cobra.Command {
	return h.setBackend(&localv1.SetBackendRequest{State: state}, done, &cobra.Command{
		Use: verb + " POOL/BACKEND", Short: short, Long: short + ", on this node." + onTop,
		Example: "  lb-agent backend " + verb + " web_servers/web1",
	})
}

func (h *here) backendSet() *cobra.Command {
	request := &localv1.SetBackendRequest{}
	cmd := h.setBackend(request, "changed", &cobra.Command{
		Use: "set POOL/BACKEND --weight WEIGHT", Short: "Set a backend's weight",
		Long:    "Set the share of traffic that a backend has when it is ready, on this node." + onTop,
		Example: "  lb-agent backend set web_servers/web1 --weight 5",
	})
	var weight uint32
	cmd.Flags().Uint32Var(&weight, "weight", 0, "share of traffic relative to the others, 0 to 256")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if !cmd.Flags().Changed("weight") {
			return usagef("--weight is missing")
		}
		request.Weight = proto.Uint32(weight)
		return nil
	}
	return cmd
}

func (h *here) setBackend(request *localv1.SetBackendRequest, done string, cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) (err error) {
		if err = arguments(cobra.ExactArgs(1))(cmd, args); err == nil {
			request.Pool, request.Backend, err = splitBackend(args[0])
		}
		return err
	}
	cmd.RunE = h.run(func(ctx context.Context, c localv1.LocalServiceClient, cmd *cobra.Command, args []string) error {
		r, err := c.SetBackend(ctx, request)
		if err != nil {
			return err
		}
		warn(r.GetWarning())
		return h.print(cmd, r, func() error {
			say("backend %s is %s on this node", args[0], done)
			sayDrift(r.GetChange())
			return nil
		})
	})
	cmd.Flags().StringVar(&request.Reason, "reason", "", "note for the next operator")
	return cmd
}

// splitBackend takes POOL/BACKEND apart.
func splitBackend(name string) (pool, backend string, err error) {
	pool, backend, ok := strings.Cut(name, "/")
	if !ok || pool == "" || backend == "" || strings.Contains(backend, "/") {
		return "", "", usagef("backend must be POOL/BACKEND, such as web_servers/web1 (got %q)", name)
	}
	return pool, backend, nil
}

func (h *here) discard() *cobra.Command {
	request := &localv1.DiscardRequest{}
	cmd := &cobra.Command{
		Use:   "discard",
		Short: "End what was changed on this node itself",
		Long: `End what was changed on this node with lb-agent: what the controller wants is in
effect again. Without a flag everything is ended.`,
		Example: "  lb-agent discard\n  lb-agent discard --backend web_servers/web1\n  lb-agent discard --drain",
		Args:    arguments(cobra.NoArgs),
		PreRunE: func(*cobra.Command, []string) error {
			for _, name := range request.GetBackends() {
				if _, _, err := splitBackend(name); err != nil {
					return err
				}
			}
			return nil
		},
		RunE: h.run(func(ctx context.Context, c localv1.LocalServiceClient, cmd *cobra.Command, _ []string) error {
			r, err := c.Discard(ctx, request)
			if err != nil {
				return err
			}
			warn(r.GetWarning())
			return h.print(cmd, r, func() error {
				if len(r.GetChanges()) == 0 {
					say("there is nothing to discard")
				}
				for _, change := range r.GetChanges() {
					say("discarded: %s", describe(change))
				}
				return nil
			})
		}),
	}
	cmd.Flags().BoolVar(&request.Drain, "drain", false, "the node's own drain or undrain")
	cmd.Flags().StringArrayVar(&request.Backends, "backend", nil, "the change of this backend, POOL/BACKEND; may be given several times")
	return cmd
}
