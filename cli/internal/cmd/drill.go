package cmd

import (
	"cmp"
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
when nothing was noticed. A status of 500 or above is no answer and is counted
apart, unless the VIP answers so before it is moved. Where the VIP cannot be
reached from here nothing is measured, and the report says so; the moves are
made all the same.

The exit code is 1 when a move or a request failed. When it is interrupted, it
says where the VIP may be.`,
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
	ask := s.question(ctx, target)
	if ask != nil {
		report.Target = target.String()
	}
	m, err := s.measured(ctx, ask, vip, move{to: to, lease: awayFor, reason: "drill"})
	back := fmt.Sprintf("bring it back with \"lbctl vip failover %s --to %s\"", name.Short(vip), from)
	switch {
	case err != nil && isRefusal(err):
		return report, err
	case err != nil:
		return report, fmt.Errorf("VIP %s may be on %s by now (see \"lbctl status\"): %w\n%s", name.Short(vip), to, err, back)
	case m.GetFrom() == m.GetTo():
		return report, fmt.Errorf("VIP %s was on %s already when it was to be moved there: somebody else has moved it", name.Short(vip), to)
	}
	report.Moves = append(report.Moves, m)
	s.say("VIP %s moved from %s to %s in %s", name.Short(vip), m.GetFrom(), m.GetTo(), m.GetDuration().AsDuration().Round(time.Millisecond))
	m, err = s.measured(ctx, ask, vip, move{to: from, lease: backFor, reason: "drill, the way back", patience: 2 * awayFor})
	switch {
	case err != nil && isRefusal(err):
		return report, fmt.Errorf("VIP %s stays on %s: %w\n%s", name.Short(vip), to, err, back)
	case err != nil:
		return report, fmt.Errorf("VIP %s is on %s, or on %s by now (see \"lbctl status\"): %w\n%s", name.Short(vip), to, from, err, back)
	case m.GetFrom() == m.GetTo():
		m.From, m.Duration, m.FailedBack = to, nil, true
		s.say("VIP %s had gone back from %s to %s by itself: its fail-back policy is automatic", name.Short(vip), to, from)
	default:
		s.say("VIP %s moved from %s to %s in %s", name.Short(vip), m.GetFrom(), m.GetTo(), m.GetDuration().AsDuration().Round(time.Millisecond))
	}
	report.Moves = append(report.Moves, m)
	return report, unanswered(report.GetMoves())
}

// unanswered is an error when clients have noticed moves.
func unanswered(moves []*tandemv1.DrillMove) error {
	var requests, failed, ill uint32
	status := ""
	for _, m := range moves {
		requests, failed, ill = requests+m.GetRequests(), failed+m.GetFailed(), ill+m.GetErrors()
		status = cmp.Or(status, m.GetError())
	}
	var all []error
	if failed > 0 {
		all = append(all, fmt.Errorf("%d of %d requests got no answer", failed, requests))
	}
	if ill > 0 {
		all = append(all, fmt.Errorf("%d of %d requests were answered with an error of the server, the first with %s", ill, requests, status))
	}
	return errors.Join(all...)
}

// isRefusal tells whether an error says that the controller has moved nothing.
func isRefusal(err error) bool {
	var refused *failure.Error
	return errors.As(err, &refused) && slices.Contains([]codes.Code{
		codes.FailedPrecondition, codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unauthenticated, codes.ResourceExhausted,
	}, refused.Code)
}

// question is what a VIP is asked all the time; nil, after it was said why: nothing is.
func (s *session) question(ctx context.Context, target drill.Target) func(context.Context) error {
	err := s.reaches(ctx, target)
	var server *drill.ServerError
	switch {
	case errors.As(err, &server):
		s.say("%s answers %s before anything is moved: such answers count as others do", target, server.Status)
		return func(ctx context.Context) error {
			if err := target.Ask(ctx); !errors.As(err, &server) {
				return err
			}
			return nil
		}
	case err != nil:
		s.say("nothing is measured: %v", err)
		return nil
	}
	return target.Ask
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

// target is the first listener of a VIP, else the first one on every address, at the
// VIP's first address; without an address: there is none.
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
	at, err := netip.ParsePrefix(v.GetAddresses()[0])
	if err != nil {
		return drill.Target{}, err
	}
	for _, accepts := range []func(*tandemv1.Bind) bool{
		func(b *tandemv1.Bind) bool { return b.GetVip() == name.ID(vip) },
		func(b *tandemv1.Bind) bool { return b.GetVip() == "" && b.GetAddress() == "" }, // any address
	} {
		for _, l := range all.GetListeners() {
			if n := slices.IndexFunc(l.GetBinds(), accepts); n >= 0 {
				return askable(l, at.Addr(), l.GetBinds()[n].GetPort()), nil
			}
		}
	}
	return drill.Target{}, nil
}

// askable is a listener at one of its places.
func askable(l *tandemv1.Listener, at netip.Addr, port uint32) drill.Target {
	target := drill.Target{Address: net.JoinHostPort(at.String(), strconv.Itoa(int(port)))}
	if l.GetProtocol() != "tcp" {
		target.Probe = l.GetProbe()
		if target.Probe == nil {
			target.Probe = &tandemv1.Probe{}
		}
	}
	return target
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
	moved.Requests, moved.Failed, moved.Errors = uint32(m.Requests), uint32(m.Failed), uint32(m.Errors)
	if m.Failure != nil {
		moved.Failure = m.Failure.Error()
	}
	if m.Error != nil {
		moved.Error = m.Error.Status
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
