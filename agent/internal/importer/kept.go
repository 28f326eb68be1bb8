package importer

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/agent/internal/importer/haproxycfg"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Kept is what stays of a haproxy.cfg beside what Tandem writes, in lines as
// they were written.
type Kept struct {
	// Global are lines for the global section.
	Global []string
	// Defaults are lines for a defaults section before everything else.
	Defaults []string
	// Sections come last, in order.
	Sections []KeptSection
}

// KeptSection is a section that is kept whole.
type KeptSection struct {
	// Kind and Name of the section.
	Kind, Name string
	// Lines of the section, the one with its keyword first.
	Lines []string
}

// Empty tells that nothing is kept.
func (k *Kept) Empty() bool {
	return len(k.Global) == 0 && len(k.Defaults) == 0 && len(k.Sections) == 0
}

// keep collects what is kept. Kept proxies bring the defaults that they inherit
// and the log targets that they use, though Tandem manages those too.
func (r *proxyReader) keep(file *haproxycfg.File) {
	proxies := slices.ContainsFunc(r.proxies, func(p *proxy) bool { return p.why != "" })
	for i := range file.Sections {
		s := &file.Sections[i]
		switch s.Kind {
		case "global":
			for _, line := range s.Lines[1:] {
				logs := len(line.Words) > 0 && line.Words[0] == "log" && r.fate(line) == Typed
				if r.fate(line) == Verbatim || logs && proxies {
					r.kept.Global = append(r.kept.Global, line.Text)
				}
			}
		case "defaults":
			if len(r.defaults) == 1 {
				for _, line := range s.Lines[1:] {
					if r.fate(line) == Verbatim {
						r.kept.Defaults = append(r.kept.Defaults, line.Text)
					}
				}
			}
			if proxies {
				r.keepSection(s)
			}
		default:
			if r.fate(s.Lines[0]) == Verbatim {
				r.keepSection(s)
			}
		}
	}
}

func (r *proxyReader) fate(line haproxycfg.Line) Fate { return r.lines.list[line.Number-1].Fate }

func (r *proxyReader) keepSection(s *haproxycfg.Section) {
	k := KeptSection{Kind: s.Kind, Name: s.Name}
	for _, line := range s.Lines {
		if len(line.Words) > 0 {
			k.Lines = append(k.Lines, line.Text)
		}
	}
	r.kept.Sections = append(r.kept.Sections, k)
}

var (
	statsPath = regexp.MustCompile(`^/[A-Za-z0-9/._~-]{0,127}$`)
	statsUser = regexp.MustCompile(`^[A-Za-z0-9._-]{1,32}$`)
)

// facilities that the model has.
var facilities = []string{
	"kern", "user", "daemon", "auth", "syslog",
	"local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
}

// logTarget takes a log line of the global section. A second one is kept: with
// it the kept proxies log there too.
func (r *proxyReader) logTarget(words []string) verdict {
	if len(words) < 3 {
		return lacking(notInModel)
	}
	if strings.HasPrefix(words[1], "/") {
		return ignored("Tandem locks HAProxy in a directory of its own, where this socket is not: log to an address, such as 127.0.0.1:514")
	}
	target := words[1]
	if address, err := netip.ParseAddr(target); err == nil {
		target = netip.AddrPortFrom(address, 514).String()
	}
	at, err := netip.ParseAddrPort(target)
	everything := len(words) == 3 || len(words) == 4 && (words[3] == "info" || words[3] == "debug")
	if err != nil || at.Port() == 0 || !everything || !slices.Contains(facilities, words[2]) || r.config.Cluster.Logging != nil {
		return lacking(notInModel)
	}
	r.config.Cluster.Logging = &tandemv1.Logging{Target: at.String(), Facility: words[2]}
	return typed
}
