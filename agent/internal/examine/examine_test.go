package examine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/agent/internal/firewall"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/target"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// alone gives the test's goroutine a network namespace of its own, which goes with
// it, or skips the test.
func alone(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs network namespaces (root): %v", err)
	}
	run(t, "", "ip", "link", "set", "lo", "up")
}

func run(t *testing.T, stdin, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, said)
	}
}

// web is a VIP of this node and a peer's, with a listener and two servers.
func web(t *testing.T, port uint32) *target.Target {
	t.Helper()
	made, err := target.FromConfig(&agentv1.NodeConfig{Resources: []*agentv1.Resource{
		{Key: "haproxy/frontend/web", Body: &agentv1.Resource_Frontend{Frontend: &haproxyv1.Frontend{Name: "web", Binds: []*haproxyv1.Bind{
			{Address: "192.0.2.100", Port: 1}, {Address: "127.0.0.1", Port: port}, {Port: port}}}}},
		{Key: "haproxy/backend/pool", Body: &agentv1.Resource_Backend{Backend: &haproxyv1.Backend{Name: "pool"}}},
		{Key: "haproxy/server/pool/a", Body: &agentv1.Resource_Server{Server: &haproxyv1.Server{Backend: "pool", Name: "a", Id: 1, Address: "127.0.0.1", Port: port}}},
		{Key: "haproxy/server/pool/b", Body: &agentv1.Resource_Server{Server: &haproxyv1.Server{Backend: "pool", Name: "b", Id: 2, Address: "127.0.0.1", Port: 9}}},
		{Key: "haproxy/server/pool/c", Body: &agentv1.Resource_Server{Server: &haproxyv1.Server{Backend: "pool", Name: "c", Id: 3, Address: "127.0.0.1", Port: 9}}},
		{Key: "haproxy/server/pool/d", Body: &agentv1.Resource_Server{Server: &haproxyv1.Server{Backend: "pool", Name: "d", Id: 4, Address: "127.0.0.1", Port: 9, Maintenance: true}}},
		{Key: "keepalived/global", Body: &agentv1.Resource_KeepalivedGlobal{KeepalivedGlobal: &keepalivedv1.Global{
			Peers: []*keepalivedv1.Peer{{Node: "lb-backup", Network: "front", Addresses: []string{"192.0.2.11"}}}}}},
		{Key: "keepalived/instance/web", Body: &agentv1.Resource_Instance{Instance: &keepalivedv1.Instance{
			Name: "web", Vip: "web", Anchor: "192.0.2.100/24", AdvertInterval: durationpb.New(100 * time.Millisecond)}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func options(t *is) Options {
	return Options{
		Networks: map[string]string{"front": "here", "back": "missing"},
		Applied:  func() *target.Target { return t.target },
		State: func() *agentv1.Observation {
			return &agentv1.Observation{
				Haproxy: &agentv1.DaemonObservation{State: t.proxy},
				Backends: []*agentv1.BackendObservation{
					{Pool: "pool", Backend: "a", State: agentv1.ServerState_SERVER_STATE_NO_CHECK},
					{Pool: "pool", Backend: "b", State: agentv1.ServerState_SERVER_STATE_NO_CHECK},
					{Pool: "pool", Backend: "c", State: agentv1.ServerState_SERVER_STATE_DOWN},
				},
			}
		},
		Counts: t.counts,
	}
}

// is what the node's other parts say.
type is struct {
	target *target.Target
	proxy  agentv1.DaemonState
	counts func(context.Context) (map[string]keepalived.Count, error)
}

func noCounts(context.Context) (map[string]keepalived.Count, error) {
	return nil, errors.New("there is no keepalived")
}

// What is on the machine is told: interfaces, rules, sockets and servers.
func TestWhatIsOnTheMachineIsTold(t *testing.T) {
	alone(t)
	run(t, "", "ip", "link", "add", "here", "type", "veth", "peer", "name", "there")
	run(t, "", "ip", "link", "set", "there", "up")
	run(t, "", "ip", "address", "add", "192.0.2.10/24", "dev", "here")
	run(t, "", "ip", "link", "set", "here", "up")
	run(t, "table inet site {\nchain in {\ntype filter hook input priority 0; ip saddr 192.0.2.11 ip protocol vrrp drop\n}\n"+
		"chain out {\ntype filter hook output priority 0; policy drop; ip saddr 192.0.2.10 accept\n}\n}\n", "nft", "-f", "-")
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := netip.MustParseAddrPort(listener.Addr().String()).Port()
	found := Node(t.Context(), options(&is{web(t, uint32(port)), agentv1.DaemonState_DAEMON_STATE_RUNNING, noCounts}))

	if n := found.GetNetworks(); len(n) != 2 || n[0].GetExists() || n[0].GetNetwork() != "back" || !n[1].GetUp() || !n[1].GetCarrier() ||
		!strings.Contains(strings.Join(n[1].GetAddresses(), " "), "192.0.2.10/24") {
		t.Errorf("networks: %v", n)
	}
	if d := found.GetDrops(); len(d) != 1 || d[0].GetOutgoing() || !d[0].GetCertain() || d[0].GetChain() != "in" || d[0].GetNetwork() != "front" {
		t.Errorf("drops: %v", d)
	}
	var listens []string
	for _, b := range found.GetBinds() {
		listens = append(listens, fmt.Sprint(b.GetAddress(), " ", b.GetListens()))
	}
	if got := strings.Join(listens, ", "); got != "192.0.2.100 false, 127.0.0.1 true,  false" {
		t.Errorf("binds: %s", got)
	}
	if f := found.GetFailures(); len(f) != 1 || !strings.Contains(f[0], "there is no keepalived") {
		t.Errorf("failures: %v", f)
	}

	run(t, "", "ip", "link", "set", "here", "down")
	found = Node(t.Context(), options(&is{web(t, uint32(port)), agentv1.DaemonState_DAEMON_STATE_STOPPED, noCounts}))
	if n := found.GetNetworks()[1]; !n.GetExists() || n.GetUp() || n.GetCarrier() {
		t.Errorf("an interface that is down: %v", n)
	}
}

// The servers that HAProxy says nothing of are tried.
func TestServersWithoutACheckAreTried(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	all := web(t, uint32(netip.MustParseAddrPort(listener.Addr().String()).Port()))
	found := Node(t.Context(), options(&is{all, agentv1.DaemonState_DAEMON_STATE_RUNNING, noCounts}))
	// HAProxy's own word on c is better; d is not meant to serve.
	if s := found.GetServers(); len(s) != 2 || s[0].GetError() != "" || !strings.Contains(s[1].GetError(), "refused") {
		t.Errorf("servers: %v", s)
	}
	found = Node(t.Context(), options(&is{all, agentv1.DaemonState_DAEMON_STATE_STOPPED, noCounts}))
	if s := found.GetServers(); len(s) != 3 {
		t.Errorf("without a HAProxy the servers are %v", s)
	}
}

// Advertisements by unicast are between the nodes' addresses, and may be on a network of
// their own.
func TestAdvertisementsByUnicast(t *testing.T) {
	e := &examination{found: &agentv1.Diagnosis{}, vrrp: &keepalivedv1.Config{}, Options: Options{Networks: map[string]string{"back": "eth2"}}}
	all := e.advertsOf(&keepalivedv1.Instance{Name: "web", Anchor: "192.0.2.100/24", VrrpNetwork: "back", UnicastSource: "10.0.0.10", Speakers: []*keepalivedv1.Speaker{
		{Id: "1", Addresses: []string{"10.0.0.10", "fd00::10"}}, {Id: "2", Addresses: []string{"10.0.0.11", "fd00::11"}}}})
	own, peer := netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("10.0.0.11")
	want := []firewall.Advert{
		{Outgoing: true, Interface: "eth2", Source: own, Destination: peer},
		{Interface: "eth2", Source: peer, Destination: own},
	}
	if !slices.Equal(all, want) {
		t.Errorf("they are %+v, want %+v", all, want)
	}
}

// A node without a configuration has no more than interfaces to tell of.
func TestANodeWithoutAConfiguration(t *testing.T) {
	found := Node(t.Context(), options(&is{counts: func(context.Context) (map[string]keepalived.Count, error) { panic("asked") }}))
	if len(found.GetNetworks()) != 2 || len(found.GetBinds())+len(found.GetServers())+len(found.GetInstances())+len(found.GetDrops()) != 0 {
		t.Errorf("found %v", found)
	}
}

// What keepalived sends and receives is counted over three advertisements, and for as
// long as whoever asks waits.
func TestAdvertisementsAreCounted(t *testing.T) {
	for name, test := range map[string]struct {
		limit  time.Duration
		before keepalived.Count
		told   bool
	}{
		"over three":       {time.Minute, keepalived.Count{Sent: 10, Received: 7}, true},
		"as time allows":   {onItsWay + 200*time.Millisecond, keepalived.Count{Sent: 10, Received: 7}, false},
		"started anew":     {time.Minute, keepalived.Count{Sent: 100, Received: 7}, false},
		"no such instance": {time.Minute, keepalived.Count{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				e := &examination{found: &agentv1.Diagnosis{}, vrrp: web(t, 1).Keepalived(), Options: Options{
					Counts: func(context.Context) (map[string]keepalived.Count, error) {
						switch asked++; {
						case name == "no such instance":
							return map[string]keepalived.Count{"other": {}}, nil
						case asked == 1:
							return map[string]keepalived.Count{"web": test.before}, nil
						default:
							return map[string]keepalived.Count{"web": {Sent: 14, Received: 7}}, nil
						}
					}}}
				ctx, cancel := context.WithTimeout(t.Context(), test.limit-onItsWay)
				defer cancel()
				e.adverts(ctx)
				i := e.found.GetInstances()[0]
				if told := i.GetWindow() != nil; told != test.told || told && (i.GetSent() != 4 || i.GetReceived() != 0 || i.GetWindow().AsDuration() != intervals*100*time.Millisecond+slack) {
					t.Errorf("it is told: %v", i)
				}
				if i.GetVip() != "web" || i.GetNetwork() != "front" {
					t.Errorf("of %v", i)
				}
			})
		})
	}
}

// A setting that cannot be read is told, one that is not there is none.
func TestSettings(t *testing.T) {
	was := sysctls
	t.Cleanup(func() { sysctls = was })
	sysctls = t.TempDir()
	if err := os.WriteFile(filepath.Join(sysctls, "odd"), []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sysctls, "two"), []byte("2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &examination{found: &agentv1.Diagnosis{}}
	if e.setting("missing") != 0 || e.setting("two") != 2 || len(e.found.GetFailures()) != 0 {
		t.Errorf("failures: %v", e.found.GetFailures())
	}
	if e.setting("odd"); len(e.found.GetFailures()) != 1 || !strings.Contains(e.found.GetFailures()[0], "net.odd") {
		t.Errorf("failures: %v", e.found.GetFailures())
	}
}

func TestParseSocket(t *testing.T) {
	for text, want := range map[string]string{
		"6401A8C0:0050": "192.168.1.100:80", "00000000:1F90": "0.0.0.0:8080",
		"000000FD000000000000000064000000:01BB": "[fd00::64]:443", "00000000000000000000000000000000:0016": "[::]:22",
		"0000000000000000FFFF00006401A8C0:0050": "192.168.1.100:80",
	} {
		if got, ok := parseSocket(text); !ok || got.String() != want {
			t.Errorf("%s: %v, %t, want %s", text, got, ok, want)
		}
	}
	for _, text := range []string{"", ":", "6401A8:0050", "6401A8C0", "6401A8C0:FFFFF", "xx01A8C0:0050"} {
		if got, ok := parseSocket(text); ok {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}
