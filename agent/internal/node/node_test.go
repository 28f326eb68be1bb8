package node

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/agent/internal/cache"
	"github.com/tandem-lb/tandem/agent/internal/report"
)

// A disk that cannot be written does not make a clean stop a failure.
func TestACleanStopWithoutADiskIsClean(t *testing.T) {
	var said bytes.Buffer
	n := &node{
		report: report.Open("boot", filepath.Join(t.TempDir(), "missing", "events.pb")),
		logger: hclog.New(&hclog.LoggerOptions{Output: &said}),
	}
	n.report.Note("something")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.keepEvents(ctx); err != nil {
		t.Error(err)
	}
	if !strings.Contains(said.String(), "events that wait for the controller are lost") {
		t.Errorf("it says %q", said.String())
	}
}

// An agent whose files cannot be read runs, without them, and says so: it is
// needed to get them anew.
func TestFilesThatCannotBeReadAreTold(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"good.pb", "local.pb"} {
		path := filepath.Join(dir, name)
		if err := os.Symlink(path, path); err != nil { // whoever opens it gets ELOOP
			t.Fatal(err)
		}
	}
	store, err := cache.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{report: report.New("boot"), logger: hclog.NewNullLogger()}
	if good, behind := n.good(store); good != nil || behind {
		t.Errorf("good is %v, behind: %v", good, behind)
	}
	if changes := n.changes(dir); changes == nil {
		t.Error("no set for new changes")
	}
	n.report.Begin(nil)
	events := 0
	for _, batch := n.report.Next(); batch != nil; _, batch = n.report.Next() {
		events += len(batch.GetEvents())
	}
	if events != 2 {
		t.Errorf("%d events, want one for each file", events)
	}
}
