package api_test

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// fault is what a caller learns of an error.
type fault struct {
	code    codes.Code
	reason  string
	message string
	fields  map[string]string // path → reason and what would be right
	// metadata of the reason, such as the name.
	metadata map[string]string
}

func faultOf(t *testing.T, st *status.Status) fault {
	t.Helper()
	f := fault{code: st.Code(), message: st.Message(), fields: map[string]string{}}
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			f.metadata = d.GetMetadata()
			f.reason = d.GetReason()
			if d.GetDomain() != "tandem" {
				t.Errorf("domain %q", d.GetDomain())
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				f.fields[v.GetField()] = v.GetReason() + " " + v.GetDescription()
			}
		}
	}
	return f
}

func grpcFault(t *testing.T, err error) fault {
	t.Helper()
	return faultOf(t, status.Convert(err))
}

func restFault(t *testing.T, a answer) fault {
	t.Helper()
	var st spb.Status
	if err := protojson.Unmarshal(a.body, &st); err != nil {
		t.Fatalf("no google.rpc.Status: %s", a.body)
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
	return faultOf(t, status.FromProto(&st))
}

// seed is what the error cases start from.
func seed(t *testing.T, c *controller) {
	t.Helper()
	for path, body := range map[string]string{
		"/v1/clusters/default/pools?pool_id=web_servers": `{}`,
		"/v1/clusters/default/vips?vip_id=web":           `{"addresses":["192.168.1.100/24"],"vrid":51}`,
	} {
		if got := c.rest(t, http.MethodPost, path, body); got.status != http.StatusOK {
			t.Fatalf("%s: %s", path, got.body)
		}
	}
	for path, body := range map[string]string{
		"/v1/clusters/default/pools/web_servers/backends?backend_id=web1": `{"address":"192.168.1.20","port":80}`,
		"/v1/clusters/default/listeners?listener_id=web_frontend":         `{"binds":[{"vip":"web","port":80}],"pool":"web_servers"}`,
	} {
		if got := c.rest(t, http.MethodPost, path, body); got.status != http.StatusOK {
			t.Fatalf("%s: %s", path, got.body)
		}
	}
}

// Each mistake gets one and the same answer over gRPC and REST, and changes
// nothing.
func TestErrorsAreTheSameOverBothTransports(t *testing.T) {
	c := start(t)
	seed(t, c)
	conn := c.dial(t)
	const cluster, pool = "clusters/default", "clusters/default/pools/web_servers"
	cases := map[string]struct {
		method       string // of ConfigService
		request      proto.Message
		verb, path   string
		body         string
		code         codes.Code
		http         int
		reason       string
		field, right string // of the first violation, and a part of what would be right
	}{
		"bad address": {
			"CreateBackend", &tandemv1.CreateBackendRequest{Parent: pool, BackendId: "web2", Backend: &tandemv1.Backend{Address: "192.168.1.999", Port: 80}},
			"POST", "/v1/" + pool + "/backends?backend_id=web2", `{"address":"192.168.1.999","port":80}`,
			codes.InvalidArgument, 400, "FIELD_INVALID", "backend.address", "such as 192.168.1.20",
		},
		"duplicate VRID": {
			"CreateVip", &tandemv1.CreateVipRequest{Parent: cluster, VipId: "other", Vip: &tandemv1.Vip{Addresses: []string{"192.168.1.101/24"}, Vrid: 51}},
			"POST", "/v1/" + cluster + "/vips?vip_id=other", `{"addresses":["192.168.1.101/24"],"vrid":51}`,
			codes.FailedPrecondition, 400, "VRID_TAKEN", "vip.vrid", "",
		},
		"duplicate bind": {
			"CreateListener", &tandemv1.CreateListenerRequest{Parent: cluster, ListenerId: "other", Listener: &tandemv1.Listener{Binds: []*tandemv1.Bind{{Vip: "web", Port: 80}}, Pool: "web_servers"}},
			"POST", "/v1/" + cluster + "/listeners?listener_id=other", `{"binds":[{"vip":"web","port":80}],"pool":"web_servers"}`,
			codes.FailedPrecondition, 400, "BIND_TAKEN", "listener.binds[0].port", "",
		},
		"pool in use": {
			"DeletePool", &tandemv1.DeletePoolRequest{Name: pool},
			"DELETE", "/v1/" + pool, "",
			codes.FailedPrecondition, 400, "POOL_IN_USE", "", "",
		},
		"backend twice": {
			"CreateBackend", &tandemv1.CreateBackendRequest{Parent: pool, BackendId: "web1", Backend: &tandemv1.Backend{Address: "192.168.1.30", Port: 80}},
			"POST", "/v1/" + pool + "/backends?backend_id=web1", `{"address":"192.168.1.30","port":80}`,
			codes.AlreadyExists, 409, "BACKEND_EXISTS", "", "",
		},
		"control characters": {
			"CreatePool", &tandemv1.CreatePoolRequest{Parent: cluster, PoolId: "p", Message: "a\nb", Pool: &tandemv1.Pool{}},
			"POST", "/v1/" + cluster + "/pools?pool_id=p&message=a%0Ab", `{}`,
			codes.InvalidArgument, 400, "FIELD_INVALID", "message", "without control characters",
		},
		"stale etag": {
			"UpdatePool", &tandemv1.UpdatePoolRequest{Pool: &tandemv1.Pool{Name: pool, Balance: "leastconn", Etag: "stale"}},
			"PATCH", "/v1/" + pool, `{"balance":"leastconn","etag":"stale"}`,
			codes.Aborted, 409, "ETAG_MISMATCH", "", "",
		},
		"unknown cluster": {
			"GetPool", &tandemv1.GetPoolRequest{Name: "clusters/nope/pools/web_servers"},
			"GET", "/v1/clusters/nope/pools/web_servers", "",
			codes.NotFound, 404, "NOT_FOUND", "", "",
		},
		"unknown pool": {
			"ListBackends", &tandemv1.ListBackendsRequest{Parent: "clusters/default/pools/nope"},
			"GET", "/v1/clusters/default/pools/nope/backends", "",
			codes.NotFound, 404, "NOT_FOUND", "", "",
		},
		"unknown backend to change": {
			"UpdateBackend", &tandemv1.UpdateBackendRequest{Backend: &tandemv1.Backend{Name: pool + "/backends/nope", Weight: proto.Uint32(2)}},
			"PATCH", "/v1/" + pool + "/backends/nope", `{"weight":2}`,
			codes.NotFound, 404, "NOT_FOUND", "", "",
		},
		"bad id": {
			"CreatePool", &tandemv1.CreatePoolRequest{Parent: cluster, PoolId: "a b", Pool: &tandemv1.Pool{}},
			"POST", "/v1/" + cluster + "/pools?pool_id=a+b", `{}`,
			codes.InvalidArgument, 400, "FIELD_INVALID", "pool_id", "1 to 63 letters",
		},
		"bad name": {
			"GetVip", &tandemv1.GetVipRequest{Name: "clusters/default/vips/a b"},
			"GET", "/v1/clusters/default/vips/a%20b", "",
			codes.InvalidArgument, 400, "NAME_INVALID", "name", "such as clusters/default/vips/web",
		},
		"deep in a file": {
			"ApplyConfig", &tandemv1.ApplyConfigRequest{Parent: cluster, Config: &tandemv1.ClusterConfig{Pools: []*tandemv1.Pool{
				{Name: "a"}, {Name: "b", Backends: []*tandemv1.Backend{{Name: "x", Address: "10.0.0.1", Port: 80}, {Name: "y", Address: "10.0.0.2", Port: 70000}}},
			}}},
			"POST", "/v1/" + cluster + ":apply", `{"config":{"pools":[{"name":"a"},{"name":"b","backends":[{"name":"x","address":"10.0.0.1","port":80},{"name":"y","address":"10.0.0.2","port":70000}]}]}}`,
			codes.InvalidArgument, 400, "FIELD_INVALID", "config.pools[1].backends[1].port", "65535",
		},
		"no configuration": {
			"ApplyConfig", &tandemv1.ApplyConfigRequest{Parent: cluster},
			"POST", "/v1/" + cluster + ":apply", `{}`,
			codes.InvalidArgument, 400, "FIELD_INVALID", "config", "whole configuration",
		},
		"page token of another list": {
			"ListPools", &tandemv1.ListPoolsRequest{Parent: cluster, PageToken: "nonsense"},
			"GET", "/v1/" + cluster + "/pools?page_token=nonsense", "",
			codes.InvalidArgument, 400, "PAGE_TOKEN_INVALID", "", "",
		},
		"page too large": {
			"ListPools", &tandemv1.ListPoolsRequest{Parent: cluster, PageSize: 10001},
			"GET", "/v1/" + cluster + "/pools?page_size=10001", "",
			codes.InvalidArgument, 400, "FIELD_INVALID", "page_size", "10000",
		},
		"revision to come": {
			"GetRevision", &tandemv1.GetRevisionRequest{Name: cluster + "/revisions/999"},
			"GET", "/v1/" + cluster + "/revisions/999", "",
			codes.NotFound, 404, "REVISION_GONE", "", "",
		},
		"revision by a word": {
			"GetRevision", &tandemv1.GetRevisionRequest{Name: cluster + "/revisions/last"},
			"GET", "/v1/" + cluster + "/revisions/last", "",
			codes.InvalidArgument, 400, "NAME_INVALID", "name", "revisions/7",
		},
	}
	before := c.rest(t, http.MethodGet, "/v1/clusters/default:export", "")
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			err := conn.Invoke(c.admin(t), "/tandem.v1.ConfigService/"+test.method, test.request, &emptypb.Empty{})
			overGRPC := grpcFault(t, err)
			a := c.rest(t, test.verb, test.path, test.body)
			overREST := restFault(t, a)
			if !reflect.DeepEqual(overGRPC, overREST) {
				t.Errorf("not the same:\ngRPC %+v\nREST %+v", overGRPC, overREST)
			}
			if overGRPC.code != test.code || overGRPC.reason != test.reason || a.status != test.http {
				t.Errorf("%v %d %s %q; want %v %d %s", overGRPC.code, a.status, overGRPC.reason, overGRPC.message, test.code, test.http, test.reason)
			}
			if got, ok := overGRPC.fields[test.field]; test.field != "" && (!ok || !strings.Contains(got, test.right)) {
				t.Errorf("fields %v; want %s with %q", overGRPC.fields, test.field, test.right)
			}
		})
	}
	if after := c.rest(t, http.MethodGet, "/v1/clusters/default:export", ""); string(after.body) != string(before.body) {
		t.Errorf("something changed: %s", after.body)
	}
}

// What only a text form can get wrong.
func TestBodiesAndQueriesAreReadStrictly(t *testing.T) {
	c := start(t)
	seed(t, c)
	for name, test := range map[string]struct {
		verb, path, body string
		reason, field    string
		right            string
	}{
		"unknown field":        {"POST", "/pools?pool_id=p", `{"ballance":"first"}`, "FIELD_UNKNOWN", "pool.ballance", "balance"},
		"unknown field inside": {"POST", "/pools?pool_id=p", `{"check":{"http":{"pth":"/"}}}`, "FIELD_UNKNOWN", "pool.check.http.pth", "path"},
		"unknown in a list":    {"POST", ":apply", `{"config":{"pools":[{"name":"a"},{"nam":"b"}]}}`, "FIELD_UNKNOWN", "config.pools[1].nam", "name"},
		"unknown parameter":    {"POST", "/pools?pool_id=p&validate=true", `{}`, "FIELD_UNKNOWN", "validate", "validate_only"},
		"given twice":          {"POST", "/pools?pool_id=p", `{"balance":"first","balance":"uri"}`, "FIELD_INVALID", "pool.balance", "twice"},
		"twice by two names":   {"POST", "/pools?pool_id=p", `{"connect_timeout":"1s","connectTimeout":"2s"}`, "FIELD_INVALID", "pool.connect_timeout", "twice"},
		"parameter twice":      {"POST", "/pools?pool_id=p&poolId=q", `{}`, "FIELD_INVALID", "", ""},
		"body in the query":    {"POST", "/pools?pool_id=p&pool=x", `{}`, "FIELD_INVALID", "pool", "body"},
		"no duration":          {"POST", "/pools?pool_id=p", `{"connect_timeout":"5"}`, "FIELD_INVALID", "pool.connect_timeout", "500ms"},
		"number for text":      {"POST", "/pools?pool_id=p", `{"balance":1}`, "FIELD_INVALID", "pool.balance", "quotes"},
		"text for a number":    {"POST", "/pools?pool_id=p", `{"retries":"many"}`, "FIELD_INVALID", "pool.retries", "whole number"},
		"negative":             {"POST", "/pools?pool_id=p", `{"retries":-1}`, "FIELD_INVALID", "pool.retries", "negative"},
		"text for yes":         {"POST", "/pools?pool_id=p", `{"redispatch":"yes"}`, "FIELD_INVALID", "pool.redispatch", "true or false"},
		"list for an object":   {"POST", "/pools?pool_id=p", `{"check":[]}`, "FIELD_INVALID", "pool.check", "{…}"},
		"object for a list":    {"POST", "/vips?vip_id=v", `{"addresses":{"a":1},"vrid":1}`, "FIELD_INVALID", "vip.addresses", "[…]"},
		"in a map":             {"POST", "/vips?vip_id=v", `{"priorities":{"lb-master":"high"}}`, "FIELD_INVALID", `vip.priorities["lb-master"]`, "whole number"},
		"no time":              {"PATCH", "/pools/web_servers/backends/web1/override", `{"expireTime":"tomorrow"}`, "FIELD_INVALID", "override.expire_time", "2026-"},
		"no JSON":              {"POST", "/pools?pool_id=p", "{\"balance\":\n\"first\",}", "BODY_INVALID", "", ""},
		"YAML":                 {"POST", "/pools?pool_id=p", `balance: first`, "BODY_INVALID", "", ""},
		"a list":               {"POST", "/pools?pool_id=p", `[]`, "BODY_INVALID", "", ""},
		"two objects":          {"POST", "/pools?pool_id=p", `{}{}`, "BODY_INVALID", "", ""},
		"bad parameter":        {"GET", "/pools?page_size=many", ``, "FIELD_INVALID", "page_size", "page_size"},
		"bad mask":             {"PATCH", "/pools/web_servers?update_mask=ballance", `{}`, "FIELD_UNKNOWN", "update_mask", "ballance"},
	} {
		t.Run(name, func(t *testing.T) {
			a := c.rest(t, test.verb, "/v1/clusters/default"+test.path, test.body)
			got := restFault(t, a)
			if a.status != http.StatusBadRequest || got.code != codes.InvalidArgument || got.reason != test.reason {
				t.Fatalf("%d %s; want 400 %s", a.status, a.body, test.reason)
			}
			if right, ok := got.fields[test.field]; test.field != "" && (!ok || !strings.Contains(right, test.right)) {
				t.Errorf("fields %v; want %s with %q", got.fields, test.field, test.right)
			}
		})
	}
}

// A client that is newer than the controller must not believe that it did
// everything.
func TestUnknownFieldOverGRPCIsRefused(t *testing.T) {
	c := start(t)
	pool := &tandemv1.Pool{}
	pool.ProtoReflect().SetUnknown([]byte{0xf8, 0x3f, 0x01}) // field 1023, value 1
	_, err := tandemv1.NewConfigServiceClient(c.dial(t)).CreatePool(c.admin(t), &tandemv1.CreatePoolRequest{
		Parent: "clusters/default", PoolId: "p", Pool: pool,
	})
	if got := grpcFault(t, err); got.reason != "FIELD_UNKNOWN" || got.fields["pool"] == "" {
		t.Errorf("got %+v; want FIELD_UNKNOWN of pool", got)
	}
}

func TestDurationsAreReadAsPeopleWriteThem(t *testing.T) {
	c := start(t)
	for text, want := range map[string]string{"500ms": "0.500s", "1m30s": "90s", "2s": "2s", "0.25s": "0.250s", "1.1s": "1.100s"} {
		a := c.rest(t, http.MethodPost, "/v1/clusters/default/pools?validate_only=true&pool_id=p", `{"connect_timeout": "`+text+`","check":{"interval" : "`+text+`"},"balance":"first"}`)
		var pool struct {
			ConnectTimeout string
			Check          struct{ Interval string }
			Balance        string
		}
		if err := json.Unmarshal(a.body, &pool); err != nil || pool.ConnectTimeout != want || pool.Check.Interval != want || pool.Balance != "first" {
			t.Errorf("%s: %s; want %s", text, a.body, want)
		}
	}
	a := c.rest(t, http.MethodPost, "/v1/clusters/default/joinTokens?ttl=90m", `{"node":"lb-master"}`)
	if a.status != http.StatusOK {
		t.Errorf("a duration in the query: %s", a.body)
	}
}
