// Package netnstest gives a test of the driver a network of its own.
package netnstest

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Enter puts the test's goroutine, and the programs that it starts, into a new network
// namespace until the test ends. It skips a test that root does not run, as make test does:
// nobody else may make one.
func Enter(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	switch err := unix.Unshare(unix.CLONE_NEWNET); {
	case err != nil && os.Geteuid() != 0:
		t.Skipf("needs a network namespace (root): %v", err)
	case err != nil:
		t.Fatalf("network namespace: %v", err)
	}
}
