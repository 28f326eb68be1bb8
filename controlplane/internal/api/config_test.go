package api_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// revisionOf reads the metadata that every change answers with.
func revisionOf(t *testing.T, header metadata.MD) string {
	t.Helper()
	if len(header.Get("tandem-revision")) != 1 || len(header.Get("tandem-epoch")) != 1 {
		t.Fatalf("header %v; want one tandem-revision and one tandem-epoch", header)
	}
	return header.Get("tandem-revision")[0]
}

func TestEveryChangeTellsItsRevision(t *testing.T) {
	c := start(t)
	configs := tandemv1.NewConfigServiceClient(c.dial(t))
	var header metadata.MD
	_, err := configs.CreatePool(c.admin(t), &tandemv1.CreatePoolRequest{Parent: "clusters/default", PoolId: "p"}, grpc.Header(&header))
	must(t, err)
	if got := revisionOf(t, header); got != "2" {
		t.Errorf("revision %s; want 2, after that of the first start", got)
	}
	for _, step := range []struct{ verb, path, body, want string }{
		{"POST", "/pools/p/backends?backend_id=b", `{"address":"10.0.0.1","port":80}`, "3"},
		{"PATCH", "/pools/p/backends/b", `{"weight":5}`, "4"},
		{"PATCH", "/pools/p/backends/b", `{"weight":5}`, "4"}, // nothing changes
		{"PATCH", "/pools/p/backends/b/override", `{"state":"drain"}`, "5"},
		{"DELETE", "/pools/p/backends/b/override", ``, "6"},
		{"POST", ":apply", `{"config":{"pools":[{"name":"p"}]}}`, "7"},
		{"POST", ":apply", `{"config":{"pools":[{"name":"p"}]}}`, "7"},
		{"PATCH", "", `{"defaults":{"connectTimeout":"7s"}}`, "8"},
		{"DELETE", "/pools/p", ``, "9"},
	} {
		a := c.rest(t, step.verb, "/v1/clusters/default"+step.path, step.body)
		if a.status != http.StatusOK || a.header.Get("Tandem-Revision") != step.want || a.header.Get("Tandem-Epoch") == "" {
			t.Errorf("%s %s: %d %s revision %q; want %s", step.verb, step.path, a.status, a.body, a.header.Get("Tandem-Revision"), step.want)
		}
	}
	a := c.rest(t, "GET", "/v1/clusters/default/revisions/4", "")
	revision := a.decode(t)
	if revision["author"] != "admin" || !strings.Contains(string(a.body), `"weight":5`) {
		t.Errorf("revision 4: %s", a.body)
	}
}

// What is odd though it is legal comes with the answer, of a dry run too.
func TestChangesTellWhatIsOdd(t *testing.T) {
	c := start(t)
	configs := tandemv1.NewConfigServiceClient(c.dial(t))
	for _, node := range []string{"lb-master", "lb-backup"} {
		c.join(t, node)
	}
	for _, test := range []struct {
		only   bool
		weight int32
		want   int
	}{{true, -5, 1}, {false, -5, 1}, {false, -11, 0}} {
		var header metadata.MD
		_, err := configs.ApplyConfig(c.admin(t), &tandemv1.ApplyConfigRequest{Parent: "clusters/default", ValidateOnly: test.only, Config: &tandemv1.ClusterConfig{
			Vips: []*tandemv1.Vip{{Name: "web", Addresses: []string{"192.168.1.100/24"}, Vrid: 51, Tracks: []*tandemv1.Track{{Kind: "gateway", Weight: proto.Int32(test.weight)}}}},
		}}, grpc.Header(&header))
		must(t, err)
		if got := header.Get("tandem-note"); len(got) != test.want || test.want > 0 && !strings.HasPrefix(got[0], `VIP web: track "gateway" is too light`) {
			t.Errorf("weight %d, validate only %v: %q", test.weight, test.only, got)
		}
	}
}

func TestValidateOnlyChangesNothing(t *testing.T) {
	c := start(t)
	var header metadata.MD
	configs := tandemv1.NewConfigServiceClient(c.dial(t))
	pool, err := configs.CreatePool(c.admin(t), &tandemv1.CreatePoolRequest{Parent: "clusters/default", PoolId: "p", ValidateOnly: true}, grpc.Header(&header))
	must(t, err)
	if pool.GetName() != "clusters/default/pools/p" || pool.GetEffective().GetConnectTimeout().GetSeconds() != 5 || len(header.Get("tandem-revision")) != 0 {
		t.Errorf("%v, header %v; want the pool as it would be and no revision", pool, header)
	}
	_, err = configs.GetPool(c.admin(t), &tandemv1.GetPoolRequest{Name: "clusters/default/pools/p"})
	if got := grpcFault(t, err); got.code != codes.NotFound {
		t.Errorf("the pool afterwards: %+v; want NOT_FOUND", got)
	}
	response, err := configs.ApplyConfig(c.admin(t), &tandemv1.ApplyConfigRequest{
		Parent: "clusters/default", ValidateOnly: true, Config: &tandemv1.ClusterConfig{Pools: []*tandemv1.Pool{{Name: "p"}}},
	})
	must(t, err)
	if len(response.GetRevision().GetChanges()) != 1 {
		t.Errorf("%v; want the change that it would make", response)
	}
}

func TestRepeatedRequestIDMakesOneRevision(t *testing.T) {
	c := start(t)
	configs := tandemv1.NewConfigServiceClient(c.dial(t))
	request := &tandemv1.CreatePoolRequest{Parent: "clusters/default", PoolId: "p", RequestId: "4a1f"}
	var first, second metadata.MD
	made, err := configs.CreatePool(c.admin(t), request, grpc.Header(&first))
	must(t, err)
	again, err := configs.CreatePool(c.admin(t), request, grpc.Header(&second))
	must(t, err)
	if !proto.Equal(made, again) || revisionOf(t, first) != revisionOf(t, second) {
		t.Errorf("first %v %v, then %v %v; want the same", made, first, again, second)
	}
	a := c.rest(t, "POST", "/v1/clusters/default/pools?pool_id=p&request_id=4a1f", "{}")
	if a.status != http.StatusOK || a.header.Get("Tandem-Revision") != revisionOf(t, first) {
		t.Errorf("over REST: %d %s; want the same", a.status, a.body)
	}
	_, err = configs.CreatePool(c.admin(t), &tandemv1.CreatePoolRequest{Parent: "clusters/default", PoolId: "p", RequestId: "other"})
	if got := grpcFault(t, err); got.reason != "POOL_EXISTS" {
		t.Errorf("another request: %+v; want POOL_EXISTS", got)
	}
}

func TestPagesComeFromOneRevision(t *testing.T) {
	c := start(t)
	configs := tandemv1.NewConfigServiceClient(c.dial(t))
	create := func(id string) {
		_, err := configs.CreatePool(c.admin(t), &tandemv1.CreatePoolRequest{Parent: "clusters/default", PoolId: id})
		must(t, err)
	}
	for i := range 5 {
		create(fmt.Sprintf("p%d", i))
	}
	var names []string
	request := &tandemv1.ListPoolsRequest{Parent: "clusters/default", PageSize: 2}
	for pages := 1; ; pages++ {
		page, err := configs.ListPools(c.admin(t), request)
		must(t, err)
		for _, pool := range page.GetPools() {
			names = append(names, strings.TrimPrefix(pool.GetName(), "clusters/default/pools/"))
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			if pages != 3 {
				t.Errorf("%d pages; want 3", pages)
			}
			break
		}
		create(fmt.Sprintf("a%d", pages)) // before all others
	}
	if got := strings.Join(names, " "); got != "p0 p1 p2 p3 p4" {
		t.Errorf("the pages hold %s; want p0 to p4, each once", got)
	}
	first, err := configs.ListPools(c.admin(t), &tandemv1.ListPoolsRequest{Parent: "clusters/default", PageSize: 1})
	must(t, err)
	for i := range 70 { // more than the ledger keeps
		create(fmt.Sprintf("x%d", i))
	}
	_, err = configs.ListPools(c.admin(t), &tandemv1.ListPoolsRequest{Parent: "clusters/default", PageToken: first.GetNextPageToken()})
	if got := grpcFault(t, err); got.reason != "PAGE_TOKEN_EXPIRED" {
		t.Errorf("an old token: %+v; want PAGE_TOKEN_EXPIRED", got)
	}
	_, err = configs.ListVips(c.admin(t), &tandemv1.ListVipsRequest{Parent: "clusters/default", PageToken: first.GetNextPageToken()})
	if got := grpcFault(t, err); got.reason != "PAGE_TOKEN_INVALID" {
		t.Errorf("another list's token: %+v; want PAGE_TOKEN_INVALID", got)
	}
}

func TestRevisionsArePagedBackward(t *testing.T) {
	c := start(t)
	for i := range 4 {
		c.rest(t, "POST", fmt.Sprintf("/v1/clusters/default/pools?pool_id=p%d", i), "{}")
	}
	var numbers []string
	path := "/v1/clusters/default/revisions?page_size=2"
	for token := ""; ; {
		body := c.rest(t, "GET", path+"&page_token="+token, "").decode(t)
		for _, revision := range body["revisions"].([]any) {
			numbers = append(numbers, revision.(map[string]any)["number"].(string))
		}
		if token = body["nextPageToken"].(string); token == "" {
			break
		}
	}
	if got := strings.Join(numbers, " "); got != "5 4 3 2 1" {
		t.Errorf("revisions %s; want 5 4 3 2 1", got)
	}
}

func TestClusters(t *testing.T) {
	c := start(t)
	for _, id := range []string{"b", "a"} {
		if a := c.rest(t, "POST", "/v1/clusters?cluster_id="+id, "{}"); a.status != http.StatusOK {
			t.Fatalf("%s", a.body)
		}
	}
	var names []string
	for token := ""; ; {
		body := c.rest(t, "GET", "/v1/clusters?page_size=2&page_token="+token, "").decode(t)
		for _, cluster := range body["clusters"].([]any) {
			names = append(names, cluster.(map[string]any)["name"].(string))
		}
		if token = body["nextPageToken"].(string); token == "" {
			break
		}
	}
	if got := strings.Join(names, " "); got != "clusters/a clusters/b clusters/default" {
		t.Errorf("clusters %s", got)
	}
	if a := c.rest(t, "DELETE", "/v1/clusters/a", ""); a.status != http.StatusOK || a.header.Get("Tandem-Revision") != "2" {
		t.Errorf("delete: %d %s %v", a.status, a.body, a.header)
	}
	if a := c.rest(t, "GET", "/v1/clusters/a", ""); a.status != http.StatusNotFound {
		t.Errorf("deleted: %d %s; want 404", a.status, a.body)
	}
}

// What GET returns can be changed and sent back, output-only fields and all.
func TestWhatIsReadCanBeSentBack(t *testing.T) {
	c := start(t)
	seed(t, c)
	c.rest(t, "PATCH", "/v1/clusters/default/pools/web_servers/backends/web1/override", `{"state":"drain","reason":"test"}`)
	for path, change := range map[string][2]string{
		"/v1/clusters/default":                                 {`"maxConnections":3000`, `"maxConnections":3001`}, // effective: ignored
		"/v1/clusters/default/vips/web":                        {`"failBack":""`, `"failBack":"never"`},
		"/v1/clusters/default/listeners/web_frontend":          {`"protocol":""`, `"protocol":"http"`},
		"/v1/clusters/default/pools/web_servers":               {`"balance":""`, `"balance":"leastconn"`},
		"/v1/clusters/default/pools/web_servers/backends/web1": {`"port":80`, `"port":81`},
	} {
		read := c.rest(t, "GET", path, "")
		sent := strings.Replace(string(read.body), change[0], change[1], 1)
		if sent == string(read.body) {
			t.Errorf("%s: nothing to change in %s", path, read.body)
		}
		if a := c.rest(t, "PATCH", path, sent); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
		again := c.rest(t, "GET", path, "")
		if path != "/v1/clusters/default" && !strings.Contains(string(again.body), change[1]) {
			t.Errorf("%s is %s; want %s", path, again.body, change[1])
		}
		if path == "/v1/clusters/default" && strings.Contains(string(again.body), "3001") {
			t.Errorf("an output-only field was taken: %s", again.body)
		}
	}
	backend := c.rest(t, "GET", "/v1/clusters/default/pools/web_servers/backends/web1", "").decode(t)
	if backend["override"].(map[string]any)["state"] != "drain" {
		t.Errorf("the override is gone: %v", backend)
	}
}

// A request id is known longer than its cluster.
func TestRequestsRepeatedAfterTheClusterIsGone(t *testing.T) {
	c := start(t)
	const makeIt, end = "/v1/clusters?cluster_id=x1&request_id=make", "/v1/clusters/x1?request_id=end"
	const pool = "/v1/clusters/x1/pools?pool_id=p&request_id=pool"
	for _, path := range []string{makeIt, pool} {
		if a := c.rest(t, http.MethodPost, path, "{}"); a.status != http.StatusOK {
			t.Fatalf("%s: %s", path, a.body)
		}
	}
	first := c.rest(t, http.MethodDelete, end, "")
	again := c.rest(t, http.MethodDelete, end, "")
	if first.status != http.StatusOK || again.status != http.StatusOK || !bytes.Equal(first.body, again.body) ||
		first.header.Get("Tandem-Revision") != again.header.Get("Tandem-Revision") {
		t.Errorf("deleted: %+v, and again: %+v", first, again)
	}
	for _, path := range []string{makeIt, pool} {
		a := c.rest(t, http.MethodPost, path, "{}")
		if got := restFault(t, a); a.status != http.StatusNotFound || got.reason != "NOT_FOUND" {
			t.Errorf("%s again: %d %s; want NOT_FOUND", path, a.status, a.body)
		}
	}
}

// The nodes can be asked about a change that is not made, and about no other.
func TestApplyAsksTheNodes(t *testing.T) {
	c := start(t)
	c.join(t, "lb-master")
	client := tandemv1.NewConfigServiceClient(c.dial(t))
	request := &tandemv1.ApplyConfigRequest{Parent: "clusters/default", Config: &tandemv1.ClusterConfig{
		Pools: []*tandemv1.Pool{{Name: "web_servers"}},
	}, CheckNodes: true}
	_, err := client.ApplyConfig(c.admin(t), request)
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "check_nodes: needs validate_only") {
		t.Errorf("checking a change that is made: %v", err)
	}
	request.ValidateOnly = true
	response, err := client.ApplyConfig(c.admin(t), request)
	must(t, err)
	checks := response.GetNodeChecks()
	if len(response.GetRevision().GetChanges()) != 1 || len(checks) != 1 {
		t.Fatalf("the answer is %v, want one change and one node", response)
	}
	if got := checks[0]; got.GetNode() != "clusters/default/nodes/lb-master" ||
		got.GetVerdict() != tandemv1.NodeVerdict_NODE_VERDICT_UNKNOWN || !strings.Contains(got.GetMessage(), "not connected") {
		t.Errorf("a node that is not connected says %v", got)
	}
	if _, err := client.GetPool(c.admin(t), &tandemv1.GetPoolRequest{Name: "clusters/default/pools/web_servers"}); status.Code(err) != codes.NotFound {
		t.Errorf("the pool is there: %v", err)
	}
}

// An override that ends by itself is in the log as every other change is.
func TestTheEndOfAnOverrideIsAnEvent(t *testing.T) {
	c := start(t)
	configs, happened := tandemv1.NewConfigServiceClient(c.dial(t)), tandemv1.NewEventServiceClient(c.dial(t))
	_, err := configs.ApplyConfig(c.admin(t), &tandemv1.ApplyConfigRequest{Parent: "clusters/default", Config: &tandemv1.ClusterConfig{
		Pools: []*tandemv1.Pool{{Name: "p", Backends: []*tandemv1.Backend{{Name: "b", Address: "10.0.0.1", Port: 80}}}},
	}})
	must(t, err)
	watch, err := happened.WatchEvents(c.admin(t), &tandemv1.WatchEventsRequest{Parent: "clusters/default"})
	must(t, err)
	_, err = configs.UpdateOverride(c.admin(t), &tandemv1.UpdateOverrideRequest{Override: &tandemv1.Override{
		Name: "clusters/default/pools/p/backends/b/override", State: "drain", ExpireTime: timestamppb.New(time.Now().Add(time.Second)),
	}})
	must(t, err)
	want := "controller: removed pools/p/backends/b/override (override expired)"
	for {
		next, err := watch.Recv()
		must(t, err)
		if e := next.GetEvent(); e.GetMessage() == want && e.GetReason() == "CONFIG_CHANGED" && e.GetRevision() > 0 {
			return
		}
	}
}
