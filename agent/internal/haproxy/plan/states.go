package plan

import (
	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
)

// CheckStates returns the rows of a state file that lets the next worker know
// what the last one has found out: which servers were down, and which are new
// and wait for their first passed check. The rows agree with the target in
// everything else, because a row's address and weight would win over the
// file's. Servers without a row begin as HAProxy begins them, healthy.
func CheckStates(last []runtime.State, target *config.File) []runtime.State {
	known := make(map[config.Key]*runtime.State, len(last))
	for i := range last {
		known[last[i].Key] = &last[i]
	}
	carries := make(map[string]bool)
	for i := range target.Servers {
		want := &target.Servers[i]
		if have := known[want.Key]; sameServer(want, have) && !have.Maintenance() && have.Op == runtime.OpRunning && want.Weight > 0 && !want.Maintenance {
			carries[want.Backend] = true
		}
	}
	var rows []runtime.State
	for i := range target.Servers {
		want := &target.Servers[i]
		if want.Maintenance || target.Check(want.Backend) == "" {
			continue
		}
		have := known[want.Key]
		switch {
		case sameServer(want, have) && have.Maintenance():
			// It is made ready now, and begins healthy as it would at run time.
		case sameServer(want, have) && have.Checked():
			row := *have
			row.Admin, row.Weight = 0, want.Weight
			rows = append(rows, row)
		case !sameServer(want, have) && carries[want.Backend]:
			rows = append(rows, unproven(want))
		}
	}
	return rows
}

// sameServer tells whether what was found out about have holds for want.
func sameServer(want *config.Server, have *runtime.State) bool {
	return have != nil && have.ID == want.ID && have.Address == want.Address
}

// unproven is the state of a server that waits for its first passed check.
func unproven(want *config.Server) runtime.State {
	const (
		statusInitial = 1     // SRV_CHECK status "INI"
		configured    = 2 | 4 // and enabled
		anyBackend    = 1     // rows are found by names
	)
	return runtime.State{
		Key: want.Key, BackendID: anyBackend, ID: want.ID, Address: want.Address,
		Op: runtime.OpStopping, Weight: want.Weight,
		CheckStatus: statusInitial, CheckState: configured,
	}
}
