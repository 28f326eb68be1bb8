package view

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func vips(status *tandemv1.ClusterStatus, clock Clock) output.Table {
	ids := nodeIDs(status)
	t := output.Table{Columns: append(output.Columns("VIP", "HOLDER", "SINCE"), output.Columns(ids...)...)}
	t.Columns = append(t.Columns, output.Columns("+JITTER")...)
	for _, vip := range status.GetVips() {
		row := []output.Cell{output.Text(name.ID(vip.GetName())), holder(status, vip), output.Text(clock.Ago(vip.GetSince()))}
		for _, id := range ids {
			row = append(row, vipOnNode(status, vip, id, clock))
		}
		t.Rows = append(t.Rows, append(row, output.Text(jitter(vip))))
	}
	return t
}

// jitter is the worst that a node measures.
func jitter(vip *tandemv1.VipStatus) string {
	var worst *tandemv1.Jitter
	for _, on := range vip.GetNodes() {
		if j := on.GetJitter(); j != nil && (worst == nil || j.GetWorst().AsDuration() > worst.GetWorst().AsDuration()) {
			worst = j
		}
	}
	if worst == nil {
		return none
	}
	return fmt.Sprintf("%s, at worst %s", duration(worst.GetMean()), duration(worst.GetWorst()))
}

func holder(status *tandemv1.ClusterStatus, vip *tandemv1.VipStatus) output.Cell {
	holders := vip.GetHolders()
	if len(holders) > 0 {
		holders = append(slices.Clone(holders), vip.GetHeard()...)
	}
	switch {
	case len(holders) > 1:
		return output.Cell{Text: strings.Join(holders, " AND "), Tone: output.Bad}
	case len(holders) == 1:
		return output.Cell{Text: holders[0], Tone: output.Good}
	case len(vip.GetHeard()) > 0:
		return output.Cell{Text: strings.Join(vip.GetHeard(), " AND ") + ", by its advertisements", Tone: output.Warn}
	case len(vip.GetNodes()) < len(status.GetNodes()) && !hasAlarm(status, "NO_HOLDER", vip.GetName()):
		// A node that does not tell may hold it.
		return output.Cell{Text: "not known", Tone: output.Warn}
	default:
		return output.Cell{Text: "NOBODY", Tone: output.Bad}
	}
}

func hasAlarm(status *tandemv1.ClusterStatus, reason, subject string) bool {
	return slices.ContainsFunc(status.GetAlarms(), func(a *tandemv1.Alarm) bool {
		return a.GetReason() == reason && a.GetSubject() == subject
	})
}

func vipOnNode(status *tandemv1.ClusterStatus, vip *tandemv1.VipStatus, node string, clock Clock) output.Cell {
	for _, on := range vip.GetNodes() {
		if on.GetNode() != node {
			continue
		}
		if on.GetState() == tandemv1.VrrpState_VRRP_STATE_UNSPECIFIED && on.GetHolds() {
			// Of a keepalived that is not Tandem's, or not yet.
			return output.Text("has the address")
		}
		if on.GetState() == tandemv1.VrrpState_VRRP_STATE_UNSPECIFIED {
			return output.Cell{Text: "unknown", Tone: output.Faint}
		}
		cell := output.Cell{Text: word(on.GetState(), "VRRP_STATE_")}
		if on.GetPriority() != 0 {
			cell.Text += " " + strconv.Itoa(int(on.GetPriority()))
		}
		if on.GetFenced() {
			cell.Text += ", fenced"
		}
		if lost := lostTracks(on); lost != "" {
			cell.Text += ", lost " + lost
			cell.Tone = output.Warn
		}
		// keepalived's word and the kernel's addresses must agree.
		if master := on.GetState() == tandemv1.VrrpState_VRRP_STATE_MASTER; master != on.GetHolds() {
			cell.Tone = output.Bad
			cell.Text += map[bool]string{true: ", has the address", false: ", lacks the address"}[on.GetHolds()]
		} else if on.GetState() == tandemv1.VrrpState_VRRP_STATE_FAULT {
			cell.Tone = output.Bad
		}
		return cell
	}
	for _, n := range status.GetNodes() {
		if output.Clean(name.ID(n.GetName())) == node && !n.GetConnected() {
			return notKnown(n, slices.Contains(vip.GetHeard(), node), clock)
		}
	}
	return output.Text(none)
}

// notKnown is a VIP on a node whose agent is not connected.
func notKnown(n *tandemv1.NodeStatus, heard bool, clock Clock) output.Cell {
	text := "not known"
	if n.GetLastSeen() != nil {
		text += " for " + clock.Ago(n.GetLastSeen())
	}
	if heard {
		text += ", heard"
	}
	return output.Cell{Text: text, Tone: output.Warn}
}

// lostTracks names what a node has lost that the VIP needs.
func lostTracks(on *tandemv1.VipNodeStatus) string {
	var lost []string
	for _, t := range on.GetTracks() {
		if t.GetLost() {
			lost = append(lost, t.GetTrack())
		}
	}
	return strings.Join(lost, " and ")
}

// writeNotes tells what of the VIPs' settings is odd.
func writeNotes(out *bytes.Buffer, vips []*tandemv1.VipStatus, style output.Style) {
	for _, vip := range vips {
		for _, note := range vip.GetNotes() {
			fmt.Fprintf(out, "\n%s: %s\n", output.Clean(name.ID(vip.GetName())), style.Paint("note", output.Warn))
			writeIndented(out, note)
		}
	}
}

func backends(status *tandemv1.ClusterStatus, clock Clock) output.Table {
	ids := nodeIDs(status)
	t := output.Table{Columns: output.Columns("BACKEND", "STATE", "SINCE", "WEIGHT")}
	t.Columns = append(t.Columns, output.Columns(ids...)...)
	t.Columns = append(t.Columns, output.Columns("CHECK")...)
	for _, pool := range status.GetPools() {
		for _, backend := range pool.GetBackends() {
			t.Rows = append(t.Rows, backendRow(backend, ids, clock))
		}
	}
	return t
}

func backendRow(backend *tandemv1.BackendStatus, ids []string, clock Clock) []output.Cell {
	worst := &tandemv1.BackendNodeStatus{}
	byNode := map[string]*tandemv1.BackendNodeStatus{}
	var weights []string
	for _, on := range backend.GetNodes() {
		byNode[on.GetNode()] = on
		if on.GetState() == backend.GetState() && worst.GetNode() == "" {
			worst = on
		}
		if weight := strconv.Itoa(int(on.GetWeight())); len(weights) == 0 || weights[len(weights)-1] != weight {
			weights = append(weights, weight)
		}
	}
	row := []output.Cell{
		output.Text(name.Short(backend.GetName())),
		backendState(backend.GetState()),
		output.Text(clock.Ago(worst.GetSince())),
		output.Text(or(strings.Join(weights, "/"), none)),
	}
	for _, id := range ids {
		if on := byNode[id]; on != nil {
			row = append(row, backendState(on.GetState()))
		} else {
			row = append(row, output.Text(none))
		}
	}
	return append(row, output.Text(worst.GetReason()))
}

func backendState(state tandemv1.BackendState) output.Cell {
	tones := map[tandemv1.BackendState]output.Tone{
		tandemv1.BackendState_BACKEND_STATE_UP:          output.Good,
		tandemv1.BackendState_BACKEND_STATE_NO_CHECK:    output.Good,
		tandemv1.BackendState_BACKEND_STATE_DRAIN:       output.Warn,
		tandemv1.BackendState_BACKEND_STATE_MAINTENANCE: output.Warn,
		tandemv1.BackendState_BACKEND_STATE_DOWN:        output.Bad,
	}
	if state == tandemv1.BackendState_BACKEND_STATE_UNSPECIFIED {
		return output.Cell{Text: "unknown", Tone: output.Faint}
	}
	return output.Cell{Text: strings.ReplaceAll(word(state, "BACKEND_STATE_"), "_", " "), Tone: tones[state]}
}

func nodeIDs(status *tandemv1.ClusterStatus) []string {
	var ids []string
	for _, node := range status.GetNodes() {
		ids = append(ids, output.Clean(name.ID(node.GetName())))
	}
	return ids
}
