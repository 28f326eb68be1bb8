package keepalived

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
)

// dumped is one instance in keepalived's JSON dump: what it really runs.
type dumped struct {
	Name         string  `json:"iname"`
	Interface    string  `json:"ifp_ifname"`
	Version      int     `json:"version"`
	VRID         int     `json:"vrid"`
	BasePriority int     `json:"base_priority"`
	Priority     int     `json:"effective_priority"`
	Advert       float64 `json:"adver_int"` // seconds
	// MasterPriority is what the holder advertises, where this node stands by.
	MasterPriority int         `json:"master_priority"`
	State          int         `json:"state"`
	LastTransition json.Number `json:"last_transition"`
	Anchors        []string    `json:"vips"`
	Extra          []string    `json:"evips"`
	Count          Count       `json:"-"` // beside the data in the dump
}

// state puts keepalived's number into a word.
func (d *dumped) state() InstanceState {
	switch d.State {
	case 0:
		return InstanceInit
	case 1:
		return InstanceBackup
	case 2:
		return InstanceMaster
	case 3:
		return InstanceFault
	default:
		return InstanceUnknown
	}
}

// parseDump reads a whole dump; keepalived does not write it in one go, so an
// error may only mean that it is not finished.
func parseDump(data []byte) ([]dumped, error) {
	var all []struct {
		Data  dumped
		Stats Count
	}
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	instances := make([]dumped, 0, len(all))
	for _, one := range all {
		one.Data.Count = one.Stats
		instances = append(instances, one.Data)
	}
	slices.SortFunc(instances, func(a, b dumped) int { return strings.Compare(a.Name, b.Name) })
	return instances, nil
}

// differs tells in words what the dump and the instance do not agree in, or
// nothing.
func (d *dumped) differs(i *instance) string {
	on := i.over
	if i.virtualMAC {
		on = i.device()
	}
	switch {
	case d.Interface != on:
		return fmt.Sprintf("%s is on interface %s, not %s", i.name, d.Interface, on)
	case d.Version != i.version:
		return fmt.Sprintf("%s has version %d, not %d", i.name, d.Version, i.version)
	case d.VRID != i.vrid:
		return fmt.Sprintf("%s has vrid %d, not %d", i.name, d.VRID, i.vrid)
	case d.BasePriority != i.priority:
		return fmt.Sprintf("%s has priority %d, not %d", i.name, d.BasePriority, i.priority)
	case math.Abs(d.Advert-i.advert.Seconds()) > 0.001:
		return fmt.Sprintf("%s has advert interval %gs, not %v", i.name, d.Advert, i.advert)
	case !sameAddresses(d.Anchors, i.device(), []netip.Prefix{i.anchor}):
		return fmt.Sprintf("%s has anchor %v, not %v", i.name, d.Anchors, i.anchor)
	case !sameAddresses(d.Extra, i.device(), i.extra):
		return fmt.Sprintf("%s has addresses %v, not %v", i.name, d.Extra, i.extra)
	}
	return ""
}

// sameAddresses compares lines such as "10.0.0.1/24 dev eth0 scope global set"
// with addresses on an interface, in any order.
func sameAddresses(lines []string, on string, want []netip.Prefix) bool {
	got := make([]netip.Prefix, 0, len(lines))
	for _, line := range lines {
		text, rest, _ := strings.Cut(line, " ")
		if words := strings.Fields(rest); len(words) > 1 && words[0] == "dev" && !isNamed(words[1], on) {
			return false
		}
		address, err := netip.ParsePrefix(text)
		if err != nil {
			single, err := netip.ParseAddr(text)
			if err != nil {
				return false
			}
			address = netip.PrefixFrom(single, single.BitLen())
		}
		got = append(got, address)
	}
	order := func(a, b netip.Prefix) int { return a.Compare(b) }
	return slices.Equal(slices.SortedFunc(slices.Values(got), order), slices.SortedFunc(slices.Values(want), order))
}

// isNamed tells whether the dump means an interface: one on top of another it writes as
// "name@other".
func isNamed(dumped, name string) bool {
	own, _, _ := strings.Cut(dumped, "@")
	return own == name
}

// dumper asks keepalived for its dump. One caller at a time.
type dumper struct {
	path   string
	signal syscall.Signal
}

// How long keepalived gets to answer, and after how long it is asked again.
const (
	dumpTimeout = time.Second
	dumpAgain   = 250 * time.Millisecond
	dumpPoll    = 2 * time.Millisecond
)

// of returns the dumper for a process, which may have been started by somebody
// else, with another directory for temporary files, or another root.
func (d dumper) of(pid int) dumper {
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return d // it has just ended
	}
	dir := "/tmp"
	for setting := range strings.SplitSeq(string(environ), "\x00") {
		if value, ok := strings.CutPrefix(setting, "TMPDIR="); ok {
			dir = value
		}
	}
	if dir != filepath.Dir(d.path) {
		d.path = filepath.Join(fmt.Sprintf("/proc/%d/root", pid), dir, filepath.Base(d.path))
	}
	return d
}

// dump returns the state after the call. The file holds the password, so it is
// removed as soon as it is read.
func (d dumper) dump(ctx context.Context, p *daemon.Process) ([]dumped, error) {
	ctx, cancel := context.WithTimeout(ctx, dumpTimeout)
	defer cancel()
	defer os.Remove(d.path)
	if err := os.Remove(d.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	poll := time.NewTicker(dumpPoll)
	defer poll.Stop()
	for asked := (time.Time{}); ; {
		if now := time.Now(); now.Sub(asked) > dumpAgain {
			asked = now
			if err := send(ctx, p, d.signal); err != nil {
				return nil, err
			}
		}
		if data, err := os.ReadFile(d.path); err == nil {
			if instances, err := parseDump(data); err == nil {
				return instances, nil
			}
		}
		select {
		case <-poll.C:
		case <-p.Done():
			return nil, errors.New(epitaph(p))
		case <-ctx.Done():
			return nil, fmt.Errorf("keepalived does not answer: no dump in %s: %w", d.path, ctx.Err())
		}
	}
}
