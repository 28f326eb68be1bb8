package api

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/tandem-lb/tandem/controlplane/internal/events"
	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Header metadata of every answer to a change. REST has the same as
// Tandem-Revision and Tandem-Epoch. tandem-note, as often as needed, tells what of it is
// odd though it is legal; with REST, the status does (VipStatus.notes).
const (
	revisionHeader = "tandem-revision"
	epochHeader    = "tandem-epoch"
	noteHeader     = "tandem-note"
)

// change is what all requests that change something have.
type change interface {
	GetValidateOnly() bool
	GetRequestId() string
	GetMessage() string
}

// ledgerRequest is what the ledger takes for a change by the caller.
func ledgerRequest(ctx context.Context, r change, do state.Change) ledger.Request {
	return ledger.Request{
		Change:       do,
		Author:       callerOf(ctx).operator,
		Message:      r.GetMessage(),
		RequestID:    r.GetRequestId(),
		ValidateOnly: r.GetValidateOnly(),
	}
}

// writer makes changes through the ledger and tells the event log of them.
type writer struct {
	*ledger.Ledger
	events *events.Log
}

// commit makes a change and returns the configuration with it.
func (w *writer) commit(ctx context.Context, cluster string, r change, do state.Change) (*state.Config, error) {
	result, err := w.Commit(ctx, cluster, ledgerRequest(ctx, r, do))
	if err != nil {
		return nil, err
	}
	return result.Config, w.announce(ctx, r, result)
}

// announce tells the caller which revision the change is in, its own or the
// head when nothing has changed, and the event log of a new revision.
func (w *writer) announce(ctx context.Context, r change, result ledger.Result) error {
	if err := grpc.SetHeader(ctx, metadata.MD{noteHeader: notes(result)}); err != nil {
		return err
	}
	if r.GetValidateOnly() {
		return nil
	}
	number := result.Config.Revision()
	if revision := result.Revision; revision != nil {
		number = revision.GetNumber()
		if !result.Repeated {
			w.events.Append(result.Config.ID(), changedEvent(result.Config.ID(), revision))
		}
	}
	return grpc.SetHeader(ctx, metadata.Pairs(
		revisionHeader, strconv.FormatUint(number, 10),
		epochHeader, result.Config.Epoch(),
	))
}

// notes are those on the VIPs that a change has touched.
func notes(result ledger.Result) (all []string) {
	for _, c := range result.Revision.GetChanges() {
		name, err := state.ParseName(c.GetName())
		if err != nil || name.Kind != state.KindVip {
			continue
		}
		if v := result.Config.Vip(name.ID); v != nil {
			for _, note := range state.Notes(result.Config, v) {
				all = append(all, "VIP "+name.ID+": "+note)
			}
		}
		if len(all) >= maxNotes {
			break
		}
	}
	return all
}

// maxNotes is how many notes, of one VIP more or less, an answer carries.
const maxNotes = 16

// Announce returns what tells the event log of revisions that nobody asked for.
func Announce(log *events.Log) func(cluster string, r *tandemv1.Revision) {
	return func(cluster string, r *tandemv1.Revision) { log.Append(cluster, changedEvent(cluster, r)) }
}

// maxNamed is how many changed resources an event names.
const maxNamed = 3

// changedEvent tells of a new revision.
func changedEvent(cluster string, revision *tandemv1.Revision) *tandemv1.Event {
	prefix := state.ClusterName(cluster).String()
	var named []string
	for _, c := range revision.GetChanges() {
		word := "changed"
		switch {
		case c.GetBefore() == nil:
			word = "made"
		case c.GetAfter() == nil:
			word = "removed"
		}
		named = append(named, word+" "+strings.TrimPrefix(c.GetName(), prefix+"/"))
	}
	if more := len(named) - maxNamed; more > 0 {
		named = append(named[:maxNamed], fmt.Sprintf("and %d more", more))
	}
	message := fmt.Sprintf("%s: %s", revision.GetAuthor(), strings.Join(named, ", "))
	if note := revision.GetMessage(); note != "" {
		message += " (" + note + ")"
	}
	return &tandemv1.Event{
		Time:     revision.GetCreateTime(),
		Type:     tandemv1.EventType_EVENT_TYPE_CONFIG,
		Severity: tandemv1.EventSeverity_EVENT_SEVERITY_INFO,
		Subject:  prefix,
		Reason:   "CONFIG_CHANGED",
		Message:  message,
		Revision: revision.GetNumber(),
	}
}

// parse reads the name of a resource of one kind. field is the path of the name
// in the request.
func parse(text string, kind state.Kind, field string) (state.Name, error) {
	name, err := state.ParseName(text)
	if err != nil || name.Kind != kind {
		return state.Name{}, refuse(field, state.ReasonNameInvalid,
			fmt.Sprintf("%q must be the full name of a %s, such as %s", text, kind, examples[kind]))
	}
	return name, nil
}

var examples = map[state.Kind]state.Name{
	state.KindCluster:  state.ClusterName(ledger.DefaultCluster),
	state.KindVip:      state.VipName(ledger.DefaultCluster, "web"),
	state.KindListener: state.ListenerName(ledger.DefaultCluster, "web_frontend"),
	state.KindPool:     state.PoolName(ledger.DefaultCluster, "web_servers"),
	state.KindBackend:  state.BackendName(ledger.DefaultCluster, "web_servers", "web1"),
	state.KindOverride: state.OverrideName(ledger.DefaultCluster, "web_servers", "web1"),
	state.KindNode:     state.NodeName(ledger.DefaultCluster, "lb-master"),
}

// found returns a resource, or NOT_FOUND for its name when it is nil.
func found[T any](resource *T, name state.Name) (*T, error) {
	if resource == nil {
		return nil, &state.Error{
			Code: state.NotFound, Reason: state.ReasonNotFound, Name: name.String(),
			Message: fmt.Sprintf("%s %q does not exist", name.Kind, name.ID),
		}
	}
	return resource, nil
}
