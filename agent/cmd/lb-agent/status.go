package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	localv1 "github.com/tandem-lb/tandem/gen/tandem/agent/local/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

func (h *here) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what this node does, without the controller",
		Long: `Show what this node does: its daemons, who holds the VIPs and why, its backends,
what was changed on it by hand, and what is wrong. It asks the running agent and
needs no controller.`,
		Example: "  lb-agent status\n  lb-agent status -o json",
		Args:    arguments(cobra.NoArgs),
		RunE: h.run(func(ctx context.Context, c localv1.LocalServiceClient, cmd *cobra.Command, _ []string) error {
			s, err := c.GetStatus(ctx, &localv1.GetStatusRequest{})
			if err != nil {
				return err
			}
			return h.print(cmd, s, func() error { return writeStatus(cmd.OutOrStdout(), s, time.Now()) })
		}),
	}
}

// writeStatus writes a status for people.
func writeStatus(out io.Writer, s *localv1.GetStatusResponse, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	row := func(cells ...string) {
		for i := range cells {
			cells[i] = clean(cells[i])
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	row("Node", s.GetNode())
	row("Agent", s.GetAgentVersion()+taken(s.GetProcess()))
	row("Controller", controller(s.GetSession(), now))
	row("Revision", revision(s.GetApplied()))
	row("HAProxy", daemon(s.GetHaproxy(), now)+fmt.Sprintf(", %d reloads", s.GetReloads()))
	row("keepalived", daemon(s.GetKeepalived(), now))
	row("Score", score(s.GetScore()))
	if len(s.GetVips()) > 0 {
		row()
		row("VIP", "STATE", "HOLDS", "PRIORITY", "HEARS", "NOTE")
	}
	for _, v := range s.GetVips() {
		row(v.GetInstance(), vrrpState(v.GetState()), yesNo(v.GetHolds()),
			strconv.Itoa(int(v.GetPriority())), heard(v), vipNote(v, now))
	}
	if len(s.GetBackends()) > 0 {
		row()
		row("BACKEND", "STATE", "SINCE", "WEIGHT", "CHECK")
	}
	for _, b := range s.GetBackends() {
		row(b.GetPool()+"/"+b.GetBackend(), strings.TrimPrefix(b.GetState().String(), "SERVER_STATE_"),
			ago(b.GetSince(), now), strconv.Itoa(int(b.GetWeight())), b.GetReason())
	}
	if len(s.GetLocalChanges()) > 0 {
		row()
		row("CHANGED ON THIS NODE", "BY", "SINCE", "REASON")
	}
	for _, c := range s.GetLocalChanges() {
		row(describe(c), c.GetAuthor(), ago(c.GetTime(), now), c.GetReason())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, problem := range s.GetProblems() {
		fmt.Fprintf(out, "\nproblem: %s\n", clean(problem))
	}
	return nil
}

// taken is what the agent takes of its machine; an agent of an older version
// does not tell.
func taken(p *localv1.Process) string {
	if p == nil {
		return ""
	}
	return fmt.Sprintf(", %d MiB of memory, %d open files", p.GetResidentBytes()>>20, p.GetOpenFiles())
}

func controller(s *localv1.Session, now time.Time) string {
	switch {
	case s.GetConnected():
		return fmt.Sprintf("connected to %s for %s", s.GetController(), ago(s.GetSince(), now))
	case s.GetController() == "":
		return "not connected yet"
	case s.GetSince() == nil:
		return fmt.Sprintf("not connected: %s: %s", s.GetController(), s.GetProblem())
	default:
		return fmt.Sprintf("not connected for %s: %s: %s", ago(s.GetSince(), now), s.GetController(), s.GetProblem())
	}
}

func revision(v *agentv1.Version) string {
	if v == nil {
		return "none in effect"
	}
	return strconv.FormatUint(v.GetRuntime(), 10)
}

func daemon(d *agentv1.DaemonObservation, now time.Time) string {
	state := strings.ToLower(strings.TrimPrefix(d.GetState().String(), "DAEMON_STATE_"))
	if d.GetState() == agentv1.DaemonState_DAEMON_STATE_UNSPECIFIED {
		return "unknown"
	}
	if d.GetVersion() != "" {
		state += " " + d.GetVersion()
	}
	if d.GetStartTime() != nil {
		state += " for " + ago(d.GetStartTime(), now)
	}
	if d.GetMessage() != "" {
		state += ": " + d.GetMessage()
	}
	return state
}

// vrrpState is keepalived's word, which is not known of one that the agent does
// not manage.
func vrrpState(s agentv1.VrrpState) string {
	if s == agentv1.VrrpState_VRRP_STATE_UNSPECIFIED {
		return "unknown"
	}
	return strings.TrimPrefix(s.String(), "VRRP_STATE_")
}

// score tells the parts of what is added to the priorities.
func score(s *localv1.Score) string {
	var parts []string
	switch health := s.GetHealth(); {
	case health <= -100:
		parts = append(parts, fmt.Sprintf("%d as HAProxy is not well", health))
	case health < 0:
		parts = append(parts, fmt.Sprintf("%d as HAProxy has ended too often to be trusted yet", health))
	}
	if s.GetDrain() != 0 {
		parts = append(parts, fmt.Sprintf("%d as the node is drained", s.GetDrain()))
	}
	text := strconv.Itoa(int(s.GetTotal()))
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	return text
}

// heard are those who advertise a VIP's virtual router here: a node by its name, and
// anybody else by the address.
func heard(v *localv1.VipStatus) string {
	if !v.GetListens() {
		return "unknown"
	}
	var all []string
	for _, a := range v.GetHeard() {
		all = append(all, fmt.Sprintf("%s (%d)", cmp.Or(a.GetNode(), a.GetAddress()), a.GetPriority()))
	}
	return cmp.Or(strings.Join(all, ", "), "-")
}

func vipNote(v *localv1.VipStatus, now time.Time) string {
	var notes []string
	if v.GetFenced() {
		notes = append(notes, "kept off, as another node is to hold it")
	}
	if len(v.GetLost()) > 0 {
		notes = append(notes, fmt.Sprintf("%d as it has lost %s", v.GetTracks(), strings.Join(v.GetLost(), " and ")))
	}
	if v.GetFailBack() != 0 {
		notes = append(notes, fmt.Sprintf("%d as its fail-back lets it stay elsewhere", v.GetFailBack()))
	}
	if v.GetFailover() != 0 {
		left := v.GetFailoverEnd().AsTime().Sub(now).Round(time.Second)
		notes = append(notes, fmt.Sprintf("%d after a failover, for %s", v.GetFailover(), left))
	}
	return strings.Join(notes, ", ")
}

// describe tells a local change in words.
func describe(c *agentv1.LocalChange) string {
	b := c.GetBackend()
	switch {
	case b == nil && c.GetDrain():
		return "node drain"
	case b == nil:
		return "node ready"
	}
	text := "backend " + b.GetPool() + "/" + b.GetBackend() + " " +
		strings.ToLower(strings.TrimPrefix(b.GetState().String(), "ADMIN_STATE_"))
	if b.Weight != nil {
		text += fmt.Sprintf(", weight %d", b.GetWeight())
	}
	return text
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "-"
}

// ago is how long something has been, in one unit.
func ago(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return "-"
	}
	d := max(now.Sub(t.AsTime()), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
