package wire

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Who comes so late that the time is over sees what has come meanwhile all the same: else
// all that waits in the sockets of an agent that had no turn would not be heard.
func TestAPollThatIsLateLooks(t *testing.T) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.add(int32(fd)); err != nil {
		t.Fatal(err)
	}
	for _, late := range []time.Duration{0, time.Minute} {
		if fds, _, err := p.ready(time.Now().Add(-late)); err != nil || len(fds) != 0 {
			t.Errorf("with nothing to read, %v late: %v, %v", late, fds, err)
		}
	}
	if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	for _, late := range []time.Duration{-time.Minute, 0, time.Minute} {
		before := time.Now()
		fds, at, err := p.ready(before.Add(-late))
		if err != nil || !slices.Equal(fds, []int32{int32(fd)}) {
			t.Errorf("%v late: %v, %v", late, fds, err)
		}
		if at.Before(before) || at.After(time.Now()) {
			t.Errorf("%v late: it looked at %v after it was asked to", late, at.Sub(before))
		}
	}
}
