package uplink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/tandem-lb/tandem/agent/internal/identity"
)

// Reasons that a controller gives for refusing a call; docs/security.md tells
// what they mean.
const (
	domain = "tandem"

	reasonRemoved     = "NODE_REMOVED"
	reasonReplaced    = "NODE_REPLACED"
	reasonExpired     = "CERTIFICATE_EXPIRED"
	reasonNotYet      = "CERTIFICATE_NOT_YET_VALID"
	reasonCertificate = "CERTIFICATE_REQUIRED"
)

// refusal returns what the controller itself said of why it refused a call; nil
// when err is anything else. Only a controller can have said it: nothing of a
// call is read before the check of its certificate, and gRPC makes up no
// ErrorInfo of its own.
func refusal(err error) *errdetails.ErrorInfo {
	s, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
			return info
		}
	}
	return nil
}

// Keys of the problems that the uplink tells.
const (
	problemIdentity    = "identity"
	problemMember      = "membership"
	problemCertificate = "certificate"
	problemClock       = "clock"
	problemName        = "name"
)

// begin takes over what an earlier agent has learnt of the node's membership.
func (u *Uplink) begin() error {
	var err error
	if u.identity, err = identity.Load(u.IdentityDir); err != nil {
		return err
	}
	if u.removal, err = identity.LoadRemoval(u.IdentityDir); err != nil {
		return err
	}
	u.checkName()
	if u.removal != nil {
		u.Problem(problemMember, u.removalText())
	}
	if err := u.Withdraw(u.removal != nil); err != nil {
		u.Logger.Error("cannot tell keepalived whether this node is a member", "error", err)
	}
	return nil
}

// untilBegun waits until what an earlier agent has learnt can be read, or ctx
// ends.
func (u *Uplink) untilBegun(ctx context.Context) {
	for {
		err := u.begin()
		if err == nil {
			u.Problem(problemIdentity, "")
			return
		}
		u.Problem(problemIdentity, fmt.Sprintf("no session with the controller: %v", err))
		u.Logger.Error("no session with the controller", "error", err, "retry_in", maxDelay)
		select {
		case <-time.After(maxDelay):
		case <-ctx.Done():
			return
		}
	}
}

// checkName tells of a node that is configured by one name and has joined by
// another one.
func (u *Uplink) checkName() {
	if u.identity == nil || u.NameByDefault || u.identity.Node() == u.Node {
		u.Problem(problemName, "")
		return
	}
	u.Problem(problemName, fmt.Sprintf(
		"agent.yaml says node %s, and this machine has joined as %s, which it stays: correct agent.yaml, or remove %s with its directory and join anew",
		u.Node, u.identity.Node(), u.IdentityDir))
}

// name is the id to join by: a machine keeps its node's, whatever its hostname
// is now.
func (u *Uplink) name() string {
	if u.NameByDefault && u.identity != nil {
		return u.identity.Node()
	}
	return u.Node
}

// leaves tells whether err says for certain that this node's identity is no
// member any more. An expired certificate, a stranger's answer, a refusal that
// is about another identity: none of them does.
func (u *Uplink) leaves(err error) bool {
	info := refusal(err)
	reason := info.GetReason()
	return (reason == reasonRemoved || reason == reasonReplaced) && info.GetMetadata()["uid"] == u.identity.UID()
}

// leave gives the VIPs up, as far as another node can hold them; HAProxy goes
// on. It lasts until the node is a whole member again.
func (u *Uplink) leave(err error) {
	if u.removal != nil && u.removal.UID == u.identity.UID() {
		return // known, and told
	}
	u.removal = &identity.Removal{UID: u.identity.UID(), Message: status.Convert(err).Message(), Time: time.Now()}
	saved := u.removal.Save(u.IdentityDir)
	withdrawn := u.Withdraw(true)
	u.Problem(problemMember, u.removalText())
	u.Report.Note(u.removalText())
	u.Logger.Error("this node is no member any more: its VIPs are given up to any node that can hold them; HAProxy goes on",
		"reason", refusal(err).GetReason(), "message", u.removal.Message)
	if err := errors.Join(saved, withdrawn); err != nil {
		u.Logger.Error("the removal may be forgotten at the next start", "error", err)
	}
}

func (u *Uplink) removalText() string {
	return fmt.Sprintf("the controller said at %s: %s. This node gives its VIPs up to any node that can hold them, and goes on serving what reaches it. Put a new join token into join_token_file, or stop its daemons",
		u.removal.Time.UTC().Format("2006-01-02 15:04 MST"), u.removal.Message)
}

// returned is called when a target of this session is in effect: a node that was
// removed holds VIPs again only with a configuration that is meant for it.
func (u *Uplink) returned() {
	if u.removal == nil {
		return
	}
	if err := errors.Join(u.Withdraw(false), identity.ForgetRemoval(u.IdentityDir)); err != nil {
		u.Logger.Error("this node is a member again, and cannot note it", "error", err)
		return
	}
	u.removal = nil
	u.Problem(problemMember, "")
	u.Logger.Info("this node is a member again, and may hold VIPs")
}

// recover does what helps against a refusal: with a certificate out of its time
// the node may still renew it, and else a join token makes it another member. It
// returns nil when there is a new identity to try at once, and what is wrong
// otherwise.
func (u *Uplink) recover(ctx context.Context, a *attempt, err error) error {
	info := refusal(err)
	if u.leaves(err) {
		u.leave(err)
	}
	if reason := info.GetReason(); reason == reasonExpired || reason == reasonNotYet {
		renewCtx, cancel := context.WithTimeout(ctx, callTimeout)
		id, renewErr := identity.Renew(renewCtx, u.IdentityDir, a.conn)
		cancel()
		if renewErr == nil {
			u.identity = id
			u.Problem(problemCertificate, "")
			u.Logger.Info("certificate renewed, though it was out of its time", "until", id.ExpireTime())
			return nil
		}
		err = fmt.Errorf("%s; nor does it renew it: %s", describe(err), describe(renewErr))
		u.Problem(problemCertificate, err.Error()+`: make a token with "lbctl node replace" and put it into join_token_file`)
	}
	stranger := errors.Is(a.trust(), identity.ErrStranger)
	switch info.GetReason() {
	case reasonRemoved, reasonReplaced, reasonExpired, reasonNotYet, reasonCertificate:
	default:
		if !stranger && !u.identity.Expired() {
			return err
		}
	}
	if u.TokenFile == "" {
		return err
	}
	return u.rejoin(ctx, a.address, err)
}

// rejoin tries the join token when the controller no longer takes the node's
// certificate. The old identity stays unless there is a new one. It returns nil
// when the node has joined anew, and why not otherwise.
func (u *Uplink) rejoin(ctx context.Context, address string, why error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id, err := identity.Enrol(ctx, u.IdentityDir, u.name(), u.TokenFile, address)
	if err != nil {
		return fmt.Errorf("%s; nor with its join token: %s", describe(why), describe(err))
	}
	u.identity = id
	u.checkName()
	u.Problem(problemCertificate, "")
	u.Logger.Info("joined the cluster anew", "controller", address, "node", id.Node())
	return nil
}
