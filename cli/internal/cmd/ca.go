package cmd

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cli/internal/client"
	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (a *app) caCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "ca",
		Short: "The controller's CA, and its rotation",
		Long: `The controller's CA vouches for the controller to clients and agents, and for
agents to the controller. A new one takes its place in three steps, while all
nodes serve:

  lbctl ca begin      nodes are told to trust the new CA beside the old one
  lbctl ca activate   the new CA issues all certificates
  lbctl ca retire     nobody trusts the old CA any more

"lbctl ca status" shows which nodes are ready for the next step; a step that
would lock one out is refused. Between begin and activate every client needs the
new bundle: "lbctl ca trust" for lbctl, "lbctl ca show" for all others.`,
		Example: "  lbctl ca status\n  lbctl ca show > ca.pem",
	},
		a.caStatus(), a.caShow(), a.caTrust(),
		a.caStep("begin", "Make a new CA that is trusted beside the old one", `Make a new CA that nodes and clients trust beside the old one, which goes on
issuing. Connected nodes learn of it at once, others when they connect.`, tandemv1.AuthorityStep_AUTHORITY_STEP_BEGIN, false),
		a.caStep("activate", "Let the new CA issue all certificates", `Let the new CA issue all certificates, the controller's own among them, and have
every node renew its own. Join tokens that were made before are refused from
then on: make them anew.`, tandemv1.AuthorityStep_AUTHORITY_STEP_ACTIVATE, true),
		a.caStep("retire", "End the trust in the old CA", `End the trust in the old CA, on the controller and on every node.`,
			tandemv1.AuthorityStep_AUTHORITY_STEP_RETIRE, true),
		a.caStep("cancel", "Drop a new CA that does not issue yet", `Drop a new CA that does not issue yet.`,
			tandemv1.AuthorityStep_AUTHORITY_STEP_CANCEL, false),
	)
}

func (a *app) caStatus() *cobra.Command {
	return &cobra.Command{
		Use:               "status",
		Short:             "Show the CA and how far a rotation is",
		Long:              `Show the CA, how far a rotation is, and which nodes are ready for its next step.`,
		Example:           "  lbctl ca status",
		Args:              arguments(""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, s *session, _ []string) error {
			authority, err := s.Access.GetAuthority(ctx, &tandemv1.GetAuthorityRequest{})
			if err != nil {
				return err
			}
			return s.printAuthority(authority)
		}),
	}
}

func (s *session) printAuthority(authority *tandemv1.Authority) error {
	if s.isTable() {
		s.say("%s", view.AuthorityPhase(authority.GetPhase()))
	}
	return s.print(authority, func() output.Table { return view.Authority(authority, now()) })
}

func (a *app) caShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the CA certificates that clients are to trust",
		Long: `Print the CA certificates that clients are to trust, in PEM: one, or two while
the CA is being rotated. It is what the controller's ca.pem holds.`,
		Example:           "  lbctl ca show > ca.pem",
		Args:              arguments(""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, s *session, _ []string) error {
			authority, err := s.Access.GetAuthority(ctx, &tandemv1.GetAuthorityRequest{})
			if err != nil {
				return err
			}
			if !s.isTable() {
				return s.print(authority, nil)
			}
			_, err = fmt.Fprint(s.env.Stdout, output.CleanLines(authority.GetBundle()))
			return err
		}),
	}
}

func (a *app) caTrust() *cobra.Command {
	return &cobra.Command{
		Use:   "trust",
		Short: "Remember the CA certificates that are to be trusted now",
		Long: `Ask the controller, over a connection that the CA known so far vouches for,
which CA certificates are to be trusted now, and put them in place of the file
that lbctl remembered at login.`,
		Example:           "  lbctl ca trust",
		Args:              arguments(""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, s *session, _ []string) error {
			dir, err := client.ConfigDir(a.env.LookupEnv)
			if err != nil {
				return err
			}
			settings, err := a.settings()
			if err != nil {
				return err
			}
			path := filepath.Join(dir, caFile)
			if settings.CA != path {
				return failure.Usagef("the CA in use is %s, which lbctl does not keep: write it anew with \"lbctl ca show\"", settings.CA)
			}
			authority, err := s.Access.GetAuthority(ctx, &tandemv1.GetAuthorityRequest{})
			if err != nil {
				return err
			}
			cas, err := client.ParseCAs([]byte(authority.GetBundle()))
			if err != nil {
				return err
			}
			if err := replaceFile(path, client.EncodeCAs(cas)); err != nil {
				return err
			}
			s.say("CA certificates that are trusted now: %d, in %s", len(cas), path)
			return nil
		}),
	}
}

// caStep is one step of a rotation. One that may lock somebody out can be forced.
func (a *app) caStep(use, short, long string, step tandemv1.AuthorityStep, locks bool) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               use,
		Short:             short,
		Long:              long,
		Example:           "  lbctl ca " + use,
		Args:              arguments(""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, s *session, _ []string) error {
			if step == tandemv1.AuthorityStep_AUTHORITY_STEP_ACTIVATE && !force {
				if err := s.trustsAll(ctx); err != nil {
					return err
				}
			}
			authority, err := s.Access.RotateAuthority(ctx, &tandemv1.RotateAuthorityRequest{Step: step, Force: force})
			if err != nil {
				return err
			}
			return s.printAuthority(authority)
		}),
	}
	if locks {
		cmd.Flags().BoolVar(&force, "force", false, "go on even if nodes, or this lbctl, are locked out by it")
	}
	return cmd
}

// trustsAll refuses to go on while this very lbctl would be locked out.
func (s *session) trustsAll(ctx context.Context) error {
	authority, err := s.Access.GetAuthority(ctx, &tandemv1.GetAuthorityRequest{})
	if err != nil {
		return err
	}
	settings, err := s.settings()
	if err != nil {
		return err
	}
	known, err := client.ReadCAs(settings.CA)
	if err != nil {
		return err
	}
	trusted := make(map[string]bool)
	for _, ca := range known {
		trusted[client.Fingerprint(ca)] = true
	}
	for _, ca := range authority.GetCertificates() {
		if !trusted[ca.GetFingerprint()] {
			return fmt.Errorf("%s does not hold the new CA, so that this lbctl would be locked out: run \"lbctl ca trust\", or write it anew with \"lbctl ca show\"; see to all other clients, too", settings.CA)
		}
	}
	return nil
}
