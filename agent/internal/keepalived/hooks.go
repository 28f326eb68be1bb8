package keepalived

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Hooks does what must be right around starts and stops of the daemons although
// no agent may run. A service manager calls it; an agent beside it does not
// mind.
type Hooks struct{ paths paths }

// NewHooks makes the directories that keepalived needs. stateDir and runDir are
// the agent's.
func NewHooks(stateDir, runDir string) (*Hooks, error) {
	p, err := makePaths(stateDir, runDir)
	if err != nil {
		return nil, fmt.Errorf("keepalived: %w", err)
	}
	return &Hooks{p}, nil
}

// BeforeStart is called while keepalived does not run and is about to start. It
// writes scores that are safe, since keepalived takes a missing file for a
// healthy node: health counts only when serves says that the proxy serves now,
// a drain stays, and a VIP that is to stay with its holder is not taken back.
// It removes addresses that a killed keepalived left behind, and waits a moment for
// interfaces that have just come up. The error says that keepalived must not start;
// told is what does not keep it from that.
func (h *Hooks) BeforeStart(ctx context.Context, serves func() bool) (told, err error) {
	config, err := ownFile(h.paths.config)
	if err != nil {
		return nil, err
	}
	silent := errors.Join(untilUsable(ctx, config), untilSources(ctx, config), h.paths.prepareParents(parentsIn(config)))
	unlock, err := h.lock()
	if err != nil {
		return silent, err
	}
	defer unlock()
	s, told := newScores(h.paths)
	for _, name := range stickyIn(config) {
		s.standby[name] = &standby{never: true}
	}
	// Asked under the lock, so that what SetHealth writes later is newer.
	s.healthy = serves()
	err = s.renew(time.Now())
	return errors.Join(silent, told, s.tidy(), h.removeLeft(), h.filterDevices(), h.removePIDFiles()), err
}

// AfterStop is called when keepalived has ended in whatever way. It removes the
// addresses that a killed one left behind, so that its peer holds them alone.
func (h *Hooks) AfterStop() error {
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return h.removeLeft()
}

// SetHealth tells whether the proxy on this node serves.
func (h *Hooks) SetHealth(healthy bool) error {
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s, err := newScores(h.paths)
	if err != nil {
		return err
	}
	s.healthy = healthy
	return s.renew(time.Now())
}

// GuardRelease is what an agent starts before it has keepalived give its VIPs up for a
// proxy that has not ended. It takes leases as GuardFence does, and EndRelease then.
func (h *Hooks) GuardRelease(ctx context.Context, in io.Reader, out io.Writer) error {
	outlast(ctx, in, out, false)
	return h.EndRelease()
}

// EndRelease does what an agent that hangs or is dead does not: where the proxy has died
// and keepalived was told to give its VIPs up, it makes the node stand by again.
func (h *Hooks) EndRelease() error {
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s, err := newScores(h.paths)
	if err != nil {
		return err
	}
	if score, _ := s.read(scoreFile); score != releaseScore {
		return nil
	}
	return s.write(time.Now())
}

// UntilReleased waits until this node holds none of the addresses that keepalived
// may have brought up.
func (h *Hooks) UntilReleased(ctx context.Context) error {
	record, err := readRecord(h.paths.addresses)
	if err != nil {
		return err
	}
	tick := time.NewTicker(dumpPoll)
	defer tick.Stop()
	for {
		held, err := present(record)
		if err != nil || len(held) == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("keepalived: still holds %s: %w", held[0].Address, ctx.Err())
		}
	}
}

// lock keeps hooks of the two daemons apart.
func (h *Hooks) lock() (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(filepath.Dir(h.paths.trackDir), "hooks.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = file.Close() }, nil
}

func (h *Hooks) removePIDFiles() error {
	for _, file := range h.paths.pidFiles() {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// removeLeft removes what keepalived may have brought up.
func (h *Hooks) removeLeft() error {
	record, err := readRecord(h.paths.addresses)
	if err != nil {
		return err
	}
	_, err = remove(record)
	return errors.Join(err, removeDevices(record, nil))
}

// filterDevices keeps from what keepalived may make what it must not act upon.
func (h *Hooks) filterDevices() error {
	record, err := readRecord(h.paths.addresses)
	if err != nil || len(devicesOf(record)) == 0 {
		return err
	}
	return filterDevices(record)
}

// readRecord reads what keepalived may have brought up.
func readRecord(path string) (record []place, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &record)
	}
	if err != nil {
		return nil, fmt.Errorf("what keepalived may have brought up: %s: %w", path, err)
	}
	return record, nil
}

var interfaceLines = regexp.MustCompile(`(?m)^vrrp_instance \S+ \{\n(?:    .*\n)*?    interface (\S+)\n(?:    .*\n)*?    virtual_ipaddress \{\n        \S*:`)

// advertising6 finds the interfaces of the instances of IPv6 in a file of this
// driver.
func advertising6(config []byte) []string {
	var names []string
	for _, match := range interfaceLines.FindAllSubmatch(config, -1) {
		names = append(names, string(match[1]))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var stickyLine = regexp.MustCompile(`(?m)^vrrp_track_file ` + regexp.QuoteMeta(standbyFile("")) + `(\S+) \{$`)

// stickyIn finds the sticky instances in a file of this driver.
func stickyIn(config []byte) []string {
	var names []string
	for _, match := range stickyLine.FindAllSubmatch(config, -1) {
		names = append(names, string(match[1]))
	}
	return names
}
