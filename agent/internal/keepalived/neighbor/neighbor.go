// Package neighbor finds out whether somebody on the network has an address
// already, before keepalived brings it up.
//
// An address may well be in use: by the peer that holds the VIP. The peer is who
// advertises the VIP's virtual router from the same link-layer address, be it
// its own or the virtual router's (use_vmac), or who has the virtual router's while anybody
// advertises it (vmac_xmit_base), or who has the address that it is advertised from as
// well: a machine with two interfaces on one network answers for an address on both,
// unless its arp_ignore forbids that (ip-sysctl.rst). Where the router is advertised on
// another interface, or by unicast, it is who has a node's own address as well. Whoever
// else has the address is unknown.
package neighbor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/vrrp"
)

const (
	// probes of an address (RFC 5227's PROBE_NUM). That RFC lets seconds pass
	// between them, for hosts that all boot at once; here one asks.
	probes = 3
	// DefaultInterval is the time between probes and after the last one.
	DefaultInterval = 200 * time.Millisecond
	// adverts are how many intervals a virtual router may be silent before it
	// counts as absent (RFC 9568, 6.1: Active_Down_Interval).
	adverts = 3
	// maxSources bounds the addresses of those who advertise that are asked for: anybody on
	// the network can invent more.
	maxSources = 64
	// slack is added for the way of an advertisement.
	slack = 50 * time.Millisecond
	// tentative is how long a machine may have an IPv6 address and not advertise
	// it yet, as its interface has just come up and its link-local address is
	// still looked for: a random delay and one probe, of a second each (RFC 4862,
	// 5.1 and 5.4.2; RFC 4861, 10).
	tentative = 2 * time.Second
)

// Question asks who has an address.
type Question struct {
	// Interface that the address is to be on.
	Interface string
	// Address to ask for.
	Address netip.Addr
	// VRID and Advert are the virtual router that may have it, and its interval.
	VRID   uint8
	Advert time.Duration
	// Nodes are the other nodes' own addresses on the interface, where the router is
	// advertised on another one or by unicast: who has one of them is no unknown.
	Nodes []netip.Addr
}

// silence is how long the peer that has the address may not be heard.
func (q *Question) silence() time.Duration {
	silence := adverts*q.Advert + slack
	if q.Address.Is6() {
		silence += tentative
	}
	return silence
}

// Owner is an unknown host that has an address.
type Owner struct {
	Question
	// MAC is its link-layer address.
	MAC net.HardwareAddr
}

// Ask asks all questions at once and returns those with an unknown owner. It
// takes three intervals, or as long as the peer of an address may be silent.
// Interfaces that cannot be asked on, such as one that is down, have no owners.
func Ask(ctx context.Context, questions []Question, interval time.Duration) ([]Owner, error) {
	byInterface := make(map[string][]Question)
	for _, q := range questions {
		byInterface[q.Interface] = append(byInterface[q.Interface], q)
	}
	type result struct {
		owners []Owner
		err    error
	}
	results := make(chan result)
	for name, questions := range byInterface {
		go func() {
			owners, err := ask(ctx, name, questions, interval)
			results <- result{owners, err}
		}()
	}
	var owners []Owner
	var errs []error
	for range byInterface {
		r := <-results
		owners, errs = append(owners, r.owners...), append(errs, r.err)
	}
	slices.SortFunc(owners, func(a, b Owner) int { return a.Address.Compare(b.Address) })
	return owners, errors.Join(errs...)
}

// ask asks on one interface.
func ask(ctx context.Context, name string, questions []Question, interval time.Duration) ([]Owner, error) {
	on, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	const needed = net.FlagUp | net.FlagRunning | net.FlagBroadcast
	if on.Flags&needed != needed || len(on.HardwareAddr) != 6 {
		return nil, nil
	}
	own, err := link.Own()
	if err != nil {
		return nil, err
	}
	r := &round{questions: questions, heard: newHeard(own)}
	defer r.close()
	if err := r.open(on); err != nil {
		return nil, err
	}
	err = r.run(ctx, interval)
	if errors.Is(err, unix.ENETDOWN) {
		return nil, nil
	}
	return r.heard.unknown(questions), err
}

// round is the questions on one interface and its sockets.
type round struct {
	questions []Question
	heard     *heard
	on        *net.Interface
	arp, nd   *link.Socket // nil: not needed
	sockets   []*link.Socket
	member    *link.Socket // receives nothing; nil: not needed
}

func (r *round) close() {
	for _, s := range r.sockets {
		_ = s.Close()
	}
	if r.member != nil {
		_ = r.member.Close()
	}
}

// open opens the sockets for the families of the questions.
func (r *round) open(on *net.Interface) error {
	r.on = on
	add := func(ethertype uint16, program link.Filter, groups ...net.HardwareAddr) (*link.Socket, error) {
		s, err := link.Open(on.Index, ethertype, program, groups...)
		if err == nil {
			r.sockets = append(r.sockets, s)
		}
		return s, err
	}
	is4 := func(q Question) bool { return q.Address.Is4() }
	var errARP, errVRRP, errND, errMember error
	if slices.ContainsFunc(r.questions, is4) {
		r.arp, errARP = add(unix.ETH_P_ARP, nil)
		_, errVRRP = add(unix.ETH_P_IP, link.Only(link.Protocol4, vrrp.Protocol), link.Routers4)
	}
	if !slices.ContainsFunc(r.questions, func(q Question) bool { return !is4(q) }) {
		return errors.Join(errARP, errVRRP)
	}
	r.nd, errND = add(unix.ETH_P_IPV6, link.Only(link.Protocol6, unix.IPPROTO_ICMPV6, vrrp.Protocol), link.AllNodes, link.Routers6)
	r.member, errMember = link.Member(on.Index)
	return errors.Join(errARP, errVRRP, errND, errMember)
}

// run sends probes and listens until all is known.
func (r *round) run(ctx context.Context, interval time.Duration) error {
	began := time.Now()
	for sent := 0; ; {
		now := time.Now()
		if sent < probes && now.Sub(began) >= time.Duration(sent)*interval {
			if err := r.probe(); err != nil {
				return err
			}
			sent++
		}
		next := began.Add(time.Duration(sent) * interval)
		if sent == probes && !now.Before(next) {
			if next = r.heard.patience(r.questions); !now.Before(next) {
				return nil
			}
		}
		if err := r.listen(ctx, time.Until(next)); err != nil {
			return err
		}
		if err := r.probeSources(); err != nil {
			return err
		}
	}
}

// probeSources asks, once, for each address that a virtual router is advertised from.
func (r *round) probeSources() error {
	for source, asked := range r.heard.sources {
		if asked || !source.Is4() || r.arp == nil {
			continue
		}
		r.heard.sources[source] = true
		if err := r.send(source); err != nil {
			return fmt.Errorf("ask for %s on %s: %w", source, r.on.Name, err)
		}
	}
	return nil
}

// probe asks for every address.
func (r *round) probe() error {
	for _, q := range r.questions {
		for _, a := range append([]netip.Addr{q.Address}, q.Nodes...) {
			if a.Is4() != q.Address.Is4() {
				continue
			}
			if err := r.send(a); err != nil {
				return fmt.Errorf("ask for %s on %s: %w", a, q.Interface, err)
			}
		}
	}
	return nil
}

func (r *round) send(a netip.Addr) error {
	if a.Is4() {
		return r.arp.Send(link.ARPProbe(r.on.HardwareAddr, a), link.Everyone)
	}
	_, group := link.SolicitedNode(a)
	return r.nd.Send(link.Solicitation(a), group)
}

// listen takes packets until one has come or the time is over.
func (r *round) listen(ctx context.Context, limit time.Duration) error {
	const atLeast, atMost = time.Millisecond, 50 * time.Millisecond // for ctx
	const atOnce = 1000
	fds := make([]unix.PollFd, len(r.sockets))
	for n, s := range r.sockets {
		fds[n] = unix.PollFd{Fd: s.FD(), Events: unix.POLLIN}
	}
	_, err := unix.Poll(fds, int(min(max(limit, atLeast), atMost).Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("packet sockets: %w", err)
	}
	for _, s := range r.sockets {
		take := func(packet []byte, from link.MAC, _ time.Time) { r.heard.packet(packet, from, s == r.arp, time.Now()) }
		if _, err := s.Receive(atOnce, take); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// heard is what others said.
type heard struct {
	own     map[link.MAC]bool
	claims  map[netip.Addr]map[link.MAC]time.Time // when first
	routers map[router]netip.Addr                 // from where it is advertised
	sources map[netip.Addr]bool                   // whether it was asked for
}

// router is a virtual router and who advertises it.
type router struct {
	vrid uint8
	mac  link.MAC
}

func newHeard(own map[link.MAC]bool) *heard {
	return &heard{own: own, claims: make(map[netip.Addr]map[link.MAC]time.Time), routers: make(map[router]netip.Addr), sources: make(map[netip.Addr]bool)}
}

// packet takes one packet.
func (h *heard) packet(p []byte, from link.MAC, isARP bool, now time.Time) {
	if h.own[from] {
		return
	}
	if advert, err := vrrp.Parse(p); err == nil && !isARP {
		h.routers[router{advert.VRID, from}] = advert.Source
		if _, known := h.sources[advert.Source]; !known && len(h.sources) < maxSources {
			h.sources[advert.Source] = false
		}
		return
	}
	claimed, ok := link.ParseAdvertisement(p)
	if isARP {
		claimed, ok = link.ParseARP(p)
	}
	if !ok {
		return
	}
	if h.claims[claimed] == nil {
		h.claims[claimed] = make(map[link.MAC]time.Time)
	}
	if h.claims[claimed][from].IsZero() {
		h.claims[claimed][from] = now
	}
}

// knows tells whether a machine that has an address is the peer.
func (h *heard) knows(q *Question, from link.MAC) bool {
	has := func(a netip.Addr) bool {
		_, has := h.claims[a][from]
		return has
	}
	for r, source := range h.routers {
		if r.vrid == q.VRID && (r.mac == from || has(source) || from == link.VirtualMAC(q.Address.Is6(), q.VRID)) {
			return true
		}
	}
	return slices.ContainsFunc(q.Nodes, has)
}

// patience is until when somebody who has an address may still turn out to be
// the peer; the zero time when all are known.
func (h *heard) patience(questions []Question) (until time.Time) {
	for _, q := range questions {
		for from, since := range h.claims[q.Address] {
			if !h.knows(&q, from) {
				if t := since.Add(q.silence()); t.After(until) {
					until = t
				}
			}
		}
	}
	return until
}

// unknown are those who have an address and are not the peer.
func (h *heard) unknown(questions []Question) (owners []Owner) {
	for _, q := range questions {
		for from := range maps.Keys(h.claims[q.Address]) {
			if !h.knows(&q, from) {
				owners = append(owners, Owner{Question: q, MAC: slices.Clone(from[:])})
				break // one is enough
			}
		}
	}
	return owners
}
