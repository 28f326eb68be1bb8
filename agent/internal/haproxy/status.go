package haproxy

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
)

// State is whether HAProxy runs.
type State int

// States of HAProxy.
const (
	Unknown State = iota // nothing is known yet
	Running              // answers
	Stopped              // does not run or does not answer
	Missing              // is not installed or too old
	Idle                 // has no configuration yet
)

// ServerState is a server's state.
type ServerState int

// States of a server.
const (
	Up          ServerState = iota + 1 // passes its checks
	NoCheck                            // is not checked
	Drain                              // gets nothing new
	Maintenance                        // gets nothing and is not checked
	Down                               // fails its checks, or waits for the first
)

// Daemon is the state of the process.
type Daemon struct {
	State State
	// Version that the running one reports.
	Version string
	// StartTime of the running one.
	StartTime time.Time
	// Message is why it does not run, in its own words.
	Message string
	// Ended tells that the process that ran has ended: its guard and the service
	// manager see that, too, and nobody but this driver sees one that hangs.
	Ended bool
}

// Server is the state of one server.
type Server struct {
	Backend, Name string
	State         ServerState
	// Weight in effect, 0 to 256.
	Weight uint32
	// Reason in HAProxy's words; may be empty.
	Reason string
	// Since is when the state began.
	Since time.Time
}

// Snapshot is everything that is known.
type Snapshot struct {
	Daemon
	// Reloads that have succeeded since the driver was made.
	Reloads uint64
	// Servers in order of backends and names.
	Servers []Server
}

// Event is a DaemonChanged, ServerChanged, ServerRemoved, Reloaded,
// AccessLogLost or FileWritten.
type Event interface{ event() }

// DaemonChanged tells the new state of the process.
type DaemonChanged struct{ Daemon }

// ServerChanged tells the new state of a server.
type ServerChanged struct{ Server }

// ServerRemoved tells that HAProxy has the server no more.
type ServerRemoved struct{ Backend, Name string }

// Reloaded tells how many reloads have succeeded.
type Reloaded struct{ Count uint64 }

// AccessLogLost tells that lines of the access log were lost, at most once a
// minute; an empty text that a minute went by without a loss.
type AccessLogLost struct{ Text string }

func (AccessLogLost) event() {}

// FileWritten tells that the file says what is in effect again, or with an error
// that it cannot be written.
type FileWritten struct{ Err error }

func (DaemonChanged) event() {}
func (ServerChanged) event() {}
func (ServerRemoved) event() {}
func (Reloaded) event()      {}
func (FileWritten) event()   {}

// board holds what is observed and tells about changes, in order.
type board struct {
	notify func(Event)
	// order is held from a change until it is told, so that two changes of one
	// server are never told in the wrong order. mu guards the data alone, so
	// that notify may look at it.
	order sync.Mutex

	mu      sync.Mutex
	daemon  Daemon
	reloads uint64
	servers map[config.Key]*entry
	clock   uint64 // counts what the log said
	said    uint64 // counts what anybody said, whether or not it changed anything
	round   uint64 // counts calls of set
}

// entry is one server. seq is the clock when the log last spoke of it: what was
// read before that is older news.
type entry struct {
	Server
	seq     uint64
	round   uint64 // of the last set that had it
	finding string // the last check's
}

func newBoard(notify func(Event)) *board {
	return &board{notify: notify, servers: make(map[config.Key]*entry)}
}

func (b *board) snapshot() Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Snapshot{Daemon: b.daemon, Reloads: b.reloads, Servers: make([]Server, 0, len(b.servers))}
	for e := range maps.Values(b.servers) {
		s.Servers = append(s.Servers, e.Server)
	}
	slices.SortFunc(s.Servers, func(x, y Server) int {
		return cmp.Or(cmp.Compare(x.Backend, y.Backend), cmp.Compare(x.Name, y.Name))
	})
	return s
}

// process is the state of the process alone.
func (b *board) process() Daemon {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.daemon
}

// change runs f under the lock and then tells what f returns.
func (b *board) change(f func() []Event) {
	b.order.Lock()
	defer b.order.Unlock()
	b.mu.Lock()
	b.said++
	events := f()
	b.mu.Unlock()
	for _, e := range events {
		b.notify(e)
	}
}

// setDaemon tells a new state of the process.
func (b *board) setDaemon(d Daemon) { b.setDaemonIf(func() bool { return true }, d) }

// setDaemonIf is setDaemon while a condition holds. It is asked in between
// changes, so that what was read of a process before its end is never told
// after it.
func (b *board) setDaemonIf(holds func() bool, d Daemon) {
	b.change(func() []Event {
		if b.daemon == d || !holds() {
			return nil
		}
		b.daemon = d
		return []Event{DaemonChanged{d}}
	})
}

// reloaded counts a reload.
func (b *board) reloaded() {
	b.change(func() []Event {
		b.reloads++
		return []Event{Reloaded{b.reloads}}
	})
}

// tellAccessLog tells what the access log says of losses.
func (b *board) tellAccessLog(text string) {
	b.change(func() []Event { return []Event{AccessLogLost{text}} })
}

// fileIs tells whether the file could be written.
func (b *board) fileIs(err error) { b.change(func() []Event { return []Event{FileWritten{err}} }) }

// now is to be asked before HAProxy is, and given to set with what it says.
func (b *board) now() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clock
}

// changes counts what may have changed the board: one for each set.
func (b *board) changes() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.said
}

// set takes what was read since the clock showed asked. With whole, servers
// that are not among them are gone.
func (b *board) set(asked uint64, servers []Server, whole bool) {
	b.change(func() []Event {
		var events []Event
		b.round++
		for i := range servers {
			s := &servers[i]
			key := config.Key{Backend: s.Backend, Name: s.Name}
			events = b.put(events, key, asked, s)
			b.servers[key].round = b.round
		}
		if !whole {
			return events
		}
		for key, e := range b.servers {
			if e.round != b.round {
				delete(b.servers, key)
				events = append(events, ServerRemoved{key.Backend, key.Name})
			}
		}
		return events
	})
}

func (b *board) put(events []Event, key config.Key, asked uint64, s *Server) []Event {
	e := b.servers[key]
	if e == nil {
		e = &entry{Server: *s}
		b.servers[key] = e
		return append(events, ServerChanged{e.Server})
	}
	if e.seq > asked {
		return events
	}
	if s.State == Down && s.Reason == "" {
		s.Reason = e.finding
	}
	if s.State == e.State {
		s.Since = e.Since
		if s.State != Down {
			s.Reason = e.Reason
		}
	}
	if e.Server == *s {
		return events
	}
	e.Server = *s
	return append(events, ServerChanged{e.Server})
}

// remove tells that a server is gone.
func (b *board) remove(key config.Key) {
	b.change(func() []Event {
		if b.servers[key] == nil {
			return nil
		}
		delete(b.servers, key)
		return []Event{ServerRemoved{key.Backend, key.Name}}
	})
}

// newer returns the states with what the log has said since they were read.
func (b *board) newer(states []runtime.State) []runtime.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	states = slices.Clone(states)
	for i := range states {
		s := &states[i]
		e := b.servers[s.Key]
		switch {
		case e == nil || s.Maintenance():
		case e.State == Down && s.Op == runtime.OpRunning:
			s.Op = runtime.OpStopped
		case e.State != Down && s.Op != runtime.OpRunning:
			s.Op = runtime.OpRunning
		}
	}
	return states
}

// hear takes what the log says. It reports false when only reading tells more.
func (b *board) hear(said runtime.Event, at time.Time) (understood bool) {
	b.change(func() []Event {
		e := b.servers[said.Key]
		if e == nil || said.Kind == runtime.EventOther {
			return nil
		}
		understood = true
		if said.Reason != "" {
			e.finding = said.Reason
		}
		state := Up
		switch said.Kind {
		case runtime.EventUp:
			if e.Weight == 0 {
				state = Drain
			}
		case runtime.EventDown:
			state = Down
		default:
			return nil
		}
		b.clock++
		e.seq = b.clock
		if e.State == state && e.Reason == e.finding {
			return nil
		}
		if e.State != state {
			e.State, e.Since = state, at
		}
		e.Reason = e.finding
		return []Event{ServerChanged{e.Server}}
	})
	return understood
}

// serverState is what the parts of HAProxy's state mean together.
func serverState(maintenance bool, op runtime.Op, checked bool, weight uint32) ServerState {
	switch {
	case maintenance:
		return Maintenance
	case op == runtime.OpStopped, op == runtime.OpStopping:
		return Down
	case weight == 0:
		return Drain
	case !checked:
		return NoCheck
	default:
		return Up
	}
}

// heldBack is the reason of a server that waits for its first passed check.
const heldBack = "waits for its first passed check"

func fromState(s *runtime.State, at time.Time) Server {
	server := Server{
		Backend: s.Backend, Name: s.Name, Weight: s.Weight,
		State: serverState(s.Maintenance(), s.Op, s.Checked(), s.Weight),
		Since: at.Add(-s.Since),
	}
	if s.Op == runtime.OpStopping {
		server.Reason = heldBack
	}
	return server
}

func fromStat(s *runtime.Stat, at time.Time) Server {
	server := Server{
		Backend: s.Backend, Name: s.Name, Weight: s.Weight,
		State:  serverState(s.Maintenance, s.Op, s.Checked, s.Weight),
		Reason: s.Reason,
		Since:  at.Add(-s.Since),
	}
	if s.Op == runtime.OpStopping {
		server.Reason = heldBack
	}
	return server
}
