package runtime

import (
	"strconv"
	"strings"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
)

// EventKind is what a log line says of a server.
type EventKind int

// Kinds of events.
const (
	// EventOther is something that only reading the state tells.
	EventOther EventKind = iota
	// EventUp: checks pass.
	EventUp
	// EventDown: checks fail.
	EventDown
	// EventCheckFailed: one check failed, which need not change the state.
	EventCheckFailed
	// EventCheckPassed: one check passed, likewise.
	EventCheckPassed
)

// Event is one line of the log about a server.
type Event struct {
	config.Key
	Kind EventKind
	// PID is the worker that says so.
	PID int
	// Reason is what the check found, in HAProxy's words; may be empty.
	Reason string
}

// ParseEvent parses one datagram of the log. It reports false for lines that
// are not about a server.
func ParseEvent(datagram []byte) (Event, bool) {
	_, line, found := strings.Cut(strings.TrimSpace(string(datagram)), " haproxy[")
	pid, message, found2 := strings.Cut(line, "]: ")
	if !found || !found2 {
		return Event{}, false
	}
	var e Event
	var err error
	if e.PID, err = strconv.Atoi(pid); err != nil {
		return Event{}, false
	}
	message, isCheck := strings.CutPrefix(message, "Health check for ")
	for _, prefix := range []string{"backup server ", "server ", "Backup Server ", "Server "} {
		rest, ok := strings.CutPrefix(message, prefix)
		if !ok {
			continue
		}
		name, what, _ := strings.Cut(rest, " ")
		e.Backend, e.Name, ok = strings.Cut(name, "/")
		if !ok || !config.IsToken(e.Backend) || !config.IsToken(e.Name) {
			return Event{}, false
		}
		e.Kind, e.Reason = eventKind(isCheck, what), eventReason(what)
		return e, true
	}
	return Event{}, false
}

func eventKind(isCheck bool, what string) EventKind {
	switch {
	case isCheck && strings.HasPrefix(what, "failed"):
		return EventCheckFailed
	case isCheck && strings.HasPrefix(what, "succeeded"):
		return EventCheckPassed
	case isCheck:
		return EventOther
	case what == "is UP", strings.HasPrefix(what, "is UP."), strings.HasPrefix(what, "is UP,"):
		return EventUp
	case strings.HasPrefix(what, "is DOWN"):
		return EventDown
	default:
		return EventOther
	}
}

// eventReason cuts the reason out of
// `failed, reason: Layer4 timeout, info: "…", check duration: 1ms, status: …`.
func eventReason(what string) string {
	_, rest, found := strings.Cut(what, "reason: ")
	if !found {
		return ""
	}
	reason, _, _ := strings.Cut(rest, ", check duration:")
	return reason
}
