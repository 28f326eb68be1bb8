package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/vrrp"
)

const (
	// atOnce is how many packets of a socket are taken before others have their
	// turn, and rest how long a flood waits after that: the kernel drops what its
	// buffer does not hold.
	atOnce = 128
	rest   = 5 * time.Millisecond
	// again is how long an interface that cannot be listened on is left alone.
	again = 200 * time.Millisecond
	// refused is the same where this process may not listen.
	refused = 30 * time.Second
	// every is how often the gateway is asked, and the interface looked at when the
	// kernel has told of a change.
	every = time.Second
	// unanswered is how long a gateway may be silent: two questions.
	unanswered = 2*every + every/2
	// askEvery is how often the holder asks for its addresses when nobody claims
	// one; else it does every second.
	askEvery = 10 * time.Second
	// calm is how long what is known stays as it was told, whatever the network says
	// meanwhile: each change costs the agent and the controller more than a packet
	// costs its sender.
	calm = 50 * time.Millisecond
	// quiet is how long nobody is told anew that an interface cannot be listened on.
	quiet = time.Minute
)

// ear listens on one interface. run owns all but what mu guards.
type ear struct {
	listener *Listener
	name     string
	end      context.CancelFunc // of run; owned by the listener

	mu      sync.Mutex // held for moments only
	wake    int        // eventfd: the routers have changed, or the end has come; -1: closed
	routers []Router

	table   table
	roused  bool // by the last poll
	on      *net.Interface
	poller  *poller
	changes *link.Changes // of what look sees
	stale   bool          // something has changed since it looked
	arp, nd *link.Socket
	sockets []*link.Socket // all that receive
	repeats []repeats      // of sockets
	news    bool           // since the last tick
	wakeful bool           // the kernel lays nothing aside
	members []*link.Socket // that do not
	broad   []*link.Socket // that receive everything, for as long as nobody answers

	own      []netip.Prefix // addresses by IPv4 that are no VIP's
	gateway  netip.Addr     // zero: none
	at       link.MAC       // the gateway's; zero: not known
	answered time.Time      // last, or since when it has been asked
	answers  bool           // it has answered since it was first asked
	asked    time.Time      // when this node last asked for its own addresses
	isDeaf   bool           // it could not listen a moment ago
	why      string         // why it is deaf, as was told last
	warned   time.Time      // when
	told     time.Time      // when what is known changed for others

	reach    reach
	reviewed time.Time // when the neighbours to be asked were looked for
}

// newEar makes one, which is to run.
func (l *Listener) newEar(name string) (*ear, error) {
	wake, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &ear{listener: l, name: name, wake: wake}, nil
}

// watch hands the routers to the goroutine.
func (e *ear) watch(routers []Router) {
	e.mu.Lock()
	e.routers = routers
	e.mu.Unlock()
	e.rouse()
}

// rouse ends a poll.
func (e *ear) rouse() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.wake >= 0 {
		_, _ = unix.Write(e.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // no counter overflows here
	}
}

// run listens until the end, whatever becomes of the interface meanwhile.
func (e *ear) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, e.rouse)
	defer func() {
		stop()
		e.mu.Lock()
		defer e.mu.Unlock()
		_ = unix.Close(e.wake)
		e.wake = -1
	}()
	for ctx.Err() == nil {
		err := e.listen(ctx)
		e.close()
		if err == nil {
			continue // other sockets are needed
		}
		e.deaf(err)
		wait := again
		if errors.Is(err, unix.EPERM) {
			wait = refused
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// deaf tells that nothing is heard.
func (e *ear) deaf(err error) {
	e.isDeaf = true
	if now := time.Now(); err.Error() != e.why && now.Sub(e.warned) >= quiet {
		e.why, e.warned = err.Error(), now
		e.listener.log.Warn("the network is not listened to", "interface", e.name, "error", err)
	}
	e.take()
	var heard []report
	for _, r := range e.table.routers {
		heard = append(heard, report{router: r.Router})
	}
	e.listener.publish(heard)
}

// hears tells that it is deaf no longer, if it was.
func (e *ear) hears() {
	if e.isDeaf {
		e.table.begin(time.Now())
		e.reach.begin()
		e.isDeaf = false
	}
	if e.why != "" {
		e.listener.log.Info("the network is listened to again", "interface", e.name)
		e.why = ""
	}
}

// take takes the routers over.
func (e *ear) take() {
	e.mu.Lock()
	routers := e.routers
	e.mu.Unlock()
	e.table.watch(routers, time.Now())
	var peers []netip.Addr
	for _, r := range routers {
		peers = append(peers, r.Peers...)
	}
	e.reach.set(nodeWitness, peers)
}

// listen returns when the interface can be listened on no longer, or, without an
// error, when other sockets are needed or the end has come.
func (e *ear) listen(ctx context.Context) error {
	e.take()
	if err := e.begin(); err != nil {
		return err
	}
	if err := e.look(); err != nil {
		return err
	}
	if err := e.open(); err != nil {
		return err
	}
	e.hears()
	shape := e.shape()
	next := time.Now()
	for now := next; ; {
		if !now.Before(next) {
			if err := e.tick(now); err != nil || e.shape() != shape {
				return err
			}
			next = beat.After(now, every)
		}
		if err := errors.Join(e.question(now), e.askBeside(now)); err != nil {
			return err
		}
		e.table.forget(now)
		due := e.due(now, next)
		if e.news {
			if err := e.stir(); err != nil {
				return err
			}
		}
		var err error
		if now, err = e.poll(ctx, due); err != nil || ctx.Err() != nil {
			return err
		}
		if e.roused {
			e.take()
			if e.shape() != shape {
				return nil
			}
		}
	}
}

// due is when something is to be done: next, or before.
func (e *ear) due(now, next time.Time) time.Time {
	due := next
	for _, t := range []time.Time{e.publish(now), e.table.next(now), e.table.nextBeside(now), e.asks(now)} {
		if !t.IsZero() && t.Before(due) {
			due = t
		}
	}
	return due
}

// addresses are all of one family that the routers have, and where these are apart
// the nodes.
func (e *ear) addresses(six bool) (all []netip.Addr) {
	for _, r := range e.table.routers {
		if r.six() != six {
			continue
		}
		all = append(all, r.Addresses...)
		for _, a := range r.Peers {
			if r.Apart && a.Is6() == six {
				all = append(all, a)
			}
		}
	}
	return all
}

// shape names what the sockets depend on.
func (e *ear) shape() string {
	return fmt.Sprint(e.addresses(false), len(e.addresses(true)) > 0, e.gateway)
}

// errDown is an interface that carries nothing.
var errDown = errors.New("the interface is down")

// begin begins to hear what the kernel tells.
func (e *ear) begin() (err error) {
	if e.poller, err = newPoller(); err != nil {
		return err
	}
	if e.changes, err = link.HearChanges(); err != nil {
		return err
	}
	return errors.Join(e.poller.add(int32(e.wake)), e.poller.addOnce(e.changes.FD()))
}

// open opens the sockets.
func (e *ear) open() (err error) {
	add := func(ethertype uint16, program link.Filter, groups ...net.HardwareAddr) *link.Socket {
		s, failed := link.Open(e.on.Index, ethertype, program, groups...)
		if failed != nil {
			err = errors.Join(err, failed)
			return nil
		}
		e.sockets = append(e.sockets, s)
		err = errors.Join(err, e.poller.add(s.FD()))
		return s
	}
	four := e.addresses(false)
	if e.gateway.IsValid() {
		four = append(four, e.gateway)
	}
	e.arp = add(unix.ETH_P_ARP, link.AnswersOrAbout(four))
	if len(e.addresses(false)) > 0 {
		add(unix.ETH_P_IP, link.Only(link.Protocol4, vrrp.Protocol), link.Routers4)
	}
	if len(e.addresses(true)) > 0 {
		e.nd = add(unix.ETH_P_IPV6, link.AdvertisementsOr(vrrp.Protocol), link.AllNodes, link.Routers6)
		member, failed := link.Member(e.on.Index)
		if failed == nil {
			e.members = append(e.members, member)
		}
		err = errors.Join(err, failed)
	}
	e.repeats, e.news = make([]repeats, len(e.sockets)), true
	return err
}

func (e *ear) close() {
	for _, s := range slices.Concat(e.sockets, e.members, e.broad) {
		_ = s.Close()
	}
	if e.changes != nil {
		_ = e.changes.Close()
	}
	if e.poller != nil {
		e.poller.close()
	}
	e.sockets, e.members, e.broad, e.arp, e.nd, e.changes, e.poller = nil, nil, nil, nil, nil, nil, nil
}

// publish tells what is known, or returns when it may.
func (e *ear) publish(now time.Time) (due time.Time) {
	gateway := GatewayNone
	switch {
	case !e.gateway.IsValid():
	case now.Sub(e.answered) > unanswered:
		gateway = GatewaySilent
	case e.answers:
		gateway = GatewayAnswers
	}
	heard := make([]report, 0, len(e.table.routers))
	for _, r := range e.table.routers {
		h := r.heard(now)
		h.MAC, h.Gateway, h.Reach = link.MAC(e.on.HardwareAddr), gateway, e.reach.state(now, r.bears())
		h.Beside, h.Absent = e.table.besideOf(r), e.reach.absent()
		heard = append(heard, report{r.Router, h})
	}
	if due := e.told.Add(calm); now.Before(due) {
		return due
	}
	if e.listener.publish(heard) {
		e.told, e.news = now, true
	}
	return time.Time{}
}
