package config

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

const (
	// hardStop ends an old worker whose clients never leave.
	hardStop = 15 * time.Minute
	// maxOldWorkers ends the oldest worker when reloads come faster than
	// clients leave. Each costs the memory of a whole HAProxy.
	maxOldWorkers = 16
	// StatsSessions is how many may use the socket for people at a time, the agent
	// among them: with HAProxy's own 10 (management guide, 9.3) a few that are left
	// open would keep the agent from hearing that the worker goes on.
	StatsSessions = 100
	// maxConnections is the most that a message may ask for.
	maxConnections = 10_000_000
	// statsName cannot be the name of a listener, which has no colon.
	statsName = "tandem:stats"
)

var facilities = []string{
	"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "auth2", "ftp",
	"ntp", "audit", "alert", "cron2", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
}

// render writes the whole file but its first lines.
func render(w *writer, c *haproxyv1.Config, env Environment) {
	access := renderGlobal(w, c.GetGlobal(), env)
	if env.Kept != nil {
		renderKeptFirst(w, env.Kept)
	}
	if stats := c.GetGlobal().GetStats(); stats != nil {
		renderStats(w, stats, env)
	}
	seen := map[string]bool{statsName: true}
	for _, f := range c.GetFrontends() {
		if seen[f.GetName()] {
			w.fail("frontends["+f.GetName()+"].name", "is given twice")
		}
		seen[f.GetName()] = true
		renderFrontend(w, f, env, access)
	}
	for _, b := range c.GetBackends() {
		if w.backends[b.GetName()] {
			w.fail("backends["+b.GetName()+"].name", "is given twice")
		}
		w.backends[b.GetName()] = true
		renderBackend(w, b, env, access)
	}
	for _, f := range c.GetFrontends() {
		if !w.backends[f.GetDefaultBackend()] {
			w.fail("frontends["+f.GetName()+"].default_backend", "is %q, which is not among the backends", f.GetDefaultBackend())
		}
	}
	if env.Kept != nil {
		renderKept(w, env.Kept, seen)
	}
}

// renderGlobal goes on with the global section that file begins. It returns
// how requests are logged.
func renderGlobal(w *writer, g *haproxyv1.Global, env Environment) accessLog {
	if g == nil {
		w.fail("global", "is missing")
		return accessLog{}
	}
	w.line("global.max_connections", "maxconn", w.number("global.max_connections", g.GetMaxConnections(), 1, maxConnections))
	w.line("", "log-tag", "haproxy")
	w.line("", "hard-stop-after", milliseconds(hardStop))
	w.line("", "mworker-max-reloads", strconv.Itoa(maxOldWorkers))
	w.line("", "stats", "maxconn", strconv.Itoa(StatsSessions))
	w.line("stats socket", "stats", "socket", w.quoted("stats socket", env.StatsSocket), "mode", "600", "level", "admin")
	w.line("state file", "server-state-file", w.quoted("state file", env.StateFile))
	if env.Chroot != "" {
		w.line("chroot", "chroot", w.quoted("chroot", env.Chroot))
	}
	if env.User != "" {
		w.line("user", "user", w.quoted("user", env.User))
	}
	if env.Group != "" {
		w.line("group", "group", w.quoted("group", env.Group))
	}
	return renderAccessLog(w, g, env)
}

func renderStats(w *writer, s *haproxyv1.Stats, env Environment) {
	w.section("", "userlist", statsName)
	seen := map[string]bool{}
	for _, u := range s.GetUsers() {
		field := "global.stats.users[" + u.GetName() + "]"
		if u.GetName() == "" || seen[u.GetName()] {
			w.fail(field, "is empty or given twice")
		}
		seen[u.GetName()] = true
		if u.GetPasswordHash() == "" {
			w.fail(field+".password_hash", "is missing")
		}
		w.line(field, "user", w.quoted(field+".name", u.GetName()), "password", w.quoted(field+".password_hash", u.GetPasswordHash()))
	}
	if s.GetRealm() == "" || strings.ContainsAny(s.GetRealm(), `"\`) {
		w.fail("global.stats.realm", `is %q and must not be empty nor hold " or \`, s.GetRealm())
	}
	if !strings.HasPrefix(s.GetPath(), "/") || strings.ContainsAny(s.GetPath(), " ?#") {
		w.fail("global.stats.path", "is %q and must begin with / and hold no space, ? or #", s.GetPath())
	}
	w.section("", "frontend", statsName)
	w.line("", "mode", "http")
	renderBind(w, "global.stats.bind", s.GetBind(), statsName, env)
	w.line("", "timeout", "client", "1m")
	w.line("", "timeout", "http-request", "10s")
	w.line("", "option", "dontlognull")
	w.line("", "option", "idle-close-on-response")
	// An empty list lets nobody in.
	w.line("global.stats.realm", "http-request", "auth", "realm", w.quoted("global.stats.realm", s.GetRealm()),
		"unless", "{", "http_auth("+statsName+")", "}")
	w.line("", "stats", "enable")
	w.line("global.stats.path", "stats", "uri", w.quoted("global.stats.path", s.GetPath()))
	if s.GetRefresh() != nil {
		w.line("global.stats.refresh", "stats", "refresh", w.duration("global.stats.refresh", s.GetRefresh()))
	}
}

func renderFrontend(w *writer, f *haproxyv1.Frontend, env Environment, access accessLog) {
	field := "frontends[" + f.GetName() + "]."
	w.section(field+"name", "frontend", w.name(field+"name", f.GetName()))
	w.line("", "mode", w.mode(field+"mode", f.GetMode()))
	if len(f.GetBinds()) == 0 {
		w.fail(field+"binds", "are missing")
	}
	for i, b := range f.GetBinds() {
		renderBind(w, fmt.Sprintf("%sbinds[%d]", field, i), b, f.GetName(), env)
	}
	w.line("", "maxconn", w.number(field+"max_connections", f.GetMaxConnections(), 1, maxConnections))
	w.line("", "timeout", "client", w.duration(field+"client_timeout", f.GetClientTimeout()))
	w.line("", "option", "dontlognull")
	access.renderLog(w)
	if f.GetMode() == haproxyv1.Mode_MODE_HTTP {
		// Without idle-close-on-response a reload closes connections that a
		// client is about to use again.
		w.line("", "option", "idle-close-on-response")
		w.line("", "timeout", "http-request", w.duration(field+"http_request_timeout", f.GetHttpRequestTimeout()))
		w.line("", "timeout", "http-keep-alive", w.duration(field+"http_keep_alive_timeout", f.GetHttpKeepAliveTimeout()))
		if f.GetForwardedFor() {
			w.line("", "option", "forwardfor", "except", "127.0.0.0/8")
		}
	}
	access.renderFormat(w, f.GetMode())
	w.line("", "default_backend", w.name(field+"default_backend", f.GetDefaultBackend()))
}

// renderBind writes the lines of one bind.
func renderBind(w *writer, field string, b *haproxyv1.Bind, frontend string, env Environment) {
	ports := w.number(field+".port", b.GetPort(), 1, math.MaxUint16)
	last := b.GetPort()
	if end := b.GetPortEnd(); end != 0 {
		last = end
		ports += "-" + w.number(field+".port_end", end, b.GetPort(), math.MaxUint16)
	}
	if w.err != nil {
		return
	}
	bind := Bind{Frontend: frontend, First: uint16(b.GetPort()), Last: uint16(last), Floating: b.GetFloating()}
	if b.GetAddress() == "" {
		w.binds = append(w.binds, bind)
		// Connections to a VIP outlive its move to another node only if they may go on
		// to speak from its address.
		w.line(field, "bind", quote("*:"+ports), "transparent")
		if !env.NoIPv6 {
			w.line(field, "bind", quote("[::]:"+ports), "v6only", "transparent")
		}
		return
	}
	address, err := netip.ParseAddr(b.GetAddress())
	if err != nil || address.Zone() != "" {
		w.fail(field+".address", "is %q and must be an IP address, such as 192.0.2.10", b.GetAddress())
		return
	}
	bind.Address = address.Unmap()
	w.binds = append(w.binds, bind)
	w.line(field, bind.words(ports)...)
}

// words of the line of a bind with an address.
func (b *Bind) words(ports string) []string {
	words := []string{"bind", quote(host(b.Address) + ":" + ports)}
	if b.Address.Is6() {
		words = append(words, "v6only")
	}
	if b.Floating {
		// The address may live on another node now: transparent lets HAProxy
		// bind it all the same, without a sysctl.
		words = append(words, "transparent")
	}
	return words
}

// RenderBinds renders a file that does nothing but bind addresses, to have
// HAProxy say why it cannot. Every bind has an address.
func RenderBinds(binds []Bind) []byte {
	w := newWriter()
	for i := range binds {
		b := &binds[i]
		if i == 0 || b.Frontend != binds[i-1].Frontend {
			w.section("", "frontend", b.Frontend)
			w.line("", "mode", "tcp")
			w.line("", "timeout", "client", "1s")
		}
		w.line("", b.words(strconv.Itoa(int(b.First)))...)
	}
	return w.text
}

// host is the address as it stands before a colon.
func host(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

func (w *writer) mode(field string, m haproxyv1.Mode) string {
	switch m {
	case haproxyv1.Mode_MODE_HTTP:
		return "http"
	case haproxyv1.Mode_MODE_TCP:
		return "tcp"
	default:
		w.fail(field, "is %v, which this agent does not know", m)
		return ""
	}
}

// duration rounds up to a millisecond, HAProxy's unit.
func (w *writer) duration(field string, d *durationpb.Duration) string {
	const longest = 24 * 24 * time.Hour // HAProxy's timers end at 2^31 ms
	switch {
	case d == nil:
		w.fail(field, "is missing")
	case d.CheckValid() != nil, d.AsDuration() <= 0, d.AsDuration() > longest:
		w.fail(field, "is %v and must be 1ms to %v", d.AsDuration(), longest)
	}
	return milliseconds(d.AsDuration())
}

func milliseconds(d time.Duration) string {
	n := (d + time.Millisecond - 1) / time.Millisecond
	return strconv.FormatInt(int64(n), 10) + "ms"
}
