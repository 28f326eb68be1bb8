package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor [VIP]",
		Short: "Find out whether a failover would work now, and what keeps it from that",
		Long: `Ask all nodes at once what would keep a VIP from moving, and tell of each VIP
whether its standby would take it now: the same configuration in effect, HAProxy
and keepalived up, its interface, its firewall, advertisements sent and heard,
priorities, listeners, and the backends as the standby reaches them.

Each finding has what was seen and what cures it. Nothing is changed. It takes
as long as three advertisements, and waits 8 s for a node that does not answer.
Without a VIP all are looked at.

The exit code is 1 when there is a VIP that no standby would take, or of which
that is not known since no standby could be looked at; else 0. Of three nodes
one that is drained stops no failover while another one is ready.`,
		Example:           "  lbctl doctor\n  lbctl doctor web\n  lbctl doctor -o json",
		Args:              arguments("[VIP]"),
		ValidArgsFunction: a.firstName(listVips),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			request := &tandemv1.DiagnoseRequest{Name: s.cluster}
			if len(args) > 0 {
				full, err := vipKind.resolve(s, args[0])
				if err != nil {
					return err
				}
				request.Vip = full
			}
			d, err := s.Fleet.Diagnose(ctx, request)
			if err != nil {
				return err
			}
			if s.isTable() {
				err = view.Diagnosis(s.env.Stdout, d, s.style())
			} else {
				err = s.print(d, nil)
			}
			return errors.Join(err, stopped(d))
		}),
	}
}

// stopped is an error unless every VIP has a standby that would take it.
func stopped(d *tandemv1.Diagnosis) error {
	if stuck := view.Stuck(d); len(stuck) > 0 {
		return fmt.Errorf("a failover would not work: no standby would take %s", strings.Join(stuck, ", "))
	}
	if unknown := view.Unknown(d); len(unknown) > 0 {
		return fmt.Errorf("it is not known whether a failover of %s would work: no standby could be looked at", strings.Join(unknown, ", "))
	}
	return nil
}
