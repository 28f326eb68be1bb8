package scenarios

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// view is what a load balancer does, or shall do, read in one of three ways:
// from the API, from HAProxy's file, or from its processes. It is read here
// without any of the product's code.
type view struct {
	// Servers by pool/backend.
	Servers map[string]server
	// Binds are the TCP addresses listened on, the statistics page's included.
	Binds []string
}

// server is one backend. Weight 0 stands for a drained one.
type server struct {
	Address     netip.AddrPort
	Weight      int
	Maintenance bool
}

// target reads what is desired from the API.
func (s *site) target(ctx context.Context) (view, error) {
	v := view{Servers: map[string]server{}}
	pools, err := s.config.ListPools(ctx, &tandemv1.ListPoolsRequest{Parent: cluster.Name})
	if err != nil {
		return v, err
	}
	for _, pool := range pools.GetPools() {
		backends, err := s.config.ListBackends(ctx, &tandemv1.ListBackendsRequest{Parent: pool.GetName()})
		if err != nil {
			return v, err
		}
		for _, b := range backends.GetBackends() {
			v.Servers[last(pool.GetName())+"/"+last(b.GetName())] = desired(b)
		}
	}
	vips, err := s.config.ListVips(ctx, &tandemv1.ListVipsRequest{Parent: cluster.Name})
	if err != nil {
		return v, err
	}
	addresses := map[string]string{}
	for _, vip := range vips.GetVips() {
		addresses[last(vip.GetName())] = netip.MustParsePrefix(vip.GetAddresses()[0]).Addr().String()
	}
	listeners, err := s.config.ListListeners(ctx, &tandemv1.ListListenersRequest{Parent: cluster.Name})
	if err != nil {
		return v, err
	}
	for _, l := range listeners.GetListeners() {
		for _, b := range l.GetBinds() {
			v.Binds = append(v.Binds, fmt.Sprintf("%s:%d", addresses[b.GetVip()], b.GetPort()))
		}
	}
	v.Binds = append(v.Binds, "*:8080", "[::]:8080") // deploy/examples/guide.yaml's statistics page
	slices.Sort(v.Binds)
	return v, nil
}

func desired(b *tandemv1.Backend) server {
	s := server{Address: netip.AddrPortFrom(netip.MustParseAddr(b.GetAddress()), uint16(b.GetPort())), Weight: 1}
	if b.Weight != nil {
		s.Weight = int(b.GetWeight())
	}
	if b.GetOverride().GetWeight() != 0 {
		s.Weight = int(b.GetOverride().GetWeight())
	}
	s.Maintenance = b.GetOverride().GetState() == "maintenance"
	if b.GetOverride().GetState() == "drain" {
		s.Weight = 0
	}
	return s
}

// haproxyFile is the file that HAProxy of a node reads.
func haproxyFile(n *cluster.Node) string { return filepath.Join(n.StateDir, "haproxy", "haproxy.cfg") }

// file reads what HAProxy's file says.
func file(n *cluster.Node) (view, error) {
	v := view{Servers: map[string]server{}}
	text, err := os.ReadFile(haproxyFile(n))
	if err != nil {
		return v, err
	}
	section := ""
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case !strings.HasPrefix(line, " "):
			section = words[len(words)-1]
		case words[0] == "bind":
			v.Binds = append(v.Binds, strings.Trim(words[1], "'"))
		case words[0] == "server":
			s := server{Address: netip.MustParseAddrPort(words[2]), Maintenance: slices.Contains(words, "disabled")}
			if i := slices.Index(words, "weight"); i > 0 {
				s.Weight, err = strconv.Atoi(words[i+1])
			}
			v.Servers[section+"/"+words[1]] = s
		}
	}
	slices.Sort(v.Binds)
	return v, err
}

// master asks the master process of a node's HAProxy.
func master(ctx context.Context, n *cluster.Node, lines string) (string, error) {
	socket := n.Host.Path(filepath.Join(n.RunDir, "haproxy", "master.sock"))
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, lines+"\n"); err != nil {
		return "", err
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		return "", err
	}
	text, err := io.ReadAll(conn)
	return string(text), err
}

// workers returns the process ids of all living workers, the newest first.
func workers(ctx context.Context, n *cluster.Node) ([]string, error) {
	text, err := master(ctx, n, "show proc")
	if err != nil {
		return nil, err
	}
	var pids []string
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) > 1 && words[1] == "worker" {
			pids = append(pids, words[0])
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("no worker in %q", text)
	}
	return pids, nil
}

// workerServers reads the servers of one worker, nil if it has ended.
func workerServers(ctx context.Context, n *cluster.Node, pid string) (map[string]server, error) {
	text, err := master(ctx, n, "@!"+pid+" show servers state")
	if err != nil {
		return nil, err
	}
	servers := map[string]server{}
	var columns []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) > 2 && words[0] == "#":
			columns = words[1:]
			continue
		case len(words) < 10 || columns == nil:
			continue
		}
		field := func(name string) string { return words[slices.Index(columns, name)] }
		weight, err := strconv.Atoi(field("srv_uweight"))
		if err != nil {
			return nil, fmt.Errorf("show servers state: %q: %w", line, err)
		}
		flags, err := strconv.Atoi(field("srv_admin_state"))
		if err != nil {
			return nil, fmt.Errorf("show servers state: %q: %w", line, err)
		}
		// Forced, inherited, by resolution of its name. 0x04 tells only that its
		// line says "disabled".
		const maintenance = 0x01 | 0x02 | 0x20 | 0x40
		address, err := netip.ParseAddrPort(field("srv_addr") + ":" + field("srv_port"))
		if err != nil {
			return nil, fmt.Errorf("show servers state: %q: %w", line, err)
		}
		servers[field("be_name")+"/"+field("srv_name")] = server{
			Address: address, Weight: weight, Maintenance: flags&maintenance != 0,
		}
	}
	if columns == nil {
		return nil, nil
	}
	return servers, nil
}

// runtime reads what the newest worker does, and where the node listens.
func runtime(ctx context.Context, n *cluster.Node) (view, error) {
	var v view
	pids, err := workers(ctx, n)
	if err != nil {
		return v, err
	}
	if v.Servers, err = workerServers(ctx, n, pids[0]); err != nil {
		return v, err
	}
	sockets, err := n.Host.Output(ctx, "ss", "-Hltn")
	if err != nil {
		return v, err
	}
	lines := bufio.NewScanner(bytes.NewReader(sockets))
	for lines.Scan() {
		address := strings.Replace(strings.Fields(lines.Text())[3], "0.0.0.0:", "*:", 1)
		if !slices.Contains(v.Binds, address) { // one a thread
			v.Binds = append(v.Binds, address)
		}
	}
	slices.Sort(v.Binds)
	return v, nil
}

// loaded tells whether the newest worker has loaded the structure that the file
// has now. Both carry it as a description.
func loaded(ctx context.Context, n *cluster.Node) error {
	pids, err := workers(ctx, n)
	if err != nil {
		return err
	}
	info, err := master(ctx, n, "@!"+pids[0]+" show info")
	if err != nil {
		return err
	}
	text, err := os.ReadFile(haproxyFile(n))
	if err != nil {
		return err
	}
	_, running, _ := strings.Cut(info, "\ndescription: ")
	_, written, _ := strings.Cut(string(text), "\n  description ")
	running, _, _ = strings.Cut(running, "\n")
	written, _, _ = strings.Cut(written, "\n")
	if running != written || running == "" {
		return fmt.Errorf("the newest worker has loaded %q and the file is %q", running, written)
	}
	return nil
}

// fileLag is how long HAProxy's file may be behind a change of servers, which
// is in the journal, on a machine that does other work too: half a second is what
// the agent takes.
const fileLag = 5 * time.Second

// agree waits until file and processes of nodes agree with the target.
func (s *site) agree(nodes ...string) error {
	return lab.Until(labtest.Deadline(s.t, fileLag), "file, processes and target to agree", func(ctx context.Context) error {
		var errs []error
		for _, node := range nodes {
			errs = append(errs, s.agrees(ctx, node))
		}
		return errors.Join(errs...)
	})
}

// agrees returns how file or processes of a node differ from the target.
func (s *site) agrees(ctx context.Context, node string) error {
	n := s.Nodes[node]
	want, err := s.target(ctx)
	if err != nil {
		return err
	}
	inFile, err := file(n)
	if err != nil {
		return err
	}
	if diff := cmp.Diff(want, inFile, comparePorts); diff != "" {
		return fmt.Errorf("the file on %s is not the target (-target +file):\n%s", node, diff)
	}
	running, err := runtime(ctx, n)
	if err != nil {
		return err
	}
	// One that was removed goes when its last connection has.
	maps.DeleteFunc(running.Servers, func(name string, now server) bool {
		_, wanted := want.Servers[name]
		return !wanted && now.Maintenance
	})
	if diff := cmp.Diff(want, running, comparePorts); diff != "" {
		return fmt.Errorf("HAProxy on %s does not do the target (-target +running):\n%s", node, diff)
	}
	if err := loaded(ctx, n); err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	return s.timeoutAgrees(ctx, n)
}

// timeoutAgrees compares a setting that only the file shows.
func (s *site) timeoutAgrees(ctx context.Context, n *cluster.Node) error {
	c, err := s.config.GetCluster(ctx, &tandemv1.GetClusterRequest{Name: cluster.Name})
	if err != nil {
		return err
	}
	text, err := os.ReadFile(haproxyFile(n))
	if err != nil {
		return err
	}
	want := fmt.Sprintf("\n  timeout client %dms\n", c.GetDefaults().GetClientTimeout().AsDuration().Milliseconds())
	if !bytes.Contains(text, []byte(want)) {
		return fmt.Errorf("the file on %s has no line %q", n.Host.Name, want)
	}
	return nil
}

// last returns the id at the end of a resource name.
func last(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// differs returns how a node's processes do not do what they did.
func differs(ctx context.Context, n *cluster.Node, before view) error {
	now, err := runtime(ctx, n)
	if err != nil {
		return err
	}
	if diff := cmp.Diff(before, now, comparePorts); diff != "" {
		return fmt.Errorf("HAProxy on %s does something else than before (-before +now):\n%s", n.Host.Name, diff)
	}
	return nil
}

var comparePorts = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
