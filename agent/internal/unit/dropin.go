package unit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
)

// DropIns are what makes packages' units Tandem's. They take effect where they
// are linked and nowhere else, so that a machine which runs files of its own
// goes on as its packages have it.
type DropIns struct {
	// Units are their names, such as haproxy.service.
	Units []string
	// From holds a directory UNIT.d with a file tandem.conf for each.
	From string
	// To is where systemd looks for what administrators add.
	To string
}

// dropIn is the file's name in both places.
const dropIn = "tandem.conf"

func (d *DropIns) from(unit string) string { return filepath.Join(d.From, unit+".d", dropIn) }
func (d *DropIns) to(unit string) string   { return filepath.Join(d.To, unit+".d", dropIn) }

// Link has systemd run the units as Tandem's from their next start on. It
// touches no process, overwrites nothing, and does nothing where that is so.
func (d *DropIns) Link(ctx context.Context) error {
	for _, unit := range d.Units {
		from, to := d.from(unit), d.to(unit)
		if _, err := os.Stat(from); err != nil {
			return fmt.Errorf("%s cannot be made Tandem's: install Tandem again: %w", unit, err)
		}
		if at, err := os.Readlink(to); err == nil && at == from {
			continue
		}
		if _, err := os.Lstat(to); err == nil {
			return fmt.Errorf("%s was not put there by this agent and is left alone: move it away", to)
		}
		if err := link(from, to); err != nil {
			return fmt.Errorf("%s cannot be made Tandem's: %w", unit, err)
		}
	}
	return d.reload(ctx, true)
}

// link makes a durable symbolic link.
func link(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	temp := to + ".new" // systemd reads names that end in .conf
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(from, temp); err != nil {
		return err
	}
	return atomicfile.Rename(temp, to)
}

// Unlink undoes Link: from their next start on the units are what their packages
// and administrators say.
func (d *DropIns) Unlink(ctx context.Context) error {
	for _, unit := range d.Units {
		to := d.to(unit)
		if at, err := os.Readlink(to); err != nil || at != d.from(unit) {
			continue
		}
		if err := atomicfile.Remove(to); err != nil {
			return err
		}
		// Others may have put something beside it.
		if err := os.Remove(filepath.Dir(to)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return d.reload(ctx, false)
}

// reload has systemd read the units again, unless it knows all of these drop-ins
// or, where they are not wanted, none. NeedDaemonReload does not tell: systemd
// (252) looks for it in the directories that it has found before.
func (d *DropIns) reload(ctx context.Context, wanted bool) error {
	c, err := connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, unit := range d.Units {
		known, err := c.GetUnitPropertyContext(ctx, unit, "DropInPaths")
		if err != nil {
			return fmt.Errorf("systemd: %s: %w", unit, err)
		}
		paths, _ := known.Value.Value().([]string)
		if slices.Contains(paths, d.to(unit)) != wanted {
			if err := c.ReloadContext(ctx); err != nil {
				return fmt.Errorf("systemd: daemon-reload: %w", err)
			}
			return nil
		}
	}
	return nil
}
