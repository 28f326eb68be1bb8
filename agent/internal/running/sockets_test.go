package running

import (
	"net"
	"os"
	"testing"
)

func TestListens(t *testing.T) {
	if listens, err := Listens(os.Getpid()); listens || err != nil {
		t.Errorf("without a socket: %v, %v", listens, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, pid := range []int{os.Getpid(), os.Getppid()} { // a child's counts
		if listens, err := Listens(pid); !listens || err != nil {
			t.Errorf("process %d with a socket: %v, %v", pid, listens, err)
		}
	}
}
