package config

import (
	"net/netip"
	"strconv"
	"strings"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

const (
	// accessRing is the ring buffer that requests wait in for the agent. Its
	// colon keeps it apart from the names of pools.
	accessRing = "tandem:access"
	// accessRingSize in bytes is some 100,000 lines: what a restart of the
	// agent takes, many times over.
	accessRingSize = 16 << 20
	// MaxAccessLine is the longest line in bytes that the ring forwards: what
	// fits into HAProxy's buffers (tune.bufsize) with its length before it.
	MaxAccessLine = 15 << 10
	// maxPath, maxQuery and maxHost bound what a client says, in bytes, so that
	// a JSON line stays whole: each byte may become six.
	maxPath, maxQuery, maxHost = 1000, 1000, 255
)

// accessLog is how requests are logged.
type accessLog struct {
	words  []string // of a line in each frontend; none: not at all
	server bool     // to a syslog server, which also gets what happens to servers
	format haproxyv1.LogFormat
	query  bool // with query strings
}

// renderAccessLog writes the ring, where one is needed.
//
// A node's own log goes through a ring and a stream, not in datagrams as health
// events do: a Unix socket holds ten datagrams (net.unix.max_dgram_qlen) and
// HAProxy drops what comes meanwhile, the ring holds 16 MB and waits for an
// agent that restarts. HAProxy never waits for either.
func renderAccessLog(w *writer, g *haproxyv1.Global, env Environment) accessLog {
	access := accessLog{format: g.GetLogFormat(), query: !g.GetLogWithoutQuery()}
	switch access.format {
	case haproxyv1.LogFormat_LOG_FORMAT_UNSPECIFIED, haproxyv1.LogFormat_LOG_FORMAT_JSON:
	default:
		w.fail("global.log_format", "is %v, which this agent does not know", access.format)
	}
	switch local := g.GetLogLocal(); {
	case local == haproxyv1.LocalLog_LOCAL_LOG_UNSPECIFIED && g.GetLogTarget() == "":
		return accessLog{}
	case local == haproxyv1.LocalLog_LOCAL_LOG_UNSPECIFIED:
		target, err := netip.ParseAddrPort(g.GetLogTarget())
		if err != nil || target.Port() == 0 || target.Addr().Zone() != "" {
			w.fail("global.log_target", "is %q and must be IP:port, such as 127.0.0.1:514", g.GetLogTarget())
			return accessLog{}
		}
		access.server = true
		access.words = []string{"log", quote(target.String()), "len", "8192", "format", "rfc3164"}
	case g.GetLogTarget() != "":
		w.fail("global.log_target", "is %q and must be empty with log_local", g.GetLogTarget())
	case haproxyv1.LocalLog_name[int32(local)] == "":
		w.fail("global.log_local", "is %v, which this agent does not know", local)
	default:
		access.words = []string{"log", "ring@" + accessRing, "len", strconv.Itoa(MaxAccessLine), "format", "local"}
		w.section("", "ring", accessRing)
		w.line("", "format", "local")
		w.line("", "maxlen", strconv.Itoa(MaxAccessLine))
		w.line("", "size", strconv.Itoa(accessRingSize))
		w.line("", "timeout", "connect", "5s")
		w.line("", "timeout", "server", "10s")
		w.line("access socket", "server", "agent", w.quoted("access socket", "unix@"+env.AccessSocket), "log-proto", "octet-count")
	}
	access.words = append(access.words, w.oneOf("global.log_facility", g.GetLogFacility(), facilities), "info")
	return access
}

// renderLog writes the line that logs a frontend's requests.
func (a accessLog) renderLog(w *writer) {
	if a.words != nil {
		w.line("", a.words...)
	}
}

// renderFormat writes the lines that say what a frontend's lines look like.
func (a accessLog) renderFormat(w *writer, mode haproxyv1.Mode) {
	if a.words == nil {
		return
	}
	http := mode == haproxyv1.Mode_MODE_HTTP
	switch {
	case a.format == haproxyv1.LogFormat_LOG_FORMAT_JSON && http:
		// At the time of the log line the request is gone.
		w.line("", "http-request", "capture", "req.hdr(host)", "len", strconv.Itoa(maxHost))
		w.line("", "http-request", "capture", "path", "len", strconv.Itoa(maxPath))
		format := jsonHTTP
		if a.query {
			w.line("", "http-request", "capture", "query", "len", strconv.Itoa(maxQuery))
			format = strings.Replace(format, jsonPath, jsonPath+jsonQuery, 1)
		}
		w.line("", "log-format", quote(format))
	case a.format == haproxyv1.LogFormat_LOG_FORMAT_JSON:
		w.line("", "log-format", quote(jsonTCP))
	case http && a.query:
		w.line("", "option", "httplog")
	case http:
		w.line("", "log-format", quote(httplogWithoutQuery))
	default:
		w.line("", "option", "tcplog")
	}
}

// renderServers writes the line that tells a syslog server what happens to a
// backend's servers. A log on the node holds requests only.
func (a accessLog) renderServers(w *writer) {
	if a.server {
		w.line("", a.words...)
	}
}

// httplogWithoutQuery is what option httplog stands for (configuration manual,
// 8.2.3) but for the request, %r.
const httplogWithoutQuery = `%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %hr %hs "%HM %HPO %HV"`

// Formats of JSON lines (configuration manual, 8.2.4). What a client chooses is
// escaped by the converter json, which makes ASCII of any bytes; the rest is
// numbers, names of ours and addresses. Strings are all that may be "-" or,
// like %rc, begin with a +.
const (
	jsonStart = `{"time":"%[date(0),utime(%Y-%m-%dT%H:%M:%S)].%[date(0,ms),mod(1000),add(1000),regsub(^.,)]Z",` +
		`"client":"%ci","client_port":"%cp","frontend":"%f","backend":"%b","server":"%s","tls":"%sslv",`
	jsonPath  = `"path":"%[capture.req.hdr(1),json]",`
	jsonQuery = `"query":"%[capture.req.hdr(2),json]",`
	jsonEnd   = `"connections":{"process":%ac,"frontend":%fc,"backend":%bc,"server":%sc},"retries":"%rc","queue":{"server":%sq,"backend":%bq}}`

	jsonHTTP = jsonStart +
		`"method":"%[capture.req.method,json]","host":"%[capture.req.hdr(0),json]",` + jsonPath +
		`"version":"%[capture.req.ver,json]","status":%ST,"bytes_read":%B,"bytes_uploaded":%U,"termination":"%tsc",` +
		`"timers":{"TR":%TR,"Tw":%Tw,"Tc":%Tc,"Tr":%Tr,"Ta":%Ta},` + jsonEnd
	jsonTCP = jsonStart +
		`"bytes_read":%B,"bytes_uploaded":%U,"termination":"%ts",` +
		`"timers":{"Tw":%Tw,"Tc":%Tc,"Tt":%Tt},` + jsonEnd
)
