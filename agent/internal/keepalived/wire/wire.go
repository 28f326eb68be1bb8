// Package wire listens to what the network says of the virtual routers of this
// node: who advertises them, who says that it has one of their addresses, who asks
// for one, and whether the gateway and others answer. It touches nothing; it asks one
// of those four times a second, and for an address that this node holds now and then.
package wire

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/vrrp"
)

// Router is a virtual router of this node.
type Router struct {
	// Name is unique.
	Name string
	// Interface that it is on.
	Interface string
	VRID      uint8
	// Interval between its advertisements.
	Interval time.Duration
	// Addresses of the VIP, all of one family; at least one.
	Addresses []netip.Addr
	// Holds tells that this node has the addresses.
	Holds bool
	// Peers are the other nodes' own addresses on the interface, as far as they are
	// known.
	Peers []netip.Addr
	// Apart tells that the router is advertised on another interface, so that nobody
	// advertises it here: who has an address is a node if it has one of Peers, too.
	Apart bool
	// Yields is how long this node, where it has the addresses or keeps itself off them
	// for another one's sake, lets another node have them as well; 0: that is not looked
	// for. Only where Apart.
	Yields time.Duration
}

func (r *Router) six() bool { return r.Addresses[0].Is6() }

// sameAs tells whether both are one virtual router: its addresses and who has them may
// differ.
func (r *Router) sameAs(o *Router) bool {
	return r.Name == o.Name && r.VRID == o.VRID && r.six() == o.six()
}

// virtualMAC is the router's own link-layer address.
func (r *Router) virtualMAC() link.MAC { return link.VirtualMAC(r.six(), r.VRID) }

// Speaker is a machine that advertises a router.
type Speaker struct {
	vrrp.Advert
	MAC link.MAC
}

// Claim is a machine that says that it has an address, and does not advertise.
type Claim struct {
	Address netip.Addr
	MAC     link.MAC
}

// Gateway is whether the interface's gateway answers.
type Gateway int

// What is known of a gateway.
const (
	GatewayNone    Gateway = iota // there is none, or it is not known yet
	GatewayAnswers                // it has answered within the last seconds
	GatewaySilent                 // it does not answer
)

// Heard is what is known of a router. The zero one is that of a deaf listener.
type Heard struct {
	// Listens tells that the interface is up and listened on, and has been for as long
	// as a peer that advertises may be silent, or that one has been heard.
	Listens bool
	// MAC is the interface's own address.
	MAC link.MAC
	// Speakers besides this machine, in order of their addresses.
	Speakers []Speaker
	// Spoke is when somebody else was last heard to advertise it. That alone is no change.
	Spoke time.Time
	// Strays likewise, which advertise addresses of the router as another one.
	Strays []Speaker
	// Claims in order of their addresses.
	Claims []Claim
	// Gateway of the interface, by IPv4.
	Gateway Gateway
	// Jitter of the advertisements of others.
	Jitter Jitter
	// Asked tells that a host has lately asked for an address of the router, by
	// ARP.
	Asked bool
	// Reach of the interface, by IPv4. Where this node holds the addresses it is told
	// no sooner than another one takes over that the interface carries nothing.
	Reach Reach
	// Beside is another node that has the addresses, too, where Router.Yields says for how
	// long that may be.
	Beside Beside
	// Absent are the nodes' own addresses on the interface, by IPv4, that do not answer.
	Absent []netip.Addr
}

// same tells whether two are alike but for Spoke, which alone is no change.
func (h *Heard) same(o *Heard) bool {
	return h.Listens == o.Listens && h.MAC == o.MAC && slices.Equal(h.Speakers, o.Speakers) && slices.Equal(h.Strays, o.Strays) &&
		slices.Equal(h.Claims, o.Claims) && h.Gateway == o.Gateway && h.Jitter == o.Jitter && h.Asked == o.Asked &&
		h.Reach == o.Reach && h.Beside == o.Beside && slices.Equal(h.Absent, o.Absent)
}

// Listener listens while Run runs. Its methods may be called from any goroutine.
type Listener struct {
	log     hclog.Logger
	stir    chan struct{} // depth one: the routers have changed
	changed chan struct{} // depth one

	mu      sync.Mutex // held for memory only
	routers []Router
	heard   map[string]report // by name of the router
}

// report is what was heard of a router, as that was then.
type report struct {
	router Router
	Heard
}

// New returns a listener without routers.
func New(log hclog.Logger) *Listener {
	return &Listener{log: log, stir: make(chan struct{}, 1), changed: make(chan struct{}, 1), heard: make(map[string]report)}
}

// Watch makes the routers those given, and has forgotten when it returns what was heard of
// one that is no more, or is elsewhere. It does not block.
func (l *Listener) Watch(routers []Router) {
	l.mu.Lock()
	same := reflect.DeepEqual(l.routers, routers)
	l.routers = routers
	if !same {
		for name, was := range l.heard {
			if now, ok := l.counts(was); ok {
				l.heard[name] = now
			} else {
				delete(l.heard, name)
			}
		}
	}
	l.mu.Unlock()
	if !same {
		put(l.stir)
	}
}

// Changed has an entry when Heard has changed.
func (l *Listener) Changed() <-chan struct{} { return l.changed }

// Heard is what is known of a router now.
func (l *Listener) Heard(name string) Heard {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heard[name].Heard
}

// counts returns what a report says of the router of its name as that is now; ok: it says
// something. An ear learns of a change after those who ask what it has heard. The caller
// holds mu.
func (l *Listener) counts(was report) (now report, ok bool) {
	for n := range l.routers {
		r := &l.routers[n]
		if r.Name != was.router.Name {
			continue
		}
		if !r.sameAs(&was.router) || r.Interface != was.router.Interface {
			return report{}, false
		}
		now = report{*r, was.Heard}
		if r.Interval != was.router.Interval { // see table.watch
			now.Listens, now.Speakers, now.Strays, now.Jitter = false, nil, nil, Jitter{}
		}
		return now, true
	}
	return report{}, false
}

// publish makes visible what an interface has heard, and tells whether that is
// something new.
func (l *Listener) publish(heard []report) (changed bool) {
	l.mu.Lock()
	for _, h := range heard {
		h, ok := l.counts(h)
		if !ok {
			continue
		}
		was := l.heard[h.router.Name]
		changed = changed || !was.same(&h.Heard)
		l.heard[h.router.Name] = h
	}
	l.mu.Unlock()
	if changed {
		put(l.changed)
	}
	return changed
}

// Run listens until ctx is done: one goroutine an interface, which ends when no
// router is on it any more.
func (l *Listener) Run(ctx context.Context) error {
	ears := make(map[string]*ear)
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		l.mu.Lock()
		wanted := make(map[string][]Router)
		for _, r := range l.routers {
			wanted[r.Interface] = append(wanted[r.Interface], r)
		}
		l.mu.Unlock()
		for name, e := range ears {
			if wanted[name] == nil {
				e.end()
				delete(ears, name)
			}
		}
		for name, routers := range wanted {
			if ears[name] == nil {
				e, err := l.newEar(name)
				if err != nil {
					return err
				}
				var hearing context.Context
				hearing, e.end = context.WithCancel(ctx)
				ears[name] = e
				running.Go(func() { e.run(hearing) })
			}
			ears[name].watch(routers)
		}
		select {
		case <-l.stir:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func put(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
