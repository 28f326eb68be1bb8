// Package lab makes several machines on one: each host is a set of Linux
// namespaces (network, mount, process and host name) with one interface,
// eth0, on a bridge that stands for the switch. The real haproxy and keepalived
// run in the hosts unchanged; nothing in a lab reaches the network of the
// machine that it runs on.
//
// A lab lives as long as the process that started it. Close takes it down. If
// the owner dies without calling Close, the kernel ends every process of the
// lab, and the next Start, by anyone, removes the names that are left.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Spec says which hosts a lab has.
type Spec struct {
	// Hosts are the machines on the switch, in the order in which they start.
	Hosts []HostSpec
	// Dir receives a directory a host, with the log files of its processes.
	// Empty means a new temporary directory, which the caller may keep or
	// remove after Close.
	Dir string
}

// HostSpec describes one machine.
type HostSpec struct {
	// Name is the host name and the name of its port on the switch: at most 15
	// characters, as for any interface.
	Name string
	// Address is the address of eth0 with its prefix length.
	Address netip.Prefix
	// NonlocalBind lets programs bind addresses that the host does not hold. It
	// sets net.ipv4.ip_nonlocal_bind and net.ipv6.ip_nonlocal_bind, which the
	// product does without.
	NonlocalBind bool
	// Private lists existing directories that this host does not share with the
	// machine: inside the host each starts empty. Host.Path tells where their
	// files are outside. /run is always private.
	Private []string
}

// VIP is the virtual address of the guide's cluster.
var VIP = netip.MustParsePrefix("192.168.1.100/24")

// Guide returns the hosts of the guide's cluster, with a controller and two
// clients beside them.
func Guide() Spec {
	host := func(name string, last byte) HostSpec {
		return HostSpec{Name: name, Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 1, last}), 24)}
	}
	return Spec{Hosts: []HostSpec{
		host("controller", 5),
		host("lb-master", 10),
		host("lb-backup", 11),
		host("web1", 20),
		host("web2", 21),
		host("web3", 22),
		host("client", 50),
		host("client2", 51),
	}}
}

// Lab is a running lab. Its methods may be called from several goroutines.
type Lab struct {
	// Name is unique among the labs of this machine. The network namespace of a
	// host is called Name-host.
	Name string
	// Dir holds the log files, one directory a host.
	Dir string

	owner *ownerRecord
	sw    *machine
	hosts []*Host
	reaps bool // the calling process is the reaper of orphans, until Close

	closing sync.Once
	closed  error
}

// switchName is the name of the machine whose bridge connects the hosts.
const switchName = "switch"

// Start removes what dead owners left behind and starts a lab. The context
// bounds the start alone. The caller must call Close.
func Start(ctx context.Context, spec Spec) (*Lab, error) {
	if err := Supported(ctx); err != nil {
		return nil, err
	}
	if err := Sweep(ctx); err != nil {
		return nil, fmt.Errorf("remove labs whose owner is dead: %w", err)
	}
	owner, err := newOwnerRecord()
	if err != nil {
		return nil, err
	}
	l := &Lab{Name: owner.lab, Dir: spec.Dir, owner: owner}
	if err := l.start(ctx, spec); err != nil {
		return nil, errors.Join(fmt.Errorf("start lab %s: %w", l.Name, err), l.Close())
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context, spec Spec) error {
	if l.Dir == "" {
		dir, err := os.MkdirTemp("", l.Name+"-")
		if err != nil {
			return err
		}
		l.Dir = dir
	}
	if err := l.startSwitch(ctx); err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	for _, hs := range spec.Hosts {
		if err := hs.check(); err != nil {
			return err
		}
		if err := l.addHost(ctx, hs); err != nil {
			return fmt.Errorf("host %s: %w", hs.Name, err)
		}
	}
	return nil
}

func (h HostSpec) check() error {
	switch {
	case h.Name == "" || len(h.Name) > 15 || h.Name == switchName:
		return fmt.Errorf("host name %q: want 1 to 15 characters, and not %q", h.Name, switchName)
	case !h.Address.IsValid():
		return fmt.Errorf("host %s: address missing: want one like 192.168.1.10/24", h.Name)
	}
	return nil
}

func (l *Lab) startSwitch(ctx context.Context) error {
	m, err := startMachine(ctx, l.Name, switchName, filepath.Join(l.Dir, switchName), nil)
	if err != nil {
		return err
	}
	l.sw = m
	// Without snooping the bridge floods multicast, so that VRRP needs no
	// querier; without spanning tree a port forwards as soon as it is up.
	if err := m.ip(ctx, "link", "add", "br0", "type", "bridge", "stp_state", "0", "mcast_snooping", "0"); err != nil {
		return err
	}
	return m.ip(ctx, "link", "set", "br0", "up")
}

func (l *Lab) addHost(ctx context.Context, spec HostSpec) error {
	private := append([]string{"/run"}, spec.Private...)
	m, err := startMachine(ctx, l.Name, spec.Name, filepath.Join(l.Dir, spec.Name), private)
	if err != nil {
		return err
	}
	h := &Host{Name: spec.Name, Address: spec.Address, machine: m, sw: l.sw}
	l.hosts = append(l.hosts, h)
	steps := [][]string{
		{"link", "add", "name", spec.Name, "type", "veth", "peer", "name", "eth0", "netns", m.netns},
		{"link", "set", "dev", spec.Name, "master", "br0", "up"},
	}
	for _, step := range steps {
		if err := l.sw.ip(ctx, step...); err != nil {
			return err
		}
	}
	if err := m.ip(ctx, "address", "add", spec.Address.String(), "dev", "eth0"); err != nil {
		return err
	}
	if err := m.ip(ctx, "link", "set", "eth0", "up"); err != nil {
		return err
	}
	if !spec.NonlocalBind {
		return nil
	}
	return h.run(ctx, "sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=1", "net.ipv6.ip_nonlocal_bind=1")
}

// Host returns the host of that name. It panics if the lab has none, since the
// name is the caller's constant.
func (l *Lab) Host(name string) *Host {
	i := slices.IndexFunc(l.hosts, func(h *Host) bool { return h.Name == name })
	if i < 0 {
		panic(fmt.Sprintf("lab %s has no host %q", l.Name, name))
	}
	return l.hosts[i]
}

// Hosts returns all hosts in the order in which they were started.
func (l *Lab) Hosts() []*Host { return slices.Clone(l.hosts) }

// Close ends every process of the lab and removes its namespaces. It leaves
// the log files. It may be called more than once.
func (l *Lab) Close() error {
	l.closing.Do(func() {
		var errs []error
		for _, h := range l.hosts {
			errs = append(errs, h.stop())
			h.processes.Wait()
		}
		if l.sw != nil {
			errs = append(errs, l.sw.stop())
		}
		if l.reaps {
			errs = append(errs, reapOrphans(false))
		}
		errs = append(errs, removeCgroups(l.Name))
		if l.owner != nil {
			errs = append(errs, l.owner.release())
		}
		l.closed = errors.Join(errs...)
	})
	return l.closed
}
