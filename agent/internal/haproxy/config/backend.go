package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

var balances = map[haproxyv1.Balance]string{
	haproxyv1.Balance_BALANCE_ROUNDROBIN: "roundrobin",
	haproxyv1.Balance_BALANCE_LEASTCONN:  "leastconn",
	haproxyv1.Balance_BALANCE_FIRST:      "first",
	haproxyv1.Balance_BALANCE_RANDOM:     "random",
	haproxyv1.Balance_BALANCE_SOURCE:     "source",
	haproxyv1.Balance_BALANCE_URI:        "uri",
}

var methods = []string{"GET", "HEAD", "OPTIONS", "POST", "PUT"}

func renderBackend(w *writer, b *haproxyv1.Backend, env Environment, access accessLog) {
	field := "backends[" + b.GetName() + "]."
	w.section(field+"name", "backend", w.name(field+"name", b.GetName()))
	w.line("", "mode", w.mode(field+"mode", b.GetMode()))
	balance := balances[b.GetBalance()]
	if balance == "" {
		w.fail(field+"balance", "is %v, which this agent does not know", b.GetBalance())
	}
	w.line("", "balance", balance)
	// HAProxy adds servers at run time only to consistent hashes.
	w.line("", "hash-type", "consistent")
	w.line("", "timeout", "connect", w.duration(field+"connect_timeout", b.GetConnectTimeout()))
	w.line("", "timeout", "server", w.duration(field+"server_timeout", b.GetServerTimeout()))
	w.line("", "timeout", "queue", w.duration(field+"queue_timeout", b.GetQueueTimeout()))
	w.line("", "retries", w.number(field+"retries", b.GetRetries(), 0, 100))
	if b.GetRedispatch() {
		w.line("", "option", "redispatch")
	}
	w.line("", "load-server-state-from-file", "global")
	// Notices are what happens to servers; requests are logged below that, by
	// frontends, and never get here.
	w.line("event socket", "log", w.quoted("event socket", env.EventSocket), "len", "4096", "format", "rfc3164", "daemon", "notice")
	access.renderServers(w)
	if check := b.GetCheck(); check != nil {
		w.checks[b.GetName()] = renderCheck(w, field+"check.", check)
	}
	renderServers(w, field, b)
}

// renderCheck writes a backend's check and returns the words that each of its
// servers needs.
func renderCheck(w *writer, field string, c *haproxyv1.Check) string {
	w.line("", "option", "log-health-checks")
	w.line("", "timeout", "check", w.duration(field+"timeout", c.GetTimeout()))
	if h := c.GetHttp(); h != nil {
		renderHTTPCheck(w, field+"http.", h)
	}
	words := []string{
		"check", "inter", w.duration(field+"interval", c.GetInterval()),
		"rise", w.number(field+"rise", c.GetRise(), 1, 1000),
		"fall", w.number(field+"fall", c.GetFall(), 1, 1000),
	}
	if c.GetPort() != 0 {
		words = append(words, "port", w.number(field+"port", c.GetPort(), 1, math.MaxUint16))
	}
	w.line("", append([]string{"default-server"}, words...)...)
	return strings.Join(words, " ")
}

func renderHTTPCheck(w *writer, field string, h *haproxyv1.HttpCheck) {
	if !strings.HasPrefix(h.GetPath(), "/") || strings.Contains(h.GetPath(), " ") {
		w.fail(field+"path", "is %q and must begin with / and hold no space", h.GetPath())
	}
	w.line("", "option", "httpchk")
	words := []string{
		"http-check", "send",
		"meth", w.oneOf(field+"method", h.GetMethod(), methods),
		"uri", w.quoted(field+"path", h.GetPath()),
	}
	if h.GetHost() != "" {
		if err := checkText(h.GetHost()); err != nil {
			w.fail(field+"host", "%v", err)
		}
		words = append(words, "ver", "HTTP/1.1", "hdr", "Host", quoteFormat(h.GetHost()))
	}
	w.line(field+"path", words...)
	low := w.number(field+"status_min", h.GetStatusMin(), 100, 599)
	high := w.number(field+"status_max", h.GetStatusMax(), max(100, h.GetStatusMin()), 599)
	w.line("", "http-check", "expect", "status", low+"-"+high)
}

func renderServers(w *writer, field string, b *haproxyv1.Backend) {
	ids := make(map[uint32]bool, len(b.GetServers()))
	for _, s := range b.GetServers() {
		server, err := newServer(b, s)
		if err == nil && ids[server.ID] {
			err = fmt.Errorf("id %d is given twice", server.ID)
		}
		if err == nil && !w.server(server) {
			err = errors.New("name is given twice")
		}
		if err != nil {
			w.fail(field+"servers["+s.GetName()+"]", "%v", err)
			return
		}
		ids[server.ID] = true
	}
}

func newServer(b *haproxyv1.Backend, s *haproxyv1.Server) (Server, error) {
	address, err := netip.ParseAddr(s.GetAddress())
	switch {
	case !IsToken(s.GetName()):
		return Server{}, fmt.Errorf("name is %q and must be 1 to %d of A-Z a-z 0-9 _ . : -", s.GetName(), maxName)
	case s.GetBackend() != b.GetName():
		return Server{}, fmt.Errorf("backend is %q and must be %q", s.GetBackend(), b.GetName())
	case s.GetId() < 1 || s.GetId() > math.MaxInt32:
		return Server{}, fmt.Errorf("id is %d and must be 1 to %d", s.GetId(), math.MaxInt32)
	case err != nil || address.Zone() != "" || address.IsUnspecified():
		// To HAProxy 0.0.0.0 is the address that the client asked for.
		return Server{}, fmt.Errorf("address is %q and must be the IP address of a machine, such as 192.0.2.20", s.GetAddress())
	case s.GetPort() < 1 || s.GetPort() > math.MaxUint16:
		return Server{}, fmt.Errorf("port is %d and must be 1 to 65535", s.GetPort())
	case s.GetWeight() > 256:
		return Server{}, fmt.Errorf("weight is %d and must be 0 to 256", s.GetWeight())
	case s.GetMaxConnections() > maxConnections:
		return Server{}, fmt.Errorf("max_connections is %d and must be at most %d", s.GetMaxConnections(), maxConnections)
	}
	return Server{
		Key:            Key{Backend: b.GetName(), Name: s.GetName()},
		ID:             s.GetId(),
		Address:        netip.AddrPortFrom(address.Unmap(), uint16(s.GetPort())),
		Weight:         s.GetWeight(),
		MaxConnections: s.GetMaxConnections(),
		Maintenance:    s.GetMaintenance(),
		Backup:         s.GetBackup(),
	}, nil
}

// AddWords are what follows the name in the command that adds the server, with
// everything that a server line would inherit. The weight is 0: see plan.
func (s *Server) AddWords(check string) string {
	words := s.Address.String() + " id " + strconv.FormatUint(uint64(s.ID), 10) + " weight 0"
	if check != "" {
		words += " " + check
	}
	if s.MaxConnections != 0 {
		words += " maxconn " + strconv.FormatUint(uint64(s.MaxConnections), 10)
	}
	if s.Backup {
		words += " backup"
	}
	return words
}
