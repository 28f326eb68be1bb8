package state

import (
	"fmt"
	"regexp"
	"strings"
)

// Kind is what a resource is.
type Kind int

const (
	// KindCluster is a cluster's settings.
	KindCluster Kind = iota + 1
	// KindVip is a virtual address group.
	KindVip
	// KindListener is what clients connect to.
	KindListener
	// KindPool is a group of backends.
	KindPool
	// KindBackend is one server of a pool.
	KindBackend
	// KindOverride is what an operator has set on a backend.
	KindOverride
	// KindNode is a machine.
	KindNode
)

// String returns the word that users know the kind by.
func (k Kind) String() string {
	switch k {
	case KindCluster:
		return "cluster"
	case KindVip:
		return "vip"
	case KindListener:
		return "listener"
	case KindPool:
		return "pool"
	case KindBackend:
		return "backend"
	case KindOverride:
		return "override"
	case KindNode:
		return "node"
	default:
		return fmt.Sprintf("kind %d", int(k))
	}
}

// Name is a parsed resource name. ID is the last id in it: a cluster's own id
// for a cluster, the backend's id for an override. Pool is set for backends
// and overrides only.
type Name struct {
	Kind    Kind
	Cluster string
	Pool    string
	ID      string
}

// ClusterName names a cluster.
func ClusterName(cluster string) Name { return Name{Kind: KindCluster, Cluster: cluster, ID: cluster} }

// VipName names a VIP.
func VipName(cluster, id string) Name { return Name{Kind: KindVip, Cluster: cluster, ID: id} }

// ListenerName names a listener.
func ListenerName(cluster, id string) Name { return Name{Kind: KindListener, Cluster: cluster, ID: id} }

// PoolName names a pool.
func PoolName(cluster, id string) Name { return Name{Kind: KindPool, Cluster: cluster, ID: id} }

// BackendName names a backend.
func BackendName(cluster, pool, id string) Name {
	return Name{Kind: KindBackend, Cluster: cluster, Pool: pool, ID: id}
}

// OverrideName names a backend's override.
func OverrideName(cluster, pool, backend string) Name {
	return Name{Kind: KindOverride, Cluster: cluster, Pool: pool, ID: backend}
}

// NodeName names a node.
func NodeName(cluster, id string) Name { return Name{Kind: KindNode, Cluster: cluster, ID: id} }

// String returns the full resource name, such as
// "clusters/default/pools/web_servers/backends/web1".
func (n Name) String() string {
	prefix := "clusters/" + n.Cluster
	switch n.Kind {
	case KindVip:
		return prefix + "/vips/" + n.ID
	case KindListener:
		return prefix + "/listeners/" + n.ID
	case KindPool:
		return prefix + "/pools/" + n.ID
	case KindBackend:
		return prefix + "/pools/" + n.Pool + "/backends/" + n.ID
	case KindOverride:
		return prefix + "/pools/" + n.Pool + "/backends/" + n.ID + "/override"
	case KindNode:
		return prefix + "/nodes/" + n.ID
	default:
		return prefix
	}
}

// key is the resource's key in its table.
func (n Name) key() string {
	if n.Pool != "" {
		return n.Pool + "/" + n.ID
	}
	return n.ID
}

// ParseName parses a full resource name of one of the kinds above. It fails
// with an Invalid *Error when the name has another shape or a wrong id.
func ParseName(s string) (Name, error) {
	p := strings.Split(s, "/")
	var n Name
	switch {
	case len(p) == 2 && p[0] == "clusters":
		n = ClusterName(p[1])
	case len(p) == 4 && p[0] == "clusters" && p[2] == "vips":
		n = VipName(p[1], p[3])
	case len(p) == 4 && p[0] == "clusters" && p[2] == "listeners":
		n = ListenerName(p[1], p[3])
	case len(p) == 4 && p[0] == "clusters" && p[2] == "pools":
		n = PoolName(p[1], p[3])
	case len(p) == 4 && p[0] == "clusters" && p[2] == "nodes":
		n = NodeName(p[1], p[3])
	case len(p) == 6 && p[0] == "clusters" && p[2] == "pools" && p[4] == "backends":
		n = BackendName(p[1], p[3], p[5])
	case len(p) == 7 && p[0] == "clusters" && p[2] == "pools" && p[4] == "backends" && p[6] == "override":
		n = OverrideName(p[1], p[3], p[5])
	default:
		return Name{}, invalid("name", ReasonNameInvalid,
			"%q is not a resource name such as clusters/default/pools/web_servers", s)
	}
	if err := n.check(); err != nil {
		return Name{}, err
	}
	return n, nil
}

// Ids go into HAProxy's and keepalived's files; keepalived takes fewer
// characters and cuts what is longer.
var (
	shortID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)
	longID  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
)

// CheckID tells whether id may name a resource of the kind: 1 to 32 letters,
// digits, _ or - for clusters, VIPs and nodes, 1 to 63 with dots for the
// others, beginning with a letter or digit. field is the path in the error.
func CheckID(kind Kind, id, field string) error {
	re, rule := longID, "1 to 63 letters, digits, _, . or -"
	if kind == KindCluster || kind == KindVip || kind == KindNode {
		re, rule = shortID, "1 to 32 letters, digits, _ or -"
	}
	if !re.MatchString(id) {
		return invalid(field, ReasonNameInvalid, "%q cannot name a %s: must be %s, beginning with a letter or digit", id, kind, rule)
	}
	return nil
}

func (n Name) check() error {
	if err := CheckID(KindCluster, n.Cluster, "name"); err != nil {
		return err
	}
	if n.Pool != "" {
		if err := CheckID(KindPool, n.Pool, "name"); err != nil {
			return err
		}
	}
	return CheckID(n.Kind, n.ID, "name")
}
