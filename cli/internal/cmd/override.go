package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/name"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Administrative states of a backend.
const (
	stateReady       = "ready"
	stateDrain       = "drain"
	stateMaintenance = "maintenance"
)

// overrideSuffix makes a backend's name its override's.
const overrideSuffix = "/override"

func (a *app) backendDrain() *cobra.Command {
	return a.backendState(stateDrain, "drained", &cobra.Command{
		Use:   "drain POOL/BACKEND",
		Short: "Send a backend nothing new",
		Long: `Send a backend nothing new; what is connected stays. Applying a file does not
undo it: "lbctl backend ready" does, or the time that --for gives.`,
		Example: `  lbctl backend drain web_servers/web1
  lbctl backend drain web_servers/web1 --reason "new kernel" --for 30m`,
	})
}

func (a *app) backendMaintenance() *cobra.Command {
	return a.backendState(stateMaintenance, "in maintenance", &cobra.Command{
		Use:   "maintenance POOL/BACKEND",
		Short: "Take a backend out of service",
		Long: `Take a backend out of service: no traffic and no health checks. Applying a file
does not undo it: "lbctl backend ready" does, or the time that --for gives.`,
		Example: `  lbctl backend maintenance web_servers/web1
  lbctl backend maintenance web_servers/web1 --reason "bad disk" --for 48h`,
	})
}

func (a *app) backendState(state, done string, cmd *cobra.Command) *cobra.Command {
	var c change
	var reason string
	var period time.Duration
	cmd.Args = arguments("POOL/BACKEND")
	cmd.ValidArgsFunction = a.backendNames
	cmd.RunE = a.connected(func(ctx context.Context, s *session, args []string) error {
		full, err := backendKind.resolve(s, args[0])
		if err != nil {
			return err
		}
		override := &tandemv1.Override{Name: full + overrideSuffix, State: state, Reason: reason}
		if period < 0 {
			return failure.Usagef("--for must be a time to come, such as 30m (got %s)", period)
		}
		if period > 0 {
			override.ExpireTime = timestamppb.New(time.Now().Add(period))
		}
		return setState(ctx, s, &c, full, done, override)
	})
	cmd.Flags().StringVar(&reason, "reason", "", "note for the next operator")
	cmd.Flags().DurationVar(&period, "for", 0, "make it ready again after this time, such as 30m")
	c.bind(cmd)
	return cmd
}

// setState leaves the override's weight as it is.
func setState(ctx context.Context, s *session, c *change, backend, done string, override *tandemv1.Override) error {
	return send(ctx, s, c, name.ClusterOf(backend), what("backend", backend), done, &tandemv1.UpdateOverrideRequest{
		Override:   override,
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"state", "reason", "expire_time"}},
	}, s.Config.UpdateOverride)
}

func (a *app) backendReady() *cobra.Command {
	var c change
	var reason string
	cmd := &cobra.Command{
		Use:               "ready POOL/BACKEND",
		Short:             "Give a backend traffic again",
		Long:              `End a drain or a maintenance: the backend gets traffic if its health checks pass.`,
		Example:           "  lbctl backend ready web_servers/web1",
		Args:              arguments("POOL/BACKEND"),
		ValidArgsFunction: a.backendNames,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := backendKind.resolve(s, args[0])
			if err != nil {
				return err
			}
			if c.note == "" {
				c.note = reason
			}
			return makeReady(ctx, s, &c, full)
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "note that the history keeps, as --message")
	c.bind(cmd)
	return cmd
}

// makeReady removes the override, or its state alone when it has a weight too.
func makeReady(ctx context.Context, s *session, c *change, full string) error {
	backend, err := s.Config.GetBackend(ctx, &tandemv1.GetBackendRequest{Name: full})
	if err != nil {
		return err
	}
	override := backend.GetOverride()
	switch {
	case override == nil:
		s.say("%s is ready already", what("backend", full))
		return nil
	case override.Weight != nil:
		return setState(ctx, s, c, full, stateReady, &tandemv1.Override{Name: full + overrideSuffix, State: stateReady})
	default:
		return send(ctx, s, c, name.ClusterOf(full), what("backend", full), stateReady,
			&tandemv1.DeleteOverrideRequest{Name: full + overrideSuffix}, s.Config.DeleteOverride)
	}
}
