// Package handover lets established connections outlive a planned move of a VIP.
//
// The node that gave the VIP up goes on with them, and answers their clients
// directly; the node that took the VIP forwards what clients send for them. Both is
// done by the kernel (package kernel), which asks its own sockets whose a connection
// is. So a handover goes on when the agent has ended, and ends by itself.
//
// A node that stands by is armed for a few seconds at a time, as long as the holder
// answers on the network, since the first packets come before any agent knows that
// its node is the holder. When it becomes the holder the forwarding lasts for the
// VIP's handover_timeout, or until the previous holder answers no more.
package handover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/handover/kernel"
)

const (
	// renewEvery is how often a node that stands by looks for the holder.
	renewEvery = 2 * time.Second
	// checkEvery is how often a node that forwards looks for the previous holder.
	checkEvery = 500 * time.Millisecond
	// armed is how long it forwards without its agent, should it become the holder.
	armed = 6 * time.Second
	// lookEvery is how often the kernel is asked whether the program and the rules are
	// still there.
	lookEvery = 10 * time.Second
	// loadEvery is how often a kernel that would not take the program is asked again: it
	// may have been short of memory.
	loadEvery = time.Minute
	// answerWithin is how long a node may take to answer. One that is a cable away
	// takes less than a millisecond.
	answerWithin = 200 * time.Millisecond
	// attempts are how often a node is asked before it counts as gone.
	attempts = 2
)

// Role is what this node is for a VIP.
type Role string

// Roles.
const (
	// Holder holds the VIP.
	Holder Role = "holder"
	// Standby would take it.
	Standby Role = "standby"
	// Neither holds it nor would take it.
	Neither Role = "neither"
	// Unknown: nobody says.
	Unknown Role = "unknown"
)

// VIP is one instance of a VIP, of one family.
type VIP struct {
	// Name of the instance.
	Name string
	// Interface that carries it.
	Interface string
	// Device on top of it that has the addresses, where they have the virtual router's
	// link-layer address; empty: there is none.
	Device string
	// Addresses of it.
	Addresses []netip.Addr
	// Timeout is how long connections may outlive a move; 0: not at all.
	Timeout time.Duration
	// Peers are the own addresses of the other nodes on its network, by node.
	Peers map[string][]netip.Addr
	// Role of this node.
	Role Role
	// Holder is the node that advertises the VIP's virtual router; empty: it is not
	// known.
	Holder string
}

// View is what the keeper must know.
type View struct {
	// Known is false until the agent knows what this node is to hold.
	Known bool
	VIPs  []VIP
	// Serving tells that the proxy on this node is well.
	Serving bool
}

// Options of a Keeper; all are needed.
type Options struct {
	// RunDir is the agent's run directory, on a tmpfs; the keeper uses
	// "handover.json" in it.
	RunDir string
	// Look returns the present view. It must not block.
	Look func() View
	// Problem tells why connections do not outlive planned moves; empty: they do.
	Problem func(text string)
	Logger  hclog.Logger
}

// Keeper keeps the kernel's part up to date. One goroutine, Run's, uses all but
// Wake.
type Keeper struct {
	Options
	path   string
	kick   chan struct{} // depth one
	kernel *kernel.Kernel
	// open and setRules are kernel.Load and kernel.SetRules.
	open     func() (*kernel.Kernel, error)
	setRules func(interfaces []string) error
	begun    bool          // see ready
	broken   time.Duration // until when the kernel is not asked again to take the program
	saved    saved
	stored   *saved // the file; nil: nothing yet
	network  kernel.Network
	peers    map[host]*peer
	vips     map[string]*vip
	set      map[netip.Addr]kernel.Way // in the kernel
	devices  map[string]int            // the interfaces with the program, and which they are
	looked   time.Duration             // when program and rules were seen there
}

// host is an address on an interface.
type host struct {
	Interface string
	Address   netip.Addr
}

// New returns a keeper that has changed nothing yet.
func New(o Options) *Keeper {
	return &Keeper{
		Options: o, path: filepath.Join(o.RunDir, "handover.json"), kick: make(chan struct{}, 1),
		open: kernel.Load, setRules: kernel.SetRules,
		peers: make(map[host]*peer), vips: make(map[string]*vip), set: make(map[netip.Addr]kernel.Way),
	}
}

// Wake has the view looked at soon. It does not block.
func (k *Keeper) Wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// Run keeps the kernel's part up to date until ctx ends. That part goes on then.
func (k *Keeper) Run(ctx context.Context) error {
	k.load()
	defer k.network.Close()
	due := time.NewTimer(0)
	defer due.Stop()
	for renew := true; ; {
		if view := k.Look(); k.ready(view) {
			k.report(k.step(ctx, view, renew))
		}
		if renew {
			due.Reset(beat.In(renewEvery))
		}
		switch forwards := k.forwarding(); {
		case !forwards:
			k.network.Close() // it is not asked again soon
		case renew:
			due.Reset(beat.In(checkEvery))
		}
		select {
		case <-k.kick:
			renew = false
		case <-due.C:
			renew = true
		case <-ctx.Done():
			if k.kernel == nil {
				return nil
			}
			return k.kernel.Close()
		}
	}
}

// ready tells whether the keeper may act: what an earlier agent has left goes on
// until it is known, once, what this node is to hold and what it is for each VIP.
func (k *Keeper) ready(view View) bool {
	k.begun = k.begun || view.Known && !slices.ContainsFunc(view.VIPs, func(v VIP) bool { return v.Role == Unknown })
	return k.begun && view.Known
}

// report tells of what went wrong, once, and of its end.
func (k *Keeper) report(err error) {
	text := ""
	if err != nil {
		text = fmt.Sprintf("established connections do not outlive planned moves of VIPs: %v", err)
	}
	k.Problem(text)
}

// step brings the kernel's part up to date. What a move needs at once comes first;
// whether the other nodes answer takes time, and is asked if renew says so or a
// move has happened.
func (k *Keeper) step(ctx context.Context, view View, renew bool) error {
	view.VIPs = slices.DeleteFunc(slices.Clone(view.VIPs), func(v VIP) bool { return v.Timeout <= 0 })
	if len(view.VIPs) == 0 {
		return k.dismantle()
	}
	now, err := kernel.Now()
	if err != nil {
		return err
	}
	if now < k.broken {
		return errUnsupported
	}
	moved := k.follow(view.VIPs, now)
	if k.kernel == nil {
		if k.kernel, err = k.open(); err != nil {
			if k.broken == 0 {
				k.Logger.Warn("established connections do not outlive planned moves", "error", err)
			}
			k.broken = now + loadEvery
			return errUnsupported
		}
		k.broken = 0
	}
	if err := k.apply(view, now); err != nil {
		return err
	}
	if !renew && !moved {
		return nil
	}
	k.ask(ctx, view.VIPs)
	if now, err = kernel.Now(); err != nil {
		return err
	}
	// The program comes last, and takes the place of an earlier agent's with all
	// that it has to know.
	return errors.Join(k.apply(view, now), k.install(view.VIPs, now))
}

// install has the program and the rules in the kernel, and finds out now and then
// whether somebody has removed them.
func (k *Keeper) install(vips []VIP, now time.Duration) error {
	devices, err := present(vips)
	if err != nil {
		return err
	}
	want := make(map[string]bool)
	for name := range devices {
		want[name] = true
	}
	if maps.Equal(devices, k.devices) && maps.Equal(want, k.saved.Interfaces) && k.looked != 0 && now-k.looked < lookEvery {
		return nil
	}
	k.looked, k.saved.Rules = 0, true
	if err := errors.Join(k.save(), k.setRules(slices.Collect(maps.Keys(want))), k.attach(want)); err != nil {
		return err
	}
	k.looked, k.devices = now, devices
	return nil
}

// present returns the interfaces that are to have the program, and which they are. A
// device comes with keepalived, and another one of its name when that is started anew.
func present(vips []VIP) (map[string]int, error) {
	all := make(map[string]int)
	for n := range vips {
		v := &vips[n]
		all[v.Interface] = 0
		if v.Device == "" {
			continue
		}
		index, err := kernel.Index(v.Device)
		if err != nil {
			return nil, err
		}
		if index != 0 {
			all[v.Device] = index
		}
	}
	return all, nil
}

// errUnsupported is a problem with its cure.
var errUnsupported = errors.New("the kernel does not take the agent's program: it needs Linux 5.8 or later with " +
	"CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS, and the agent CAP_BPF and CAP_NET_ADMIN (its log has " +
	"the kernel's words); or turn it off: lbctl vip set VIP --handover-timeout 0s")

// apply gives the kernel the ways that are new.
func (k *Keeper) apply(view View, now time.Duration) error {
	want := make(map[netip.Addr]kernel.Way)
	for n := range view.VIPs {
		v := &view.VIPs[n]
		way := k.vips[v.Name].way(v.Role, view.Serving, now)
		for _, a := range v.Addresses {
			want[a] = way
		}
	}
	var failed []error
	for a, way := range want {
		if old, ok := k.set[a]; ok && old.Equal(way) {
			continue
		}
		if err := k.kernel.Set(a, way); err != nil {
			failed = append(failed, err)
			continue
		}
		k.set[a] = way
	}
	for a := range k.set {
		if _, ok := want[a]; !ok {
			failed = append(failed, k.kernel.Remove(a))
			delete(k.set, a)
		}
	}
	return errors.Join(append(failed, k.save())...)
}

// attach has the program on these interfaces, and on no other one.
func (k *Keeper) attach(want map[string]bool) error {
	var failed []error
	for name := range k.saved.Interfaces {
		if !want[name] {
			if err := kernel.Detach(name); err != nil {
				failed = append(failed, err)
				continue
			}
			delete(k.saved.Interfaces, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		on, err := k.kernel.Attached(name)
		if err == nil && !on {
			k.saved.Interfaces[name] = true
			if err = k.save(); err == nil {
				err = k.kernel.Attach(name)
			}
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// dismantle leaves nothing of it in the kernel.
func (k *Keeper) dismantle() error {
	k.broken = 0
	if k.kernel == nil && len(k.saved.Interfaces) == 0 && !k.saved.Rules {
		return nil
	}
	var failed []error
	for name := range k.saved.Interfaces {
		if err := kernel.Detach(name); err != nil {
			failed = append(failed, err)
			continue
		}
		delete(k.saved.Interfaces, name)
	}
	rules := k.setRules(nil)
	k.saved.Rules = rules != nil
	if failed = append(failed, rules); k.kernel != nil {
		failed = append(failed, k.kernel.Close())
		k.kernel = nil
	}
	k.looked = 0
	clear(k.vips)
	clear(k.set)
	return errors.Join(append(failed, k.save())...)
}
