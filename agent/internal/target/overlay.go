package target

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Keys of resources that can be changed on the node itself.
const (
	globalKey    = "keepalived/global"
	serverPrefix = "haproxy/server/"
)

// Server returns the server of a pool, nil when the target has none of that
// name.
func (t *Target) Server(pool, name string) *haproxyv1.Server {
	return t.resources[serverPrefix+pool+"/"+name].GetServer()
}

// Servers returns the names of all servers, "pool/server", in order.
func (t *Target) Servers() []string {
	var names []string
	for key := range t.resources {
		if name, ok := strings.CutPrefix(key, serverPrefix); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Drained tells whether the node is to be drained.
func (t *Target) Drained() bool {
	return t.resources[globalKey].GetKeepalivedGlobal().GetDrain()
}

// With returns the target with these resources in place of its own; what it
// does not have is left out. Its version stays: it is what the controller calls
// the rest.
func (t *Target) With(resources []*agentv1.Resource) *Target {
	if len(resources) == 0 {
		return t
	}
	next := &Target{version: t.version, resources: maps.Clone(t.resources)}
	for _, r := range resources {
		if t.resources[r.GetKey()] != nil {
			next.resources[r.GetKey()] = r
		}
	}
	return next
}

// DrainResource returns the resource that says whether the node is drained, nil
// when the target has none.
func (t *Target) DrainResource(drain bool) *agentv1.Resource {
	old := t.resources[globalKey]
	if old == nil {
		return nil
	}
	next := proto.CloneOf(old)
	next.GetKeepalivedGlobal().Drain = drain
	return next
}

// ServerResource returns a server as a resource.
func ServerResource(s *haproxyv1.Server) *agentv1.Resource {
	return &agentv1.Resource{
		Key:  serverPrefix + s.GetBackend() + "/" + s.GetName(),
		Body: &agentv1.Resource_Server{Server: s},
	}
}
