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

// Diagnosis writes whether the VIPs of a cluster would move, and the findings with
// their evidence and cures.
func Diagnosis(w io.Writer, d *tandemv1.Diagnosis, style output.Style) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "Cluster %s: %s\n", output.Clean(name.ID(d.GetName())), health(d, style))
	if table := moves(d); len(table.Rows) > 0 {
		out.WriteByte('\n')
		if err := table.Write(&out, style); err != nil {
			return err
		}
	}
	for _, f := range d.GetFindings() {
		writeFinding(&out, f, style)
	}
	_, err := w.Write(out.Bytes())
	return err
}

// health is the one thing to know.
func health(d *tandemv1.Diagnosis, style output.Style) string {
	stops := 0
	for _, f := range d.GetFindings() {
		if f.GetStops() {
			stops++
		}
	}
	rest := len(d.GetFindings()) - stops
	switch {
	case len(Stuck(d)) > 0 && stops > 0:
		return style.Paint(count(stops, "finding")+" would stop a failover of "+strings.Join(Stuck(d), ", "), output.Bad) + others(rest)
	case len(Stuck(d)) > 0:
		return style.Paint("a failover of "+strings.Join(Stuck(d), ", ")+" would not work", output.Bad) + others(rest)
	case len(Unknown(d)) > 0:
		return style.Paint("it is not known whether a failover of "+strings.Join(Unknown(d), ", ")+" would work", output.Warn) + others(len(d.GetFindings()))
	case len(d.GetVips()) == 0:
		return "it has no VIP, so there is nothing to move"
	case stops > 0:
		return style.Paint("a failover would work now", output.Good) + ", and " + count(stops, "finding") + " would keep a node from it" + others(rest)
	case rest > 0:
		return style.Paint("a failover would work now", output.Good) + ", and " + count(rest, "finding") + " to know of"
	default:
		return style.Paint("nothing found, a failover would work now", output.Good)
	}
}

// Stuck are the ids of VIPs that no standby would take.
func Stuck(d *tandemv1.Diagnosis) []string {
	var all []string
	for _, v := range d.GetVips() {
		if v.GetTaker() == "" && !slices.ContainsFunc(v.GetStandbys(), IsUnknown) {
			all = append(all, output.Clean(name.ID(v.GetName())))
		}
	}
	return all
}

// Unknown are the ids of VIPs that no standby is known to take, while one might.
func Unknown(d *tandemv1.Diagnosis) []string {
	var all []string
	for _, v := range d.GetVips() {
		if v.GetTaker() == "" && slices.ContainsFunc(v.GetStandbys(), IsUnknown) {
			all = append(all, output.Clean(name.ID(v.GetName())))
		}
	}
	return all
}

// IsUnknown tells that a standby might take a VIP, and that it was not looked at.
func IsUnknown(s *tandemv1.StandbyDiagnosis) bool {
	return !s.GetReady() && len(s.GetObstacles()) == 0
}

func others(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d more to know of", n)
}

// moves is a table of who would take which VIP.
func moves(d *tandemv1.Diagnosis) output.Table {
	t := output.Table{Columns: output.Columns("VIP", "HOLDER", "STANDBY", "PRIORITY", "WOULD TAKE IT")}
	for _, v := range d.GetVips() {
		vip, holder := output.Text(name.ID(v.GetName())), output.Cell{Text: v.GetHolder()}
		switch {
		case v.GetHolder() != "" && len(v.GetHeard()) == 0:
		case v.GetHolder() == "" && len(v.GetHeard()) == 1:
			holder = output.Cell{Text: v.GetHeard()[0] + ", by its advertisements", Tone: output.Warn}
		default:
			holder = output.Cell{Text: "NOT ONE NODE", Tone: output.Bad}
		}
		if len(v.GetStandbys()) == 0 {
			t.Rows = append(t.Rows, []output.Cell{vip, holder, output.Text(none), output.Text(none), {Text: "nobody", Tone: output.Bad}})
		}
		for _, s := range v.GetStandbys() {
			would := output.Cell{Text: "yes", Tone: output.Good}
			switch {
			case IsUnknown(s):
				would = output.Cell{Text: "not known: " + strings.Join(s.GetUnknowns(), ", "), Tone: output.Warn}
			case !s.GetReady():
				would = output.Cell{Text: "no: " + strings.Join(s.GetObstacles(), ", "), Tone: output.Bad}
			case s.GetNode() != v.GetTaker():
				would = output.Text("yes, after " + v.GetTaker())
			}
			priority := none
			if s.GetPriority() > 0 {
				priority = strconv.Itoa(int(s.GetPriority()))
			}
			t.Rows = append(t.Rows, []output.Cell{vip, holder, output.Text(s.GetNode()), output.Text(priority), would})
			vip, holder = output.Cell{}, output.Cell{}
		}
	}
	return t
}

func writeFinding(out *bytes.Buffer, f *tandemv1.DiagnosisFinding, style output.Style) {
	tone := output.Warn
	if f.GetStops() {
		tone = output.Bad
	}
	var subjects []string
	if f.GetNode() != "" {
		subjects = append(subjects, name.InCluster(f.GetNode()))
	}
	for _, v := range f.GetVips() {
		if s := name.InCluster(v); !slices.Contains(subjects, s) {
			subjects = append(subjects, s)
		}
	}
	fmt.Fprintf(out, "\n%s %s\n", style.Paint(output.Clean(f.GetReason()), tone), output.Clean(strings.Join(subjects, ", ")))
	writeIndented(out, f.GetMessage())
	if f.GetEvidence() != "" {
		writeIndented(out, "seen: "+f.GetEvidence())
	}
	if f.GetCure() != "" {
		writeIndented(out, "cure: "+f.GetCure())
	}
}
