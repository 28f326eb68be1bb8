package kernel

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// playHost in the environment makes the test binary a machine: a process in a network
// namespace, with all of its threads, that does what it is told.
const playHost = "TANDEM_TEST_HOST"

// order to a machine, one a line on its standard input. Exactly one of its fields
// is set.
type order struct {
	Listen   string        // answer there, whoever has the address
	Times    int           // beside Ask: so often
	Upload   int           // so many bytes, on a connection of its own to Dial
	Cost     bool          // asks what the program has cost
	Dial     string        // and say hello
	From     int           // beside Dial: from the port that the nth connection had
	Leave    int           // have the other side close the nth connection first
	Ask      int           // say hello again, on the nth connection
	Drop     int           // close it, without waiting for the other side
	Set      *setting      // of an address
	Attach   string        // to an interface
	Detach   string        // from one
	Attached string        // asks about one
	Foreign  string        // put somebody else's filter on the way out of one
	SetRules []string      // on these interfaces; one that is empty: on none
	Find     *netip.Addr   // on eth0
	For      time.Duration // beside Find
}

// setting is a way that begins now.
type setting struct {
	Address  netip.Addr
	Forward  time.Duration
	New, All bool
	From, To net.HardwareAddr
}

// answer to an order.
type answer struct {
	Error string
	Text  string
	N     int
	Took  time.Duration
	Spent time.Duration // by the program
	// Socket is that by which it asks the kernel, of which no other one has the number;
	// 0: none is open.
	Socket uint64
}

func TestMain(m *testing.M) {
	name := os.Getenv(playHost)
	if name == "" {
		os.Exit(m.Run())
	}
	h := &machine{name: name}
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for in.Scan() {
		var o order
		err := json.Unmarshal(in.Bytes(), &o)
		var a answer
		begin := time.Now()
		if err == nil {
			err = h.obey(&o, &a)
		}
		if a.Took = time.Since(begin); err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			os.Exit(1)
		}
	}
}

// machine is one that does what it is told.
type machine struct {
	name    string
	kernel  *Kernel
	network Network
	conns   []net.Conn
}

func (m *machine) obey(o *order, a *answer) (err error) {
	if m.kernel == nil && (o.Set != nil || o.Attach != "" || o.Attached != "") {
		if m.kernel, err = Load(); err != nil {
			return err
		}
	}
	switch {
	case o.Listen != "":
		return m.listen(o.Listen)
	case o.Upload != 0:
		return upload(o.Dial, o.Upload)
	case o.Cost:
		stats, err := m.kernel.program.Stats()
		if err == nil {
			a.N, a.Spent = int(stats.RunCount), stats.Runtime
		}
		return err
	case o.Dial != "":
		dialer := net.Dialer{Timeout: 5 * time.Second}
		if o.From != 0 {
			dialer.LocalAddr = m.conns[o.From-1].LocalAddr()
		}
		c, err := dialer.Dial("tcp", o.Dial)
		if err != nil {
			return err
		}
		m.conns = append(m.conns, c)
		a.N = len(m.conns)
		a.Text, err = hello(c)
		return err
	case o.Ask != 0:
		for range max(1, o.Times) {
			if a.Text, err = hello(m.conns[o.Ask-1]); err != nil {
				return err
			}
		}
		return nil
	case o.Leave != 0:
		return leave(m.conns[o.Leave-1])
	case o.Drop != 0:
		return m.conns[o.Drop-1].Close()
	case o.Set != nil:
		way := Way{New: o.Set.New, All: o.Set.All, From: o.Set.From, To: o.Set.To}
		now, err := Now()
		if o.Set.Forward != 0 {
			way.Until = now + o.Set.Forward
		}
		return errors.Join(err, m.kernel.Set(o.Set.Address, way))
	case o.Attach != "":
		return m.kernel.Attach(o.Attach)
	case o.Foreign != "":
		return m.foreign(o.Foreign)
	case o.Attached != "":
		on, err := m.kernel.Attached(o.Attached)
		a.Text = fmt.Sprint(on)
		return err
	case o.Detach != "":
		return Detach(o.Detach)
	case o.SetRules != nil:
		return SetRules(slices.DeleteFunc(o.SetRules, func(name string) bool { return name == "" }))
	case o.Find != nil:
		ctx, cancel := context.WithTimeout(context.Background(), o.For)
		defer cancel()
		mac, _, err := m.network.LinkAddress(ctx, "eth0", *o.Find)
		a.Text = mac.String()
		if m.network.asker != nil {
			cookie, failed := unix.GetsockoptUint64(m.network.asker.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
			a.Socket, err = cookie, errors.Join(err, failed)
		}
		return err
	}
	return errors.New("an empty order")
}

func (m *machine) foreign(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	attrs := filter(link)
	attrs.Handle, attrs.Parent = 1, netlink.HANDLE_MIN_EGRESS
	return errors.Join(netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: qdisc(link)}),
		netlink.FilterAdd(&netlink.BpfFilter{FilterAttrs: attrs, Fd: m.kernel.program.FD(), Name: "somebody-else", DirectAction: true}))
}

// listen answers each message with the machine's name, as HAProxy binds: also where
// the machine does not have the address.
func (m *machine) listen(address string) error {
	config := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) (err error) {
		level, option := unix.SOL_IP, unix.IP_TRANSPARENT
		if network == "tcp6" {
			level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		}
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }), err)
	}}
	l, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buffer := make([]byte, len("hello"))
				for {
					if _, err := io.ReadFull(c, buffer); err != nil {
						return
					}
					if string(buffer) == "leave" {
						return
					}
					if string(buffer) != "hello" { // an upload
						_, _ = io.Copy(io.Discard, c)
					}
					if _, err := fmt.Fprintln(c, m.name); err != nil {
						return
					}
				}
			}()
		}
	}()
	return nil
}

// upload sends bytes and waits until they have been taken.
func upload(address string, bytes int) error {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	block := make([]byte, 128<<10)
	for sent := 0; sent < bytes; sent += len(block) {
		if _, err := c.Write(block); err != nil {
			return err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.ReadAll(c)
	return err
}

// leave has the other side close the connection, and then closes it.
func leave(c net.Conn) error {
	if _, err := c.Write([]byte("leave")); err != nil {
		return err
	}
	if _, err := io.ReadAll(c); err != nil {
		return err
	}
	return c.Close()
}

// hello sends a message and returns who answers it.
func hello(c net.Conn) (string, error) {
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		return "", err
	}
	line := make([]byte, 0, 16)
	for one := make([]byte, 1); ; line = append(line, one[0]) {
		if _, err := c.Read(one); err != nil {
			return "", err
		}
		if one[0] == '\n' {
			return string(line), nil
		}
	}
}
