// Package labtest gives a test a lab of its own.
package labtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/lab"
)

// tailLines is how much of each log file a failed test shows.
const tailLines = 40

// Start starts a lab that ends with the test. It skips the test, with the
// reason, where no lab can be made. A failed test shows the tails of the log
// files and keeps them.
func Start(t testing.TB, spec lab.Spec) *lab.Lab {
	t.Helper()
	if err := lab.Supported(t.Context()); err != nil {
		t.Skip(err)
	}
	ctx := Deadline(t, 30*time.Second)
	l, err := lab.Start(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			var tails strings.Builder
			if err := l.Tails(&tails, tailLines); err != nil {
				t.Log(err)
			}
			t.Logf("log files are kept in %s\n%s", l.Dir, tails.String())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if !t.Failed() {
			if err := os.RemoveAll(l.Dir); err != nil {
				t.Error(err)
			}
		}
	})
	return l
}

// Labhost builds the program that runs in the hosts of labs, once for all tests of a
// package, and returns its path.
func Labhost(t testing.TB) string {
	t.Helper()
	path, err := labhost()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var labhost = sync.OnceValues(func() (string, error) {
	mod, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tandem-lb/tandem/e2e").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	path := filepath.Join(filepath.Dir(strings.TrimSpace(string(mod))), "bin", "labhost")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/tandem-lb/tandem/e2e/cmd/labhost").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build labhost: %w\n%s", err, out)
	}
	return path, nil
})

// Deadline returns a context that ends with the test or after d.
func Deadline(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
