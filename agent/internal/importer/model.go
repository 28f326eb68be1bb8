package importer

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// check finds what a section lacks as a whole.
func (r *proxyReader) check(p *proxy) {
	s := &p.settings
	if !resourceID.MatchString(p.section.Name) {
		p.lack("the model has names of 1 to 63 letters, digits, _, . or -")
	}
	if p.defaults != nil && p.defaults.lacks && len(r.defaults) > 1 {
		p.lack("its defaults section (line %d) holds what the model lacks", p.defaults.section.Lines[0].Number)
	}
	need := func(names ...string) {
		for _, name := range names {
			if s.timeouts[name] == 0 {
				p.lack("it has no timeout %s, and the model always has one", name)
			}
		}
	}
	if p.stats != nil {
		r.checkStats(p)
		return
	}
	if p.section.Kind != "backend" {
		need("client")
		if _, ok := modelBinds(p.binds, nil); !ok {
			p.lack("the model lacks binds of every IPv6 address alone")
		}
		switch {
		case len(p.binds) == 0:
			p.lack("it has no bind")
		case p.section.Kind == "frontend" && p.target == "":
			p.lack("it has no default_backend")
		case p.section.Kind == "listen" && p.target != "":
			p.lack("the model lacks servers beside a default_backend")
		}
	}
	if p.section.Kind != "frontend" {
		need("connect", "server")
		if s.balance == "uri" && s.mode == "tcp" {
			p.lack("the model has balance uri with mode http only")
		}
		if _, err := p.pool.check(s); err != nil {
			p.lack("%v", err)
		}
	}
}

// conclude gives the lines of a proxy their fates, and the model its resources.
func (r *proxyReader) conclude(p *proxy) {
	for n, line := range p.section.Lines {
		v := p.verdicts[n]
		if p.why != "" && v.fate != Blank && v.fate < Verbatim {
			v = verdict{fate: Verbatim}
			if n == 0 {
				v.reason = "kept whole: " + p.why
			}
		}
		r.lines.set(line.Number, v.fate, v.reason)
	}
	if p.why != "" {
		return
	}
	if p.stats != nil {
		p.stats.page.Port = proto.Uint32(p.binds[0].first)
		if address := p.binds[0].address; !address.IsUnspecified() {
			p.stats.page.Address = address.String()
		}
		r.config.Cluster.StatsPage = p.stats.page
		return
	}
	if p.section.Kind != "frontend" {
		r.config.Pools = append(r.config.Pools, r.modelPool(p))
	}
	if p.section.Kind != "backend" {
		r.config.Listeners = append(r.config.Listeners, r.modelListener(p))
	}
}

func (r *proxyReader) modelPool(p *proxy) *tandemv1.Pool {
	s := &p.settings
	check, _ := p.pool.check(s) // has worked before
	m := &tandemv1.Pool{
		Name:           p.section.Name,
		Protocol:       s.mode,
		Balance:        s.balance,
		Check:          check,
		ConnectTimeout: duration(s.timeouts["connect"]),
		ServerTimeout:  duration(s.timeouts["server"]),
		QueueTimeout:   duration(first(s.timeouts["queue"], s.timeouts["connect"])),
		Retries:        proto.Uint32(s.retries),
		Redispatch:     proto.Bool(s.redispatch),
		Backends:       p.pool.servers,
	}
	return m
}

func (r *proxyReader) modelListener(p *proxy) *tandemv1.Listener {
	s := &p.settings
	binds, _ := modelBinds(p.binds, r.vips) // has worked before
	m := &tandemv1.Listener{
		Name:          p.section.Name,
		Protocol:      s.mode,
		Binds:         binds,
		Pool:          first(p.target, p.section.Name),
		ClientTimeout: duration(s.timeouts["client"]),
	}
	limit := first(s.maxConn, r.config.GetCluster().GetMaxConnections())
	if limit != 0 {
		m.MaxConnections = proto.Uint32(limit)
	} else {
		r.lines.set(p.section.Lines[0].Number, Typed, "no maxconn is given: Tandem's own limit is 3000 connections")
	}
	if s.mode == "http" {
		// What HAProxy takes instead of a timeout that is not given.
		request := first(s.timeouts["http-request"], s.timeouts["client"])
		m.HttpRequestTimeout = duration(request)
		m.HttpKeepAliveTimeout = duration(first(s.timeouts["http-keep-alive"], request))
		m.ForwardedFor = proto.Bool(s.forwardFor)
	}
	return m
}

func first[T comparable](values ...T) T {
	var zero T
	for _, v := range values {
		if v != zero {
			return v
		}
	}
	return zero
}

// share moves what the first listener or pool has up to the cluster, and out of
// those that have the same: it is what the defaults section was for.
func (r *proxyReader) share() {
	shared := &tandemv1.ProxySettings{}
	var all []protoreflect.Message
	for _, l := range r.config.Listeners {
		all = append(all, l.ProtoReflect())
	}
	for _, p := range r.config.Pools {
		all = append(all, p.ProtoReflect())
	}
	to := shared.ProtoReflect()
	fields := to.Descriptor().Fields()
	for n := range fields.Len() {
		field := fields.Get(n)
		for _, m := range all {
			own := m.Descriptor().Fields().ByName(field.Name())
			if own == nil || !m.Has(own) {
				continue
			}
			if !to.Has(field) {
				to.Set(field, m.Get(own))
			}
			if to.Get(field).Equal(m.Get(own)) {
				m.Clear(own)
			}
		}
	}
	if proto.Size(shared) > 0 {
		r.config.Cluster.Defaults = shared
	}
	r.limit()
	sortedByName(r.config.Listeners)
	sortedByName(r.config.Pools)
}

// limit gives the process room for what a listener may have: without a limit of
// its own HAProxy takes what the system allows.
func (r *proxyReader) limit() {
	const byDefault = 8000
	c := r.config.Cluster
	most := c.GetDefaults().GetMaxConnections()
	for _, l := range r.config.Listeners {
		most = max(most, l.GetMaxConnections())
	}
	if most > max(byDefault, c.GetMaxConnections()) {
		c.MaxConnections = proto.Uint32(most)
	}
}

// statsReader reads a statistics page.
type statsReader struct {
	page    *tandemv1.StatsPage
	enabled bool
}

// line takes what follows "stats".
func (s *statsReader) line(words []string) verdict {
	switch {
	case len(words) == 1 && words[0] == "enable":
		s.enabled = true
		return typed
	case len(words) != 2:
		return lacking(notInModel)
	}
	switch value := words[1]; words[0] {
	case "uri":
		if !statsPath.MatchString(value) {
			return lacking("the model has paths of letters, digits and /._~-")
		}
		s.page.Path, s.enabled = value, true
	case "realm":
		if len(value) > 64 || strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c > '~' || c == '"' || c == '\\' }) {
			return lacking("the model has realms of 64 printable characters without quotes and backslashes")
		}
		s.page.Realm = value
	case "refresh":
		return s.refresh(value)
	case "auth":
		user, password, ok := strings.Cut(value, ":")
		if !ok || password == "" || len(password) > 72 || !statsUser.MatchString(user) ||
			strings.ContainsFunc(password, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return lacking("the model has users of 1 to 32 letters, digits or ._- with passwords of at most 72 bytes")
		}
		s.page.Users = append(s.page.Users, &tandemv1.StatsUser{Name: user, Password: password})
	default:
		return lacking(notInModel)
	}
	return typed
}

func (s *statsReader) refresh(value string) verdict {
	// Other than timeouts this is in seconds without a unit.
	if _, err := strconv.Atoi(value); err == nil {
		value += "s"
	}
	d, err := parseTime(value)
	if err != nil || d < time.Second || d > time.Hour {
		return lacking("the model has refresh intervals from 1s to 1h")
	}
	s.page.Refresh = durationpb.New(d)
	return typed
}

// checkStats holds a statistics page to what the model has: one page, on a port
// of its own, for named users.
func (r *proxyReader) checkStats(p *proxy) {
	s := p.stats
	switch {
	case p.settings.mode != "http":
		p.lack("the statistics page needs mode http")
	case !s.enabled:
		p.lack("its statistics page is not enabled")
	case len(p.binds) != 1 || p.binds[0].last != p.binds[0].first || p.binds[0].address == netip.IPv6Unspecified():
		p.lack("the model has a statistics page on one port of one address or of all")
	case len(p.pool.servers) > 0 || p.target != "":
		p.lack("the model has a statistics page on a port of its own")
	case len(s.page.GetUsers()) == 0:
		p.lack("the model shows the statistics page to named users only")
	}
	for _, other := range r.proxies {
		if other != p && other.stats != nil && other.why == "" && p.why == "" && other.section.Lines[0].Number < p.section.Lines[0].Number {
			p.lack("the model has one statistics page")
		}
	}
	if s.page.Path == "" {
		s.page.Path = "/haproxy"
		p.lack("the model has the statistics page at a path of its own (stats uri)")
	}
}
