package api_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// uncertain is a store of which revisions that were stored are told to have
// failed, while it is told so.
type uncertain struct {
	store.Store
	fails atomic.Bool
}

func (u *uncertain) Commit(ctx context.Context, commits []store.Commit) error {
	if err := u.Store.Commit(ctx, commits); err != nil || !u.fails.Load() {
		return err
	}
	return fmt.Errorf("%w: as the test says", store.ErrNotWritable)
}

// A join that became durable though the disk seemed full is gone on with by the
// same agent, as what it became then.
func TestAJoinOfUncertainEndIsRepeated(t *testing.T) {
	dir := t.TempDir()
	inner, err := bolt.Open(filepath.Join(dir, "state.db"), bolt.Options{})
	must(t, err)
	disk := &uncertain{Store: inner}
	c := startOn(t, dir, disk)
	credential := c.joinToken(t, "lb-master")
	_, csr := newRequest(t)
	enrol := func(csr []byte) (*agentv1.EnrolResponse, error) {
		return agentv1.NewAgentServiceClient(c.dial(t)).Enrol(t.Context(), &agentv1.EnrolRequest{Node: "lb-master", Credential: credential, Csr: csr})
	}
	disk.fails.Store(true)
	_, err = enrol(csr)
	if got := grpcFault(t, err); got.code != codes.Unavailable || got.reason != "STORE_NOT_WRITABLE" {
		t.Fatalf("%+v; want STORE_NOT_WRITABLE", got)
	}
	disk.fails.Store(false)
	_, other := newRequest(t)
	if _, err := enrol(other); status.Code(err) != codes.Unauthenticated {
		t.Errorf("another key: %v; want that the token has been used", err)
	}
	answer, err := enrol(csr)
	must(t, err)
	node, err := tandemv1.NewFleetServiceClient(c.dial(t)).GetNode(c.admin(t), &tandemv1.GetNodeRequest{Name: "clusters/default/nodes/lb-master"})
	if err != nil || node.GetUid() != answer.GetUid() {
		t.Errorf("the node is %v (%v), the agent got %s", node, err, answer.GetUid())
	}
}

// forgetful is a store that does not take a note of a join, while it is told so.
type forgetful struct {
	store.Store
	forget atomic.Bool
}

func (f *forgetful) Swap(ctx context.Context, bucket, key string, old, value []byte) error {
	if f.forget.Load() && bytes.Contains(value, []byte(`"joined":true`)) {
		return fmt.Errorf("%w: as the test says", store.ErrNotWritable)
	}
	return f.Store.Swap(ctx, bucket, key, old, value)
}

// Whoever has joined and ceased to be a member does not become one again by a
// repeat, though the join could not be noted.
func TestAJoinThatWasNotNotedIsNotRepeatedAfterTheEnd(t *testing.T) {
	for name, gone := range map[string]func(t *testing.T, c *controller) (reason string){
		"removed": func(t *testing.T, c *controller) string {
			_, err := tandemv1.NewFleetServiceClient(c.dial(t)).DeleteNode(c.admin(t), &tandemv1.DeleteNodeRequest{Name: "clusters/default/nodes/lb-master"})
			must(t, err)
			return "NODE_REMOVED"
		},
		"replaced": func(t *testing.T, c *controller) string {
			token, err := tandemv1.NewFleetServiceClient(c.dial(t)).CreateJoinToken(c.admin(t), &tandemv1.CreateJoinTokenRequest{
				Parent: "clusters/default", JoinToken: &tandemv1.JoinToken{Node: "lb-master", Replace: true},
			})
			must(t, err)
			_, csr := newRequest(t)
			_, err = agentv1.NewAgentServiceClient(c.dial(t)).Enrol(t.Context(), &agentv1.EnrolRequest{
				Node: "lb-master", Credential: strings.SplitN(token.GetToken(), ".", 3)[2], Csr: csr,
			})
			must(t, err)
			return "NODE_REPLACED"
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			inner, err := bolt.Open(filepath.Join(dir, "state.db"), bolt.Options{})
			must(t, err)
			disk := &forgetful{Store: inner}
			c := startOn(t, dir, disk)
			credential := c.joinToken(t, "lb-master")
			_, csr := newRequest(t)
			enrol := func() error {
				_, err := agentv1.NewAgentServiceClient(c.dial(t)).Enrol(t.Context(), &agentv1.EnrolRequest{Node: "lb-master", Credential: credential, Csr: csr})
				return err
			}
			disk.forget.Store(true)
			if err := enrol(); status.Code(err) != codes.Unavailable {
				t.Fatalf("%v; want that the join could not be noted", err)
			}
			disk.forget.Store(false)
			reason := gone(t, c)
			if got := grpcFault(t, enrol()); got.code != codes.PermissionDenied || got.reason != reason {
				t.Errorf("a repeat: %+v; want %s", got, reason)
			}
		})
	}
}
