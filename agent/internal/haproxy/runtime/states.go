package runtime

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
)

// Op is a server's operational state.
type Op int

// Operational states, with HAProxy's numbers.
const (
	OpStopped  Op = 0 // fails its checks
	OpStarting Op = 1 // passes them and warms up
	OpRunning  Op = 2 // passes them, or has none
	OpStopping Op = 3 // gets no new traffic until a check passes
)

// Bits of State.
const (
	maintenanceBits = 0x01 | 0x02 | 0x20 | 0x40 // 0x04 only tells that the file had it disabled
	checkEnabledBit = 0x04
)

// State is a server's state in the form that a worker prints and reads again
// after a reload.
type State struct {
	config.Key
	BackendID int
	ID        uint32
	Address   netip.AddrPort
	Op        Op
	Admin     int
	Weight    uint32
	// Since the last change of the state.
	Since time.Duration

	CheckStatus, CheckResult, CheckHealth, CheckState int
}

// Maintenance tells whether the server gets neither traffic nor checks.
func (s *State) Maintenance() bool { return s.Admin&maintenanceBits != 0 }

// Checked tells whether the server is checked.
func (s *State) Checked() bool { return s.CheckState&checkEnabledBit != 0 }

// stateColumns are those of version 1 of the format, since 2.4.
const stateColumns = "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight " +
	"srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state " +
	"bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr " +
	"srv_agent_addr srv_agent_port"

// ageColumn is that of State.Since.
const ageColumn = "srv_time_since_last_change"

// stateRow is a line of the reply.
type stateRow struct {
	columns map[string]int
	fields  [][]byte
	err     error // the first one of a number
}

// name takes the names of the columns.
func (r *stateRow) name(names string) error {
	r.columns = make(map[string]int)
	for name := range strings.FieldsSeq(names) {
		r.columns[name] = len(r.columns)
	}
	for name := range strings.FieldsSeq(stateColumns) {
		if _, ok := r.columns[name]; !ok && name != "srv_use_ssl" {
			return fmt.Errorf("no column %s", name)
		}
	}
	return nil
}

func (r *stateRow) text(column string) []byte { return r.fields[r.columns[column]] }

func (r *stateRow) number(column string) int {
	n, err := strconv.ParseUint(string(r.text(column)), 10, 31)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: %w", column, err)
	}
	return int(n)
}

// same returns text as a string, that which it was if it is the same.
func same(text []byte, was string) string {
	if string(text) == was {
		return was
	}
	return string(text)
}

// parse parses a line. was is the server that had its place before, whose names are kept
// if they are the same.
func (r *stateRow) parse(line []byte, was config.Key) (State, around, error) {
	r.fields, r.err = r.fields[:0], nil
	var row around
	end := 0
	for field := range bytes.FieldsSeq(line) {
		end += bytes.Index(line[end:], field) + len(field)
		if len(r.fields) == r.columns[ageColumn] {
			row = around{line[:end-len(field)], line[end:]}
		}
		r.fields = append(r.fields, field)
	}
	if len(r.fields) != len(r.columns) {
		return State{}, around{}, fmt.Errorf("%d fields, not %d", len(r.fields), len(r.columns))
	}
	s := State{
		Key:         config.Key{Backend: same(r.text("be_name"), was.Backend), Name: same(r.text("srv_name"), was.Name)},
		BackendID:   r.number("be_id"),
		ID:          uint32(r.number("srv_id")),
		Op:          Op(r.number("srv_op_state")),
		Admin:       r.number("srv_admin_state"),
		Weight:      uint32(r.number("srv_uweight")),
		Since:       seconds(string(r.text(ageColumn))),
		CheckStatus: r.number("srv_check_status"),
		CheckResult: r.number("srv_check_result"),
		CheckHealth: r.number("srv_check_health"),
		CheckState:  r.number("srv_check_state"),
	}
	port := r.number("srv_port")
	// A server without a fixed address prints "-", which stays invalid.
	if a, err := netip.ParseAddr(string(r.text("srv_addr"))); err == nil && port < 1<<16 {
		s.Address = netip.AddrPortFrom(a.Unmap(), uint16(port))
	}
	return s, row, r.err
}

// seconds is parseSeconds of what may be something else, which counts as now.
func seconds(s string) time.Duration {
	age, _ := parseSeconds(s)
	return age
}

// parseSeconds parses how long ago something was. A change in this very second may
// be told to be 1 s ahead.
func parseSeconds(s string) (time.Duration, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return 0, err
	}
	return time.Duration(max(0, n)) * time.Second, nil
}

// WriteStates writes a state file, of which the next worker takes over the
// rows of servers that its configuration names.
func WriteStates(w io.Writer, states []State) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "1\n# %s\n", stateColumns)
	for i := range states {
		s := &states[i]
		fmt.Fprintf(out, "%d %s %d %s %s %d %d %d %d %d %d %d %d %d 0 0 1 - %d - 0 0 - - 0\n",
			s.BackendID, s.Backend, s.ID, s.Name, s.Address.Addr(), s.Op, s.Admin, s.Weight, s.Weight,
			int64(s.Since/time.Second), s.CheckStatus, s.CheckResult, s.CheckHealth, s.CheckState, s.Address.Port())
	}
	return out.Flush()
}
