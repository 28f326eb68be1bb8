package scenarios

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// doctor returns what "lbctl doctor -o json" prints. It must exit with 1 when
// nobody would take a VIP, and with 0 else.
func (s *site) doctor(ctx context.Context) (*tandemv1.Diagnosis, error) {
	out, err := s.Lbctl(ctx, "doctor", "-o", "json")
	d := &tandemv1.Diagnosis{}
	if err := protojson.Unmarshal(out, d); err != nil {
		return nil, fmt.Errorf("it prints %q: %w", out, err)
	}
	stops := slices.ContainsFunc(d.GetVips(), func(v *tandemv1.VipDiagnosis) bool { return v.GetTaker() == "" })
	if stops && !failedWith(err, 1, "a failover would not work") || !stops && err != nil {
		return d, fmt.Errorf("stops: %t, but: %w", stops, err)
	}
	return d, nil
}

// findsNothing fails the test unless there is nothing to be said.
func (s *site) findsNothing(ctx context.Context, when string) {
	s.t.Helper()
	d, err := s.doctor(ctx)
	if err != nil || len(d.GetFindings()) > 0 || len(d.GetVips()) == 0 {
		s.t.Fatalf("%s: %v, %v", when, err, d)
	}
	for _, v := range d.GetVips() {
		if v.GetHolder() != cluster.Master || v.GetTaker() != cluster.Backup {
			s.t.Errorf("%s: %v", when, v)
		}
	}
}

// illness is a fault that is made for real, what finds it, and what cures it.
type illness struct {
	name   string
	make   func() error
	reason string   // the finding that stops a failover
	says   []string // in its message, evidence or cure
	cure   func() error
}

// What keeps a VIP from moving is found on both nodes at once, each time with what
// was seen and the cure, which cures it; and of a pair that is well nothing is said.
func TestDoctorFindsWhatKeepsAVIPFromMoving(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 4*time.Minute)
	master, backup := s.Master(), s.Backup()
	s.findsNothing(ctx, "a healthy pair")
	if out := s.lbctl(ctx, "doctor"); !strings.Contains(out, "nothing found, a failover would work now") {
		t.Errorf("it says %s", out)
	}
	on := func(n *cluster.Node, stdin, name string, args ...string) func() error {
		return func() error {
			cmd := n.Host.Command(ctx, name, args...)
			cmd.Stdin = strings.NewReader(stdin)
			if said, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s %v: %w: %s", name, args, err, said)
			}
			return nil
		}
	}
	lbctl := func(args ...string) func() error {
		return func() error { _, err := s.Lbctl(ctx, args...); return err }
	}
	const site = "table inet site {\nchain %s {\ntype filter hook %[1]s priority 0; %s\n}\n}\n"
	for _, ill := range []illness{
		{
			name:   "a rule that drops protocol 112 on the standby",
			make:   on(backup, fmt.Sprintf(site, "input", "ip protocol vrrp counter drop"), "nft", "-f", "-"),
			reason: "VRRP_DROPPED",
			says: []string{"the firewall of lb-backup drops the advertisements of the other nodes", "of chain input in table inet site, which has dropped",
				"on lb-backup: nft insert rule inet site input meta l4proto vrrp accept"},
			cure: on(backup, "", "nft", "insert", "rule", "inet", "site", "input", "meta", "l4proto", "vrrp", "accept"),
		},
		{
			name:   "a policy that drops what the holder sends",
			make:   on(master, fmt.Sprintf(site, "output", "policy drop; meta l4proto { tcp, udp, icmp } accept"), "nft", "-f", "-"),
			reason: "VRRP_DROPPED",
			says:   []string{"the firewall of lb-master drops its own advertisements", "policy of chain output", "on lb-master: nft insert rule inet site output meta l4proto vrrp accept"},
			cure:   on(master, "", "nft", "insert", "rule", "inet", "site", "output", "meta", "l4proto", "vrrp", "accept"),
		},
		{
			name:   "a cable that loses advertisements",
			make:   func() error { return backup.Host.Drop(ctx, lab.In, "ip protocol vrrp") },
			reason: "ADVERTS_NOT_SEEN",
			says:   []string{"lb-backup does not hear lb-master advertise VIP web", "none of them reaches interface eth0 of lb-backup", "tcpdump -ni eth0 proto 112"},
			cure:   func() error { return backup.Host.Undrop(ctx) },
		},
		{
			name:   "backends that the standby does not reach",
			make:   on(backup, fmt.Sprintf(site, "output", "tcp dport 80 ip daddr 192.168.1.20-192.168.1.22 reject"), "nft", "-f", "-"),
			reason: "NO_BACKEND_REACHED",
			says:   []string{"lb-backup reaches no backend of pool web_servers", "web1: ", "lb-master reaches 3 of them"},
			cure:   on(backup, "", "nft", "delete", "table", "inet", "site"),
		},
		{
			name:   "no HAProxy on the standby",
			make:   func() error { return backup.StopHAProxy(ctx) },
			reason: "PROXY_DEAD",
			says:   []string{"HAProxy on lb-backup ", "it would refuse all clients"},
			cure:   backup.LetHAProxyRun,
		},
		{
			name:   "a drained standby",
			make:   lbctl("node", "drain", cluster.Backup),
			reason: "DRAINED",
			says:   []string{"lb-backup is drained", "its score is -50", "lbctl node undrain lb-backup"},
			cure:   lbctl("node", "undrain", cluster.Backup),
		},
		{
			name:   "an agent that is dead",
			make:   backup.KillAgent,
			reason: "NODE_DISCONNECTED",
			says:   []string{"the agent of lb-backup is not connected", "systemctl start lb-agent"},
			cure:   func() error { return backup.StartAgent(ctx) },
		},
	} {
		t.Run(ill.name, func(t *testing.T) { s.in(t).isFound(ctx, ill) })
	}
	t.Run("by unicast", func(t *testing.T) {
		s := s.in(t)
		s.lbctl(ctx, "vip", "set", "web", "--unicast")
		s.healthy(ctx)
		s.findsNothing(ctx, "a pair that advertises by unicast")
		s.isFound(ctx, illness{
			make:   on(backup, fmt.Sprintf(site, "input", "ip saddr 192.168.1.10 ip daddr 192.168.1.11 meta l4proto vrrp drop"), "nft", "-f", "-"),
			reason: "VRRP_DROPPED",
			says:   []string{"the firewall of lb-backup drops the advertisements of the other nodes"},
			cure:   on(backup, "", "nft", "insert", "rule", "inet", "site", "input", "meta", "l4proto", "vrrp", "accept"),
		})
	})
}

// A drill moves the VIP and brings it back, and measures both, while clients of every
// kind lose nothing; and where a failover would not work it moves nothing.
func TestDrillOfAFailover(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	report := &tandemv1.DrillReport{}
	s.tell(s.under(ctx, load, func() {
		out := s.lbctl(ctx, "drill", "failover", "web", "--yes", "-o", "json")
		if err := protojson.Unmarshal([]byte(out), report); err != nil {
			t.Fatalf("it prints %s: %v", out, err)
		}
		s.holdsNow(ctx, cluster.Master)
	}))
	if report.GetTarget() != "http://192.168.1.100:80/" || len(report.GetMoves()) != 2 {
		t.Fatalf("it reports %v", report)
	}
	for n, m := range report.GetMoves() {
		t.Logf("from %s to %s: %v, blackout %v, %d of %d requests failed", m.GetFrom(), m.GetTo(),
			m.GetDuration().AsDuration(), m.GetBlackout().AsDuration(), m.GetFailed(), m.GetRequests())
		if m.GetFrom() != clustertest.Both[n] || m.GetTo() != clustertest.Both[1-n] || m.GetFailed() != 0 || m.GetRequests() < 100 ||
			m.GetBlackout().AsDuration() <= 0 || m.GetBlackout().AsDuration() > 3*time.Second {
			t.Errorf("it reports %v", m)
		}
	}
	s.healthy(ctx)

	if err := s.Backup().StopHAProxy(ctx); err != nil {
		t.Fatal(err)
	}
	s.until(10*time.Second, "a refusal", func(ctx context.Context) error {
		if _, err := s.Lbctl(ctx, "drill", "failover", "web", "--yes"); !failedWith(err, 1, "PROXY_DEAD: HAProxy on lb-backup") {
			return fmt.Errorf("it says: %w", err)
		}
		return nil
	})
	s.holdsNow(ctx, cluster.Master)
}

// Of three nodes, too, a drill brings the VIP back to where it was, whatever its fail-back
// policy is: the third node would take it instead while the first one keeps away.
func TestDrillWithThreeNodes(t *testing.T) {
	s := newSite(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	token := s.lbctl(ctx, "node", "token", "create", "lb-third", "-o", "name")
	if _, err := s.JoinOn(ctx, "client2", "lb-third", []byte(token)); err != nil {
		t.Fatal(err)
	}
	for _, policy := range []string{"automatic", "never"} {
		s.lbctl(ctx, "vip", "set", "web", "--fail-back", policy)
		s.wait(ctx, "three nodes in good health", cluster.Settled(cluster.Master, cluster.Backup, "lb-third"), cluster.NoAlarms, cluster.HeldBy("web", cluster.Master))
		s.doctorUntil("both standbys to be ready", func(d *tandemv1.Diagnosis) error {
			for _, n := range d.GetVips()[0].GetStandbys() {
				if !n.GetReady() {
					return fmt.Errorf("%v", d)
				}
			}
			return nil
		})
		report := &tandemv1.DrillReport{}
		s.under(ctx, load, func() {
			out := s.lbctl(ctx, "drill", "failover", "web", "--yes", "-o", "json")
			if err := protojson.Unmarshal([]byte(out), report); err != nil {
				t.Fatalf("it prints %s: %v", out, err)
			}
		})
		s.holdsNow(ctx, cluster.Master)
		for n, m := range report.GetMoves() {
			t.Logf("fail-back %s: from %s to %s: %v, blackout %v, by itself: %t", policy, m.GetFrom(), m.GetTo(), m.GetDuration().AsDuration(), m.GetBlackout().AsDuration(), m.GetFailedBack())
			if m.GetFrom() != clustertest.Both[n] || m.GetTo() != clustertest.Both[1-n] || m.GetFailed()+m.GetErrors() != 0 {
				t.Errorf("fail-back %s: it reports %v", policy, m)
			}
		}
		if len(report.GetMoves()) != 2 {
			t.Errorf("fail-back %s: it reports %v", policy, report)
		}
	}
}

// isFound makes a fault, waits until it is found, and cures it.
func (s *site) isFound(ctx context.Context, ill illness) {
	s.t.Helper()
	if err := ill.make(); err != nil {
		s.t.Fatal(err)
	}
	began := time.Now()
	s.doctorUntil(ill.reason+" to be found", func(d *tandemv1.Diagnosis) error { return has(d, ill) })
	s.t.Logf("found within %v", time.Since(began))
	if err := ill.cure(); err != nil {
		s.t.Fatal(err)
	}
	s.healthy(ctx)
	s.doctorUntil("nothing to be found after the cure", func(d *tandemv1.Diagnosis) error {
		if len(d.GetFindings()) > 0 {
			return fmt.Errorf("it finds %v", d.GetFindings())
		}
		return nil
	})
	// The tables that were only opened go, so that the next fault finds none.
	for _, n := range s.Nodes {
		_ = n.Host.Command(ctx, "nft", "delete", "table", "inet", "site").Run()
	}
}

// doctorUntil asks until the answer is as it should be.
func (s *site) doctorUntil(what string, lacks func(*tandemv1.Diagnosis) error) {
	s.t.Helper()
	var lacked error // by the last answer
	s.until(30*time.Second, what, func(ctx context.Context) error {
		d, err := s.doctor(ctx)
		switch {
		case err == nil:
			lacked = lacks(d)
			return lacked
		case lacked != nil && ctx.Err() != nil:
			return lacked // the call was only cut off by the deadline
		}
		return err
	})
}

// has tells what of an illness was not found.
func has(d *tandemv1.Diagnosis, ill illness) error {
	for _, f := range d.GetFindings() {
		if f.GetReason() != ill.reason || !f.GetStops() {
			continue
		}
		said := strings.Join([]string{f.GetMessage(), f.GetEvidence(), f.GetCure()}, "\n")
		for _, word := range ill.says {
			if !strings.Contains(said, word) {
				return fmt.Errorf("it says %s, and not %q", said, word)
			}
		}
		return nil
	}
	return fmt.Errorf("it finds %v", d.GetFindings())
}

// A second network's interface is looked at on both nodes, too: one that is down, and
// one that is gone.
func TestDoctorLooksAtEachInterface(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 3*time.Minute)
	for number, name := range clustertest.Both {
		n := s.Nodes[name]
		s.link(ctx, n, fmt.Sprintf("192.168.7.1%d/24", number))
		if err := mapNetwork(n, "seven", "second"); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(n.KillAgent(), n.StartAgent(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	s.wait(ctx, "both agents", cluster.Settled(clustertest.Both...))
	s.lbctl(ctx, "vip", "add", "seven", "192.168.7.100/24", "--vrid", "57", "--network", "seven")
	s.wait(ctx, "the second VIP", cluster.HeldBy("seven", cluster.Master))
	s.findsNothing(ctx, "with a second network")
	backup := s.Backup().Host
	down := func(args ...string) func() error {
		return func() error { _, err := backup.Output(ctx, "ip", append([]string{"link"}, args...)...); return err }
	}
	restart := func() error {
		s.link(ctx, s.Backup(), "192.168.7.11/24")
		_, err := backup.SignalAll("keepalived", syscall.SIGTERM) // the agent starts it again
		return err
	}
	for _, ill := range []illness{
		{
			name: "down", make: down("set", "second", "down"), cure: down("set", "second", "up"),
			reason: "INTERFACE_DOWN", says: []string{"interface second of lb-backup is down", "on lb-backup: ip link set second up"},
		},
		{
			name: "gone", make: down("delete", "second"), cure: restart,
			reason: "INTERFACE_MISSING", says: []string{"lb-backup has no interface second, which network \"seven\" is mapped to", "systemctl restart keepalived"},
		},
	} {
		t.Run(ill.name, func(t *testing.T) { s.in(t).isFound(ctx, ill) })
	}
}

// link gives a node an interface of its own on the switch.
func (s *site) link(ctx context.Context, n *cluster.Node, address string) {
	s.t.Helper()
	for _, args := range [][]string{
		{"link", "add", "link", "eth0", "name", "second", "type", "macvlan", "mode", "bridge"},
		{"address", "add", address, "dev", "second"}, {"link", "set", "second", "up"},
	} {
		if _, err := n.Host.Output(ctx, "ip", args...); err != nil {
			s.t.Fatal(err)
		}
	}
}

// mapNetwork adds a network to an agent's configuration file.
func mapNetwork(n *cluster.Node, network, name string) error {
	text, err := os.ReadFile(n.Config)
	if err != nil {
		return err
	}
	config := map[string]any{}
	if err := yaml.Unmarshal(text, &config); err != nil {
		return err
	}
	config["networks"] = map[string]string{network: name}
	if text, err = yaml.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(n.Config, text, 0o600)
}
