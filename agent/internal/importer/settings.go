package importer

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// verdict is what becomes of a line, before it is known whether its section can
// be managed.
type verdict struct {
	fate   Fate // Typed, Ignored or Verbatim, which here means that the model lacks it
	reason string
}

var typed = verdict{fate: Typed}

func differs(reason string) verdict { return verdict{Typed, reason} }
func ignored(reason string) verdict { return verdict{Ignored, reason} }
func lacking(reason string) verdict { return verdict{Verbatim, reason} }

// notInModel is why most lines are kept.
const notInModel = "the model lacks it"

// settings are what a proxy has, itself or from its defaults section.
type settings struct {
	mode       string
	timeouts   map[string]time.Duration
	retries    uint32
	redispatch bool
	forwardFor bool
	maxConn    uint32 // 0: not given
	logGlobal  bool
	balance    string
	hashed     string // hash-type; "": HAProxy's
	check      *tandemv1.HttpCheck
	httpCheck  bool
	server     serverSettings
	// noServers tells that default-server holds what the model lacks.
	noServers bool
}

// builtIn are HAProxy's own defaults (manual, 4.2).
func builtIn() settings {
	return settings{mode: "tcp", timeouts: map[string]time.Duration{}, retries: 3, balance: "roundrobin", server: builtInServer}
}

// inherit returns a copy that can be changed.
func (s *settings) inherit() settings {
	next := *s
	next.timeouts = make(map[string]time.Duration, len(s.timeouts))
	for name, d := range s.timeouts {
		next.timeouts[name] = d
	}
	next.check = proto.CloneOf(s.check)
	return next
}

// timeoutNames are those that the model has.
var timeoutNames = []string{"connect", "client", "server", "queue", "check", "http-request", "http-keep-alive"}

// options that say what Tandem's own file says too, or what HAProxy does anyway.
var plainOptions = map[string]verdict{
	"httplog": typed, "tcplog": typed,
	"dontlognull": ignored(always), "log-health-checks": ignored(always), "idle-close-on-response": ignored(always),
	"http-keep-alive": ignored("HAProxy's default"),
}

// line takes a line that may stand in a defaults section and in a proxy.
func (s *settings) line(words []string) verdict {
	switch words[0] {
	case "mode":
		if len(words) == 2 && (words[1] == "http" || words[1] == "tcp") {
			s.mode = words[1]
			return typed
		}
	case "log":
		if len(words) == 2 && words[1] == "global" {
			s.logGlobal = true
			return typed
		}
	case "timeout":
		return s.timeout(words)
	case "retries":
		return s.count(words, &s.retries, 0, 100)
	case "maxconn":
		return s.count(words, &s.maxConn, 1, maxConnections)
	case "balance":
		return s.balanced(words)
	case "hash-type":
		if len(words) == 2 && words[1] == "consistent" {
			s.hashed = words[1]
			return typed
		}
	case "load-server-state-from-file":
		return ignored("Tandem hands states over at a reload itself")
	case "option":
		return s.option(words[1:], true)
	case "no":
		if len(words) > 1 && words[1] == "option" {
			return s.option(words[2:], false)
		}
	case "http-check":
		return s.httpChecked(words[1:])
	case "default-server":
		if err := s.server.words(words[1:]); err != nil {
			s.noServers = true
			return lacking(err.Error())
		}
		return typed
	}
	return lacking(notInModel)
}

// maxConnections is the most that the model has.
const maxConnections = 10_000_000

func (s *settings) count(words []string, to *uint32, low, high uint64) verdict {
	if len(words) != 2 {
		return lacking(notInModel)
	}
	n, err := number(words[1], low, high)
	if err != nil {
		return lacking(err.Error())
	}
	*to = n
	return typed
}

func (s *settings) timeout(words []string) verdict {
	if len(words) != 3 || !slices.Contains(timeoutNames, words[1]) {
		return lacking(notInModel)
	}
	d, err := parseTime(words[2])
	if err != nil || d < time.Millisecond || d > 24*time.Hour {
		return lacking("the model has timeouts from 1ms to 24h")
	}
	s.timeouts[words[1]] = d
	return typed
}

// units of HAProxy's times (manual, 2.5); without one a time is in
// milliseconds.
var units = []struct {
	suffix string
	unit   time.Duration
}{
	{"us", time.Microsecond}, {"ms", time.Millisecond}, {"s", time.Second}, {"m", time.Minute},
	{"h", time.Hour}, {"d", 24 * time.Hour}, {"", time.Millisecond},
}

func parseTime(text string) (time.Duration, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || n > uint64(math.MaxInt64/u.unit) {
			break
		}
		return time.Duration(n) * u.unit, nil
	}
	return 0, fmt.Errorf("%q is no time, such as 500ms or 2s", text)
}

// balances that the model has.
var balances = []string{"roundrobin", "leastconn", "first", "random", "source", "uri"}

func (s *settings) balanced(words []string) verdict {
	if len(words) != 2 || !slices.Contains(balances, words[1]) {
		return lacking("the model lacks this way of balancing")
	}
	s.balance = words[1]
	if s.hashed == "" && (s.balance == "source" || s.balance == "uri") {
		return differs("Tandem uses hash-type consistent: some clients get another server once")
	}
	return typed
}

// option takes what follows "option" or "no option".
func (s *settings) option(words []string, on bool) verdict {
	if len(words) == 0 {
		return lacking(notInModel)
	}
	name, rest := words[0], words[1:]
	switch {
	case name == "redispatch" && len(rest) == 0:
		s.redispatch = on
		return typed
	case name == "forwardfor" && (!on || len(rest) == 0 || slices.Equal(rest, []string{"except", "127.0.0.0/8"})):
		s.forwardFor = on
		if on && len(rest) == 0 {
			return differs("Tandem leaves clients on 127.0.0.0/8 out")
		}
		return typed
	case name == "httpchk" && on:
		return s.httpChecks(rest)
	case name == "httpchk":
		s.httpCheck = false
		return typed
	case on && len(rest) == 0 && plainOptions[name].fate != Blank:
		return plainOptions[name]
	}
	return lacking(notInModel)
}

// httpChecks takes "option httpchk"; its own request is OPTIONS /.
func (s *settings) httpChecks(words []string) verdict {
	check := &tandemv1.HttpCheck{Method: "OPTIONS", Path: "/"}
	switch {
	case len(words) == 1:
		check.Path = words[0]
	case len(words) == 2 || len(words) == 3 && words[2] == "HTTP/1.0":
		check.Method, check.Path = words[0], words[1]
	case len(words) > 0:
		return lacking("the model lacks headers of a check but Host (http-check send … hdr Host)")
	}
	if s.httpCheck && s.check != nil && len(words) == 0 {
		return typed // http-check send has said it all
	}
	s.httpCheck = true
	return s.setCheck(check)
}

// setCheck replaces the request and keeps what is expected.
func (s *settings) setCheck(check *tandemv1.HttpCheck) verdict {
	if !slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, check.GetMethod()) {
		return lacking("the model has checks by GET, HEAD and OPTIONS")
	}
	if !isPath(check.GetPath()) {
		return lacking("the model has checks of paths of printable ASCII characters that begin with /")
	}
	check.ExpectedStatus = s.check.GetExpectedStatus()
	s.check = check
	return typed
}

func isPath(s string) bool {
	return strings.HasPrefix(s, "/") && len(s) <= 1024 && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
}

// httpChecked takes "http-check send" and "http-check expect" in the forms that
// the model has.
func (s *settings) httpChecked(words []string) verdict {
	if len(words) > 2 && words[0] == "expect" && words[1] == "status" && len(words) == 3 && isStatus(words[2]) {
		if s.check == nil {
			s.check = &tandemv1.HttpCheck{Method: "OPTIONS", Path: "/"}
		}
		s.check.ExpectedStatus = words[2]
		return typed
	}
	if len(words) == 0 || words[0] != "send" {
		return lacking(notInModel)
	}
	check := &tandemv1.HttpCheck{Method: "OPTIONS", Path: "/"}
	if err := parseSend(check, words[1:]); err != nil {
		return lacking(err.Error())
	}
	s.httpCheck = true
	return s.setCheck(check)
}

func parseSend(check *tandemv1.HttpCheck, words []string) error {
	version := ""
	for len(words) > 1 {
		value := words[1]
		switch words[0] {
		case "meth":
			check.Method = value
		case "uri":
			check.Path = value
		case "ver":
			version = value
		case "hdr":
			if len(words) < 3 || value != "Host" || strings.Contains(words[2], "%") {
				return errors.New("the model lacks headers of a check but Host")
			}
			check.Host = words[2]
			words = words[1:]
		default:
			return errors.New(notInModel)
		}
		words = words[2:]
	}
	// Tandem speaks HTTP/1.1 with a host and 1.0 without.
	if len(words) > 0 || (version == "HTTP/1.1") != (check.GetHost() != "") {
		return errors.New(notInModel)
	}
	return nil
}

func isStatus(s string) bool {
	low, high, ranged := strings.Cut(s, "-")
	isOne := func(s string) bool {
		n, err := number(s, 100, 599)
		return err == nil && n >= 100 && len(s) == 3
	}
	return isOne(low) && (!ranged || isOne(high) && low <= high)
}
