package view

import (
	"bytes"
	"io"

	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Profiles writes how punctual VIPs' advertisements reach the nodes, with the profile
// that suits, and what does not suit.
func Profiles(w io.Writer, vips []*tandemv1.VipStatus, style output.Style) error {
	t := output.Table{Columns: output.Columns("VIP", "NODE", "MEAN JITTER", "WORST", "MEASURED", "PROPOSED")}
	for _, vip := range vips {
		measured := false
		for _, on := range vip.GetNodes() {
			if j := on.GetJitter(); j != nil {
				measured = true
				t.Rows = append(t.Rows, cells(name.ID(vip.GetName()), on.GetNode(), duration(j.GetMean()), duration(j.GetWorst()),
					duration(j.GetMeasured()), or(vip.GetProposedProfile(), "none")))
			}
		}
		if !measured {
			t.Rows = append(t.Rows, cells(name.ID(vip.GetName()), none, none, none, "not yet", none))
		}
	}
	var out bytes.Buffer
	if err := t.Write(&out, style); err != nil {
		return err
	}
	writeNotes(&out, vips, style)
	_, err := w.Write(out.Bytes())
	return err
}
