package cmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/cli/internal/drill"
	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	// around is for how long connections are made before and after a move.
	around = 500 * time.Millisecond
	// awayFor is how long the node that held the VIP keeps away after the move out, and
	// backFor the other one after the way back.
	awayFor, backFor = 5 * time.Second, time.Second
	// again is how often the way back is tried, while the node still keeps away.
	again = 250 * time.Millisecond
)

func (a *app) drillCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "drill",
		Short:   "Try out what is to work in an emergency",
		Long:    "Try out what is to work in an emergency, and measure what clients notice.",
		Example: "  lbctl drill failover web",
	}, a.drillFailover())
}

func (a *app) drillFailover() *cobra.Command {
	var to string
	var sure, force bool
	cmd := &cobra.Command{
		Use:   "failover VIP",
		Short: "Move a VIP to its standby and back, and measure for how long nobody was answered",
		Long: `Look whether a failover would work ("lbctl doctor"), move the VIP to its standby
as "lbctl vip failover" does, move it back, and tell for how long clients were
not answered each time. It asks before it moves anything, unless --yes is given,
and refuses when the failover would not work. It also refuses when that is not
known, since the standby could not be looked at, unless --force is given.

The measure is taken where lbctl runs: it opens a connection to the VIP's first
listener every 10 ms, and asks an HTTP listener for the path of its probe, or
for /. The blackout is the longest time between two answers, so it is some 10 ms
when nothing was noticed. Where the VIP cannot be reached from here nothing is
measured, and the report says so; the moves are made all the same.

The exit code is 1 when a move or a request failed.`,
		Example:           "  lbctl drill failover web\n  lbctl drill failover web --to lb-backup --yes -o json",
		Args:              arguments("VIP"),
		ValidArgsFunction: a.firstName(listVips),
	}
	cmd.RunE = a.streaming(func(ctx context.Context, s *session, args []string) error {
		full, err := vipKind.resolve(s, args[0])
		if err != nil {
			return err
		}
		if to != "" {
			node, err := nodeKind.resolve(s, to)
			if err != nil {
				return err
			}
			to = name.ID(node)
		}
		from, taker, err := s.preflight(ctx, full, to, force)
		if err != nil {
			return err
		}
		if err := s.agree(ctx, sure, fmt.Sprintf("Move VIP %s from %s to %s and back?", name.Short(full), from, taker)); err != nil {
			return err
		}
		report, err := s.drill(ctx, full, from, taker)
		if len(report.GetMoves()) > 0 {
			err = errors.Join(s.print(report, func() output.Table { return view.Drill(report) }), err)
		}
		return err
	})
	flags := cmd.Flags()
	flags.StringVar(&to, "to", "", "node that shall take it (default: the best standby)")
	flags.BoolVar(&sure, "yes", false, "do not ask")
	flags.BoolVar(&force, "force", false, "go on even if it is not known whether the failover would work")
	complete(cmd, "to", a.names(listNodes))
	return cmd
}

// within bounds one call by --timeout.
func (s *session) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.timeout)
}

// preflight returns who holds the VIP and who is to take it, when that would work, or
// when that is not known and forced.
func (s *session) preflight(ctx context.Context, vip, to string, force bool) (from, taker string, err error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	d, err := s.Fleet.Diagnose(ctx, &tandemv1.DiagnoseRequest{Name: name.ClusterOf(vip), Vip: vip})
	if err != nil {
		return "", "", err
	}
	if len(d.GetVips()) != 1 {
		return "", "", fmt.Errorf("the controller says nothing of VIP %s", name.Short(vip))
	}
	v := d.GetVips()[0]
	if to == "" {
		to = v.GetTaker()
	}
	hidden := hiddenStandby(v, to)
	if to == "" && force {
		to = hidden.GetNode()
	}
	switch {
	case to != "" && to == v.GetHolder():
		return "", "", failure.Usagef("%s holds VIP %s already: give another node with --to", to, name.Short(vip))
	case slices.ContainsFunc(v.GetStandbys(), func(s *tandemv1.StandbyDiagnosis) bool { return s.GetNode() == to && s.GetReady() }):
		return v.GetHolder(), to, nil
	case hidden != nil && force && v.GetHolder() != "":
		return v.GetHolder(), to, nil
	}
	if to != "" && !slices.ContainsFunc(v.GetStandbys(), func(s *tandemv1.StandbyDiagnosis) bool { return s.GetNode() == to }) {
		// Only a node of which nothing is known is none of them: this says so.
		if _, err := s.Fleet.GetNode(ctx, &tandemv1.GetNodeRequest{Name: name.ClusterOf(vip) + "/nodes/" + to}); err != nil {
			return "", "", err
		}
	}
	why := "the failover would not work"
	if hidden != nil {
		why = fmt.Sprintf("it is not known whether %s would take it; --force moves it all the same", hidden.GetNode())
	}
	lines := []string{fmt.Sprintf("VIP %s is not moved: %s (see \"lbctl doctor %[1]s\")", name.Short(vip), why)}
	for _, f := range d.GetFindings() {
		if f.GetStops() || slices.Contains(hidden.GetUnknowns(), f.GetReason()) {
			lines = append(lines, output.Clean(fmt.Sprintf("%s: %s; cure: %s", f.GetReason(), f.GetMessage(), f.GetCure())))
		}
	}
	return "", "", errors.New(strings.Join(lines, "\n"))
}

// hiddenStandby is the standby of which it is not known whether it would take a VIP: the
// one that is named, or else the one with the highest priority. It is nil when the VIP
// has a taker, or none is such.
func hiddenStandby(v *tandemv1.VipDiagnosis, named string) *tandemv1.StandbyDiagnosis {
	var best *tandemv1.StandbyDiagnosis
	for _, s := range v.GetStandbys() {
		if view.IsUnknown(s) && (named == "" || named == s.GetNode()) && (best == nil || s.GetPriority() > best.GetPriority()) {
			best = s
		}
	}
	return best
}

// agree asks whether to go on, unless that was said.
func (s *session) agree(ctx context.Context, sure bool, question string) error {
	if sure {
		return nil
	}
	if !isTerminal(s.env.Stdin) {
		return failure.Usagef("no terminal to ask on: give --yes to go on")
	}
	yes, err := s.confirm(ctx, question)
	if err == nil && !yes {
		err = errors.New("nothing was moved")
	}
	return err
}

// move is one of a drill's two.
type move struct {
	to       string
	lease    time.Duration // for which the node before keeps away
	reason   string
	patience time.Duration // with a refusal
}

// drill moves a VIP there and back. The report has the moves that were made.
func (s *session) drill(ctx context.Context, vip, from, to string) (*tandemv1.DrillReport, error) {
	target, err := s.target(ctx, vip)
	if err != nil {
		return nil, err
	}
	report := &tandemv1.DrillReport{Vip: vip}
	ask := target.Ask
	if err := s.reaches(ctx, target); err != nil {
		s.say("nothing is measured: %v", err)
		ask = nil
	} else {
		report.Target = target.String()
	}
	for _, step := range []move{
		{to: to, lease: awayFor, reason: "drill"},
		{to: from, lease: backFor, reason: "drill, the way back", patience: 2 * awayFor},
	} {
		m, err := s.measured(ctx, ask, vip, step)
		if m != nil {
			report.Moves = append(report.Moves, m)
		}
		if err != nil && len(report.GetMoves()) == 1 {
			err = fmt.Errorf("VIP %s stays on %s: %w\nbring it back with \"lbctl vip failover %[1]s --to %[4]s\"", name.Short(vip), to, err, from)
		}
		if err != nil {
			return report, err
		}
		s.say("VIP %s moved from %s to %s in %s", name.Short(vip), m.GetFrom(), m.GetTo(), m.GetDuration().AsDuration().Round(time.Millisecond))
	}
	failed := report.GetMoves()[0].GetFailed() + report.GetMoves()[1].GetFailed()
	if failed > 0 {
		return report, fmt.Errorf("%d of %d requests got no answer", failed, report.GetMoves()[0].GetRequests()+report.GetMoves()[1].GetRequests())
	}
	return report, nil
}

// reaches tells why nothing can be measured; nil: it can.
func (s *session) reaches(ctx context.Context, target drill.Target) error {
	if target.Address == "" {
		return errors.New("no listener is on the VIP")
	}
	if err := target.Ask(ctx); err != nil {
		return fmt.Errorf("%s does not answer where lbctl runs: %w", target, err)
	}
	return nil
}

// target is the first listener of a VIP, at its first address; without an address:
// there is none.
func (s *session) target(ctx context.Context, vip string) (drill.Target, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	v, err := s.Config.GetVip(ctx, &tandemv1.GetVipRequest{Name: vip})
	if err != nil {
		return drill.Target{}, err
	}
	all, err := s.Config.ListListeners(ctx, &tandemv1.ListListenersRequest{Parent: name.ClusterOf(vip)})
	if err != nil {
		return drill.Target{}, err
	}
	for _, l := range all.GetListeners() {
		for _, b := range l.GetBinds() {
			address, err := netip.ParsePrefix(v.GetAddresses()[0])
			if b.GetVip() != name.ID(vip) || err != nil {
				continue
			}
			target := drill.Target{Address: net.JoinHostPort(address.Addr().String(), strconv.Itoa(int(b.GetPort())))}
			if l.GetProtocol() != "tcp" {
				target.Probe = l.GetProbe()
				if target.Probe == nil {
					target.Probe = &tandemv1.Probe{}
				}
			}
			return target, nil
		}
	}
	return drill.Target{}, nil
}

// measured makes one move while connections are made, if they can be.
func (s *session) measured(ctx context.Context, ask func(context.Context) error, vip string, step move) (*tandemv1.DrillMove, error) {
	var watch *drill.Watch
	if ask != nil {
		watch = drill.Begin(ctx, ask)
		pause(ctx, around)
	}
	moved, err := s.move(ctx, vip, step)
	if watch == nil {
		return moved, err
	}
	pause(ctx, around)
	m := watch.End()
	if err != nil {
		return nil, err
	}
	moved.Blackout = durationpb.New(m.Blackout)
	moved.Requests, moved.Failed = uint32(m.Requests), uint32(m.Failed)
	if m.Failure != nil {
		moved.Failure = m.Failure.Error()
	}
	return moved, nil
}

// move makes one. One that is refused is tried for a while: the node may still keep
// away from the VIP.
func (s *session) move(ctx context.Context, vip string, step move) (*tandemv1.DrillMove, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	request := &tandemv1.FailoverVipRequest{Name: vip, To: step.to, Lease: durationpb.New(step.lease), Reason: step.reason}
	for began := time.Now(); ; {
		moved, err := s.Fleet.FailoverVip(ctx, request)
		if err == nil {
			return &tandemv1.DrillMove{From: moved.GetFrom(), To: moved.GetTo(), Duration: moved.GetDuration()}, nil
		}
		var refused *failure.Error
		if !errors.As(err, &refused) || refused.Code != codes.FailedPrecondition || time.Since(began) > step.patience {
			return nil, err
		}
		pause(ctx, again)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
