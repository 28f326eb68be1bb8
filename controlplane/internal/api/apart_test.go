package api_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// listener is an agent that remembers all that it is told.
type listener struct {
	stream agentv1.AgentService_SessionClient
	told   chan *agentv1.SessionResponse
}

func (c *controller) listen(t *testing.T, node tls.Certificate) *listener {
	t.Helper()
	l := &listener{c.session(t, node), make(chan *agentv1.SessionResponse, 1000)}
	go func() {
		defer close(l.told)
		for {
			m, err := l.stream.Recv()
			if err != nil {
				return
			}
			if u := m.GetUpdate(); u != nil && !u.GetMore() {
				_ = l.stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Ack{Ack: &agentv1.Ack{Nonce: u.GetNonce(), Version: u.GetVersion()}}})
			}
			l.told <- m
		}
	}()
	return l
}

// hears waits until the agent is told a word, and returns all that it was told.
func (l *listener) hears(t *testing.T, word string) string {
	t.Helper()
	var all strings.Builder
	for deadline := time.After(20 * time.Second); ; {
		select {
		case m, ok := <-l.told:
			if !ok {
				t.Fatalf("the session ended before %q: %s", word, &all)
			}
			all.WriteString(prototext.Format(m))
			if strings.Contains(all.String(), word) {
				return all.String()
			}
		case <-deadline:
			t.Fatalf("the agent was not told %q: %s", word, &all)
		}
	}
}

// Two clusters with nodes of one name: each node is told of its own cluster's
// configuration and of no other, whatever changes in which order, and what it
// reports reaches its own cluster's status and events alone.
func TestNodesAreToldOfTheirOwnClusterOnly(t *testing.T) {
	c := start(t)
	ctx := c.admin(t)
	ours, theirs := c.listen(t, c.join(t, "lb-master")), c.listen(t, c.joinIn(t, "other", "lb-master"))
	config := tandemv1.NewConfigServiceClient(c.dial(t))
	for round := range 10 {
		cluster, word := "default", "ours"
		if round%2 > 0 {
			cluster, word = "other", "theirs"
		}
		parent, pool := "clusters/"+cluster, fmt.Sprintf("%s-%d", word, round/2)
		_, err := config.CreatePool(ctx, &tandemv1.CreatePoolRequest{Parent: parent, PoolId: pool})
		must(t, err)
		_, err = config.CreateBackend(ctx, &tandemv1.CreateBackendRequest{
			Parent: parent + "/pools/" + pool, BackendId: word, Backend: &tandemv1.Backend{Address: "192.168.1.20", Port: 80}})
		must(t, err)
		_, err = config.CreateVip(ctx, &tandemv1.CreateVipRequest{Parent: parent, VipId: pool, Vip: &tandemv1.Vip{
			Addresses: []string{fmt.Sprintf("192.168.1.%d/24", 100+round)}, Vrid: uint32(51 + round)}})
		must(t, err)
	}
	for _, l := range []struct {
		*listener
		own, foreign string
	}{{ours, "ours", "theirs"}, {theirs, "theirs", "ours"}} {
		if told := l.hears(t, "keepalived/instance/"+l.own+"-4"); strings.Contains(told, l.foreign) {
			t.Errorf("the node of %s is told of %s: %s", l.own, l.foreign, told)
		}
		must(t, l.stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Observation{Observation: &agentv1.Observation{
			Problems: &agentv1.ProblemSet{Problems: []string{"a problem of " + l.own}}, Backends: []*agentv1.BackendObservation{
				{Pool: "../../other/pools/ours-0", Backend: "ours"}, {Pool: "ours-0", Backend: "ours", Reason: "seen by " + l.own},
				{Pool: "theirs-0", Backend: "theirs", Reason: "seen by " + l.own}},
		}}}))
		must(t, l.stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Events{Events: &agentv1.EventBatch{BootId: "b", Events: []*agentv1.Event{
			{Sequence: 1, Kind: &agentv1.Event_Note{Note: "a note of " + l.own}},
		}}}}))
		l.hears(t, "event_ack") // so the observation before it has been taken too
	}
	for cluster, foreign := range map[string]string{"default": "of theirs", "other": "of ours"} {
		happened, err := tandemv1.NewEventServiceClient(c.dial(t)).ListEvents(ctx, &tandemv1.ListEventsRequest{Parent: "clusters/" + cluster, PageSize: 1000})
		must(t, err)
		now, err := tandemv1.NewFleetServiceClient(c.dial(t)).GetStatus(ctx, &tandemv1.GetStatusRequest{Name: "clusters/" + cluster})
		must(t, err)
		seen := prototext.Format(happened) + prototext.Format(now)
		own := map[string]string{"of theirs": "of ours", "of ours": "of theirs"}[foreign]
		if !strings.Contains(seen, "a note "+own) || !strings.Contains(seen, "a problem "+own) {
			t.Errorf("cluster %s does not show its own node: %s", cluster, seen)
		}
		if strings.Contains(seen, foreign) || strings.Contains(seen, strings.Replace(foreign, "of", "seen by", 1)) {
			t.Errorf("cluster %s shows another's node: %s", cluster, seen)
		}
	}
}

// issue makes a certificate of this controller's own CA for any identity.
func (c *controller) issue(t *testing.T, id pki.NodeIdentity) tls.Certificate {
	t.Helper()
	key, _ := newRequest(t)
	certificate, err := c.authority.IssueNode(key.Public(), id)
	must(t, err)
	return keyPair(t, key, certificate)
}

// Who is a member says the ledger, by cluster, name and uid together: a
// certificate of our own CA that names anything else is let into no call.
func TestIdentityNamesOneMember(t *testing.T) {
	c := start(t)
	uid := identityOf(t, c.join(t, "lb-master")).UID
	backup := identityOf(t, c.join(t, "lb-backup")).UID
	other := identityOf(t, c.joinIn(t, "other", "lb-master")).UID
	for name, test := range map[string]struct {
		id   pki.NodeIdentity
		want fault
	}{
		"of no cluster":                         {pki.NodeIdentity{Cluster: "nope", Node: "lb-master", UID: uid}, fault{code: codes.PermissionDenied, reason: "NODE_REMOVED"}},
		"another cluster with our uid":          {pki.NodeIdentity{Cluster: "other", Node: "lb-master", UID: uid}, fault{code: codes.PermissionDenied, reason: "NODE_REPLACED"}},
		"our cluster with the other's uid":      {pki.NodeIdentity{Cluster: "default", Node: "lb-master", UID: other}, fault{code: codes.PermissionDenied, reason: "NODE_REPLACED"}},
		"another node with our uid":             {pki.NodeIdentity{Cluster: "default", Node: "lb-backup", UID: uid}, fault{code: codes.PermissionDenied, reason: "NODE_REPLACED"}},
		"our name with another node's uid":      {pki.NodeIdentity{Cluster: "default", Node: "lb-master", UID: backup}, fault{code: codes.PermissionDenied, reason: "NODE_REPLACED"}},
		"no node":                               {pki.NodeIdentity{Cluster: "default", Node: "nope", UID: uid}, fault{code: codes.PermissionDenied, reason: "NODE_REMOVED"}},
		"upper case":                            {pki.NodeIdentity{Cluster: "default", Node: "LB-MASTER", UID: uid}, fault{code: codes.PermissionDenied, reason: "NODE_REMOVED"}},
		"no uid":                                {pki.NodeIdentity{Cluster: "default", Node: "lb-master"}, fault{code: codes.Unauthenticated, reason: "CERTIFICATE_REQUIRED"}},
		"no uid of no node":                     {pki.NodeIdentity{Cluster: "default", Node: "nope"}, fault{code: codes.Unauthenticated, reason: "CERTIFICATE_REQUIRED"}},
		"nothing":                               {pki.NodeIdentity{}, fault{code: codes.Unauthenticated, reason: "CERTIFICATE_REQUIRED"}},
		"a path for a name":                     {pki.NodeIdentity{Cluster: "default", Node: "../other/nodes/lb-master", UID: uid}, fault{code: codes.Unauthenticated, reason: "CERTIFICATE_REQUIRED"}},
		"a cluster's path for a cluster's name": {pki.NodeIdentity{Cluster: "../default", Node: "lb-master", UID: uid}, fault{code: codes.Unauthenticated, reason: "CERTIFICATE_REQUIRED"}},
	} {
		conn := c.dial(t, c.issue(t, test.id))
		_, csr := newRequest(t)
		client := agentv1.NewAgentServiceClient(conn)
		_, renewed := client.Renew(t.Context(), &agentv1.RenewRequest{Csr: csr})
		stream, err := client.Session(t.Context())
		must(t, err)
		_ = stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Hello{Hello: &agentv1.Hello{Protocol: 1}}})
		_, opened := stream.Recv()
		for what, err := range map[string]error{"Renew": renewed, "Session": opened} {
			if got := grpcFault(t, err); got.code != test.want.code || got.reason != test.want.reason {
				t.Errorf("%s: %s: %+v; want %s %s", name, what, got, test.want.code, test.want.reason)
			}
		}
	}
}

func identityOf(t *testing.T, pair tls.Certificate) pki.NodeIdentity {
	t.Helper()
	id, err := pki.IdentityOf(pair.Leaf)
	must(t, err)
	return id
}

// Nothing that an agent says has a field for whom it speaks: that is told by its
// certificate alone. What is listed here names something else.
func TestAgentsCannotSpeakForAnother(t *testing.T) {
	allowed := map[protoreflect.FullName]string{
		"tandem.agent.v1.EnrolRequest.node":        "checked against the token, before there is a certificate",
		"tandem.agent.v1.InstanceObservation.name": "a VRRP instance on the node itself",
		"tandem.agent.v1.InstanceFacts.name":       "likewise",
		"tandem.agent.v1.Advertiser.node":          "whom the node hears, by the addresses that it was told of its peers",
	}
	seen := map[protoreflect.FullName]bool{}
	var look func(protoreflect.MessageDescriptor)
	look = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			switch f.Name() {
			case "node", "nodes", "name", "cluster", "parent", "uid", "identity_uri", "subject":
				if allowed[f.FullName()] == "" {
					t.Errorf("%s: whom it names must be held against the certificate", f.FullName())
				}
			}
			if f.Message() != nil {
				look(f.Message())
			}
		}
	}
	service := agentv1.File_tandem_agent_v1_agent_service_proto.Services().ByName("AgentService")
	for i := range service.Methods().Len() {
		look(service.Methods().Get(i).Input())
	}
}

// What a node answers in another's place counts for itself alone: the other's
// update, command and events are as before, and the other is not renewed.
func TestAnswersCountForTheirOwnNode(t *testing.T) {
	c := start(t)
	good, bad := c.join(t, "lb-master"), c.join(t, "lb-backup")
	victim, liar := c.session(t, good), c.listen(t, bad)
	update, err := victim.Recv()
	must(t, err)
	nonce, version := update.GetUpdate().GetNonce(), update.GetUpdate().GetVersion()
	if nonce == "" {
		t.Fatalf("got %v; want an update", update)
	}
	liar.hears(t, "nonce")
	say := func(m *agentv1.SessionRequest) { must(t, liar.stream.Send(m)) }
	say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Ack{Ack: &agentv1.Ack{Nonce: nonce, Version: version, Reloaded: true}}})
	say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Nack{Nack: &agentv1.Nack{Nonce: nonce, Version: version, Message: "a lie"}}})
	say(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Events{Events: &agentv1.EventBatch{BootId: "b", Events: []*agentv1.Event{
		{Sequence: 100, Kind: &agentv1.Event_Note{Note: "in the boot of lb-master"}}}}}})
	liar.hears(t, "event_ack")

	key, csr := newRequest(t)
	renewed, err := agentv1.NewAgentServiceClient(c.dial(t, bad)).Renew(t.Context(), &agentv1.RenewRequest{Csr: csr})
	must(t, err)
	if got := identityOf(t, keyPair(t, key, renewed.GetCertificate())); got != identityOf(t, bad) {
		t.Errorf("renewed for %+v; want %+v", got, identityOf(t, bad))
	}

	now, err := tandemv1.NewFleetServiceClient(c.dial(t)).GetStatus(c.admin(t), &tandemv1.GetStatusRequest{Name: "clusters/default"})
	must(t, err)
	for _, n := range now.GetNodes() {
		if strings.HasSuffix(n.GetName(), "lb-master") && (n.GetApplied() != 0 || n.GetFailure() != "" || !n.GetConnected()) {
			t.Errorf("lb-master has said nothing: %v", n)
		}
	}
	// Its own first event is no repeat of the liar's.
	must(t, victim.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Events{Events: &agentv1.EventBatch{BootId: "b", Events: []*agentv1.Event{
		{Sequence: 1, Kind: &agentv1.Event_Note{Note: "by lb-master itself"}}}}}}))
	for {
		m, err := victim.Recv()
		must(t, err)
		if ack := m.GetEventAck(); ack != nil {
			if ack.GetSequence() != 1 {
				t.Errorf("acknowledged up to %d; want 1", ack.GetSequence())
			}
			break
		}
	}
	happened, err := tandemv1.NewEventServiceClient(c.dial(t)).ListEvents(c.admin(t), &tandemv1.ListEventsRequest{Parent: "clusters/default", PageSize: 1000})
	must(t, err)
	whose := map[string]string{"in the boot of lb-master": "lb-backup", "by lb-master itself": "lb-master"}
	for _, e := range happened.GetEvents() {
		if node, ok := whose[e.GetMessage()]; ok && e.GetNode() != node {
			t.Errorf("%v; want it of %s", e, node)
		}
		delete(whose, e.GetMessage())
	}
	if len(whose) > 0 {
		t.Errorf("not among the events: %v", whose)
	}
}

// A command's answer counts only from the node that was asked.
func TestOnlyTheNodeThatWasAskedAnswers(t *testing.T) {
	c := start(t)
	ids := make(chan string, 1)
	victim := c.capable(t, c.join(t, "lb-master"))
	liar := c.capable(t, c.join(t, "lb-backup"))
	must(t, victim.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Observation{Observation: &agentv1.Observation{
		Whole: true, LocalChanges: &agentv1.LocalChangeSet{Changes: []*agentv1.LocalChange{{Author: "root", Kind: &agentv1.LocalChange_Drain{Drain: true}}}},
	}}}))
	go func() {
		for {
			m, err := victim.Recv()
			if err != nil {
				return
			}
			if m.GetCommand() != nil {
				ids <- m.GetCommand().GetId()
			}
		}
	}()
	fleet := tandemv1.NewFleetServiceClient(c.dial(t))
	answered := make(chan error, 1)
	ctx, cancel := context.WithTimeout(c.admin(t), 20*time.Second)
	defer cancel()
	go func() {
		for {
			discarded, err := fleet.DiscardDrift(ctx, &tandemv1.DiscardDriftRequest{Name: "clusters/default/nodes/lb-master"})
			if err != nil || len(discarded.GetDiscarded()) > 0 { // else its report is still on its way
				answered <- err
				return
			}
		}
	}()
	var id string
	select {
	case id = <-ids:
	case err := <-answered:
		t.Fatalf("answered before the node was asked: %v", err)
	}
	for _, m := range []*agentv1.CommandResult{{Id: id}, {Id: id, Error: "a lie"}} {
		must(t, liar.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{Result: m}}))
	}
	// An event after them has been taken, and so have they.
	must(t, liar.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Events{Events: &agentv1.EventBatch{BootId: "b", Events: []*agentv1.Event{
		{Sequence: 1, Kind: &agentv1.Event_Note{Note: "after the lies"}}}}}}))
	for acked := false; !acked; {
		m, err := liar.Recv()
		must(t, err)
		acked = m.GetEventAck() != nil
	}
	select {
	case err := <-answered:
		t.Fatalf("another node has answered: %v", err)
	default:
	}
	must(t, victim.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Result{Result: &agentv1.CommandResult{Id: id, Error: "the truth"}}}))
	if err := <-answered; err == nil || !strings.Contains(err.Error(), "the truth") {
		t.Errorf("got %v; want the node's own answer", err)
	}
}

// capable opens a session of an agent that knows commands.
func (c *controller) capable(t *testing.T, node tls.Certificate) grpc.BidiStreamingClient[agentv1.SessionRequest, agentv1.SessionResponse] {
	t.Helper()
	stream, err := agentv1.NewAgentServiceClient(c.dial(t, node)).Session(t.Context())
	must(t, err)
	must(t, stream.Send(&agentv1.SessionRequest{Kind: &agentv1.SessionRequest_Hello{Hello: &agentv1.Hello{Protocol: 1, BootId: "b", Capabilities: []string{"command/discard"}}}}))
	return stream
}
