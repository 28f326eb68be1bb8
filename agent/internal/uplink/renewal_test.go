package uplink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/agent/internal/identity"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// renewals is a connection on which only Renew is called.
type renewals struct {
	grpc.ClientConnInterface
	ca    *ca
	fails int // the next so many
	calls []time.Time
}

func (r *renewals) Invoke(_ context.Context, _ string, request, response any, _ ...grpc.CallOption) error {
	r.calls = append(r.calls, time.Now())
	if r.fails > 0 {
		r.fails--
		return errors.New("the disk is full")
	}
	chain, bundle, err := r.ca.issue(request.(*agentv1.RenewRequest).GetCsr(), "lb-master", fmt.Sprint("uid-", len(r.calls)))
	proto.Merge(response.(*agentv1.RenewResponse), &agentv1.RenewResponse{Certificate: chain, Ca: bundle})
	return err
}

// first is an identity whose certificate has an hour to live.
func first(t *testing.T, dir string, conn *renewals) *identity.Identity {
	t.Helper()
	id, err := identity.Renew(t.Context(), dir, conn)
	if err != nil {
		t.Fatal(err)
	}
	conn.calls = nil
	return id
}

// An agent whose session never ends renews at half of each certificate's life,
// and keeps each new one on disk.
func TestRenewalAtHalfOfTheLife(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		conn := &renewals{ca: newCA(t)}
		id, begin := first(t, dir, conn), time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		r := newRenewer(dir, conn, func(string) {}, hclog.NewNullLogger())
		done := make(chan struct{})
		go func() { defer close(done); r.run(ctx, id) }()
		var newest *identity.Identity
		for range 3 {
			newest = <-r.renewed
		}
		if len(conn.calls) != 3 {
			t.Fatalf("%d renewals, want 3", len(conn.calls))
		}
		for i, at := range conn.calls {
			// Each lives from a minute before it was asked for an hour after.
			want := time.Duration(i+1) * (30*time.Minute - 30*time.Second)
			if got := at.Sub(begin); (got - want).Abs() > 5*time.Second {
				t.Errorf("renewal %d came after %s, want %s", i+1, got, want)
			}
		}
		if onDisk, err := identity.Load(dir); err != nil || onDisk.UID() != newest.UID() {
			t.Errorf("on disk is %v, %v; want %v", onDisk, err, newest)
		}
		r.ask()
		synctest.Wait()
		if len(conn.calls) != 4 {
			t.Error("asked for, it is not renewed at once")
		}
		cancel()
		<-done
	})
}

// A renewal that fails is told at once, tried again with growing delays, and
// its problem ends with it. The identity stays as it was meanwhile.
func TestAFailingRenewalIsToldAndTriedAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		conn := &renewals{ca: newCA(t)}
		id := first(t, dir, conn)
		before, err := os.ReadFile(filepath.Join(dir, "identity.pem"))
		if err != nil {
			t.Fatal(err)
		}
		conn.fails = 4
		ctx, cancel := context.WithCancel(t.Context())
		problems := make(chan string, 16)
		r := newRenewer(dir, conn, func(text string) { problems <- text }, hclog.NewNullLogger())
		done := make(chan struct{})
		go func() { defer close(done); r.run(ctx, id) }()
		<-time.After(31 * time.Minute)
		synctest.Wait()
		if len(problems) == 0 {
			t.Fatal("nothing is told half an hour before its end")
		}
		if told := <-problems; !strings.Contains(told, "the disk is full; it ends at "+id.ExpireTime().UTC().Format("2006-01-02 15:04")) {
			t.Fatalf("half an hour before its end %q is told", told)
		}
		if now, err := os.ReadFile(filepath.Join(dir, "identity.pem")); err != nil || string(now) != string(before) {
			t.Errorf("a failed renewal touched the identity: %v", err)
		}
		<-r.renewed
		synctest.Wait()
		if time.Now().After(id.ExpireTime()) {
			t.Error("four failures let the certificate end")
		}
		last := "nothing"
		for len(problems) > 0 {
			last = <-problems
		}
		if last != "" {
			t.Errorf("the problem is still told: %q", last)
		}
		for i := 2; i < len(conn.calls); i++ {
			if wait := conn.calls[i].Sub(conn.calls[i-1]); wait < 20*time.Second {
				t.Errorf("try %d came %s after the one before", i+1, wait)
			}
		}
		cancel()
		<-done
	})
}
