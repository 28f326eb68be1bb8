package scenarios

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	inDefault = "clusters/default"
	inStaging = "clusters/staging"
)

// Bad input gets one clear error that names the field and what would be right,
// the same by lbctl, curl and grpcurl, and nothing changes.
func TestBadInputIsRefusedAlikeAtEveryDoor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	s.lbctl(ctx, "cluster", "add", "staging")
	d := openDoors(ctx, s)
	before := s.head(ctx)

	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const twice = `{"pools": [{"name": "a", "backends": [
		{"name": "b", "address": "192.168.1.20", "port": 80}, {"name": "b", "address": "192.168.1.21", "port": 80}]}]}`
	for _, tt := range []struct {
		name string
		request
		field, reason, right string // what would be right, or part of it
	}{
		{
			"an address that is none",
			request{
				[]string{"backend", "add", "web_servers/web9", "192.168.1.999:80"},
				"POST " + inDefault + "/pools/web_servers/backends?backend_id=web9", `{"address": "192.168.1.999", "port": 80}`,
				"CreateBackend", `{"parent": "clusters/default/pools/web_servers", "backend_id": "web9", "backend": {"address": "192.168.1.999", "port": 80}}`,
			}, "backend.address", "FIELD_INVALID", "must be an IP address such as 192.168.1.20",
		},
		{
			"a VRID that another VIP of the network has",
			request{
				[]string{"vip", "add", "web2", "192.168.1.101/24", "--vrid", "51"},
				"POST " + inDefault + "/vips?vip_id=web2", `{"addresses": ["192.168.1.101/24"], "vrid": 51}`,
				"CreateVip", `{"parent": "clusters/default", "vip_id": "web2", "vip": {"addresses": ["192.168.1.101/24"], "vrid": 51}}`,
			}, "vip.vrid", "VRID_TAKEN", "choose another one",
		},
		{
			"a VRID that a VIP of another cluster has",
			request{
				[]string{"vip", "add", "web2", "192.168.1.101/24", "--vrid", "51", "--cluster", "staging"},
				"POST " + inStaging + "/vips?vip_id=web2", `{"addresses": ["192.168.1.101/24"], "vrid": 51}`,
				"CreateVip", `{"parent": "clusters/staging", "vip_id": "web2", "vip": {"addresses": ["192.168.1.101/24"], "vrid": 51}}`,
			}, "vip.vrid", "VRID_TAKEN", "choose another one",
		},
		{
			"a bind that a listener has",
			request{
				[]string{"listener", "add", "l2", "--vip", "web", "--port", "80", "--pool", "web_servers"},
				"POST " + inDefault + "/listeners?listener_id=l2", `{"binds": [{"vip": "web", "port": 80}], "pool": "web_servers"}`,
				"CreateListener", `{"parent": "clusters/default", "listener_id": "l2", "listener": {"binds": [{"vip": "web", "port": 80}], "pool": "web_servers"}}`,
			}, "listener.binds[0].port", "BIND_TAKEN", "choose another port or address",
		},
		{
			"a bind that the statistics page has",
			request{
				[]string{"listener", "add", "l2", "--vip", "web", "--port", "8080", "--pool", "web_servers"},
				"POST " + inDefault + "/listeners?listener_id=l2", `{"binds": [{"vip": "web", "port": 8080}], "pool": "web_servers"}`,
				"CreateListener", `{"parent": "clusters/default", "listener_id": "l2", "listener": {"binds": [{"vip": "web", "port": 8080}], "pool": "web_servers"}}`,
			}, "listener.binds[0].port", "BIND_TAKEN", "choose another port or address",
		},
		{
			"a pool that does not exist",
			request{
				[]string{"listener", "add", "l2", "--vip", "web", "--port", "81", "--pool", "web_server"},
				"POST " + inDefault + "/listeners?listener_id=l2", `{"binds": [{"vip": "web", "port": 81}], "pool": "web_server"}`,
				"CreateListener", `{"parent": "clusters/default", "listener_id": "l2", "listener": {"binds": [{"vip": "web", "port": 81}], "pool": "web_server"}}`,
			}, "listener.pool", "UNKNOWN_POOL", "must be one of web_servers",
		},
		{
			"the removal of a pool in use",
			request{
				[]string{"pool", "remove", "web_servers"}, "DELETE " + inDefault + "/pools/web_servers", "",
				"DeletePool", `{"name": "clusters/default/pools/web_servers"}`,
			}, "name", "POOL_IN_USE", "change or delete that first",
		},
		{
			"a backend twice",
			request{
				[]string{"backend", "add", "web_servers/web1", "192.168.1.30:80"},
				"POST " + inDefault + "/pools/web_servers/backends?backend_id=web1", `{"address": "192.168.1.30", "port": 80}`,
				"CreateBackend", `{"parent": "clusters/default/pools/web_servers", "backend_id": "web1", "backend": {"address": "192.168.1.30", "port": 80}}`,
			}, "", "BACKEND_EXISTS", `backend "web1" exists already`,
		},
		{
			"the address of a backend twice",
			request{
				[]string{"backend", "add", "web_servers/web9", "192.168.1.20:80"},
				"POST " + inDefault + "/pools/web_servers/backends?backend_id=web9", `{"address": "192.168.1.20", "port": 80}`,
				"CreateBackend", `{"parent": "clusters/default/pools/web_servers", "backend_id": "web9", "backend": {"address": "192.168.1.20", "port": 80}}`,
			}, "backend.address", "ADDRESS_TAKEN", "a pool has each address and port once",
		},
		{
			"a backend twice in a file",
			request{
				[]string{"apply", "-f", file("twice.yaml", twice)},
				"POST " + inDefault + ":apply", `{"config": ` + twice + `}`,
				"ApplyConfig", `{"parent": "clusters/default", "config": ` + twice + `}`,
			}, "config.pools[0].backends[1].name", "BACKEND_EXISTS", "name each once",
		},
		{
			"a control character in a text",
			request{
				[]string{"cluster", "set", "--stats-realm", "a\x01b"},
				"PATCH " + inDefault, `{"stats_page": {"realm": "a\u0001b"}}`,
				"UpdateCluster", `{"cluster": {"name": "clusters/default", "stats_page": {"realm": "a\u0001b"}}, "update_mask": {"paths": ["stats_page.realm"]}}`,
			}, "cluster.stats_page.realm", "FIELD_INVALID", "without control characters",
		},
		{
			"a line break in a name",
			request{
				[]string{"pool", "add", "a\nserver b"},
				"POST " + inDefault + "/pools?pool_id=a%0Aserver%20b", `{}`,
				"CreatePool", `{"parent": "clusters/default", "pool_id": "a\nserver b", "pool": {}}`,
			}, "pool_id", "FIELD_INVALID", "must be 1 to 63 letters, digits, _, . or -",
		},
		{
			"a stale etag",
			request{
				[]string{"pool", "set", "web_servers", "--retries", "4", "--etag", "stale"},
				"PATCH " + inDefault + "/pools/web_servers", `{"retries": 4, "etag": "stale"}`,
				"UpdatePool", `{"pool": {"name": "clusters/default/pools/web_servers", "retries": 4, "etag": "stale"}, "update_mask": {"paths": ["retries"]}}`,
			}, "", "ETAG_MISMATCH", "read it again and retry",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := d.in(t).all(ctx, tt.request)
			if got.Field != tt.field || got.Reason != tt.reason || !strings.Contains(got.Message, tt.right) {
				t.Errorf("got %+v, want field %q, reason %q and %q", got, tt.field, tt.reason, tt.right)
			}
		})
	}

	t.Run("what only one door can be asked", func(t *testing.T) {
		d := d.in(t)
		for _, tt := range []struct {
			args []string
			code int
			says string
		}{
			{[]string{"pool", "add", "x", "--blance", "first"}, 2, "unknown flag: --blance: did you mean --balance?"},
			{[]string{"apply", "-f", file("unknown.yaml", "pools:\n- name: a\n  blance: first\n")}, 1, `unknown.yaml:3:3 unknown field "blance", expected one of`},
			{[]string{"apply", "-f", file("twice.yaml", "pools:\n- name: a\n  name: b\n")}, 1, `line 3: key "name" already set`},
			{[]string{"apply", "-f", large(t)}, 1, "larger than 16 MiB: it must hold one cluster's configuration"},
		} {
			_, err := d.Lbctl(ctx, tt.args...)
			var failed *cluster.CommandError
			if !errors.As(err, &failed) || failed.Code != tt.code || !strings.Contains(squeezed(failed.Stderr), tt.says) {
				t.Errorf("lbctl %v: got %v, want exit status %d with %q", tt.args, err, tt.code, tt.says)
			}
		}
		for _, tt := range []struct {
			rest, body    string
			field, reason string
			code          int
		}{
			{"POST " + inDefault + "/pools?pool_id=x", `{"blance": "first"}`, "pool.blance", "FIELD_UNKNOWN", 400},
			{"POST " + inDefault + "/pools?pool_id=x", `{"balance": "first", "balance": "random"}`, "pool.balance", "FIELD_INVALID", 400},
			{"POST " + inDefault + "/pools?pool=x", `{}`, "pool", "FIELD_INVALID", 400},
		} {
			method, path, _ := strings.Cut(tt.rest, " ")
			got, code := d.byREST(ctx, method, path, strings.NewReader(tt.body))
			if got.Field != tt.field || got.Reason != tt.reason || code != tt.code {
				t.Errorf("%s %s: got %d %+v, want %d with field %q and reason %q", tt.rest, tt.body, code, got, tt.code, tt.field, tt.reason)
			}
		}
	})

	t.Run("100 MB over REST", func(t *testing.T) {
		d := d.in(t)
		body, err := os.Open(large(t))
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		if got, code := d.byREST(ctx, "POST", inDefault+":apply", body); code != 413 || got.Reason != "REQUEST_TOO_LARGE" {
			t.Errorf("got %d %+v, want 413 and REQUEST_TOO_LARGE", code, got)
		}
	})

	t.Run("100 MB over gRPC", func(t *testing.T) {
		_, err := s.config.ApplyConfig(ctx, &tandemv1.ApplyConfigRequest{
			Parent: inDefault, Message: strings.Repeat("x", 100<<20), Config: &tandemv1.ClusterConfig{},
		})
		if code := status.Code(err); code != codes.ResourceExhausted {
			t.Errorf("got %s, want RESOURCE_EXHAUSTED: %.200v", code, err)
		}
	})

	t.Run("an unknown field over gRPC", func(t *testing.T) {
		pool := &tandemv1.Pool{}
		pool.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 999, protowire.BytesType), "x"))
		_, err := s.config.CreatePool(ctx, &tandemv1.CreatePoolRequest{Parent: inDefault, PoolId: "x", Pool: pool})
		got := refusalOf(status.Convert(err))
		if !strings.HasPrefix(got.Field, "pool") || got.Reason != "FIELD_UNKNOWN" {
			t.Errorf("got %v (%+v), want field pool… and reason FIELD_UNKNOWN", err, got)
		}
	})

	if after := s.head(ctx); after != before {
		t.Errorf("refused requests made revisions %d to %d", before+1, after)
	}
}

// large makes a file of 100 MB.
func large(t *testing.T) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "large.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(100<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// The first steps work as typed, at every door, from nothing but the
// defaults.
func TestFirstStepsAtEveryDoor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, time.Minute)
	d := openDoors(ctx, s)
	backend := `{"address": "192.168.1.20", "port": 80}`
	for _, steps := range []func(){
		func() {
			s.lbctl(ctx, "cluster", "add", "by-lbctl")
			s.lbctl(ctx, "--cluster", "by-lbctl", "pool", "add", "web_servers")
			s.lbctl(ctx, "--cluster", "by-lbctl", "backend", "add", "web_servers/web1", "192.168.1.20:80")
		},
		func() {
			d.mustREST(ctx, "clusters?cluster_id=by-curl", "{}")
			d.mustREST(ctx, "clusters/by-curl/pools?pool_id=web_servers", "{}")
			d.mustREST(ctx, "clusters/by-curl/pools/web_servers/backends?backend_id=web1", backend)
		},
		func() {
			d.mustGRPC(ctx, "CreateCluster", `{"cluster_id": "by-grpcurl", "cluster": {}}`)
			d.mustGRPC(ctx, "CreatePool", `{"parent": "clusters/by-grpcurl", "pool_id": "web_servers", "pool": {}}`)
			d.mustGRPC(ctx, "CreateBackend", `{"parent": "clusters/by-grpcurl/pools/web_servers", "backend_id": "web1", "backend": `+backend+`}`)
		},
	} {
		steps()
	}
	exported := s.lbctl(ctx, "export", "--cluster", "by-lbctl")
	if !strings.Contains(exported, "web1") || !strings.Contains(exported, "192.168.1.20") {
		t.Errorf("lbctl export gives\n%s", exported)
	}
	for _, name := range []string{"by-curl", "by-grpcurl"} {
		if got := s.lbctl(ctx, "export", "--cluster", name); strings.ReplaceAll(got, name, "by-lbctl") != exported {
			t.Errorf("cluster %s is\n%s\nand by-lbctl is\n%s", name, got, exported)
		}
	}
}
