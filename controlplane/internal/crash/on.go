//go:build crashpoints

package crash

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Env names the point at which the process ends itself: NAME, or NAME:N for the
// Nth time that it comes there. With "list" it prints all names and exits.
const Env = "TANDEM_CRASH"

var (
	chosen Point
	left   atomic.Int64
)

func init() {
	name, count, _ := strings.Cut(os.Getenv(Env), ":")
	switch chosen = Point(name); {
	case name == "":
		return
	case name == "list":
		for _, p := range All() {
			fmt.Println(p)
		}
		os.Exit(0)
	case !slices.Contains(All(), chosen):
		fmt.Fprintf(os.Stderr, "%s: no point %q; %s=list prints all\n", Env, name, Env)
		os.Exit(2)
	}
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil || n < 1 {
		n = 1
	}
	left.Store(n)
}

// Pass ends the process with SIGKILL if this is the point that Env names.
func (p Point) Pass() {
	if p == chosen && left.Add(-1) == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}
