package link

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever changes of an interface is heard, and once it is taken there is no more news.
func TestChangesAreHeard(t *testing.T) {
	cable(t)
	c, err := HearChanges()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	heard := func(within int) bool {
		t.Helper()
		fds := []unix.PollFd{{Fd: c.FD(), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, within)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Drain(); err != nil {
			t.Fatal(err)
		}
		return n > 0
	}
	for heard(300) { // the end of what the cable came with
		continue
	}
	for _, command := range []string{
		"link set eth0 address 02:00:00:00:00:01",
		"address add 192.168.1.10/24 dev eth0",
		"route add default via 192.168.1.1",
		"link set eth1 down",
		"link add br0 type bridge",
	} {
		if said, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", command, err, said)
		}
		if !heard(5000) {
			t.Errorf("%q is not heard", command)
		}
		for heard(100) {
			continue
		}
	}
}

// More changes at once than fit are a change, too, and not the end of listening.
func TestMoreChangesThanFitAreHeard(t *testing.T) {
	cable(t)
	c, err := HearChanges()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil { // the least that there is, see socket(7)
		t.Fatal(err)
	}
	change := func(address string) {
		t.Helper()
		if said, err := exec.Command("ip", "address", "add", address, "dev", "eth0").CombinedOutput(); err != nil {
			t.Fatalf("ip address add %s: %v: %s", address, err, said)
		}
	}
	for n := range 30 {
		change(fmt.Sprintf("192.168.%d.10/24", n))
	}
	if _, _, err := unix.Recvfrom(c.fd, make([]byte, 1), unix.MSG_PEEK); !errors.Is(err, unix.ENOBUFS) {
		t.Fatalf("all of them fit: %v", err)
	}
	change("192.168.100.10/24")
	for n := range 30 {
		change(fmt.Sprintf("192.169.%d.10/24", n))
	}
	for _, address := range []string{"192.168.101.10/24", "192.168.102.10/24"} {
		if err := c.Drain(); err != nil {
			t.Fatal(err)
		}
		change(address)
		fds := []unix.PollFd{{Fd: c.FD(), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 5000); err != nil || n == 0 {
			t.Fatalf("%s is not heard: %v", address, err)
		}
	}
}
