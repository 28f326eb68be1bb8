package view

import (
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// AuthorityPhase says how far a rotation of the CA is, and what comes next.
func AuthorityPhase(phase tandemv1.AuthorityPhase) string {
	switch phase {
	case tandemv1.AuthorityPhase_AUTHORITY_PHASE_STEADY:
		return "one CA; no rotation is under way"
	case tandemv1.AuthorityPhase_AUTHORITY_PHASE_BEGUN:
		return "a new CA is trusted beside the old one, which issues; next: give all clients the new bundle (lbctl ca trust, lbctl ca show), then lbctl ca activate"
	case tandemv1.AuthorityPhase_AUTHORITY_PHASE_ACTIVE:
		return "the new CA issues, the old one is trusted still; next: lbctl ca retire"
	default:
		return "a phase that this lbctl does not know: it is older than the controller"
	}
}

// Authority is a table of the CA's certificates and of how the nodes stand to
// them.
func Authority(a *tandemv1.Authority, clock Clock) output.Table {
	t := output.Table{Columns: output.Columns("CERTIFICATE", "AGENT", "TRUSTS ALL CAS", "OF THE ISSUING CA", "ENDS")}
	for _, c := range a.GetCertificates() {
		issues := "no"
		if c.GetIssues() {
			issues = "is it"
		}
		t.Rows = append(t.Rows, cells("CA "+c.GetFingerprint()[:min(len(c.GetFingerprint()), 23)], none, none, issues, clock.At(c.GetExpireTime())))
	}
	for _, n := range a.GetNodes() {
		agent := "away"
		if n.GetConnected() {
			agent = "connected"
		}
		row := cells(name.Short(n.GetNode()), agent, "", "", none)
		for i, good := range map[int]bool{2: n.GetTrusts(), 3: n.GetCurrent()} {
			row[i] = output.Cell{Text: yesNo(good)}
			if !good {
				row[i].Tone = output.Warn
			}
		}
		if n.GetExpireTime() != nil {
			row[4].Text = clock.At(n.GetExpireTime())
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}
