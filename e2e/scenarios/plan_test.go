package scenarios

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// A plan shows what a file would change and what each node's own HAProxy and
// keepalived say to it, and changes nothing.
func TestPlanAsksTheNodes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	text, err := os.ReadFile(guideFile(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "more.yaml")
	more := strings.Replace(string(text), "\npools:\n", "\npools:\n- name: more_servers\n", 1)
	if err := os.WriteFile(path, []byte(more), 0o600); err != nil {
		t.Fatal(err)
	}
	before := s.head(ctx)
	file, err := os.ReadFile(haproxyFile(s.Nodes[cluster.Master]))
	if err != nil {
		t.Fatal(err)
	}
	out := s.lbctl(ctx, "plan", "-f", path)
	for _, want := range []string{"+ pools/more_servers", "lb-master   accepted", "lb-backup   accepted"} {
		if !strings.Contains(out, want) {
			t.Errorf("the plan lacks %q:\n%s", want, out)
		}
	}

	undo := groupGone(ctx, s, s.Nodes[cluster.Master])
	s.refusedByNode(ctx, []string{"plan", "-f", path}, "refused by lb-master")
	refused, _ := s.Lbctl(ctx, "plan", "-f", path)
	out = string(refused)
	for _, want := range []string{"lb-master   refused", "cannot find group id for 'haproxy'", "lb-backup   accepted"} {
		if !strings.Contains(out, want) {
			t.Errorf("the plan lacks %q:\n%s", want, out)
		}
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}

	if s.head(ctx) != before {
		t.Errorf("a plan made revision %d", s.head(ctx))
	}
	if now, err := os.ReadFile(haproxyFile(s.Nodes[cluster.Master])); err != nil || string(now) != string(file) {
		t.Errorf("a plan changed HAProxy's file (%v):\n%s", err, now)
	}
}
