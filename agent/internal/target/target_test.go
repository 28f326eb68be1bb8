package target

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

func backend(name string) *agentv1.Resource {
	return &agentv1.Resource{Key: "haproxy/backend/" + name, Body: &agentv1.Resource_Backend{
		Backend: &haproxyv1.Backend{Name: name, Mode: haproxyv1.Mode_MODE_HTTP},
	}}
}

func server(pool, name string, id uint32) *agentv1.Resource {
	return &agentv1.Resource{Key: "haproxy/server/" + pool + "/" + name, Body: &agentv1.Resource_Server{
		Server: &haproxyv1.Server{Backend: pool, Name: name, Id: id},
	}}
}

func TestApplyLeavesTheBaseAlone(t *testing.T) {
	base, err := FromConfig(&agentv1.NodeConfig{
		Version:   &agentv1.Version{Hash: "one"},
		Resources: []*agentv1.Resource{backend("web"), server("web", "b", 2), server("web", "a", 1)},
	})
	if err != nil {
		t.Fatal(err)
	}
	next, err := base.Apply(&agentv1.Version{Hash: "two"},
		[]*agentv1.Resource{server("web", "c", 3)}, []string{"haproxy/server/web/a"})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, base); got != "a b" {
		t.Errorf("base now has servers %q, want a b", got)
	}
	if got := names(t, next); got != "b c" {
		t.Errorf("next has servers %q, want b c in order of their ids", got)
	}
	if base.Hash() != "one" || next.Hash() != "two" {
		t.Errorf("hashes are %q and %q, want one and two", base.Hash(), next.Hash())
	}
}

func names(t *testing.T, target *Target) string {
	t.Helper()
	c, err := target.HAProxy()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range c.GetBackends()[0].GetServers() {
		out = append(out, s.GetName())
	}
	return strings.Join(out, " ")
}

func TestRefusesWhatItDoesNotKnow(t *testing.T) {
	unknownField := backend("web")
	raw := protowire.AppendVarint(protowire.AppendTag(nil, 4000, protowire.VarintType), 1)
	unknownField.GetBackend().ProtoReflect().SetUnknown(raw)
	unknownEnum := backend("web")
	unknownEnum.GetBackend().Balance = 999
	unknownKind := proto.Clone(backend("web")).(*agentv1.Resource)
	unknownKind.Body = nil
	for name, r := range map[string]*agentv1.Resource{
		"field": unknownField, "enum value": unknownEnum, "kind of resource": unknownKind,
	} {
		_, err := FromConfig(&agentv1.NodeConfig{Resources: []*agentv1.Resource{r}})
		var unknown *UnknownError
		if !errors.As(err, &unknown) {
			t.Errorf("an unknown %s gives %v, want an UnknownError", name, err)
		}
	}
}

func TestRefusesForeignKeys(t *testing.T) {
	r := server("web", "a", 1)
	r.Key = "haproxy/server/other/a"
	if _, err := FromConfig(&agentv1.NodeConfig{Resources: []*agentv1.Resource{r}}); err == nil {
		t.Error("a server under another pool's key is accepted")
	}
	if _, err := FromConfig(&agentv1.NodeConfig{Resources: []*agentv1.Resource{backend("a"), backend("a")}}); err == nil {
		t.Error("a key that comes twice is accepted")
	}
}

func TestServerWithoutBackend(t *testing.T) {
	target, err := FromConfig(&agentv1.NodeConfig{Resources: []*agentv1.Resource{server("web", "a", 1)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := target.HAProxy(); err == nil {
		t.Error("a server without its backend is accepted")
	}
}

func TestWithRuntimeOf(t *testing.T) {
	make := func(hash string, resources ...*agentv1.Resource) *Target {
		made, err := FromConfig(&agentv1.NodeConfig{Version: &agentv1.Version{Hash: hash, Runtime: 1}, Resources: resources})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	good := make("good", backend("web"), server("web", "a", 1), server("web", "b", 2))
	next := make("next", backend("web"), backend("new"), server("web", "b", 2), server("web", "c", 3), server("new", "x", 1))
	mixed := good.WithRuntimeOf(next)
	if got := names(t, mixed); got != "b c" {
		t.Errorf("the servers are %q, want b c", got)
	}
	if c, err := mixed.HAProxy(); err != nil || len(c.GetBackends()) != 1 {
		t.Errorf("the structure is not the good one: %v, %v", c, err)
	}
	if mixed.Hash() == "good" || mixed.Hash() == "next" || mixed.Version().GetRuntime() != 1 {
		t.Errorf("the version is %v, want the good revision and a hash of its own", mixed.Version())
	}
	if again := mixed.WithRuntimeOf(next); again != mixed {
		t.Error("the same servers again make another target")
	}
	third := make("third", backend("web"))
	if again := mixed.WithRuntimeOf(third); strings.Count(again.Hash(), "+") != 1 {
		t.Errorf("the hash grows: %q", again.Hash())
	}
}

// A configuration that grows by one difference after the other is bounded, and
// what goes makes room.
func TestTargetIsBounded(t *testing.T) {
	target, err := FromConfig(&agentv1.NodeConfig{})
	if err != nil {
		t.Fatal(err)
	}
	big := func(i int) *agentv1.Resource { return backend(fmt.Sprint(i, strings.Repeat("x", MaxSize/9))) }
	grow := func(i int, removals ...string) (err error) {
		next, err := target.Apply(&agentv1.Version{}, []*agentv1.Resource{big(i)}, removals)
		if err == nil {
			target = next
		}
		return err
	}
	for i := range 4 { // each counts twice, by its key as well
		if err := grow(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := grow(4); err == nil {
		t.Error("a configuration without end is taken")
	}
	if err := grow(4, big(0).GetKey()); err != nil {
		t.Errorf("in place of another one: %v", err)
	}
	other, err := FromConfig(&agentv1.NodeConfig{Resources: []*agentv1.Resource{server(big(1).GetBackend().GetName(), "a", 1)}})
	if err != nil {
		t.Fatal(err)
	}
	mixed, size := target.WithRuntimeOf(other), 0
	for _, r := range mixed.resources {
		size += proto.Size(r)
	}
	if mixed == target || mixed.size != size {
		t.Errorf("a mixed target of %d bytes counts as %d", size, mixed.size)
	}
}
