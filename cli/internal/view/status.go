package view

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Status writes what really is in a cluster: alarms first, then nodes, VIPs,
// backends, and what was changed on the nodes themselves.
func Status(w io.Writer, status *tandemv1.ClusterStatus, style output.Style, clock Clock) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "Cluster %s at revision %d: %s\n", output.Clean(name.ID(status.GetName())), status.GetDesired(), verdict(status, style))
	writeAlarms(&out, status.GetAlarms(), style, clock)
	sections := []output.Table{
		nodes(status, clock),
		vips(status, clock),
		backends(status, clock),
		Drift(status.GetNodes(), clock),
	}
	for i, table := range sections {
		if len(table.Rows) > 0 {
			out.WriteByte('\n')
			if err := table.Write(&out, style); err != nil {
				return err
			}
		}
		switch i {
		case 0:
			writeTroubles(&out, status.GetNodes(), style)
		case 1:
			writeNotes(&out, status.GetVips(), style)
		}
	}
	_, err := w.Write(out.Bytes())
	return err
}

// verdict is the one thing to know.
func verdict(status *tandemv1.ClusterStatus, style output.Style) string {
	alarms, down := len(status.GetAlarms()), countDown(status.GetPools())
	switch {
	case len(status.GetNodes()) == 0:
		return style.Paint("no node has joined yet; see \"lbctl node token create\"", output.Warn)
	case alarms > 0:
		return style.Paint(count(alarms, "alarm"), output.Bad)
	case slices.ContainsFunc(status.GetNodes(), func(n *tandemv1.NodeStatus) bool {
		return !n.GetConnected() || n.GetApplied() < status.GetDesired()
	}):
		return style.Paint("not on all nodes", output.Warn)
	case slices.ContainsFunc(status.GetNodes(), (*tandemv1.NodeStatus).GetNotPersistent):
		return style.Paint("not persistent on all nodes", output.Warn)
	case down > 0:
		return style.Paint(count(down, "backend")+" down", output.Warn)
	default:
		return style.Paint("all is well", output.Good)
	}
}

func countDown(pools []*tandemv1.PoolStatus) int {
	down := 0
	for _, pool := range pools {
		for _, backend := range pool.GetBackends() {
			if backend.GetState() == tandemv1.BackendState_BACKEND_STATE_DOWN {
				down++
			}
		}
	}
	return down
}

func writeAlarms(out *bytes.Buffer, alarms []*tandemv1.Alarm, style output.Style, clock Clock) {
	for _, alarm := range alarms {
		fmt.Fprintf(out, "\n%s %s, for %s\n", style.Paint(output.Clean(alarm.GetReason()), output.Bad),
			output.Clean(name.InCluster(alarm.GetSubject())), clock.Ago(alarm.GetSince()))
		writeIndented(out, alarm.GetMessage())
		if alarm.GetCure() != "" {
			writeIndented(out, "cure: "+alarm.GetCure())
		}
	}
}

// writeTroubles tells what each node failed at, in the daemons' words.
func writeTroubles(out *bytes.Buffer, nodes []*tandemv1.NodeStatus, style output.Style) {
	for _, node := range nodes {
		trouble := func(what, words string) {
			if isTold(out.String(), words) {
				return
			}
			fmt.Fprintf(out, "\n%s: %s\n", output.Clean(name.ID(node.GetName())), style.Paint(what, output.Bad))
			writeIndented(out, words)
		}
		if node.GetFailed() > node.GetApplied() {
			trouble(fmt.Sprintf("did not apply revision %d; its last good configuration keeps serving", node.GetFailed()), node.GetFailure())
		}
		if node.GetWaiting() != "" {
			trouble("waits for another node", node.GetWaiting())
		}
		if node.GetHaproxy().GetMessage() != "" {
			trouble("haproxy", node.GetHaproxy().GetMessage())
		}
		if node.GetKeepalived().GetMessage() != "" {
			trouble("keepalived", node.GetKeepalived().GetMessage())
		}
		for _, problem := range node.GetProblems() {
			trouble("problem", problem)
		}
	}
}

// isTold tells whether the words, or what follows their first colon, stand
// there already: an alarm and a node often say the same.
func isTold(told, words string) bool {
	told = strings.ReplaceAll(told, "\n    ", "\n")
	stands := func(text string) bool { return text != "" && strings.Contains(told, output.CleanLines(text)) }
	_, core, _ := strings.Cut(words, ": ")
	return stands(words) || stands(core)
}

func writeIndented(out *bytes.Buffer, text string) {
	for line := range strings.Lines(output.CleanLines(text)) {
		fmt.Fprintf(out, "    %s\n", strings.TrimRight(line, " \n"))
	}
}

func nodes(status *tandemv1.ClusterStatus, clock Clock) output.Table {
	t := output.Table{Columns: output.Columns("NODE", "AGENT", "REVISION", "HAPROXY", "KEEPALIVED", "SCORE", "RELOADS", "+AGENT VERSION", "+SENT", "+INTERFACES")}
	for _, node := range status.GetNodes() {
		score := output.Cell{Text: strconv.Itoa(int(node.GetScore()))}
		if node.GetScore() < 0 {
			score.Tone = output.Warn
		}
		t.Rows = append(t.Rows, []output.Cell{
			output.Text(name.ID(node.GetName())),
			agent(node, clock),
			revision(node, status.GetDesired()),
			daemon(node.GetHaproxy()),
			daemon(node.GetKeepalived()),
			score,
			output.Text(strconv.FormatUint(node.GetReloads(), 10)),
			output.Text(or(node.GetAgentVersion(), none)),
			output.Text(strconv.FormatUint(node.GetSent(), 10)),
			output.Text(interfaces(node.GetInterfaces())),
		})
	}
	return t
}

func interfaces(byNetwork map[string]string) string {
	parts := strings.Builder{}
	for i, network := range unionKeys(byNetwork, nil) {
		if i > 0 {
			parts.WriteString(", ")
		}
		parts.WriteString(network + "=" + byNetwork[network])
	}
	return or(parts.String(), none)
}

func agent(node *tandemv1.NodeStatus, clock Clock) output.Cell {
	switch {
	case node.GetConnected():
		return output.Cell{Text: "connected", Tone: output.Good}
	case node.GetLastSeen() == nil:
		return output.Cell{Text: "not seen yet", Tone: output.Warn}
	default:
		return output.Cell{Text: "gone for " + clock.Ago(node.GetLastSeen()), Tone: output.Bad}
	}
}

func revision(node *tandemv1.NodeStatus, desired uint64) output.Cell {
	applied := strconv.FormatUint(node.GetApplied(), 10)
	switch {
	case node.GetFailed() > node.GetApplied():
		return output.Cell{Text: fmt.Sprintf("%s, %d failed", applied, node.GetFailed()), Tone: output.Bad}
	case node.GetApplied() < desired:
		return output.Cell{Text: fmt.Sprintf("%s of %d", applied, desired), Tone: output.Warn}
	case node.GetNotPersistent():
		return output.Cell{Text: applied + ", not persistent", Tone: output.Warn}
	default:
		return output.Text(applied)
	}
}

func daemon(d *tandemv1.DaemonStatus) output.Cell {
	tone := output.Plain
	switch d.GetState() {
	case tandemv1.DaemonState_DAEMON_STATE_RUNNING:
		tone = output.Good
	case tandemv1.DaemonState_DAEMON_STATE_STOPPED, tandemv1.DaemonState_DAEMON_STATE_MISSING:
		tone = output.Bad
	case tandemv1.DaemonState_DAEMON_STATE_UNSPECIFIED:
		return output.Text("unknown")
	default:
	}
	text := strings.ToLower(word(d.GetState(), "DAEMON_STATE_"))
	if d.GetVersion() != "" {
		text += " " + d.GetVersion()
	}
	return output.Cell{Text: text, Tone: tone}
}
