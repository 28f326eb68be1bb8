package importer

import (
	"bytes"
	"fmt"
	"strings"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Report says for people what Tandem would manage and what becomes of every
// line that it would not. It holds no secrets.
func (i *Import) Report() []byte {
	var w bytes.Buffer
	w.WriteString("Tandem would manage:\n")
	i.writeManaged(&w)
	for _, f := range []File{i.HAProxy, i.Keepalived} {
		fmt.Fprintf(&w, "\n%s: %s\n", f.Path, f.counts())
		f.write(&w, "not quite the same", func(l Line) bool { return l.Fate == Typed && l.Reason != "" })
		f.write(&w, "dropped", func(l Line) bool { return l.Fate == Ignored })
		f.write(&w, "kept as written", func(l Line) bool { return l.Fate == Verbatim })
		f.write(&w, "in the way of a takeover", func(l Line) bool { return l.Fate == Refused })
	}
	return w.Bytes()
}

func (i *Import) writeManaged(w *bytes.Buffer) {
	for _, v := range i.Config.GetVips() {
		fmt.Fprintf(w, "  VIP %s: %s, VRID %d, VRRPv%d every %s, priorities %v\n", v.GetName(),
			strings.Join(v.GetAddresses(), " "), v.GetVrid(), i.Config.GetCluster().GetVrrp().GetVersion(),
			first(v.GetAdvertInterval(), i.Config.GetCluster().GetVrrp().GetAdvertInterval()).AsDuration(), v.GetPriorities())
	}
	for _, l := range i.Config.GetListeners() {
		var at []string
		for _, b := range l.GetBinds() {
			at = append(at, bindText(b))
		}
		fmt.Fprintf(w, "  listener %s: %s, to pool %s\n", l.GetName(), strings.Join(at, " "), l.GetPool())
	}
	for _, p := range i.Config.GetPools() {
		fmt.Fprintf(w, "  pool %s: %d backends, %s\n", p.GetName(), len(p.GetBackends()), p.GetBalance())
	}
	if page := i.Config.GetCluster().GetStatsPage(); page != nil {
		fmt.Fprintf(w, "  the statistics page: port %d, %s\n", page.GetPort(), page.GetPath())
	}
}

func bindText(b *tandemv1.Bind) string {
	ports := fmt.Sprint(b.GetPort())
	if b.GetPortEnd() != 0 {
		ports += fmt.Sprint("-", b.GetPortEnd())
	}
	return first(b.GetVip(), b.GetAddress(), "*") + ":" + ports
}

// counts are the numbers of lines by fate.
func (f *File) counts() string {
	var n [Refused + 1]int
	for _, l := range f.Lines {
		n[l.Fate]++
	}
	return fmt.Sprintf("%d lines managed, %d dropped, %d kept as written, %d in the way, %d say nothing",
		n[Typed], n[Ignored], n[Verbatim], n[Refused], n[Blank])
}

// write writes the lines that are chosen, under a heading. A reason that
// follows itself is not repeated.
func (f *File) write(w *bytes.Buffer, heading string, chosen func(Line) bool) {
	last, any := "", false
	for _, l := range f.Lines {
		if !chosen(l) {
			continue
		}
		if !any {
			fmt.Fprintf(w, "  %s:\n", heading)
			any = true
		}
		text := strings.TrimRight(strings.ReplaceAll(l.Shown(), "\t", "    "), " ")
		switch l.Reason {
		case "":
			fmt.Fprintf(w, "    %4d  %s\n", l.Number, text)
		case last:
			fmt.Fprintf(w, "    %4d  %-40s  (the same)\n", l.Number, text)
		default:
			fmt.Fprintf(w, "    %4d  %-40s  %s\n", l.Number, text, l.Reason)
		}
		last = l.Reason
	}
}
