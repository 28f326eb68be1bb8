package name

import "testing"

func TestFull(t *testing.T) {
	tests := []struct {
		kind    Kind
		arg     string
		want    string
		wantErr string
	}{
		{kind: Pool, arg: "web_servers", want: "clusters/default/pools/web_servers"},
		{kind: Pool, arg: "clusters/other/pools/web_servers", want: "clusters/other/pools/web_servers"},
		{kind: Backend, arg: "web_servers/web1", want: "clusters/default/pools/web_servers/backends/web1"},
		{kind: Backend, arg: "clusters/a/pools/b/backends/c", want: "clusters/a/pools/b/backends/c"},
		{kind: Backend, arg: "web1", wantErr: `name must be POOL/BACKEND, such as web_servers/web1 (got "web1")`},
		{kind: Backend, arg: "web_servers/", wantErr: `name must be POOL/BACKEND, such as web_servers/web1 (got "web_servers/")`},
		{kind: Pool, arg: "", wantErr: `name must be POOL, such as web_servers (got "")`},
		{kind: Pool, arg: "web/servers", wantErr: `name must be POOL, such as web_servers (got "web/servers")`},
		{kind: Pool, arg: "clusters/other/vips/web", wantErr: `name must be POOL, such as web_servers (got "clusters/other/vips/web")`},
		{kind: Pool, arg: "clusters//pools/web", wantErr: `name must be POOL, such as web_servers (got "clusters//pools/web")`},
	}
	for _, tt := range tests {
		got, err := tt.kind.Full("clusters/default", tt.arg)
		if message(err) != tt.wantErr || got != tt.want {
			t.Errorf("Full(%q) = %q, %q; want %q, %q", tt.arg, got, message(err), tt.want, tt.wantErr)
		}
	}
}

func TestCluster(t *testing.T) {
	for arg, want := range map[string]string{"default": "clusters/default", "clusters/x": "clusters/x", "": "", "a/b": ""} {
		got, err := Cluster(arg)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Cluster(%q) = %q, %v; want %q", arg, got, err, want)
		}
	}
}

func TestParts(t *testing.T) {
	const backend = "clusters/default/pools/web_servers/backends/web1"
	tests := []struct {
		what, got, want string
	}{
		{"ID", ID(backend), "web1"},
		{"Parent", Parent(backend), "clusters/default/pools/web_servers"},
		{"Parent of a pool", Parent("clusters/default/pools/p"), "clusters/default"},
		{"ClusterOf", ClusterOf(backend), "clusters/default"},
		{"ClusterOf a cluster", ClusterOf("clusters/default"), "clusters/default"},
		{"Short", Short(backend), "web_servers/web1"},
		{"Short of a cluster", Short("clusters/default"), "default"},
		{"InCluster", InCluster(backend), "pools/web_servers/backends/web1"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("%s = %q, want %q", tt.what, tt.got, tt.want)
		}
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
