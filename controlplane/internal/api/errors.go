package api

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/tandem-lb/tandem/controlplane/internal/auth"
	"github.com/tandem-lb/tandem/controlplane/internal/events"
	"github.com/tandem-lb/tandem/controlplane/internal/fleet"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

// errorDomain is the domain of every google.rpc.ErrorInfo.
const errorDomain = "tandem"

// Reasons of errors that arise here. Those of refused changes are state's.
const (
	reasonTokenMissing     = "TOKEN_MISSING"
	reasonTokenInvalid     = "TOKEN_INVALID"
	reasonCertificate      = "CERTIFICATE_REQUIRED"
	reasonExpired          = "CERTIFICATE_EXPIRED"
	reasonNotYetValid      = "CERTIFICATE_NOT_YET_VALID"
	reasonNodeRemoved      = "NODE_REMOVED"
	reasonNodeAway         = "NODE_DISCONNECTED"
	reasonNodeLost         = "NODE_LOST"
	reasonNodeFailed       = "NODE_FAILED"
	reasonNoHolder         = "NO_HOLDER"
	reasonNoTaker          = "NO_TAKER"
	reasonStep             = "STEP_OUT_OF_TURN"
	reasonNodesNotReady    = "NODES_NOT_READY"
	reasonMethodDenied     = "METHOD_DENIED"
	reasonRequestTooLarge  = "REQUEST_TOO_LARGE"
	reasonPageTokenInvalid = "PAGE_TOKEN_INVALID"
	reasonPageTokenExpired = "PAGE_TOKEN_EXPIRED"
	reasonResumeInvalid    = "RESUME_TOKEN_INVALID"
	reasonEventsExpired    = "EVENTS_EXPIRED"
	reasonRevisionGone     = "REVISION_GONE"
	reasonTokenNotFound    = "TOKEN_NOT_FOUND"
	reasonLastToken        = "LAST_TOKEN"
	reasonCSRInvalid       = "CSR_INVALID"
	reasonBodyInvalid      = "BODY_INVALID"
	reasonRouteUnknown     = "ROUTE_UNKNOWN"
	reasonSuperseded       = "SESSION_SUPERSEDED"
	reasonProtocol         = "PROTOCOL_BROKEN"
	reasonStalled          = "READER_STALLED"
	reasonStopping         = "STOPPING"
	reasonWaiting          = "RESTORE_UNCONFIRMED"
	reasonNotWaiting       = "NOTHING_TO_CONFIRM"
	reasonNotWritable      = "STORE_NOT_WRITABLE"
	reasonBusy             = "BUSY"
	reasonCanceled         = "CANCELED"
	reasonDeadline         = "DEADLINE_EXCEEDED"
	reasonInternal         = "INTERNAL"
)

// failure is an error of this package: a code and a stable reason.
type failure struct {
	code     codes.Code
	reason   string
	err      error
	metadata map[string]string // for programs, beside the reason
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(code codes.Code, reason, format string, args ...any) error {
	return &failure{code: code, reason: reason, err: fmt.Errorf(format, args...)}
}

// known maps the errors of other packages.
var known = []struct {
	err    error
	code   codes.Code
	reason string
}{
	{auth.ErrInvalid, codes.Unauthenticated, reasonTokenInvalid},
	{auth.ErrNotFound, codes.NotFound, reasonTokenNotFound},
	{auth.ErrLast, codes.FailedPrecondition, reasonLastToken},
	{pki.ErrBadRequest, codes.InvalidArgument, reasonCSRInvalid},
	{pki.ErrStep, codes.FailedPrecondition, reasonStep},
	{fleet.ErrUnknownCluster, codes.NotFound, state.ReasonNotFound},
	{fleet.ErrRevoked, codes.PermissionDenied, reasonNodeRemoved},
	{fleet.ErrDisconnected, codes.FailedPrecondition, reasonNodeAway},
	{fleet.ErrUnanswered, codes.Unknown, reasonNodeLost},
	{fleet.ErrTooOld, codes.FailedPrecondition, reasonNodeFailed},
	{fleet.ErrNotDone, codes.FailedPrecondition, reasonNodeFailed},
	{fleet.ErrRefused, codes.FailedPrecondition, reasonNodeFailed},
	{fleet.ErrNoHolder, codes.FailedPrecondition, reasonNoHolder},
	{fleet.ErrNoTaker, codes.FailedPrecondition, reasonNoTaker},
	{fleet.ErrBusy, codes.ResourceExhausted, reasonBusy},
	{fleet.ErrSuperseded, codes.Aborted, reasonSuperseded},
	{fleet.ErrVersion, codes.FailedPrecondition, reasonProtocol},
	{fleet.ErrTooOften, codes.ResourceExhausted, reasonBusy},
	{fleet.ErrHello, codes.InvalidArgument, reasonProtocol},
	{fleet.ErrProtocol, codes.InvalidArgument, reasonProtocol},
	{fleet.ErrStalled, codes.DeadlineExceeded, reasonStalled},
	{fleet.ErrSilent, codes.DeadlineExceeded, reasonStalled},
	{fleet.ErrSlow, codes.ResourceExhausted, reasonStalled},
	{fleet.ErrShutdown, codes.Unavailable, reasonStopping},
	{fleet.ErrClosed, codes.Unavailable, reasonStopping},
	{events.ErrExpired, codes.OutOfRange, reasonEventsExpired},
	{ledger.ErrRevisionGone, codes.NotFound, reasonRevisionGone},
	{ledger.ErrWaiting, codes.FailedPrecondition, reasonWaiting},
	{ledger.ErrNotWaiting, codes.FailedPrecondition, reasonNotWaiting},
	{ledger.ErrStopped, codes.Unavailable, reasonStopping},
	{store.ErrNotWritable, codes.Unavailable, reasonNotWritable},
	{context.Canceled, codes.Canceled, reasonCanceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded, reasonDeadline},
}

var stateCodes = map[state.Code]codes.Code{
	state.Invalid:            codes.InvalidArgument,
	state.NotFound:           codes.NotFound,
	state.AlreadyExists:      codes.AlreadyExists,
	state.FailedPrecondition: codes.FailedPrecondition,
	state.Aborted:            codes.Aborted,
}

// statusOf is the one map from errors to what callers see, over gRPC and REST
// alike. An error that is a status already stays as it is.
func statusOf(err error) *status.Status {
	var refused *state.Error
	if errors.As(err, &refused) {
		return refusal(refused)
	}
	var f *failure
	if errors.As(err, &f) {
		return withDetails(status.New(f.code, err.Error()), &errdetails.ErrorInfo{Reason: f.reason, Domain: errorDomain, Metadata: f.metadata})
	}
	if errors.Is(err, store.ErrNotWritable) {
		err = fmt.Errorf("%w: free space on the controller's disk, or make it writable; the nodes keep serving what they have", err)
	}
	for _, k := range known {
		if errors.Is(err, k.err) {
			return withReason(k.code, k.reason, "", err.Error())
		}
	}
	if st, ok := status.FromError(err); ok {
		return st
	}
	return withReason(codes.Internal, reasonInternal, "", err.Error())
}

// refusal shows a refused change with the fields that are at fault.
func refusal(refused *state.Error) *status.Status {
	code, ok := stateCodes[refused.Code]
	if !ok {
		code = codes.Internal
	}
	st := withReason(code, refused.Reason, refused.Name, refused.Error())
	if len(refused.Violations) == 0 {
		return st
	}
	fields := &errdetails.BadRequest{}
	for _, v := range refused.Violations {
		fields.FieldViolations = append(fields.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: v.Field, Description: v.Message, Reason: v.Reason,
		})
	}
	return withDetails(st, fields)
}

func withReason(code codes.Code, reason, name, message string) *status.Status {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: errorDomain}
	if name != "" {
		info.Metadata = map[string]string{"name": name}
	}
	return withDetails(status.New(code, message), info)
}

// withDetails adds a detail; it fails only for code OK, which no error has.
func withDetails(st *status.Status, detail protoadapt.MessageV1) *status.Status {
	if detailed, err := st.WithDetails(detail); err == nil {
		return detailed
	}
	return st
}
