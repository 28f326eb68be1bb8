package uplink

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tandem-lb/tandem/agent/internal/identity"
)

var (
	removed  = refuses(codes.PermissionDenied, "NODE_REMOVED", "tandem", itself)
	replaced = refuses(codes.PermissionDenied, "NODE_REPLACED", "tandem", itself)
)

// A node that hears for certain that it is no member gives its VIPs up, over a
// restart, until a configuration that is meant for it is in effect again.
func TestARemovedNodeWithdrawsUntilItIsAMemberAgain(t *testing.T) {
	for name, refuse := range map[string]func(string) error{"removed": removed, "replaced": replaced} {
		t.Run(name, func(t *testing.T) {
			c := newController(t, time.Now().Add(-time.Hour))
			a := newAgent(t, c)
			a.start()
			a.withdraws(false)
			if h := a.greets(); h.GetApplied().GetHash() != "seven" {
				t.Errorf("a member says hello with %v, want what it has", h.GetApplied())
			}
			a.stop()
			c.with(func() {
				c.refuse = func(uid string) error {
					if uid != "uid-1" {
						return nil
					}
					return refuse(uid)
				}
			})
			a.start()
			a.withdraws(false)
			a.withdraws(true)
			a.tells("gives its VIPs up", true)
			a.stop()

			a.start()
			a.withdraws(true)
			a.tells("gives its VIPs up", true)
			a.put(c.token())
			h := a.greets()
			if h.GetIdentity() == nil || h.GetApplied().GetHash() != "" {
				t.Fatalf("a node that joins anew says hello with %v, want nothing of its former life", h.GetApplied())
			}
			if id, err := identity.Load(a.dir); err != nil || id.UID() != "uid-2" {
				t.Fatalf("it has joined as %v, %v; want another identity", id, err)
			}
			a.withdraws(false)
			a.tells("gives its VIPs up", false)
			if _, err := os.Stat(filepath.Join(a.dir, "removed.json")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the removal is still noted: %v", err)
			}
		})
	}
}

// A controller may take its word back, as when its store was put back.
func TestARemovalTakenBackEnds(t *testing.T) {
	c := newController(t, time.Now().Add(-time.Hour))
	c.refuse = removed
	a := newAgent(t, c)
	a.start()
	a.withdraws(false)
	a.withdraws(true)
	c.with(func() { c.refuse = nil })
	a.greets()
	a.withdraws(false)
}

// Whatever else a controller says, or what poses as one, moves no VIP.
func TestNoOtherRefusalWithdraws(t *testing.T) {
	other := func(string) string { return "uid-of-another" }
	for name, refuse := range map[string]func(string) error{
		"about another identity": refuses(codes.PermissionDenied, "NODE_REMOVED", "tandem", other),
		"of another domain":      refuses(codes.PermissionDenied, "NODE_REMOVED", "example.com", itself),
		"no certificate":         refuses(codes.Unauthenticated, "CERTIFICATE_REQUIRED", "tandem", itself),
		"stopping":               refuses(codes.Unavailable, "STOPPING", "tandem", itself),
		"without a reason":       func(string) error { return status.Error(codes.PermissionDenied, "NODE_REMOVED") },
	} {
		t.Run(name, func(t *testing.T) {
			c := newController(t, time.Now().Add(-time.Hour))
			a := newAgent(t, c)
			seen := make(chan struct{}, 100)
			c.with(func() {
				c.refuse = func(uid string) error {
					seen <- struct{}{}
					return refuse(uid)
				}
			})
			a.start()
			a.withdraws(false)
			for range 3 {
				<-seen
			}
			c.with(func() { c.refuse = nil })
			a.greets()
			select {
			case w := <-a.withdrawals:
				t.Errorf("keepalived was told %v", w)
			default:
			}
		})
	}
}

// Who stands between node and controller is not heard at all.
func TestAStrangersRefusalIsNotHeard(t *testing.T) {
	c, stranger := newController(t, time.Now().Add(-time.Hour)), newController(t, time.Now().Add(-time.Hour))
	stranger.with(func() { stranger.refuse = removed })
	a := newAgent(t, c)
	a.start(func(o *Options) { o.Controllers = []string{stranger.address, stranger.address, c.address} })
	a.withdraws(false)
	a.greets()
	select {
	case w := <-a.withdrawals:
		t.Errorf("keepalived was told %v", w)
	default:
	}
}

// A certificate that ended while the node was off is renewed with its own key,
// without a token.
func TestACertificateOutOfItsTimeIsRenewed(t *testing.T) {
	for _, reason := range []string{"CERTIFICATE_EXPIRED", "CERTIFICATE_NOT_YET_VALID"} {
		t.Run(reason, func(t *testing.T) {
			c := newController(t, time.Now().Add(-time.Hour))
			a := newAgent(t, c)
			c.with(func() { c.refuse = refuses(codes.Unauthenticated, reason, "tandem", itself) })
			a.start()
			a.withdraws(false)
			a.greets()
			if c.renewed != 1 || c.joins != 1 {
				t.Errorf("%d renewals and %d joins, want one renewal after the first join", c.renewed, c.joins)
			}
		})
	}
}

func TestTheNodesNameIsNotTheHostname(t *testing.T) {
	c := newController(t, time.Now().Add(-time.Hour))
	a := newAgent(t, c) // as lb-master
	a.start(func(o *Options) { o.Node = "web-17" })
	a.withdraws(false)
	a.greets()
	a.tells("agent.yaml says node web-17, and this machine has joined as lb-master", true)
	a.stop()
	// A new hostname, where agent.yaml gives no name, is nobody's concern.
	c.with(func() {
		c.refuse = func(uid string) error {
			if uid != "uid-1" {
				return nil
			}
			return removed(uid)
		}
	})
	a.put(c.token())
	a.start(func(o *Options) { o.Node, o.NameByDefault = "web-17", true })
	a.withdraws(false)
	a.withdraws(true)
	a.greets()
	a.tells("agent.yaml says", false)
	if id, err := identity.Load(a.dir); err != nil || id.Node() != "lb-master" || id.UID() == "uid-1" {
		t.Errorf("it has joined anew as %v, %v; want lb-master", id, err)
	}
}

// An identity that cannot be read costs the session alone: the agent goes on with
// the daemons, and finds a mended one by itself.
func TestADamagedIdentityDoesNotEndTheAgent(t *testing.T) {
	c := newController(t, time.Now().Add(-time.Hour))
	a := newAgent(t, c)
	path := filepath.Join(a.dir, "identity.pem")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	a.start()
	a.tells(path, true)
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	a.greets()
	a.tells(path, false)
}
