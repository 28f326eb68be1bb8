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

// startIn calls BeforeStart in a network namespace.
func (h *Hooks) startIn(t *testing.T, namespace string) (took time.Duration, told error) {
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

func mustBeUsable(t *testing.T, namespace string) {
	t.Helper()
	if err := inside(t, namespace, func() error {
		_, list, err := linkLocal("eth0")
		if err == nil && (len(list) == 0 || list[0].Flags&unix.IFA_F_TENTATIVE != 0) {
			err = fmt.Errorf("it has %v", list)
		}
		return err
	}); err != nil {
		t.Errorf("the start did not wait for a usable address: %v", err)
	}
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
	if _, told := h.startIn(t, namespace); told != nil {
		t.Errorf("without a carrier: %v", told)
	}
	ip(t, "-n", namespace, "link", "set", "eth1", "up")
	ip(t, "-n", namespace, "link", "set", "eth0", "up")
	if _, told := h.startIn(t, namespace); told != nil {
		t.Error(told)
	}
	mustBeUsable(t, namespace)
	// Whatever happens, it starts.
	ip(t, "-n", namespace, "address", "flush", "dev", "eth0", "scope", "link")
	took, told := h.startIn(t, namespace)
	if told == nil || !strings.Contains(told.Error(), "interface eth0 has no usable link-local address") {
		t.Errorf("without an address it says %v", told)
	}
	if took > 10*linkLocalTimeout {
		t.Errorf("it waited for %v", took)
	}
}

// An interface that is missing, or without IPv6, holds back neither a start nor the
// wait for another one.
func TestAStartAwaitsNoAddressThatCannotCome(t *testing.T) {
	t.Parallel()
	config, err := os.ReadFile("testdata/two-families-sorted.conf")
	if err != nil {
		t.Fatal(err)
	}
	config = append(config, "\nvrrp_instance gone-v6 {\n    interface absent0\n    virtual_ipaddress {\n        fd00::1/64\n    }\n}\n"...)
	namespace := newNamespace(t)
	h := newHooks(t)
	if err := os.WriteFile(h.paths.config, config, 0o600); err != nil {
		t.Fatal(err)
	}
	ip(t, "-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
	ip(t, "-n", namespace, "link", "set", "eth1", "up")
	ip(t, "-n", namespace, "link", "set", "eth0", "up")
	if _, told := h.startIn(t, namespace); told == nil || !strings.Contains(told.Error(), "absent0") {
		t.Errorf("without an interface it says %v", told)
	}
	mustBeUsable(t, namespace)
	if err := inside(t, namespace, func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", []byte("1"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	took, told := h.startIn(t, namespace)
	if told == nil || !strings.Contains(told.Error(), "IPv6 is off there (sysctl net.ipv6.conf.eth0.disable_ipv6)") {
		t.Errorf("without IPv6 it says %v", told)
	}
	if took >= linkLocalTimeout {
		t.Errorf("it waited for %v", took)
	}
}
