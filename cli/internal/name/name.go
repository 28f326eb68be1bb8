// Package name turns what a person types into resource names: "web_servers"
// into "clusters/default/pools/web_servers". A full name, as "-o name" prints
// it, is taken wherever a short one is.
package name

import (
	"fmt"
	"strings"
)

// Kind is a kind of resource inside a cluster.
type Kind struct {
	// collections are the words of its full name after the cluster.
	collections []string
	// form is how a short name is written, with an example.
	form string
}

// The kinds of resource that lbctl names.
var (
	Vip      = Kind{[]string{"vips"}, "VIP, such as web"}
	Listener = Kind{[]string{"listeners"}, "LISTENER, such as web_frontend"}
	Pool     = Kind{[]string{"pools"}, "POOL, such as web_servers"}
	Backend  = Kind{[]string{"pools", "backends"}, "POOL/BACKEND, such as web_servers/web1"}
	Node     = Kind{[]string{"nodes"}, "NODE, such as lb-master"}
	Revision = Kind{[]string{"revisions"}, "NUMBER, such as 12"}
)

// Full returns the full name of the resource that arg names. A short name is
// looked for in cluster, itself a full name. The ids in it are the
// controller's to judge: only the shape is checked here.
func (k Kind) Full(cluster, arg string) (string, error) {
	parts := strings.Split(arg, "/")
	if len(parts) == 2+2*len(k.collections) && parts[0] == "clusters" {
		if !k.matches(parts[2:]) || hasEmpty(parts) {
			return "", k.malformed(arg)
		}
		return arg, nil
	}
	if len(parts) != len(k.collections) || hasEmpty(parts) {
		return "", k.malformed(arg)
	}
	full := cluster
	for i, part := range parts {
		full += "/" + k.collections[i] + "/" + part
	}
	return full, nil
}

func (k Kind) matches(parts []string) bool {
	for i, collection := range k.collections {
		if parts[2*i] != collection {
			return false
		}
	}
	return true
}

func (k Kind) malformed(arg string) error {
	return fmt.Errorf("name must be %s (got %q)", k.form, arg)
}

// Cluster returns the full name of the cluster that arg names.
func Cluster(arg string) (string, error) {
	id := strings.TrimPrefix(arg, "clusters/")
	if id == "" || strings.Contains(id, "/") {
		return "", fmt.Errorf("cluster must be its id, such as default (got %q)", arg)
	}
	return "clusters/" + id, nil
}

// ID returns the last part of a full name.
func ID(full string) string {
	return full[strings.LastIndexByte(full, '/')+1:]
}

// Parent returns the name of what a resource is in: its pool for a backend,
// its cluster for the others.
func Parent(full string) string {
	parts := strings.Split(full, "/")
	if len(parts) < 4 {
		return full
	}
	return strings.Join(parts[:len(parts)-2], "/")
}

// ClusterOf returns the name of the cluster that a resource belongs to.
func ClusterOf(full string) string {
	parts := strings.SplitN(full, "/", 3)
	if len(parts) < 2 {
		return full
	}
	return parts[0] + "/" + parts[1]
}

// Short returns a full name the way a person types it: the ids after the
// cluster's, joined by slashes.
func Short(full string) string {
	parts := strings.Split(full, "/")
	if len(parts) < 4 || parts[0] != "clusters" {
		return ID(full)
	}
	var ids []string
	for i := 3; i < len(parts); i += 2 {
		ids = append(ids, parts[i])
	}
	return strings.Join(ids, "/")
}

// InCluster returns a full name without its cluster: "pools/web_servers".
func InCluster(full string) string {
	parts := strings.SplitN(full, "/", 3)
	if len(parts) < 3 || parts[0] != "clusters" {
		return full
	}
	return parts[2]
}

func hasEmpty(parts []string) bool {
	for _, part := range parts {
		if part == "" {
			return true
		}
	}
	return false
}
