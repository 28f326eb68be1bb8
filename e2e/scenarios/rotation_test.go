package scenarios

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// The CA is rotated with lbctl while clients send: no request is lost, no agent
// needs more than a reconnect, a controller killed on the way goes on where it
// was, and in the end nobody trusts the old CA.
func TestTheCAIsRotatedUnderLoad(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	before := s.identities()
	begun := time.Now()
	report := s.under(ctx, steady, func() {
		s.lbctl(ctx, "ca", "begin")
		if err := errors.Join(s.Controller.Kill(), s.Controller.Start(ctx)); err != nil {
			t.Fatal(err)
		}
		s.authority(ctx, "trust in the new CA", (*tandemv1.NodeTrust).GetTrusts)
		s.lbctl(ctx, "ca", "activate")
		s.authority(ctx, "certificates of the new CA", (*tandemv1.NodeTrust).GetCurrent)
		s.authority(ctx, "sessions with them", (*tandemv1.NodeTrust).GetConnected)
		s.lbctl(ctx, "ca", "retire")
		s.authority(ctx, "trust in the new CA alone", func(n *tandemv1.NodeTrust) bool { return n.GetTrusts() && n.GetCurrent() })
		s.until(10*time.Second, "one CA in each agent's identity", func(context.Context) error {
			for node, text := range s.identities() {
				if n := bytes.Count(text, []byte("BEGIN TANDEM CA CERTIFICATE")); n != 1 {
					return fmt.Errorf("%s has %d", node, n)
				}
			}
			return nil
		})
	})
	t.Logf("%d requests, %s in all", report.Attempts(), time.Since(begun).Round(time.Millisecond))
	for node, text := range s.identities() {
		if slices.Equal(cas(text), cas(before[node])) {
			t.Errorf("%s still trusts what it trusted before", node)
		}
	}
	// What is on disk is all that is needed.
	for _, node := range clustertest.Both {
		if err := errors.Join(s.Nodes[node].KillAgent(), s.Nodes[node].StartAgent(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	s.until(20*time.Second, "both agents connected by what is on disk", func(ctx context.Context) error {
		out, err := s.Lbctl(ctx, "ca", "status", "-o", "json")
		got := &tandemv1.Authority{}
		if err := errors.Join(err, protojson.Unmarshal(out, got)); err != nil {
			return err
		}
		for _, n := range got.GetNodes() {
			if !n.GetConnected() || !n.GetCurrent() {
				return fmt.Errorf("%v", n)
			}
		}
		return nil
	})
}

// authority waits until something holds of both nodes.
func (s *site) authority(ctx context.Context, what string, is func(*tandemv1.NodeTrust) bool) {
	s.t.Helper()
	s.until(20*time.Second, what, func(context.Context) error {
		out, err := s.Lbctl(ctx, "ca", "status", "-o", "json")
		if err != nil {
			return err
		}
		got := &tandemv1.Authority{}
		if err := protojson.Unmarshal(out, got); err != nil {
			return err
		}
		if len(got.GetNodes()) != len(clustertest.Both) {
			return fmt.Errorf("%d nodes", len(got.GetNodes()))
		}
		for _, n := range got.GetNodes() {
			if !is(n) {
				return fmt.Errorf("not so for %v", n)
			}
		}
		return nil
	})
}

// identities are the files with which the agents find their controller.
func (s *site) identities() map[string][]byte {
	s.t.Helper()
	all := map[string][]byte{}
	for _, node := range []string{cluster.Master, cluster.Backup} {
		text, err := os.ReadFile(filepath.Join(s.Nodes[node].StateDir, "identity", "identity.pem"))
		if err != nil {
			s.t.Fatal(err)
		}
		all[node] = text
	}
	return all
}

// cas are the CAs in such a file.
func cas(text []byte) (all []string) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "TANDEM CA CERTIFICATE" {
			all = append(all, fmt.Sprintf("%x", sha256.Sum256(block.Bytes)))
		}
	}
	return all
}
