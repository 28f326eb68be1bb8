package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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

// load loads rules that are written on one line.
func load(t *testing.T, rules string) {
	t.Helper()
	run(t, strings.NewReplacer("; }", "\n}\n", "} }", "}\n}\n", "} chain", "}\nchain", "} table", "}\ntable").Replace(rules), "nft", "-f", "-")
}

var (
	here  = netip.MustParseAddr("127.0.0.1")
	there = netip.MustParseAddr("127.0.0.2")
)

// arrives tells whether the kernel lets an advertisement from there to here through.
func arrives(t *testing.T) bool {
	t.Helper()
	raw := func() int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, protocol)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	receiver, sender := raw(), raw()
	for _, err := range []error{
		unix.SetsockoptTimeval(receiver, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
		unix.Bind(receiver, &unix.SockaddrInet4{Addr: here.As4()}),
		unix.SetsockoptInt(sender, unix.IPPROTO_IP, unix.IP_TTL, hops),
		unix.Bind(sender, &unix.SockaddrInet4{Addr: there.As4()}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	err := unix.Sendto(sender, make([]byte, 32), 0, &unix.SockaddrInet4{Addr: here.As4()})
	if errors.Is(err, unix.EPERM) {
		return false // dropped on its way out
	}
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = unix.Recvfrom(receiver, make([]byte, 128), 0)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	return err == nil
}

// verdict of the rules about the same advertisement, on its way out and in: "" when it
// passes, else where it is lost.
func verdict(t *testing.T) (lost string, certain bool) {
	t.Helper()
	rules, err := Read("own")
	if err != nil {
		t.Fatal(err)
	}
	for _, outgoing := range []bool{true, false} {
		for _, d := range rules.Drops(Advert{Outgoing: outgoing, Interface: "lo", Index: 1, Source: there, Destination: here}) {
			where := fmt.Sprintf("%s %s %s", d.Family, d.Table, d.Chain)
			if d.Handle == 0 {
				where += " policy"
			}
			if lost == "" || d.Certain && !certain {
				lost, certain = where, d.Certain
			}
		}
	}
	return lost, certain
}

// What is said of rules is what the kernel does by them.
func TestDropsAreTheKernels(t *testing.T) {
	const input = "type filter hook input priority 0;"
	for name, test := range map[string]struct {
		rules string
		lost  string // where; empty: nowhere
		maybe bool   // it cannot be told
	}{
		"nothing":        {"", "", false},
		"the protocol":   {"table inet site { chain in { " + input + " ip protocol vrrp counter drop; } }", "inet site in", false},
		"by number":      {"table ip site { chain in { " + input + " meta l4proto 112 drop; } }", "ip site in", false},
		"rejected":       {"table inet site { chain in { " + input + " meta l4proto vrrp reject; } }", "inet site in", false},
		"another one":    {"table inet site { chain in { " + input + " meta l4proto tcp drop; udp dport 53 drop; } }", "", false},
		"of IPv6":        {"table ip6 site { chain in { " + input + " drop; } }", "", false},
		"another device": {"table inet site { chain in { " + input + " iifname eth9 drop; } }", "", false},
		"this device":    {"table inet site { chain in { " + input + " iifname \"l*\" drop; } }", "inet site in", false},
		"this one's id":  {"table inet site { chain in { " + input + " iif lo drop; } }", "inet site in", false},
		"the policy":     {"table inet site { chain in { " + input + " policy drop; tcp dport 22 accept; } }", "inet site in policy", false},
		"a usual host": {"table inet filter { chain input { " + input + " policy drop; ct state vmap { established : accept, related : accept, invalid : drop };" +
			" iifname \"eth0\" accept; ip protocol icmp accept; tcp dport { 22, 80 } accept; } }", "inet filter input policy", false},
		"a usual host that knows VRRP": {"table inet filter { chain input { " + input + " policy drop; ct state established,related accept; ct state invalid drop;" +
			" ip protocol { icmp, vrrp } accept; } }", "", false},
		"the first packet is accepted": {"table inet filter { chain input { " + input + " policy drop; ct state new accept; } }", "", false},
		"accepted before":              {"table inet site { chain in { " + input + " ip saddr 127.0.0.2 accept; meta l4proto vrrp drop; } }", "", false},
		"another sender accepted":      {"table inet site { chain in { " + input + " ip saddr 127.0.0.3 accept; meta l4proto vrrp drop; } }", "inet site in", false},
		"a network":                    {"table inet site { chain in { " + input + " ip saddr 127.0.0.0/24 ip ttl 255 drop; } }", "inet site in", false},
		"another network":              {"table inet site { chain in { " + input + " ip saddr 127.1.0.0/24 drop; } }", "", false},
		"not from it":                  {"table inet site { chain in { " + input + " ip saddr != 127.0.0.2 drop; } }", "", false},
		"a range":                      {"table inet site { chain in { " + input + " ip saddr 127.0.0.2-127.0.0.9 drop; } }", "inet site in", false},
		"a range of numbers":           {"table inet site { chain in { " + input + " meta l4proto 100-120 drop; } }", "inet site in", false},
		"a set of ranges":              {"table inet site { set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 127.0.0.2-127.0.0.4 }; } chain in { " + input + " ip saddr @s drop; } }", "inet site in", false},
		"a set of other ranges":        {"table inet site { set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 127.0.0.3-127.0.0.4 }; } chain in { " + input + " ip saddr @s drop; } }", "", false},
		"in a set not":                 {"table inet site { set s { type ipv4_addr; elements = { 127.0.0.2 }; } chain in { " + input + " ip saddr != @s drop; } }", "", false},
		"a jump":                       {"table inet site { chain deep { meta l4proto vrrp drop; } chain in { " + input + " jump deep; } }", "inet site deep", false},
		"a jump that returns":          {"table inet site { chain deep { meta l4proto vrrp return; drop; } chain in { " + input + " jump deep; } }", "", false},
		"goto does not come back":      {"table inet site { chain deep { } chain in { " + input + " goto deep; drop; } }", "", false},
		"a map of verdicts":            {"table inet site { chain deep { drop; } chain in { " + input + " meta l4proto vmap { tcp : accept, vrrp : jump deep }; } }", "inet site deep", false},
		"accepted in one table only":   {"table inet a { chain in { " + input + " accept; } } table inet b { chain in { type filter hook input priority 10; drop; } }", "inet b in", false},
		"before routing":               {"table ip raw { chain pre { type filter hook prerouting priority raw; meta l4proto vrrp drop; } }", "ip raw pre", false},
		"on its way out":               {"table inet site { chain out { type filter hook output priority 0; ip daddr 127.0.0.1 meta l4proto vrrp drop; } }", "inet site out", false},
		"by the device it leaves by":   {"table inet site { chain out { type filter hook postrouting priority 0; oifname lo meta l4proto vrrp drop; } }", "inet site out", false},
		"forwarded":                    {"table inet site { chain f { type filter hook forward priority 0; policy drop; } }", "", false},
		"the table that is left out":   {"table inet own { chain in { " + input + " drop; } }", "", false},
		"by its mark":                  {"table inet site { chain in { " + input + " meta mark 7 drop; } }", "inet site in", true},
		"by its length":                {"table inet site { chain in { " + input + " meta length > 9 drop; } }", "inet site in", true},
		"now and then":                 {"table inet site { chain in { " + input + " limit rate over 1000/second drop; } }", "inet site in", true},
		"perhaps accepted before":      {"table inet site { chain in { " + input + " meta mark 7 accept; meta l4proto vrrp drop; } }", "inet site in", true},
		"perhaps jumped over":          {"table inet site { chain deep { drop; } chain in { " + input + " meta mark 7 jump deep; } }", "inet site deep", true},
		"perhaps sent away before":     {"table inet site { chain deep { accept; } chain in { " + input + " meta mark 7 jump deep; meta l4proto vrrp drop; } }", "inet site in", true},
		"certain in spite of a doubt":  {"table inet site { chain in { " + input + " meta mark 7 drop; meta l4proto vrrp drop; } }", "inet site in", false},
		"the route back":               {"table inet site { chain in { type filter hook prerouting priority 0; fib saddr . iif oif missing drop; } }", "inet site in", true},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t)
			load(t, test.rules)
			lost, certain := verdict(t)
			if lost != test.lost || certain != (lost != "" && !test.maybe) {
				t.Errorf("lost at %q, certain %t, want %q, %t", lost, certain, test.lost, test.lost != "" && !test.maybe)
			}
			if passes := arrives(t); !test.maybe && name != "the table that is left out" && passes != (test.lost == "") {
				t.Errorf("for the kernel it passes: %t", passes)
			}
		})
	}
}

// What a rule has counted is told, and which one it is.
func TestADropTellsItsRule(t *testing.T) {
	alone(t)
	load(t, "table inet site { chain in { type filter hook input priority 0; tcp dport 1 drop; meta l4proto vrrp counter drop; } }")
	arrives(t)
	arrives(t)
	rules, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	found := rules.Drops(Advert{Interface: "lo", Index: 1, Source: there, Destination: here})
	if len(found) != 1 || found[0].Packets == nil || *found[0].Packets != 2 || found[0].Handle == 0 || found[0].Base != "in" {
		t.Errorf("found %+v", found)
	}
}

// Whoever keeps the table is told: it is his words that let VRRP through.
func TestADropTellsWhoseItIs(t *testing.T) {
	const input = "type filter hook input priority 0; policy drop;"
	for name, test := range map[string]struct{ rules, owner string }{
		"by hand":   {"table inet filter { chain input { " + input + " } }", ""},
		"firewalld": {"table inet firewalld { chain filter_INPUT { " + input + " } }", "firewalld"},
		"ufw":       {"table ip filter { chain ufw-before-input { tcp dport 22 accept; } chain INPUT { " + input + " jump ufw-before-input; } }", "ufw"},
		"iptables":  {"table ip filter { chain INPUT { " + input + " } }", "iptables"},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t)
			load(t, test.rules)
			rules, err := Read()
			if err != nil {
				t.Fatal(err)
			}
			found := rules.Drops(Advert{Interface: "lo", Index: 1, Source: there, Destination: here})
			if len(found) != 1 || found[0].Owner != test.owner {
				t.Errorf("found %+v, want %q", found, test.owner)
			}
		})
	}
}

func TestLegacyTablesAreTold(t *testing.T) {
	dir := t.TempDir()
	was := legacyTables
	t.Cleanup(func() { legacyTables = was })
	legacyTables = []string{filepath.Join(dir, "4"), filepath.Join(dir, "6"), filepath.Join(dir, "missing")}
	for n, text := range []string{"nat\nfilter\n", "filter\nmangle\n"} {
		if err := os.WriteFile(legacyTables[n], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := Legacy(); err != nil || !slices.Equal(found, []string{"filter", "mangle"}) {
		t.Errorf("found %v, %v", found, err)
	}
}
