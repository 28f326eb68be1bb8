package importer

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/agent/internal/importer/haproxycfg"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// proxyReader reads a haproxy.cfg. A proxy of which the model lacks one line is
// kept whole: half of it would be another proxy.
type proxyReader struct {
	lines   *lines
	vips    []*tandemv1.Vip
	config  *tandemv1.ClusterConfig
	kept    Kept
	proxies []*proxy

	defaults []*defaults // in order
}

// defaults is a defaults section.
type defaults struct {
	section  *haproxycfg.Section
	settings settings
	lacks    bool // the model lacks a line of it
}

// proxy is a frontend, backend or listen section.
type proxy struct {
	section  *haproxycfg.Section
	defaults *defaults // nil: none
	settings settings
	verdicts []verdict // of the section's lines
	binds    []bind
	pool     pool
	target   string // default_backend
	stats    *statsReader
	why      string // it cannot be managed; empty: it can
}

// resourceID is what a listener, pool or backend can be called.
var resourceID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// readHAProxy reads the file.
func readHAProxy(source Source, vips []*tandemv1.Vip) (*proxyReader, error) {
	file, err := haproxycfg.Parse(source.Text)
	if err != nil {
		return nil, err
	}
	r := &proxyReader{
		lines: newLines(source.Text), vips: vips,
		config: &tandemv1.ClusterConfig{Cluster: &tandemv1.Cluster{}},
	}
	for i := range file.Sections {
		r.section(&file.Sections[i])
	}
	r.settle()
	for _, p := range r.proxies {
		r.conclude(p)
	}
	r.share()
	r.keep(file)
	return r, nil
}

func (r *proxyReader) section(s *haproxycfg.Section) {
	switch s.Kind {
	case "global":
		for _, line := range s.Lines {
			if line.Number == s.Lines[0].Number {
				r.lines.set(line.Number, Typed, "")
				continue
			}
			r.judge(line, r.global)
		}
	case "defaults":
		r.readDefaults(s)
	case "frontend", "backend", "listen":
		r.readProxy(s)
	default:
		for _, line := range s.Lines {
			r.judge(line, func([]string) verdict { return lacking(notInModel) })
		}
	}
}

// judge gives a line outside proxies its fate.
func (r *proxyReader) judge(line haproxycfg.Line, how func([]string) verdict) verdict {
	if len(line.Words) == 0 {
		return verdict{}
	}
	if reason := unreliable(line); reason != "" {
		r.lines.set(line.Number, Refused, reason)
		return verdict{Refused, reason}
	}
	v := how(line.Words)
	r.lines.set(line.Number, v.fate, v.reason)
	return v
}

// unreliable tells why a line does not mean the same to Tandem's HAProxy.
func unreliable(line haproxycfg.Line) string {
	for _, name := range line.Variables {
		if !strings.HasPrefix(name, "HAPROXY_") && !strings.HasPrefix(name, ".") {
			return fmt.Sprintf("HAProxy fills in the variable %s from its environment, which Tandem's HAProxy does not have: write its value", name)
		}
	}
	return ""
}

// ownGlobals are global settings that Tandem has its own of.
var ownGlobals = map[string]string{
	"daemon":              "Tandem runs HAProxy in a session of its own",
	"master-worker":       "Tandem always runs a master and workers",
	"mworker-max-reloads": "Tandem has its own limit of old workers",
	"pidfile":             "Tandem keeps the process id itself",
	"chroot":              "Tandem locks the workers in a directory of its own",
	"user":                "Tandem has whom the workers run as in the agent's configuration file (haproxy.user)",
	"group":               "Tandem has whom the workers run as in the agent's configuration file (haproxy.group)",
	"uid":                 "Tandem has whom the workers run as in the agent's configuration file (haproxy.user)",
	"gid":                 "Tandem has whom the workers run as in the agent's configuration file (haproxy.group)",
	"description":         "Tandem names the file's structure there",
	"node":                "Tandem uses the node's id",
	"log-tag":             "Tandem logs as haproxy",
	"hard-stop-after":     "Tandem ends old workers after 15 minutes",
	"server-state-file":   "Tandem hands states over at a reload itself",
	"server-state-base":   "Tandem hands states over at a reload itself",
	"ulimit-n":            "HAProxy works it out from maxconn",
}

func (r *proxyReader) global(words []string) verdict {
	if reason := ownGlobals[words[0]]; reason != "" {
		return ignored(reason)
	}
	switch words[0] {
	case "stats":
		return ignored("Tandem has a socket of its own: RUN_DIR/haproxy/stats.sock")
	case "maxconn":
		var n uint32
		v := (&settings{}).count(words, &n, 1, maxConnections)
		if v.fate == Typed {
			r.config.Cluster.MaxConnections = proto.Uint32(n)
		}
		return v
	case "log":
		return r.logTarget(words)
	}
	return lacking(notInModel)
}

func (r *proxyReader) readDefaults(s *haproxycfg.Section) {
	d := &defaults{section: s, settings: builtIn()}
	if base := r.base(s); base != nil && s.From != "" {
		d.settings, d.lacks = base.settings.inherit(), base.lacks
	}
	for n, line := range s.Lines {
		if n == 0 {
			r.lines.set(line.Number, Typed, "")
			continue
		}
		v := r.judge(line, d.settings.line)
		d.lacks = d.lacks || v.fate >= Verbatim
	}
	r.defaults = append(r.defaults, d)
}

// base returns the defaults section of a section: the one that it names, else
// the last one.
func (r *proxyReader) base(s *haproxycfg.Section) *defaults {
	for n := len(r.defaults) - 1; n >= 0; n-- {
		if s.From == "" || r.defaults[n].section.Name == s.From {
			return r.defaults[n]
		}
	}
	return nil
}

func (r *proxyReader) readProxy(s *haproxycfg.Section) {
	p := &proxy{section: s, settings: builtIn(), verdicts: make([]verdict, len(s.Lines))}
	if p.defaults = r.base(s); p.defaults != nil {
		p.settings = p.defaults.settings.inherit()
	}
	p.verdicts[0] = typed
	for n, line := range s.Lines {
		if n == 0 || len(line.Words) == 0 {
			continue
		}
		v := p.line(line.Words)
		if reason := unreliable(line); reason != "" {
			v = verdict{Refused, reason}
		} else if len(line.Variables) > 0 {
			v = lacking("the model lacks variables")
		}
		p.verdicts[n] = v
		if v.fate >= Verbatim {
			p.lack("line %d: %s", line.Number, v.reason)
		}
	}
	r.proxies = append(r.proxies, p)
}

// lack keeps the first reason for which the proxy cannot be managed.
func (p *proxy) lack(format string, args ...any) {
	if p.why == "" {
		p.why = fmt.Sprintf(format, args...)
	}
}

// line takes a line of a proxy.
func (p *proxy) line(words []string) verdict {
	accepts, serves := p.section.Kind != "backend", p.section.Kind != "frontend"
	switch {
	case words[0] == "bind" && accepts:
		binds, v := parseBind(words)
		p.binds = append(p.binds, binds...)
		return v
	case words[0] == "default_backend" && accepts && len(words) == 2:
		p.target = words[1]
		return typed
	case words[0] == "server" && serves:
		return p.pool.server(words, &p.settings)
	case words[0] == "stats" && accepts:
		if p.stats == nil {
			p.stats = &statsReader{page: &tandemv1.StatsPage{}}
		}
		return p.stats.line(words[1:])
	}
	return p.settings.line(words)
}

// settle finds out which proxies can be managed. A listener needs a pool that
// can, so one that is kept may take others with it.
func (r *proxyReader) settle() {
	for n, p := range r.proxies {
		r.check(p)
		r.checkBinds(p, r.proxies[:n])
	}
	for changed := true; changed; {
		changed = false
		for _, p := range r.proxies {
			if p.why == "" && p.target != "" && !r.managesPool(p.target, p.settings.mode) {
				p.lack("its backend %s is kept as written", p.target)
				changed = true
			}
		}
	}
}

// checkBinds holds that a port belongs to one listener. HAProxy would give it
// to the more precise address.
func (r *proxyReader) checkBinds(p *proxy, before []*proxy) {
	for _, other := range before {
		for _, a := range other.binds {
			if other.why == "" && slices.ContainsFunc(p.binds, a.meets) {
				p.lack("the model gives port %d of every address to %s", a.first, other.section.Name)
			}
		}
	}
}

func (r *proxyReader) managesPool(name, mode string) bool {
	for _, p := range r.proxies {
		if p.section.Kind == "backend" && p.section.Name == name {
			return p.why == "" && p.settings.mode == mode
		}
	}
	return false
}
