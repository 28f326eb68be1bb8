package scenarios

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// What is wrong with a node is in lbctl status with the cure, costs no client a
// request, and ends by itself with its cause.
func TestTroubleOfANodeIsToldAndEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	n := s.Backup()
	program := func(name, says string) string {
		path := filepath.Join(n.Host.Dir(), name)
		text := fmt.Sprintf("#!/bin/sh\necho '%s'\necho '%s' >&2\n", says, says)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	trouble := []struct {
		name         string
		begin, end   func() error
		words, where string
	}{
		{
			"haproxy missing",
			func() error { return errors.Join(n.Uninstall("haproxy"), n.KillHAProxy(ctx)) },
			func() error { return n.Install("haproxy") },
			"/run/programs/haproxy is not installed: install haproxy 2.4 or newer", "haproxy",
		},
		{
			"haproxy too old",
			func() error {
				return errors.Join(n.Replace("haproxy", program("old-haproxy", "HA-Proxy version 1.8.4 2018/02/08")), n.KillHAProxy(ctx))
			},
			func() error { return errors.Join(n.Uninstall("haproxy"), n.Install("haproxy")) },
			"is version 1.8.4, which is too old: install haproxy 2.4 or newer", "haproxy",
		},
		{
			"keepalived missing",
			func() error { return errors.Join(n.Uninstall("keepalived"), n.KillKeepalived(ctx)) },
			func() error { return n.Install("keepalived") },
			"install keepalived 2.2 or newer", "keepalived",
		},
		{
			"keepalived too old",
			func() error {
				return errors.Join(n.Replace("keepalived", program("old-keepalived", "Keepalived v1.3.9 (10/21,2017)")), n.KillKeepalived(ctx))
			},
			func() error { return errors.Join(n.Uninstall("keepalived"), n.Install("keepalived")) },
			"version 1.3.9 is too old: install keepalived 2.2 or newer", "keepalived",
		},
		{
			"no such interface",
			func() error { return s.withInterface(ctx, n, "eth0", "eth9") },
			func() error { return s.withInterface(ctx, n, "eth9", "eth0") },
			"interface eth9 does not exist on this node", "",
		},
	}
	s.under(ctx, steady, func() {
		for _, tt := range trouble {
			t.Run(tt.name, func(t *testing.T) {
				s := s.in(t)
				if err := tt.begin(); err != nil {
					t.Fatal(err)
				}
				s.told(ctx, tt.where, tt.words)
				if err := tt.end(); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Until(ctx, "a cluster in good health again", healthyPair); err != nil {
					t.Fatal(err)
				}
				if text := s.lbctl(ctx, "status"); strings.Contains(text, tt.words) {
					t.Errorf("lbctl status still says %q:\n%s", tt.words, text)
				}
			})
		}
	})
}

// healthyPair holds when both nodes and both daemons of each are well.
func healthyPair(status *tandemv1.ClusterStatus) error {
	for _, holds := range []cluster.Condition{cluster.Settled(cluster.Master, cluster.Backup), cluster.NoAlarms, cluster.HeldBy("web", cluster.Master)} {
		if err := holds(status); err != nil {
			return err
		}
	}
	for _, n := range status.GetNodes() {
		if k := n.GetKeepalived(); k.GetState() != tandemv1.DaemonState_DAEMON_STATE_RUNNING || len(n.GetProblems()) > 0 {
			return fmt.Errorf("%s: keepalived is %s (%s), problems %v", n.GetName(), k.GetState(), k.GetMessage(), n.GetProblems())
		}
	}
	return nil
}

// told waits until the status says what is wrong with lb-backup, and then asks
// lbctl. where is the daemon whose message it is; empty: a problem.
func (s *site) told(ctx context.Context, where, words string) {
	s.t.Helper()
	says := func(status *tandemv1.ClusterStatus) error {
		n := cluster.FindNode(status, cluster.Backup)
		said := strings.Join(append(n.GetProblems(), n.GetFailure()), "; ")
		switch where {
		case "haproxy":
			said = n.GetHaproxy().GetMessage()
		case "keepalived":
			said = n.GetKeepalived().GetMessage()
		}
		if !strings.Contains(said, words) {
			return fmt.Errorf("lb-backup says %q; status %v", said, n)
		}
		return nil
	}
	if _, err := s.Until(labtest.Deadline(s.t, 15*time.Second), fmt.Sprintf("%q in the status", words), says); err != nil {
		s.t.Error(err)
		return
	}
	if text := s.lbctl(ctx, "status"); !strings.Contains(squeezed(text), words) {
		s.t.Errorf("lbctl status does not say %q:\n%s", words, text)
	}
}

// withInterface changes the interface in the agent's configuration file and
// starts the agent again.
func (s *site) withInterface(ctx context.Context, n *cluster.Node, from, to string) error {
	text, err := os.ReadFile(n.Config)
	if err != nil {
		return err
	}
	text = bytes.Replace(text, []byte("interface: "+from), []byte("interface: "+to), 1)
	return errors.Join(os.WriteFile(n.Config, text, 0o600), n.KillAgent(), n.StartAgent(ctx))
}

// A damaged last good configuration is told, ignored and fetched anew, and
// HAProxy serves on.
func TestDamagedLastGoodConfigurationIsFetchedAnew(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, time.Minute)
	n := s.Master()
	path := filepath.Join(n.StateDir, "good.pb")
	for name, damage := range map[string]func([]byte) []byte{
		"truncated": func(b []byte) []byte { return b[:len(b)/2] },
		"empty":     func([]byte) []byte { return nil },
		"a bit":     func(b []byte) []byte { b[len(b)-20] ^= 1; return b },
		"foreign":   func([]byte) []byte { return []byte("global\n  daemon\n") },
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			s.under(ctx, steady, func() {
				if err := n.KillAgent(); err != nil {
					t.Fatal(err)
				}
				good, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := whole(good); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, damage(good), 0o600); err != nil {
					t.Fatal(err)
				}
				since := s.newestEvent(ctx)
				if err := n.StartAgent(ctx); err != nil {
					t.Fatal(err)
				}
				s.until(10*time.Second, "a whole file again", func(context.Context) error {
					text, err := os.ReadFile(path)
					return errors.Join(err, whole(text))
				})
				s.until(10*time.Second, "an event that tells", func(ctx context.Context) error {
					return s.event(ctx, since, "last good configuration ignored: ")
				})
			})
			s.healthy(ctx)
			if err := s.agree(cluster.Master); err != nil {
				t.Error(err)
			}
		})
	}
}

// Of a damaged journal the changes before the damage are used, that is told, and
// the controller sends the others anew. What runs already is not moved back
// meanwhile, however long the controller is away.
func TestDamagedJournalIsMadeGood(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, time.Minute)
	n := s.Master()
	path := filepath.Join(n.StateDir, "journal")
	weight := 1 // which it has: set anew, it would leave HAProxy nothing to keep
	s.under(ctx, steady, func() {
		// The last record alone would count as cut off by a crash.
		var text, first, rest []byte
		for len(rest) == 0 {
			weight++
			s.lbctl(ctx, "backend", "set", "web_servers/web2", "--weight", strconv.Itoa(weight))
			var err error
			if text, err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
			first, rest = firstRecord(text)
		}
		if err := n.KillAgent(); err != nil {
			t.Fatal(err)
		}
		first[len(first)-1] ^= 1
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		since := s.newestEvent(ctx)
		if err := s.Controller.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := n.StartAgent(ctx); err != nil {
			t.Fatal(err)
		}
		s.until(10*time.Second, "word that HAProxy is left alone", func(ctx context.Context) error {
			out, err := n.LbAgent(ctx, "status")
			if err == nil && !strings.Contains(squeezed(string(out)), "HAProxy is left with what it runs") {
				err = fmt.Errorf("lb-agent status says:\n%s", out)
			}
			return err
		})
		if now, err := runtime(ctx, n); err != nil || now.Servers["web_servers/web2"].Weight != weight {
			t.Errorf("web2 is %+v (%v), want the weight %d that it had", now.Servers["web_servers/web2"], err, weight)
		}
		s.controllerBack(ctx)
		s.until(10*time.Second, "an event that tells", func(ctx context.Context) error {
			return s.event(ctx, since, "last good configuration used without its newest changes: ")
		})
	})
	s.healthy(ctx)
	s.everywhere(ctx, "web_servers/web2", func(w server) bool { return w.Weight == weight })
	if err := s.agree(cluster.Master); err != nil {
		t.Error(err)
	}
}

// firstRecord returns the change in a journal's first record and all that follows it:
// each record is a length, a checksum and a change.
func firstRecord(journal []byte) (change, rest []byte) {
	const head = 8
	_, records, _ := bytes.Cut(journal, []byte("\n"))
	if len(records) < head {
		return nil, nil
	}
	length := binary.BigEndian.Uint32(records)
	return records[head : head+length], records[head+length:]
}

// whole tells whether a last good configuration is as it was written: its first
// line ends in the SHA-256 of the rest.
func whole(text []byte) error {
	header, body, _ := bytes.Cut(text, []byte("\n"))
	sum := sha256.Sum256(body)
	if !bytes.HasSuffix(header, []byte(" "+hex.EncodeToString(sum[:]))) {
		return fmt.Errorf("%.60q… is not the header of the %d bytes that follow", header, len(body))
	}
	return nil
}

// newestEvent is the name of the newest event.
func (s *site) newestEvent(ctx context.Context) string {
	s.t.Helper()
	list, err := s.events.ListEvents(ctx, &tandemv1.ListEventsRequest{Parent: cluster.Name, PageSize: 1})
	if err != nil || len(list.GetEvents()) != 1 {
		s.t.Fatalf("newest event: %v %v", list, err)
	}
	return list.GetEvents()[0].GetName()
}

// event returns nil if an event after the named one holds the words.
func (s *site) event(ctx context.Context, after, words string) error {
	list, err := s.events.ListEvents(ctx, &tandemv1.ListEventsRequest{Parent: cluster.Name, PageSize: 100})
	if err != nil {
		return err
	}
	var said []string
	for _, e := range list.GetEvents() {
		if e.GetName() == after {
			break
		}
		if strings.Contains(e.GetMessage(), words) {
			return nil
		}
		said = append(said, e.GetMessage())
	}
	return fmt.Errorf("no event says %q; they say %q", words, said)
}
