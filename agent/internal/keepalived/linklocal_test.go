package keepalived

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestInterfacesThatAdvertiseIPv6(t *testing.T) {
	for file, want := range map[string][]string{
		"testdata/two-families-sorted.conf": {"eth0"}, "testdata/one-vip.conf": nil, "testdata/vrrp2-with-password.conf": nil,
	} {
		config, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := advertising6(config); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
	if got := advertising6(nil); got != nil {
		t.Errorf("without a file: %q", got)
	}
}

// inside calls f in a network namespace.
func inside(t *testing.T, namespace string, f func() error) error {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		fd, err := unix.Open("/run/netns/"+namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// At boot keepalived starts, without the agent, while the kernel still looks for
// another machine with an interface's link-local address. In silence both nodes
// would hold the VIP.
func TestAStartAwaitsLinkLocalAddresses(t *testing.T) {
	t.Parallel()
	config, err := os.ReadFile("testdata/two-families-sorted.conf")
	if err != nil {
		t.Fatal(err)
	}
	namespace := newNamespace(t)
	ip(t, "-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
	h := newHooks(t)
	if err := os.WriteFile(h.paths.config, config, 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() (took time.Duration, told error) {
		t.Helper()
		began := time.Now()
		if err := inside(t, namespace, func() (err error) {
			told, err = h.BeforeStart(t.Context(), func() bool { return true })
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return time.Since(began), told
	}
	if _, told := start(); told != nil {
		t.Errorf("without a carrier: %v", told)
	}
	ip(t, "-n", namespace, "link", "set", "eth1", "up")
	ip(t, "-n", namespace, "link", "set", "eth0", "up")
	if _, told := start(); told != nil {
		t.Error(told)
	}
	if err := inside(t, namespace, func() error {
		_, list, err := linkLocal("eth0")
		if err == nil && (len(list) == 0 || list[0].Flags&unix.IFA_F_TENTATIVE != 0) {
			err = fmt.Errorf("it has %v", list)
		}
		return err
	}); err != nil {
		t.Errorf("the start did not wait for a usable address: %v", err)
	}
	// Whatever happens, it starts.
	ip(t, "-n", namespace, "address", "flush", "dev", "eth0", "scope", "link")
	took, told := start()
	if told == nil || !strings.Contains(told.Error(), "interface eth0 has no usable link-local address") {
		t.Errorf("without an address it says %v", told)
	}
	if took > 10*linkLocalTimeout {
		t.Errorf("it waited for %v", took)
	}
}
