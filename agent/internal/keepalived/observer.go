package keepalived

import (
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/track"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/wire"
)

// observer knows what keepalived and the kernel say and owns the scores. One
// goroutine, Run's, uses it; it does nothing that takes long.
type observer struct {
	log    hclog.Logger
	scores *scores
	wake   func() // asks the keeper to look after keepalived

	interfaces map[string]string   // by network
	networks   []NetworkStatus     // the node's own addresses
	unguarded  string              // why advertisements of strangers are let through
	handovers  map[string]Handover // by instance; nil: nobody has said yet
	left       []place             // what keepalived may have from before the last expect
	links      map[string]int      // indexes of the interfaces that keepalived has sockets on, by name
	noteLinks  string              // the file of links, for the next agent

	process   *daemon.Process // nil: none
	subject   atomic.Pointer[subject]
	state     State
	version   string
	startTime time.Time
	message   string
	watched   []watched // what keepalived has from the driver
	wanted    []watched // what the newest target has, see Watch
	wire      *wire.Listener
	tracks    *track.Watcher
	peers     map[string]peer // as the configuration has them
	notices   uint64          // count, to tell whether a dump is older than a notice
	reached   chan struct{}   // closed by the next ownLine; nil: nobody waits for one
	roused    chan struct{}   // depth one: attendReach has something to do
	unrivaled []string        // VIPs to be announced again
	notes     []string
	noted     map[string]time.Time // last note about something
	adopted   bool                 // the process is older than this agent

	transitions []Transition // not told yet
}

// watched is an instance and what is known of it.
type watched struct {
	instance
	InstanceStatus
	rival time.Time // since when another node has been heard to hold the VIP; zero: it is not
	spent bool      // it was kept off for long enough, and is not again for the same cut
	// beside is another node that has the addresses as well, where advertisements go over
	// another network.
	beside wire.Beside
}

// expect makes the instances those of the intent; what is known of those that
// were there before stays.
func (o *observer) expect(in *intent, now time.Time) error {
	old := o.watched
	o.watched, o.left = nil, nil
	for n := range old {
		o.left = append(o.left, old[n].places()...) // still there until keepalived lets go
	}
	for _, i := range in.instances {
		w := watched{instance: i, InstanceStatus: InstanceStatus{Name: i.name, VIP: i.vip, State: InstanceUnknown}}
		for _, was := range old {
			if was.name == i.name {
				w.State, w.Priority, w.Wire = was.State, was.Priority, was.Wire
				w.rival, w.spent, w.beside = was.rival, was.spent, was.beside
				if len(i.tracks) > 0 {
					w.Tracks = was.Tracks
				}
			}
		}
		o.watched = append(o.watched, w)
	}
	for n := range old {
		if w := &old[n]; o.find(w.name) == nil && w.State != InstanceUnknown {
			o.step(w, InstanceInit, 0, "removed from the configuration")
		}
	}
	o.peers, o.handovers = in.peers, in.handovers()
	o.scores.drain = in.drain
	o.scores.set(in.instances, now)
	o.look()
	o.bind(false)
	o.listen()
	o.attend()
	o.watchTracks()
	o.hear(now) // by what the peers are now
	return o.scores.renew(now)
}

// attach begins to watch a process that has just been started.
func (o *observer) attach(p *daemon.Process) {
	o.follow(p)
	o.bind(true)
}

// follow begins to watch a process.
func (o *observer) follow(p *daemon.Process) {
	o.process, o.startTime = p, p.StartTime()
	o.state, o.message = StateRunning, ""
	o.adopted = false
	o.attend()
}

// adopt begins to watch a process of an earlier agent.
func (o *observer) adopt(p *daemon.Process) {
	o.follow(p)
	o.adopted = true
}

// detach forgets the process and what it said of the instances. message says
// why it runs no more.
func (o *observer) detach(state State, message string, now time.Time) {
	o.process, o.startTime = nil, time.Time{}
	o.attend()
	o.state, o.message = state, message
	for n := range o.watched {
		o.watched[n].State, o.watched[n].Priority = InstanceUnknown, 0
	}
	o.scores.forget(now)
	o.writeScores(now)
}

// ended is called when the process has ended.
func (o *observer) ended(now time.Time) {
	o.log.Warn("keepalived ended", "pid", o.process.PID(), "exit", o.process.Exit())
	for n := range o.watched {
		if w := &o.watched[n]; w.State != InstanceInit {
			o.step(w, InstanceUnknown, 0, "keepalived ended")
		}
	}
	o.detach(StateStopped, epitaph(o.process), now)
	o.look()
	o.wake()
}

// done is closed when the process has ended; nil while there is none.
func (o *observer) done() <-chan struct{} {
	if o.process == nil {
		return nil
	}
	return o.process.Done()
}

// find returns an instance, nil when it is none of the configuration's.
func (o *observer) find(name string) *watched {
	for n := range o.watched {
		if o.watched[n].name == name {
			return &o.watched[n]
		}
	}
	return nil
}

// notice takes a line of the FIFO.
func (o *observer) notice(n notice, now time.Time) {
	if n.word == ownWord && n.instance == "" {
		if o.reached != nil {
			close(o.reached)
			o.reached = nil
		}
		return
	}
	o.notices++
	w := o.find(n.instance)
	if w == nil {
		return // of an instance that is being removed
	}
	if state, ok := noticeStates[n.word]; ok {
		o.step(w, state, n.priority, o.why(w, state, now))
		o.change(w, state, n.priority, now)
		return
	}
	switch n.word {
	case "MASTER_PRIORITY", "BACKUP_PRIORITY":
		w.Priority = n.priority
		o.listenBeside(w)
	case "MASTER_RX_LOWER_PRI":
		o.note(n.instance, "another node with a lower priority calls itself master of "+n.instance, now)
	default:
		o.log.Debug("keepalived says what the driver does not know", "instance", n.instance, "word", n.word)
	}
}

// noteEvery limits notes: keepalived repeats itself with every advert.
const noteEvery = 10 * time.Second

// note tells something, once in a while for each key. Keys are few.
func (o *observer) note(key, text string, now time.Time) {
	if last, ok := o.noted[key]; ok && now.Sub(last) < noteEvery {
		return
	}
	o.noted[key] = now
	o.notes = append(o.notes, text)
}

func (o *observer) change(w *watched, state InstanceState, priority int, now time.Time) {
	w.State, w.Priority = state, priority
	o.attend()
	o.scores.role(w.name, state, now)
	if !o.handsOn() {
		o.scores.released()
	}
	o.writeScores(now)
	o.lookAt(w)
	o.listenBeside(w)
}

// merge takes a dump that was asked for when the count of notices was as
// given. It returns false when the dump is older than a notice.
func (o *observer) merge(instances []dumped, notices uint64, now time.Time) bool {
	if o.notices != notices {
		return false
	}
	for n := range instances {
		if w := o.find(instances[n].Name); w != nil {
			o.step(w, instances[n].state(), instances[n].Priority, o.whyFound(w))
			o.change(w, instances[n].state(), instances[n].Priority, now)
		}
	}
	o.state, o.message = StateRunning, ""
	return true
}

// kernel takes an address that came or went.
func (o *observer) kernel(address netip.Addr) {
	for n := range o.watched {
		w := &o.watched[n]
		if !slices.ContainsFunc(w.addresses(), func(p netip.Prefix) bool { return p.Addr() == address }) {
			continue
		}
		o.lookAt(w)
		if w.Holds != (w.State == InstanceMaster) {
			o.wake()
		}
	}
	for _, w := range o.apart() {
		if w.anchor.Addr() == address {
			o.lookAt(w)
		}
	}
	if !o.virtual(address) {
		o.lookAround()
		if slices.ContainsFunc(o.watched, func(w watched) bool { return w.source == address && w.State == InstanceFault }) {
			o.wake()
		}
	}
}

// look asks the kernel about all instances, and about the node's own addresses.
func (o *observer) look() {
	for n := range o.watched {
		o.lookAt(&o.watched[n])
	}
	for _, w := range o.apart() {
		o.lookAt(w)
	}
	o.lookAround()
}

func (o *observer) lookAt(w *watched) {
	have, err := onInterface(w.device())
	if err != nil {
		o.log.Warn("cannot tell whether the VIP is held", "vip", w.vip, "error", err)
		return
	}
	if holds := have[w.anchor.Addr()]; holds != w.Holds {
		w.Holds = holds
		o.listen()
	}
}

// handsOn tells whether this node holds a VIP, by keepalived's word, that another one
// may take.
func (o *observer) handsOn() bool {
	return slices.ContainsFunc(o.watched, func(w watched) bool { return w.State == InstanceMaster && w.peered })
}

// setHealth changes the score at once; releases tells that what is held may be given up.
func (o *observer) setHealth(healthy bool, proven time.Time, releases bool, now time.Time) error {
	o.scores.setHealth(healthy, proven, releases && o.handsOn(), now)
	return o.scores.write(now)
}

// giveUp has what is held given up at once, unless the proxy works again.
func (o *observer) giveUp(now time.Time) error {
	o.scores.giveUp(o.handsOn(), now)
	return o.scores.write(now)
}

// withdraw changes the score at once.
func (o *observer) withdraw(withdrawn bool, now time.Time) error {
	o.scores.withdrawn = withdrawn
	return o.scores.write(now)
}

func (o *observer) writeScores(now time.Time) {
	if err := o.scores.write(now); err != nil {
		o.log.Error("cannot write the score", "error", err)
	}
}

// snapshot of the present.
func (o *observer) snapshot() *Snapshot {
	now := time.Now()
	s := &Snapshot{
		State:     o.state,
		Version:   o.version,
		StartTime: o.startTime,
		Message:   o.message,
		Score:     o.scores.total(now),
		Health:    o.scores.health(now),
		Drain:     o.scores.drained(),
		Trial:     o.scores.onTrial(now),
		Networks:  o.networks,
		Unguarded: o.unguarded,
		Handovers: o.handovers,
	}
	for _, w := range o.statuses() {
		w.Fenced = o.scores.fences[w.Name] != nil || o.scores.cuts[w.Name] != nil
		if _, ok := o.scores.tracks[w.Name]; ok {
			w.TrackScore = o.scores.tracked(w.Name, now) + o.scores.tracks[w.Name].links
		}
		if b := o.scores.standby[w.Name]; b != nil {
			w.FailBack = b.value(now)
		}
		if a := o.scores.away[w.Name]; a.value(now) != 0 {
			w.Failover, w.FailoverEnd = a.value(now), a.until
		}
		s.Instances = append(s.Instances, w)
	}
	return s
}

// fail notes why keepalived does not run, when it could not be started.
func (o *observer) fail(err error) {
	o.state, o.message = StateStopped, err.Error()
	var missing *MissingError
	if errors.As(err, &missing) {
		o.state = StateMissing
	}
}
