// Package target holds what a node shall do, as the controller sends it: keyed
// resources at one version. A Target is immutable, so that the one that serves
// and the one that is being tried can stand side by side.
package target

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// Target is a node's whole configuration at one version.
type Target struct {
	version   *agentv1.Version
	resources map[string]*agentv1.Resource
	size      int // of the resources, in bytes
}

// MaxSize bounds a target, in bytes, however many updates it came in.
const MaxSize = 32 << 20

// put adds a resource, in place of the one with its key.
func (t *Target) put(r *agentv1.Resource) error {
	t.drop(r.GetKey())
	t.size += proto.Size(r)
	if t.size > MaxSize {
		return fmt.Errorf("the configuration is larger than %d MiB", MaxSize>>20)
	}
	t.resources[r.GetKey()] = r
	return nil
}

// drop removes a resource, if it is there.
func (t *Target) drop(key string) {
	if old := t.resources[key]; old != nil {
		t.size -= proto.Size(old)
		delete(t.resources, key)
	}
}

// FromConfig makes a target of a whole configuration. It refuses what this
// agent does not understand (see UnknownError) and keys that come twice.
func FromConfig(c *agentv1.NodeConfig) (*Target, error) {
	if err := CheckKnown(c); err != nil {
		return nil, err
	}
	t := &Target{version: c.GetVersion(), resources: make(map[string]*agentv1.Resource, len(c.GetResources()))}
	for _, r := range c.GetResources() {
		if err := checkResource(r); err != nil {
			return nil, err
		}
		if t.resources[r.GetKey()] != nil {
			return nil, fmt.Errorf("resource %q comes twice", r.GetKey())
		}
		if err := t.put(r); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Apply returns the target after upserts and removals. It refuses what
// FromConfig refuses; t itself stays as it is.
func (t *Target) Apply(version *agentv1.Version, upserts []*agentv1.Resource, removals []string) (*Target, error) {
	next := &Target{version: version, resources: maps.Clone(t.resources), size: t.size}
	for _, key := range removals {
		next.drop(key)
	}
	for _, r := range upserts {
		if err := CheckKnown(r); err != nil {
			return nil, err
		}
		if err := checkResource(r); err != nil {
			return nil, err
		}
		if err := next.put(r); err != nil {
			return nil, err
		}
	}
	return next, nil
}

// Version of the target.
func (t *Target) Version() *agentv1.Version { return t.version }

// Hash of the target as the controller named it; empty for a nil target.
func (t *Target) Hash() string {
	if t == nil {
		return ""
	}
	return t.version.GetHash()
}

// Config returns the whole configuration, resources in order of their keys.
func (t *Target) Config() *agentv1.NodeConfig {
	c := &agentv1.NodeConfig{Version: t.version}
	for _, key := range slices.Sorted(maps.Keys(t.resources)) {
		c.Resources = append(c.Resources, t.resources[key])
	}
	return c
}

// checkResource holds key and body together, so that a resource can neither
// hide behind another one's key nor be left out for having a strange one.
func checkResource(r *agentv1.Resource) error {
	var want string
	switch b := r.GetBody().(type) {
	case *agentv1.Resource_HaproxyGlobal:
		want = "haproxy/global"
	case *agentv1.Resource_Frontend:
		want = "haproxy/frontend/" + b.Frontend.GetName()
	case *agentv1.Resource_Backend:
		want = "haproxy/backend/" + b.Backend.GetName()
	case *agentv1.Resource_Server:
		want = "haproxy/server/" + b.Server.GetBackend() + "/" + b.Server.GetName()
	case *agentv1.Resource_KeepalivedGlobal:
		want = "keepalived/global"
	case *agentv1.Resource_Instance:
		want = "keepalived/instance/" + b.Instance.GetName()
	default:
		return &UnknownError{What: fmt.Sprintf("the content of resource %q", r.GetKey())}
	}
	if r.GetKey() != want {
		return fmt.Errorf("resource %q holds what belongs under %q", r.GetKey(), want)
	}
	if strings.ContainsFunc(r.GetKey(), func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return fmt.Errorf("resource %q has a control character in its key", r.GetKey())
	}
	return nil
}
