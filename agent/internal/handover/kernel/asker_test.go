package kernel

import (
	"bytes"
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel tells where an interface is and what its address is, and that there is none
// by another name.
func TestInterfacesAreFound(t *testing.T) {
	a, err := newAsker()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	want, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if index, mac, err := a.link("lo"); err != nil || int(index) != want.Index || !bytes.Equal(mac, make([]byte, 6)) {
		t.Errorf("it is number %d with %q, %v; want %d with zeros", index, mac, err, want.Index)
	}
	if _, _, err := a.link("nowhere"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("an interface that is not there: %v, want %v", err, unix.ENODEV)
	}
}
