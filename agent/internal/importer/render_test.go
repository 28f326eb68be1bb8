package importer

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// What Tandem renders, it reads back as what it was rendered from.
func TestRenderedComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := configs.Draw(t, "config")
		file, err := config.Render(want, config.Environment{EventSocket: "/e", StatsSocket: "/s", StateFile: "/f", Chroot: "/j", User: "u", Group: "g"})
		if err != nil {
			t.Fatal(err)
		}
		// Its socket for health events is no part of the model.
		text := strings.ReplaceAll(string(file.Text), "  log '/e' len 4096 format rfc3164 daemon notice\n", "")
		r, err := readHAProxy(Source{"haproxy.cfg", text}, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		for _, l := range r.lines.list {
			if l.Fate >= Verbatim {
				t.Fatalf("line %d %q is %s: %s", l.Number, l.Text, l.Fate, l.Reason)
			}
		}
		if d := gocmp.Diff(want, resolve(r.config), protocmp.Transform()); d != "" {
			t.Fatalf("(-want +got):\n%s\n%s", d, text)
		}
	})
}

func milliseconds(low, high int) *rapid.Generator[*durationpb.Duration] {
	return rapid.Map(rapid.IntRange(low, high), func(n int) *durationpb.Duration {
		return durationpb.New(time.Duration(n) * time.Millisecond)
	})
}

var timeouts = milliseconds(1, 86_400_000)

var configs = rapid.Custom(func(t *rapid.T) *haproxyv1.Config {
	c := &haproxyv1.Config{Global: &haproxyv1.Global{MaxConnections: rapid.Uint32Range(8000, 10_000_000).Draw(t, "maxconn")}}
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z][a-z0-9_.-]{0,8}`), 1, 4, rapid.ID).Draw(t, "names")
	slices.Sort(names)
	for n, name := range names {
		mode := rapid.SampledFrom([]haproxyv1.Mode{haproxyv1.Mode_MODE_HTTP, haproxyv1.Mode_MODE_TCP}).Draw(t, "mode")
		c.Backends = append(c.Backends, drawBackend(t, name, mode))
		c.Frontends = append(c.Frontends, drawFrontend(t, name, mode, uint32(1000+100*n)))
	}
	return c
})

func drawFrontend(t *rapid.T, name string, mode haproxyv1.Mode, port uint32) *haproxyv1.Frontend {
	f := &haproxyv1.Frontend{
		Name: name, Mode: mode, DefaultBackend: name,
		ClientTimeout:  timeouts.Draw(t, "client"),
		MaxConnections: rapid.Uint32Range(1, 8000).Draw(t, "maxconn"),
	}
	addresses := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"", "192.0.2.1", "2001:db8::1"}), 1, 3, rapid.ID).Draw(t, "addresses")
	for _, address := range addresses {
		b := &haproxyv1.Bind{Address: address, Port: port}
		if rapid.Bool().Draw(t, "range") {
			b.PortEnd = port + rapid.Uint32Range(1, 9).Draw(t, "end")
		}
		f.Binds = append(f.Binds, b)
		port += 10
	}
	if mode == haproxyv1.Mode_MODE_HTTP {
		f.HttpRequestTimeout = timeouts.Draw(t, "request")
		f.HttpKeepAliveTimeout = timeouts.Draw(t, "keep-alive")
		f.ForwardedFor = rapid.Bool().Draw(t, "forwardfor")
	}
	return f
}

func drawBackend(t *rapid.T, name string, mode haproxyv1.Mode) *haproxyv1.Backend {
	b := &haproxyv1.Backend{
		Name: name, Mode: mode, Balance: haproxyv1.Balance(rapid.IntRange(1, 5).Draw(t, "balance")),
		ConnectTimeout: timeouts.Draw(t, "connect"), ServerTimeout: timeouts.Draw(t, "server"), QueueTimeout: timeouts.Draw(t, "queue"),
		Retries: rapid.Uint32Range(0, 100).Draw(t, "retries"), Redispatch: rapid.Bool().Draw(t, "redispatch"),
	}
	servers := rapid.IntRange(0, 3).Draw(t, "servers")
	if servers > 0 && rapid.Bool().Draw(t, "checked") {
		b.Check = drawCheck(t)
	}
	for n := range servers {
		b.Servers = append(b.Servers, &haproxyv1.Server{
			Backend: name, Name: fmt.Sprint("s", n), Id: uint32(n + 1),
			Address: fmt.Sprintf("192.0.2.%d", 10+n), Port: rapid.Uint32Range(1, 65535).Draw(t, "port"),
			Weight: rapid.Uint32Range(0, 256).Draw(t, "weight"), Backup: rapid.Bool().Draw(t, "backup"),
			MaxConnections: rapid.Uint32Range(0, 9).Draw(t, "maxconn"),
		})
	}
	return b
}

func drawCheck(t *rapid.T) *haproxyv1.Check {
	c := &haproxyv1.Check{
		Interval: milliseconds(10, 3_600_000).Draw(t, "interval"), Timeout: milliseconds(10, 3_600_000).Draw(t, "timeout"),
		Rise: rapid.Uint32Range(1, 100).Draw(t, "rise"), Fall: rapid.Uint32Range(1, 100).Draw(t, "fall"),
		Port: rapid.SampledFrom([]uint32{0, 1, 8081, 65535}).Draw(t, "check port"),
	}
	if rapid.Bool().Draw(t, "http") {
		low := rapid.Uint32Range(100, 599).Draw(t, "low")
		c.Http = &haproxyv1.HttpCheck{
			Method:    rapid.SampledFrom([]string{"GET", "HEAD", "OPTIONS"}).Draw(t, "method"),
			Path:      rapid.StringMatching(`/[!-~]{0,12}`).Draw(t, "path"),
			Host:      rapid.SampledFrom([]string{"", "www.example.com"}).Draw(t, "host"),
			StatusMin: low, StatusMax: rapid.Uint32Range(low, 599).Draw(t, "high"),
		}
	}
	return c
}

// resolve does what the controller does to a configuration, for the parts that
// a haproxy.cfg has.
func resolve(c *tandemv1.ClusterConfig) *haproxyv1.Config {
	d := c.GetCluster().GetDefaults()
	out := &haproxyv1.Config{Global: &haproxyv1.Global{MaxConnections: c.GetCluster().GetMaxConnections()}}
	for _, l := range c.GetListeners() {
		f := &haproxyv1.Frontend{
			Name: l.GetName(), Mode: modes[l.GetProtocol()], DefaultBackend: l.GetPool(),
			ClientTimeout:  cmp.Or(l.GetClientTimeout(), d.GetClientTimeout()),
			MaxConnections: *cmp.Or(l.MaxConnections, d.MaxConnections),
		}
		for _, b := range l.GetBinds() {
			f.Binds = append(f.Binds, &haproxyv1.Bind{Address: b.GetAddress(), Port: b.GetPort(), PortEnd: b.GetPortEnd()})
		}
		if l.GetProtocol() == "http" {
			f.HttpRequestTimeout = cmp.Or(l.GetHttpRequestTimeout(), d.GetHttpRequestTimeout())
			f.HttpKeepAliveTimeout = cmp.Or(l.GetHttpKeepAliveTimeout(), d.GetHttpKeepAliveTimeout())
			f.ForwardedFor = *cmp.Or(l.ForwardedFor, d.ForwardedFor)
		}
		out.Frontends = append(out.Frontends, f)
	}
	for _, p := range c.GetPools() {
		out.Backends = append(out.Backends, resolvePool(p, d))
	}
	return out
}

var modes = map[string]haproxyv1.Mode{"http": haproxyv1.Mode_MODE_HTTP, "tcp": haproxyv1.Mode_MODE_TCP}

func resolvePool(p *tandemv1.Pool, d *tandemv1.ProxySettings) *haproxyv1.Backend {
	b := &haproxyv1.Backend{
		Name: p.GetName(), Mode: modes[p.GetProtocol()], Balance: haproxyv1.Balance(slices.Index(balances, p.GetBalance()) + 1),
		ConnectTimeout: cmp.Or(p.GetConnectTimeout(), d.GetConnectTimeout()),
		ServerTimeout:  cmp.Or(p.GetServerTimeout(), d.GetServerTimeout()),
		QueueTimeout:   cmp.Or(p.GetQueueTimeout(), d.GetQueueTimeout()),
		Retries:        *cmp.Or(p.Retries, d.Retries),
		Redispatch:     *cmp.Or(p.Redispatch, d.Redispatch),
	}
	if k := p.GetCheck(); !k.GetDisabled() {
		b.Check = &haproxyv1.Check{Interval: k.GetInterval(), Timeout: k.GetTimeout(), Rise: k.GetRise(), Fall: k.GetFall(), Port: k.GetPort()}
		if h := k.GetHttp(); h != nil {
			low, high, _ := strings.Cut(h.GetExpectedStatus(), "-")
			b.Check.Http = &haproxyv1.HttpCheck{Method: h.GetMethod(), Path: h.GetPath(), Host: h.GetHost(), StatusMin: status(low), StatusMax: status(high)}
		}
	}
	for n, s := range p.GetBackends() {
		weight := cmp.Or(s.Weight, proto.Uint32(1))
		b.Servers = append(b.Servers, &haproxyv1.Server{
			Backend: p.GetName(), Name: s.GetName(), Id: uint32(n + 1), Address: s.GetAddress(), Port: s.GetPort(),
			Weight: *weight, MaxConnections: s.GetMaxConnections(), Backup: s.GetBackup(),
		})
	}
	return b
}

func status(s string) uint32 {
	n, _ := strconv.ParseUint(s, 10, 32)
	return uint32(n)
}
