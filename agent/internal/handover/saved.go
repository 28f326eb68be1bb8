package handover

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
)

// saved is what the next agent has to know, until the machine is switched off.
type saved struct {
	// Interfaces that may have the program.
	Interfaces map[string]bool `json:"interfaces"`
	// Rules tells that there may be rules of marked packets.
	Rules bool `json:"rules,omitempty"`
	// Forwarding that goes on, by the names of instances.
	Forwarding map[string]forwarding `json:"forwarding"`
}

// forwarding is that of one instance.
type forwarding struct {
	Until    time.Duration    `json:"until"` // by kernel.Now
	Node     string           `json:"node"`
	At       host             `json:"at"`
	From, To net.HardwareAddr `json:",omitempty"`
}

func (s *saved) equal(o *saved) bool {
	return s.Rules == o.Rules && maps.Equal(s.Interfaces, o.Interfaces) && maps.EqualFunc(s.Forwarding, o.Forwarding, forwarding.equal)
}

func (f forwarding) equal(o forwarding) bool {
	return f.Until == o.Until && f.Node == o.Node && f.At == o.At && bytes.Equal(f.From, o.From) && bytes.Equal(f.To, o.To)
}

// load reads what an earlier agent has left.
func (k *Keeper) load() {
	data, err := os.ReadFile(k.path)
	if err == nil {
		err = json.Unmarshal(data, &k.saved)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.Logger.Warn("connections that were handed over to this node before the agent's start may be lost", "error", err)
	}
	if k.saved.Interfaces == nil {
		k.saved.Interfaces = make(map[string]bool)
	}
}

// resume goes on with what an earlier agent has begun.
func (k *Keeper) resume(v *vip, view *VIP, now time.Duration) {
	f, ok := k.saved.Forwarding[view.Name]
	if !ok || now >= f.Until || view.Role != Holder || len(f.To) != 6 || len(f.From) != 6 {
		return
	}
	if k.peers[f.At] == nil {
		k.peers[f.At] = &peer{node: f.Node, at: f.At, own: f.From, mac: f.To, seen: now}
	}
	v.role, v.to, v.until = Holder, k.peers[f.At], f.Until
}

// save keeps it for the next agent.
func (k *Keeper) save() error {
	now := make(map[string]forwarding)
	for name, v := range k.vips {
		if v.until != 0 && v.to != nil {
			now[name] = forwarding{Until: v.until, Node: v.to.node, At: v.to.at, From: v.to.own, To: v.to.mac}
		}
	}
	next := saved{Interfaces: k.saved.Interfaces, Rules: k.saved.Rules, Forwarding: now}
	if k.stored != nil && next.equal(k.stored) {
		return nil
	}
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteVolatile(k.path, data, 0o600); err != nil {
		return err
	}
	k.saved, k.stored = next, new(next)
	k.stored.Interfaces = maps.Clone(next.Interfaces) // whose own are changed
	return nil
}
