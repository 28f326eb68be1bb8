package api_test

import (
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// A cluster is diagnosed over gRPC and REST, and what is no VIP of it is refused.
func TestDiagnose(t *testing.T) {
	c := start(t)
	c.join(t, "lb-master")
	conn := c.dial(t)
	const vip = "clusters/default/vips/web"
	_, err := tandemv1.NewConfigServiceClient(conn).CreateVip(c.admin(t), &tandemv1.CreateVipRequest{
		Parent: "clusters/default", VipId: "web", Vip: &tandemv1.Vip{Addresses: []string{"192.0.2.100/24"}, Vrid: 51},
	})
	must(t, err)
	fleet := tandemv1.NewFleetServiceClient(conn)
	d, err := fleet.Diagnose(c.admin(t), &tandemv1.DiagnoseRequest{Name: "clusters/default", Vip: vip})
	must(t, err)
	if d.GetName() != "clusters/default" || len(d.GetVips()) != 1 || !strings.Contains(d.String(), "NODE_DISCONNECTED") {
		t.Errorf("it says %v", d)
	}
	for name, test := range map[string]struct {
		request *tandemv1.DiagnoseRequest
		code    codes.Code
	}{
		"no such cluster": {&tandemv1.DiagnoseRequest{Name: "clusters/other"}, codes.NotFound},
		"no such VIP":     {&tandemv1.DiagnoseRequest{Name: "clusters/default", Vip: "clusters/default/vips/mail"}, codes.NotFound},
		"no VIP's name":   {&tandemv1.DiagnoseRequest{Name: "clusters/default", Vip: "web"}, codes.InvalidArgument},
		"another's VIP":   {&tandemv1.DiagnoseRequest{Name: "clusters/default", Vip: "clusters/other/vips/web"}, codes.InvalidArgument},
	} {
		if _, err := fleet.Diagnose(c.admin(t), test.request); status.Code(err) != test.code {
			t.Errorf("%s: %v, want %s", name, err, test.code)
		}
	}
	if a := c.rest(t, http.MethodPost, "/v1/clusters/default:diagnose", "{}"); a.status != http.StatusOK || !strings.Contains(string(a.body), "NODE_DISCONNECTED") {
		t.Errorf("REST says %d %s", a.status, a.body)
	}
}
