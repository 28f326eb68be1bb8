package keepalived

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
)

// An interface with a virtual MAC address on top of it must not tell anybody its own one
// for the VIP: it does with each question by which the kernel looks for whom to answer,
// if that names the address that the answer is from (ip-sysctl.rst, arp_announce).
// keepalived sets the two other settings, and gives them back at its end alone, and not
// always.
const arpAnnounce = "arp_announce"

var parentSettings = []string{arpAnnounce, "arp_filter", "arp_ignore"}

// onlyOwn is the value of arp_announce with which questions name the interface's own
// address alone.
const onlyOwn = "2"

// parents are the interfaces below virtual MAC addresses of IPv4.
func (in *intent) parents() []string {
	var all []string
	for n := range in.instances {
		if i := &in.instances[n]; i.virtualMAC && i.anchor.Addr().Is4() {
			all = append(all, i.iface)
		}
	}
	return all
}

var parentLines = regexp.MustCompile(`(?m)^    interface (\S+)\n(?:    .*\n)*?    use_vmac v4-`)

// parentsIn finds them in a file of this driver.
func parentsIn(config []byte) []string {
	var all []string
	for _, match := range parentLines.FindAllSubmatch(config, -1) {
		all = append(all, string(match[1]))
	}
	return all
}

// prepareParents makes interfaces fit for virtual MAC addresses, and keeps how they were
// before, until the machine is switched off. One that is missing holds up no other one.
func (p *paths) prepareParents(names []string) error {
	if len(names) == 0 {
		return nil
	}
	before, err := p.readParents()
	if err != nil {
		return err
	}
	var fresh []string
	var failed []error
	for _, name := range names {
		if before[name] != nil {
			continue
		}
		was, err := settingsOf(name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		before[name], fresh = was, append(fresh, name)
	}
	if len(fresh) > 0 {
		if err := p.writeParents(before); err != nil {
			return err
		}
	}
	for _, name := range names {
		if before[name] != nil {
			failed = append(failed, announceOwn(name))
		}
	}
	return errors.Join(failed...)
}

func settingsOf(name string) (map[string]string, error) {
	was := make(map[string]string)
	for _, setting := range parentSettings {
		value, err := os.ReadFile(ofParent(name, setting))
		if err != nil {
			return nil, err
		}
		was[setting] = strings.TrimSpace(string(value))
	}
	return was, nil
}

// announceOwn writes the setting where it is another one.
func announceOwn(name string) error {
	path := ofParent(name, arpAnnounce)
	if is, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(is)) == onlyOwn {
		return err
	}
	return os.WriteFile(path, []byte(onlyOwn), 0o644)
}

// restoreParents makes all interfaces but those what they were.
func (p *paths) restoreParents(kept []string) error {
	before, err := p.readParents()
	if err != nil || len(before) == 0 {
		return err
	}
	for _, name := range slices.Collect(maps.Keys(before)) {
		if slices.Contains(kept, name) {
			continue
		}
		for setting, value := range before[name] {
			// An interface that is gone has no settings.
			if failed := os.WriteFile(ofParent(name, setting), []byte(value), 0o644); !errors.Is(failed, fs.ErrNotExist) {
				err = errors.Join(err, failed)
			}
		}
		delete(before, name)
	}
	return errors.Join(err, p.writeParents(before))
}

func ofParent(name, setting string) string {
	return filepath.Join("/proc/sys/net/ipv4/conf", name, setting)
}

func (p *paths) readParents() (map[string]map[string]string, error) {
	before := make(map[string]map[string]string)
	data, err := os.ReadFile(p.parents)
	if errors.Is(err, fs.ErrNotExist) {
		return before, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &before)
	}
	if err != nil {
		return nil, fmt.Errorf("how interfaces were before virtual MAC addresses: %s: %w", p.parents, err)
	}
	return before, nil
}

func (p *paths) writeParents(before map[string]map[string]string) error {
	data, err := json.Marshal(before)
	if err != nil {
		return err
	}
	return atomicfile.WriteVolatile(p.parents, data, 0o600)
}
