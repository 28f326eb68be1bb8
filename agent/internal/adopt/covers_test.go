package adopt

import (
	"context"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/agent/internal/importer"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// guide is what the guide's files say.
func guide(t *testing.T) *importer.Import {
	t.Helper()
	n := importer.Node{ID: "lb-master"}
	for name, to := range map[string]*importer.Source{"haproxy.cfg": &n.HAProxy, "keepalived-master.conf": &n.Keepalived} {
		*to = importer.Source{Path: name, Text: content(t, "../../../e2e/bench/guide/files/"+name)}
	}
	i, err := importer.Read(n)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// Clients would lose what a configuration lacks.
func TestCoversProxy(t *testing.T) {
	whole := func() *haproxyv1.Config {
		return &haproxyv1.Config{
			Global:    &haproxyv1.Global{Stats: &haproxyv1.Stats{}},
			Frontends: []*haproxyv1.Frontend{{Name: "web_frontend"}},
			Backends:  []*haproxyv1.Backend{{Name: "web_servers"}},
		}
	}
	for want, change := range map[string]func(c *haproxyv1.Config){
		"":                                func(*haproxyv1.Config) {},
		"the listener web_frontend":       func(c *haproxyv1.Config) { c.Frontends = nil },
		"the pool web_servers":            func(c *haproxyv1.Config) { c.Backends = nil },
		"the statistics page of the hand": func(c *haproxyv1.Config) { c.Global.Stats = nil },
	} {
		c := whole()
		change(c)
		if err := coversProxy(guide(t), c); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Two nodes that speak of one VRID in two ways both hold the VIP.
func TestCoversVRRP(t *testing.T) {
	whole := func() *keepalivedv1.Instance {
		return &keepalivedv1.Instance{
			Name: "VI_1", Version: 2, Network: "front", Vrid: 51, Priority: 90, AdvertInterval: durationpb.New(time.Second),
			AuthPassword: "mypasswo", Anchor: "192.168.1.100/24",
		}
	}
	for want, change := range map[string]func(i *keepalivedv1.Instance){
		"":                                  func(*keepalivedv1.Instance) {},
		"VIP VI_1":                          func(i *keepalivedv1.Instance) { i.Name = "web" },
		"the version":                       func(i *keepalivedv1.Instance) { i.Version = 3 },
		"the VRID":                          func(i *keepalivedv1.Instance) { i.Vrid = 52 },
		"the network":                       func(i *keepalivedv1.Instance) { i.Network = "back" },
		"the interval":                      func(i *keepalivedv1.Instance) { i.AdvertInterval = durationpb.New(2 * time.Second) },
		"the password":                      func(i *keepalivedv1.Instance) { i.AuthPassword = "" },
		"the network of the advertisements": func(i *keepalivedv1.Instance) { i.VrrpNetwork = "vrrp" },
		"the way to advertise by unicast": func(i *keepalivedv1.Instance) {
			i.Speakers = []*keepalivedv1.Speaker{{Id: "a", Addresses: []string{"192.168.1.10"}}}
		},
		"the address": func(i *keepalivedv1.Instance) { i.Anchor = "192.168.1.100/32" },
	} {
		i := whole()
		change(i)
		err := coversVRRP(guide(t), &keepalivedv1.Config{Instances: []*keepalivedv1.Instance{i}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A list of peers that is not that of the running pair is not heard there.
func TestSpeaksLike(t *testing.T) {
	is := &keepalivedv1.Instance{UnicastSource: "192.168.1.10", Speakers: []*keepalivedv1.Speaker{
		{Id: "a", Addresses: []string{"192.168.1.10", "fe80::10"}}, {Id: "b", Addresses: []string{"192.168.1.11", "fe80::11"}},
	}}
	for name, test := range map[string]struct {
		is   *keepalivedv1.Instance
		runs importer.Speaking
		want bool
	}{
		"multicast":        {&keepalivedv1.Instance{}, importer.Speaking{}, true},
		"unicast":          {is, importer.Speaking{Source: "192.168.1.10", Peers: []string{"192.168.1.11"}}, true},
		"no source":        {is, importer.Speaking{Peers: []string{"192.168.1.11"}}, true},
		"another source":   {is, importer.Speaking{Source: "192.168.1.12", Peers: []string{"192.168.1.11"}}, false},
		"another peer":     {is, importer.Speaking{Source: "192.168.1.10", Peers: []string{"192.168.1.12"}}, false},
		"runs multicast":   {is, importer.Speaking{}, false},
		"wants multicast":  {&keepalivedv1.Instance{}, importer.Speaking{Peers: []string{"192.168.1.11"}}, false},
		"this node itself": {is, importer.Speaking{Peers: []string{"192.168.1.10"}}, false},
	} {
		if got := speaksLike(test.is, test.runs); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A HAProxy that was reloaded is started again as it was at first.
func TestPlainArgs(t *testing.T) {
	got := plainArgs([]string{"haproxy", "-W", "-f", "/a", "-sf", "12", "13", "-x", "sockpair@4", "-p", "/b"})
	if want := []string{"-W", "-f", "/a", "-p", "/b"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// reusing opens a socket beside others on its port, as HAProxy does.
var reusing = net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
	if outer := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); outer != nil {
		return outer
	}
	return err
}}

// Connections that wait for a HAProxy that ceases to listen are not lost.
func TestQueuedConnectionsMove(t *testing.T) {
	before, err := os.ReadFile(migrateSetting)
	if err != nil {
		t.Skipf("this kernel cannot: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	old, err := reusing.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	next, err := reusing.Listen(ctx, "tcp4", old.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	back, err := migrateRequests()
	if err != nil {
		t.Skipf("not permitted here: %v", err)
	}
	// The kernel deals them out to both.
	const clients = 32
	for range clients {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp4", old.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if err := next.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for n := range clients {
		c, err := next.Accept()
		if err != nil {
			t.Fatalf("%d of %d connections are there: %v", n, clients, err)
		}
		c.Close()
	}
	if err := back(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(migrateSetting); err != nil || string(after) != string(before) {
		t.Errorf("the setting is %q, %v; was %q", after, err, before)
	}
}
