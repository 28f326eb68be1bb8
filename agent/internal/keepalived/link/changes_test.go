package link

import (
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
