package runtime

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
)

// Types of rows.
const (
	TypeBackend = 1 << 1
	TypeServer  = 1 << 2

	typeFrontendRow = 0
	typeBackendRow  = 1
	typeServerRow   = 2
)

// Stat is one row of the statistics.
type Stat struct {
	config.Key // of a frontend or backend with HAProxy's own word as Name
	// IsServer and IsBackend tell what it is; neither: a frontend.
	IsServer, IsBackend bool
	// BackendID is the worker's own number of the proxy.
	BackendID int

	// The rest is told of servers only.
	ID             uint32
	Address        netip.AddrPort
	Weight         uint32
	MaxConnections uint32
	Backup         bool
	Maintenance    bool
	Checked        bool
	Op             Op
	// Since the last change of the state.
	Since time.Duration
	// Reason is what the last check found, in HAProxy's words.
	Reason string
}

// ParseStats parses the CSV reply to one or more "show stat", by column names.
func ParseStats(r io.Reader) ([]Stat, error) {
	rows := csv.NewReader(r)
	rows.FieldsPerRecord = -1
	rows.LazyQuotes = true
	rows.ReuseRecord = true
	var stats []Stat
	var columns map[string]int
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("show stat: %w", err)
		}
		if name, ok := strings.CutPrefix(row[0], "# "); ok {
			columns = map[string]int{strings.Clone(name): 0}
			for i, name := range row[1:] {
				columns[strings.Clone(name)] = i + 1
			}
			continue
		}
		if columns == nil {
			return nil, fmt.Errorf("show stat: %q comes before the columns", strings.Join(row, ","))
		}
		stat, err := parseStat(columns, row)
		if err != nil {
			return nil, fmt.Errorf("show stat: %q: %w", strings.Join(row, ","), err)
		}
		stats = append(stats, stat)
	}
	if columns == nil {
		return nil, errors.New("show stat: no columns in the reply")
	}
	return stats, nil
}

func parseStat(columns map[string]int, row []string) (Stat, error) {
	var err error
	text := func(name string) string {
		if i, ok := columns[name]; ok && i < len(row) {
			return row[i]
		}
		return ""
	}
	number := func(name string) uint32 {
		s := text(name)
		if s == "" {
			return 0
		}
		n, e := strconv.ParseUint(s, 10, 32)
		if e != nil && err == nil {
			err = fmt.Errorf("%s: %w", name, e)
		}
		return uint32(n)
	}
	s := Stat{
		Key:       config.Key{Backend: strings.Clone(text("pxname")), Name: strings.Clone(text("svname"))},
		BackendID: int(number("iid")),
	}
	if s.Backend == "" || s.Name == "" || text("type") == "" {
		return s, errors.New("no name or no type")
	}
	switch kind := number("type"); kind {
	case typeBackendRow:
		s.IsBackend = true
		return s, err
	case typeServerRow:
		s.IsServer = true
	default:
		return s, err
	}
	s.ID = number("sid")
	s.Weight = number("weight")
	if text("uweight") != "" {
		s.Weight = number("uweight")
	}
	s.MaxConnections = number("slim")
	s.Backup = number("bck") != 0
	s.Since = seconds(text("lastchg"))
	s.Address, _ = netip.ParseAddrPort(text("addr"))
	s.Reason = strings.Clone(reason(text("check_desc"), text("last_chk")))
	s.setStatus(text("status"))
	return s, err
}

// setStatus takes HAProxy's word for the server's state.
func (s *Stat) setStatus(status string) {
	word, _, _ := strings.Cut(status, " ")
	s.Op, s.Checked = OpRunning, true
	switch word {
	case "MAINT":
		s.Op, s.Maintenance = OpStopped, true
	case "DOWN":
		s.Op = OpStopped
	case "NOLB":
		s.Op = OpStopping
	case "no":
		s.Checked = false
	}
}

// reason joins what the check was and what it found.
func reason(description, last string) string {
	if last == "" || last == description {
		return description
	}
	return description + ": " + last
}
