package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
)

// tour leads through a site.
type tour struct {
	*show
	options
	*cluster.Cluster

	web, stats string              // where clients find the listener and the page, as host:port
	url        string              // of the listener
	webs       map[string]string   // address:port of the web servers by name
	running    map[string]*process // web servers by name
	vip        bool                // the site has one
	leftOut    []string            // what a site without namespaces cannot show
}

type process = lab.Process

// builder makes the machines, and everything but the cluster.
type builder func(context.Context, *tour) error

// labSite is the guide's site, in namespaces.
func labSite(programs cluster.Programs) builder {
	return func(ctx context.Context, t *tour) error {
		t.vip = true
		t.web, t.stats = lab.VIP.Addr().String()+":80", lab.VIP.Addr().String()+":8080"
		t.url = "http://" + lab.VIP.Addr().String() + "/"
		t.webs = map[string]string{}
		t.say(t.paint(bold, "Tandem: the guide's cluster, with the real HAProxy and keepalived, in network namespaces"),
			"VIP 192.168.1.100 · lb-master 192.168.1.10 · lb-backup 192.168.1.11 · web1 to web3 192.168.1.20 to .22",
			"controller 192.168.1.5 · client 192.168.1.50")
		t.section("The machines")
		return t.step(ctx, func(ctx context.Context) (string, error) {
			l, err := lab.Start(ctx, lab.Guide())
			if err != nil {
				return "", err
			}
			t.Cluster = cluster.New(l, programs, cluster.Endpoint{Host: l.Host("controller").Address.Addr(), GRPC: 9443, HTTP: 8443})
			for _, name := range traffic.WebNames {
				t.webs[name] = netip.AddrPortFrom(l.Host(name).Address.Addr(), 80).String()
			}
			t.dir = l.Dir
			return fmt.Sprintf("%d machines on one switch, with their files in LAB=%s", len(l.Hosts()), l.Dir), nil
		})
	}
}

// plainSite is what can be had without namespaces: everything on this
// machine's loopback interface, and no VIP.
func plainSite(programs cluster.Programs, why string) builder {
	return func(ctx context.Context, t *tour) error {
		t.leftOut = []string{
			"",
			"Left out: the VIP and keepalived, so also the failover from lb-master to lb-backup, and",
			"machines of their own: both load balancers listen on the same port of this machine.",
			"Why: " + why + ".",
			"To see everything, run the demo where network namespaces can be made: as root on a machine or a",
			"virtual machine, or in a container started with --privileged.",
		}
		t.say(t.paint(bold, "Tandem: a controller and two load balancers with the real HAProxy, on 127.0.0.1"))
		t.say(t.leftOut[1:]...)
		t.section("The machines")
		return t.step(ctx, func(ctx context.Context) (string, error) {
			ports, err := freePorts(7)
			if err != nil {
				return "", err
			}
			l, err := lab.Plain("controller", cluster.Master, cluster.Backup, "web1", "web2", "web3", "client")
			if err != nil {
				return "", err
			}
			local := netip.MustParseAddr("127.0.0.1")
			t.Cluster = cluster.New(l, programs, cluster.Endpoint{Host: local, GRPC: ports[0], HTTP: ports[1]})
			t.web, t.stats = netip.AddrPortFrom(local, ports[2]).String(), netip.AddrPortFrom(local, ports[3]).String()
			t.url = "http://" + t.web + "/"
			t.webs = map[string]string{}
			for i, name := range traffic.WebNames {
				t.webs[name] = netip.AddrPortFrom(local, ports[4+i]).String()
			}
			t.dir = l.Dir
			return "no machines: everything runs on this one, with its files in LAB=" + l.Dir, nil
		})
	}
}

// freePorts returns TCP ports of 127.0.0.1 that nobody listens on.
func freePorts(n int) ([]uint16, error) {
	ports := make([]uint16, 0, n)
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close() // all at the end, so that each is another one
		ports = append(ports, netip.MustParseAddrPort(listener.Addr().String()).Port())
	}
	return ports, nil
}

// hold keeps the site up until the context ends and says how to reach it.
func (t *tour) hold(ctx context.Context) {
	if t.Cluster == nil {
		return
	}
	t.section("The cluster stays up until Ctrl-C")
	lines, err := t.doors()
	if err != nil {
		lines = []string{"  cannot say how to reach it: " + err.Error()}
	}
	t.say(lines...)
	<-ctx.Done()
	t.say("", "Taking it down.")
}

// doors writes a script a host that runs a command in it, and one for lbctl,
// and returns how to use them.
func (t *tour) doors() ([]string, error) {
	script := func(name string, env, argv []string) (string, error) {
		path := t.Lab.Dir + "/" + name
		words := append([]string{"exec", "env"}, env...)
		text := "#!/bin/sh\n" + strings.Join(words, " ") + " " + strings.Join(argv, " ") + " \"$@\"\n"
		return path, os.WriteFile(path, []byte(text), 0o755)
	}
	lbctl, err := script("lbctl", t.LbctlEnv(), append(t.Controller.Host.Enter(), t.Programs.CLI))
	if err != nil {
		return nil, err
	}
	lines := []string{
		"  " + lbctl + " status --watch",
		"  " + lbctl + " backend drain web_servers/web1",
	}
	if !t.vip {
		return append(lines, "  curl "+t.url, "  curl -u admin:password123 http://"+t.stats+"/stats"), nil
	}
	for _, h := range t.Lab.Hosts() {
		if _, err := script("on-"+h.Name, nil, h.Enter()); err != nil {
			return nil, err
		}
	}
	return append(lines,
		"  "+t.Lab.Dir+"/on-client curl "+t.url,
		"  "+t.Lab.Dir+"/on-client curl -u admin:password123 http://"+t.stats+"/stats",
		"  "+t.Lab.Dir+"/on-lb-master bash        (a shell there; so with every other machine)",
		"Logs and files of each machine are below "+t.Lab.Dir+"; as root, in another terminal.",
	), nil
}

// close takes the site down. After a failure it shows and keeps the logs.
func (t *tour) close(failed error) error {
	if t.Cluster == nil {
		return nil
	}
	if errors.Is(failed, errShown) {
		t.say("", "The last lines of the logs:")
		_ = t.Lab.Tails(t.out, 20) // what cannot be read is missing there, and said by its absence
		t.say("All logs are kept in " + t.Lab.Dir)
	}
	err := errors.Join(t.Close(), t.Lab.Close())
	if !errors.Is(failed, errShown) && err == nil {
		err = os.RemoveAll(t.Lab.Dir)
	}
	return err
}

// port returns the port of host:port.
func port(address string) string {
	return strconv.Itoa(int(netip.MustParseAddrPort(address).Port()))
}
