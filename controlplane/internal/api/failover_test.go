package api_test

import (
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// What a failover needs is checked before any node is told, over gRPC and REST.
func TestFailoverOfWhatCannotMove(t *testing.T) {
	c := start(t)
	c.join(t, "lb-master")
	conn := c.dial(t)
	const vip = "clusters/default/vips/web"
	_, err := tandemv1.NewConfigServiceClient(conn).CreateVip(c.admin(t), &tandemv1.CreateVipRequest{
		Parent: "clusters/default", VipId: "web", Vip: &tandemv1.Vip{Addresses: []string{"192.0.2.100/24"}, Vrid: 51},
	})
	must(t, err)
	fleet := tandemv1.NewFleetServiceClient(conn)
	for name, test := range map[string]struct {
		request *tandemv1.FailoverVipRequest
		code    codes.Code
		says    string
	}{
		"no such VIP":    {&tandemv1.FailoverVipRequest{Name: "clusters/default/vips/mail"}, codes.NotFound, "does not exist"},
		"no VIP's name":  {&tandemv1.FailoverVipRequest{Name: "clusters/default/nodes/lb-master"}, codes.InvalidArgument, "vips"},
		"no such node":   {&tandemv1.FailoverVipRequest{Name: vip, To: "lb-third"}, codes.NotFound, "lb-third"},
		"no node's name": {&tandemv1.FailoverVipRequest{Name: vip, To: "lb third"}, codes.InvalidArgument, "must be the id of a node"},
		"too long":       {&tandemv1.FailoverVipRequest{Name: vip, Lease: durationpb.New(1 << 62)}, codes.InvalidArgument, "lease"},
		"a bad reason":   {&tandemv1.FailoverVipRequest{Name: vip, Reason: "\x1b[2J"}, codes.InvalidArgument, "control characters"},
		"nobody has it":  {&tandemv1.FailoverVipRequest{Name: vip}, codes.FailedPrecondition, "VIP web: it is not held by one node"},
	} {
		if _, err := fleet.FailoverVip(c.admin(t), test.request); status.Code(err) != test.code || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %s: %s", name, err, test.code, test.says)
		}
	}
	if a := c.rest(t, http.MethodPost, "/v1/"+vip+":failover", "{}"); a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "NO_HOLDER") {
		t.Errorf("REST says %d %s", a.status, a.body)
	}
}
