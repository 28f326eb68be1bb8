package cmd

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// What could not be kept is told, with what ends it.
func TestDriftThatCannotBeKeptIsTold(t *testing.T) {
	r := newRecorder(t)
	r.replies["KeepDrift"] = []proto.Message{&tandemv1.KeepDriftResponse{Gone: []*tandemv1.Drift{{
		Name: "clusters/default/pools/web_servers/backends/web9", Local: &tandemv1.DriftState{State: "drain"},
	}}}}
	got := r.run("", "node", "drift", "keep", "lb-master")
	if got.code != 0 || !strings.Contains(got.stderr, "not kept, as it exists no more: backend web_servers/web9 drain") ||
		!strings.Contains(got.stderr, "lbctl node drift discard lb-master") || !strings.Contains(got.stderr, "nothing to keep") {
		t.Errorf("%+v", got)
	}
}
