package state

import (
	"fmt"
	"slices"
	"strings"
)

// Code is the kind of an Error; callers map it to their transport's codes.
type Code int

const (
	// Invalid means that the request is wrong, whatever the state.
	Invalid Code = iota + 1
	// NotFound means that the resource named does not exist.
	NotFound
	// AlreadyExists means that the name is taken.
	AlreadyExists
	// FailedPrecondition means that another resource stands against it.
	FailedPrecondition
	// Aborted means that the etag is stale: read again and retry.
	Aborted
)

// Reasons are stable words for scripts. A reason never changes its meaning.
const (
	ReasonFieldInvalid    = "FIELD_INVALID"
	ReasonFieldUnknown    = "FIELD_UNKNOWN"
	ReasonNameInvalid     = "NAME_INVALID"
	ReasonNotFound        = "NOT_FOUND"
	ReasonETagMismatch    = "ETAG_MISMATCH"
	ReasonClusterMismatch = "CLUSTER_MISMATCH"

	ReasonClusterExists  = "CLUSTER_EXISTS"
	ReasonVipExists      = "VIP_EXISTS"
	ReasonListenerExists = "LISTENER_EXISTS"
	ReasonPoolExists     = "POOL_EXISTS"
	ReasonBackendExists  = "BACKEND_EXISTS"
	ReasonNodeExists     = "NODE_EXISTS"
	ReasonNodeReplaced   = "NODE_REPLACED"

	ReasonClusterInUse = "CLUSTER_IN_USE"
	ReasonVipInUse     = "VIP_IN_USE"
	ReasonPoolInUse    = "POOL_IN_USE"

	ReasonUnknownVip  = "UNKNOWN_VIP"
	ReasonUnknownPool = "UNKNOWN_POOL"
	ReasonUnknownNode = "UNKNOWN_NODE"

	ReasonVridTaken         = "VRID_TAKEN"
	ReasonAddressTaken      = "ADDRESS_TAKEN"
	ReasonAnchorImmutable   = "ANCHOR_IMMUTABLE"
	ReasonBindTaken         = "BIND_TAKEN"
	ReasonPortReserved      = "PORT_RESERVED"
	ReasonProtocolMismatch  = "PROTOCOL_MISMATCH"
	ReasonBalanceNeedsHTTP  = "BALANCE_NEEDS_HTTP"
	ReasonStatusRange       = "STATUS_RANGE"
	ReasonBackendsElsewhere = "BACKENDS_ELSEWHERE"
	ReasonMaxConnections    = "MAX_CONNECTIONS_TOO_LOW"
	ReasonV2IPv6            = "VRRP2_IPV6"
	ReasonPriorityGap       = "PRIORITY_GAP"
	ReasonAdvertInterval    = "ADVERT_INTERVAL"
	ReasonProfile           = "PROFILE_OR_INTERVAL"
	ReasonTrackTwice        = "TRACK_TWICE"
	ReasonTrackTimeout      = "TRACK_TIMEOUT"
	ReasonTrackNetwork      = "TRACK_NETWORK"
	ReasonTrackOwnAddress   = "TRACK_OWN_ADDRESS"
	ReasonAuthNeedsV2       = "AUTH_NEEDS_VRRP2"
	ReasonVirtualMac        = "VIRTUAL_MAC"
	ReasonFailBackDelay     = "FAIL_BACK_DELAY"
	ReasonUserTwice         = "USER_TWICE"
	ReasonPasswordRequired  = "PASSWORD_REQUIRED"
	ReasonExpired           = "EXPIRED"
)

// maxViolations bounds an error about a file in which everything is wrong.
const maxViolations = 32

// Violation is one thing that is wrong in a request.
type Violation struct {
	// Field is the path as users see it: "vip.vrid",
	// "config.pools[0].backends[2].address".
	Field string
	// Reason is one of the Reason constants.
	Reason string
	// Message says what is wrong and what would be right.
	Message string
}

// Error says why a change was refused. Nothing has changed then.
type Error struct {
	// Code is the kind of the error.
	Code Code
	// Reason is the stable word of the first violation, or of the error itself.
	Reason string
	// Name is the name of the resource that it is about; may be empty.
	Name string
	// Message is one sentence for people.
	Message string
	// Violations are the fields that are wrong, at most 32; may be empty.
	Violations []Violation
}

// Error returns all that is known, on one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Message)
	for i, v := range e.Violations {
		if i > 0 {
			b.WriteString(";")
		} else if e.Message != "" {
			b.WriteString(":")
		}
		fmt.Fprintf(&b, " %s: %s", v.Field, v.Message)
	}
	return strings.TrimPrefix(b.String(), " ")
}

func notFound(n Name) *Error {
	return &Error{Code: NotFound, Reason: ReasonNotFound, Name: n.String(),
		Message: fmt.Sprintf("%s %q does not exist", n.Kind, n.ID)}
}

func exists(n Name, reason string) *Error {
	return &Error{Code: AlreadyExists, Reason: reason, Name: n.String(),
		Message: fmt.Sprintf("%s %q exists already", n.Kind, n.ID)}
}

func stale(n Name, given, current string) *Error {
	return &Error{Code: Aborted, Reason: ReasonETagMismatch, Name: n.String(),
		Message: fmt.Sprintf("%s %q has changed meanwhile (etag %q is stale, the current one is %q): read it again and retry",
			n.Kind, n.ID, given, current)}
}

func invalid(field, reason, format string, args ...any) *Error {
	var vs violations
	vs.add(Invalid, field, reason, format, args...)
	return vs.err()
}

// violations collects what is wrong, each field once for each reason. An
// Invalid one outranks the others as the code of the whole.
type violations struct {
	code Code
	list []Violation
}

func (vs *violations) add(code Code, field, reason, format string, args ...any) {
	if vs.code == 0 || code < vs.code {
		vs.code = code
	}
	same := func(v Violation) bool { return v.Field == field && v.Reason == reason }
	if len(vs.list) < maxViolations && !slices.ContainsFunc(vs.list, same) {
		vs.list = append(vs.list, Violation{Field: field, Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
}

func (vs *violations) err() *Error {
	if len(vs.list) == 0 {
		return nil
	}
	return &Error{Code: vs.code, Reason: vs.list[0].Reason, Message: "the change was refused", Violations: vs.list}
}
