// Package plan decides how HAProxy gets from what it runs to what it shall run:
// by runtime operations, by a reload, or by nothing. It is pure.
package plan

import (
	"fmt"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
)

// Running is a server as a worker has it.
type Running struct {
	config.Server
	Op      runtime.Op
	Checked bool
}

// Worker is what the newest worker runs, as read back from it.
type Worker struct {
	// Structure of the file that it has loaded.
	Structure string
	Servers   map[config.Key]Running
}

// Step is what shall be done to one server. It has worked when the next plan
// does not have it.
type Step struct {
	config.Key
	Commands []runtime.Command
}

// Plan is what there is to do.
type Plan struct {
	// Reload says why a reload is needed; empty: it is not. With one there are
	// no steps.
	Reload string
	Steps  []Step
	// Waiting tells that a server is replaced by another one with its name,
	// which only a reload can do while the old one has connections.
	Waiting bool
	// Leftovers are servers of the newest worker in maintenance that are to be
	// deleted once their connections end. Nothing waits for that.
	Leftovers []config.Key
}

// Make plans for the newest worker.
func Make(worker *Worker, target *config.File, canAdd bool) Plan {
	m := maker{worker: worker, target: target, canAdd: canAdd}
	m.serve()
	if m.reload != "" {
		return Plan{Reload: m.reload}
	}
	return Plan{Steps: m.steps(), Waiting: m.waiting, Leftovers: m.leftovers}
}

// Handover plans what a worker shall do right before a reload to the target:
// from then on it only finishes what it has, with at most one more request over
// each connection, and HAProxy changes nothing on it any more.
func Handover(worker *Worker, target *config.File) []Step {
	m := maker{worker: worker, target: target}
	for key, have := range worker.Servers {
		want := target.Server(key)
		switch {
		case want != nil && want.ID == have.ID:
			m.change(want, &have)
		case want == nil && !have.Maintenance && target.HasBackend(key.Backend) && m.hasUsable(key.Backend):
			// Without another server it goes on: an error is no better.
			m.step(&m.less, key, runtime.SetMaintenance(key))
		}
	}
	return m.steps()
}

// maker collects a plan.
type maker struct {
	worker *Worker
	target *config.File
	canAdd bool
	usable map[string]bool // memo of hasUsable

	reload     string
	waiting    bool
	more, less []Step
	leftovers  []config.Key
}

// steps puts what takes traffic before what gives it up.
func (m *maker) steps() []Step { return append(m.more, m.less...) }

// needReload keeps the first reason.
func (m *maker) needReload(format string, args ...any) {
	if m.reload == "" {
		m.reload = fmt.Sprintf(format, args...)
	}
}

func (m *maker) step(list *[]Step, k config.Key, commands ...runtime.Command) {
	if len(commands) > 0 {
		*list = append(*list, Step{Key: k, Commands: commands})
	}
}

// serve plans for the newest worker.
func (m *maker) serve() {
	if m.worker.Structure != m.target.Structure {
		m.needReload("the structure differs")
		return
	}
	wanted := 0
	for i := range m.target.Servers {
		want := &m.target.Servers[i]
		have, ok := m.worker.Servers[want.Key]
		if ok {
			wanted++
		}
		switch {
		case !ok && !m.canAdd:
			m.needReload("this version cannot add a server at run time")
		case !ok:
			m.step(&m.more, want.Key, m.add(want)...)
		case have.ID == want.ID && have.Backup == want.Backup:
			m.change(want, &have)
		case !m.canAdd:
			m.needReload("this version cannot replace a server at run time")
		default:
			m.waiting = m.waiting || have.Maintenance // an earlier step has tried
			m.step(&m.less, want.Key, runtime.SetMaintenance(want.Key), runtime.Delete(want.Key))
		}
	}
	if wanted == len(m.worker.Servers) {
		return // spares 10,000 look-ups in vain
	}
	for key, have := range m.worker.Servers {
		switch {
		case m.target.Server(key) != nil:
		case have.Maintenance:
			m.leftovers = append(m.leftovers, key)
		default:
			m.step(&m.less, key, runtime.SetMaintenance(key), runtime.Delete(key))
		}
	}
}

// add returns the commands that add a server. It comes in maintenance and with
// weight 0, so that it gets nothing between ready and being held back.
func (m *maker) add(want *config.Server) []runtime.Command {
	check := m.target.Check(want.Backend)
	commands := []runtime.Command{runtime.Add(*want, check)}
	if check != "" {
		commands = append(commands, runtime.EnableChecks(want.Key))
	}
	if !want.Maintenance {
		commands = append(commands, runtime.SetReady(want.Key))
		if check != "" && m.hasUsable(want.Backend) {
			commands = append(commands, runtime.HoldBack(want.Key))
		}
	}
	if want.Weight != 0 {
		commands = append(commands, runtime.SetWeight(want.Key, want.Weight))
	}
	return commands
}

// change plans what a server needs that the worker has.
func (m *maker) change(want *config.Server, have *Running) {
	var commands []runtime.Command
	if have.Address != want.Address {
		if m.target.Check(want.Backend) != "" && !have.Maintenance && m.hasUsable(want.Backend) {
			commands = append(commands, runtime.HoldBack(want.Key))
		}
		commands = append(commands, runtime.SetAddress(want.Key, want.Address))
	}
	if have.MaxConnections != want.MaxConnections {
		commands = append(commands, runtime.SetMaxConnections(want.Key, want.MaxConnections))
	}
	if have.Weight != want.Weight {
		commands = append(commands, runtime.SetWeight(want.Key, want.Weight))
	}
	list := &m.more
	switch {
	case want.Maintenance && !have.Maintenance:
		commands = append(commands, runtime.SetMaintenance(want.Key))
		list = &m.less
	case !want.Maintenance && have.Maintenance:
		commands = append(commands, runtime.SetReady(want.Key))
	case want.Weight == 0:
		list = &m.less
	}
	m.step(list, want.Key, commands...)
}

// hasUsable tells whether some server of the backend serves now and goes on
// unchanged, so that another one can wait for its first passed check without
// leaving clients with nothing.
func (m *maker) hasUsable(backend string) bool {
	if m.usable == nil {
		m.usable = make(map[string]bool)
		for i := range m.target.Servers {
			want := &m.target.Servers[i]
			if have, ok := m.worker.Servers[want.Key]; ok && goesOn(want, &have) {
				m.usable[want.Backend] = true
			}
		}
	}
	return m.usable[backend]
}

func goesOn(want *config.Server, have *Running) bool {
	return have.Op == runtime.OpRunning && !have.Maintenance && have.Weight > 0 &&
		!want.Maintenance && want.Weight > 0 && have.Address == want.Address
}
