package atomicfile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/controlplane/internal/atomicfile"
	"github.com/tandem-lb/tandem/controlplane/internal/disktest"
)

// versions writes one version of a file after the other through judge, and
// marks each that WriteFile has acknowledged.
func versions(t *testing.T, dir string, judge disktest.Judge, calls *disktest.Recorder) {
	t.Helper()
	disktest.Run(t, dir, judge, func() {
		for n := uint64(1); n <= 4; n++ {
			text := strings.Repeat(fmt.Sprintln(n), 4000) // more than a page
			if err := atomicfile.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o600); err != nil {
				t.Error(err)
			}
			calls.Mark(n)
		}
	})
}

// checkVersion tells what is wrong with the file after a loss of power.
func checkVersion(dir string, acknowledged uint64) error {
	data, err := os.ReadFile(filepath.Join(dir, "file"))
	if errors.Is(err, fs.ErrNotExist) && acknowledged == 0 {
		return nil
	}
	first, _, _ := strings.Cut(string(data), "\n")
	n, bad := strconv.ParseUint(first, 10, 64)
	if err := errors.Join(err, bad); err != nil {
		return err
	}
	if n < acknowledged || string(data) != strings.Repeat(fmt.Sprintln(n), 4000) {
		return fmt.Errorf("it is %d bytes of version %d", len(data), n)
	}
	return nil
}

// A file is old or new whenever the power goes, and new once it is acknowledged.
func TestI2PowerLost(t *testing.T) {
	dir, calls := t.TempDir(), &disktest.Recorder{}
	versions(t, dir, calls.Record, calls)
	played, err := calls.PowerLosses(t, rand.New(rand.NewPCG(1, 0)), 6, checkVersion)
	if err != nil || played < 100 {
		t.Errorf("%d losses of power: %v", played, err)
	}
}

// Without the sync of the file, or of its directory, the test above fails.
func TestPowerLossNeedsEverySync(t *testing.T) {
	for name, ofDirectory := range map[string]bool{"file": false, "directory": true} {
		t.Run(name, func(t *testing.T) {
			dir, calls := t.TempDir(), &disktest.Recorder{}
			versions(t, dir, func(c disktest.Call) error {
				if c.Op == disktest.Sync && (c.Path == dir) == ofDirectory {
					return disktest.Skip
				}
				return calls.Record(c)
			}, calls)
			if _, err := calls.PowerLosses(t, rand.New(rand.NewPCG(1, 0)), 6, checkVersion); err == nil {
				t.Error("nothing is lost")
			}
		})
	}
}
