// Package firewall tells what the machine's nftables rules do with VRRP
// advertisements, whoever has made the rules: it reads them from the kernel and takes
// a packet through them as the kernel would. What it does not understand may match or
// not; it says so. It changes nothing. Tables of iptables-nft, firewalld and ufw are
// such rules too; those of iptables-legacy are not, see Legacy.
package firewall

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Advert is an advertisement as rules see it.
type Advert struct {
	// Outgoing: this machine sends it. Else it has come in.
	Outgoing bool
	// Interface that it comes or leaves by.
	Interface string
	// Index of the interface; 0: not known.
	Index int
	// Source is the sender's address.
	Source netip.Addr
	// Destination is the group of the routers, or the one peer.
	Destination netip.Addr
}

// Drop is a rule by which an advertisement is lost.
type Drop struct {
	// Family, Table and Base are the chain that the packet enters the table by, Chain
	// is the one that has the rule.
	Family, Table, Base, Chain string
	// Handle of the rule in Chain; 0: it is Base's policy.
	Handle uint64
	// Packets that the rule has counted; nil: it does not count.
	Packets *uint64
	// Certain tells that nothing before the rule, or in it, could have been beyond
	// this package.
	Certain bool
	// Owner is the program that keeps the table: "firewalld", "ufw" or "iptables";
	// empty: none of these.
	Owner string
}

// Ruleset is the machine's rules at one time.
type Ruleset struct {
	bases []*chain // where packets enter tables
}

// chain is a chain with its rules.
type chain struct {
	family nftables.TableFamily
	table  string
	name   string
	hook   nftables.ChainHook // of a base chain
	drops  bool               // policy of a base chain
	broken bool               // its rules could not be read: they may do anything
	rules  []*nftables.Rule
	in     *table
}

// owner tells by the names that firewalld and ufw give to what they make, and
// iptables to its chains, who keeps the table of a base chain.
func (c *chain) owner() string {
	for name := range c.in.chains {
		if strings.HasPrefix(name, "ufw") {
			return "ufw"
		}
	}
	switch {
	case c.table == "firewalld":
		return "firewalld"
	case c.family != nftables.TableFamilyINet && (c.name == "INPUT" || c.name == "OUTPUT" || c.name == "PREROUTING" || c.name == "POSTROUTING"):
		return "iptables"
	}
	return ""
}

// table is what chains and sets of one table refer to each other by.
type table struct {
	chains map[string]*chain
	sets   map[string]*set
}

// set is a set or a map.
type set struct {
	*nftables.Set
	elements []nftables.SetElement
	broken   bool
}

// Read reads the rules of all tables but those named. A kernel without nftables has
// none.
func Read(but ...string) (*Ruleset, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	all, err := c.ListChains()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return &Ruleset{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("nftables: list chains: %w", err)
	}
	r := &Ruleset{}
	tables := make(map[string]*table)
	for _, x := range all {
		if slices.Contains(but, x.Table.Name) {
			continue
		}
		key := fmt.Sprint(x.Table.Family, " ", x.Table.Name)
		if tables[key] == nil {
			tables[key] = &table{chains: make(map[string]*chain), sets: readSets(c, x.Table)}
		}
		r.add(c, x, tables[key])
	}
	return r, nil
}

func (r *Ruleset) add(c *nftables.Conn, x *nftables.Chain, in *table) {
	made := &chain{family: x.Table.Family, table: x.Table.Name, name: x.Name, in: in}
	made.drops = x.Policy != nil && *x.Policy == nftables.ChainPolicyDrop
	var err error
	made.rules, err = c.GetRules(x.Table, x)
	made.broken = err != nil
	in.chains[x.Name] = made
	if x.Hooknum != nil {
		made.hook = *x.Hooknum
		r.bases = append(r.bases, made)
	}
}

// readSets returns the sets of a table by their names.
func readSets(c *nftables.Conn, t *nftables.Table) map[string]*set {
	sets := make(map[string]*set)
	all, err := c.GetSets(t)
	if err != nil {
		return sets // what is not there is beyond understanding
	}
	for _, s := range all {
		elements, err := c.GetSetElements(s)
		sets[s.Name] = &set{s, elements, err != nil}
	}
	return sets
}

// Drops returns the rules by which an advertisement is lost, certain ones first.
func (r *Ruleset) Drops(a Advert) []Drop {
	var found []Drop
	for _, base := range r.bases {
		certain, passes := base.sees(a)
		if !passes {
			continue
		}
		w := &walk{packet: packetOf(a), certain: certain, base: base}
		w.enter(base)
		found = append(found, w.found()...)
	}
	slices.SortStableFunc(found, func(a, b Drop) int {
		switch {
		case a.Certain == b.Certain:
			return 0
		case a.Certain:
			return -1
		default:
			return 1
		}
	})
	return found
}

// sees tells whether an advertisement comes by a base chain. What device a chain of
// the family netdev is on is not known.
func (c *chain) sees(a Advert) (certain, passes bool) {
	v6 := a.Destination.Is6()
	device := c.family == nftables.TableFamilyNetdev
	switch {
	case device && c.hook == unix.NF_NETDEV_INGRESS:
		return false, !a.Outgoing
	case device && c.hook == unix.NF_NETDEV_EGRESS:
		return false, a.Outgoing
	case c.family == nftables.TableFamilyIPv4 && v6, c.family == nftables.TableFamilyIPv6 && !v6:
		return false, false
	case c.family != nftables.TableFamilyIPv4 && c.family != nftables.TableFamilyIPv6 && c.family != nftables.TableFamilyINet:
		return false, false
	}
	switch c.hook {
	case unix.NF_INET_PRE_ROUTING, unix.NF_INET_LOCAL_IN:
		return true, !a.Outgoing
	case unix.NF_INET_LOCAL_OUT, unix.NF_INET_POST_ROUTING:
		return true, a.Outgoing
	case hookInetIngress:
		return false, !a.Outgoing // of some device
	default:
		return false, false
	}
}

// hookInetIngress is NF_INET_INGRESS (linux/netfilter.h).
const hookInetIngress = 5

var families = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyNetdev: "netdev",
}

// legacyTables are where the kernel tells which tables iptables-legacy has
// made.
var legacyTables = []string{"/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"}

// Legacy returns the tables of iptables-legacy that may drop packets, which Read
// does not see.
func Legacy() ([]string, error) {
	var found []string
	for _, file := range legacyTables {
		names, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the kernel has none
		}
		if err != nil {
			return found, err
		}
		for name := range strings.FieldsSeq(string(names)) {
			if name != "nat" && !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
	}
	return found, nil
}
