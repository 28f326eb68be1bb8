package adopt

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"syscall"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/importer"
	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/running"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// foreign finds the daemons that read files that Tandem did not write. A HAProxy
// that serves nobody, such as Debian's before it is configured, is in nobody's way.
func foreign() (proxies, vrrps []running.Daemon, err error) {
	proxies, err = running.HAProxies()
	if err != nil {
		return nil, nil, err
	}
	if vrrps, err = running.Keepaliveds(); err != nil {
		return nil, nil, err
	}
	proxies = slices.DeleteFunc(proxies, reads(config.IsOurs))
	return slices.DeleteFunc(proxies, reads(servesNobody)), slices.DeleteFunc(vrrps, reads(keepalived.IsOurs)), nil
}

// listens begins each section of haproxy.cfg that clients connect to (manual, 4).
var listens = regexp.MustCompile(`(?m)^[ \t]*(frontend|listen)[ \t]`)

func servesNobody(haproxyCfg []byte) bool { return !listens.Match(haproxyCfg) }

// reads tells whether a daemon's file is ours.
func reads(isOurs func([]byte) bool) func(running.Daemon) bool {
	return func(d running.Daemon) bool {
		text, err := os.ReadFile(d.File)
		return err == nil && isOurs(text)
	}
}

// readOriginals reads the hand-written files, wherever they are now. What is
// kept of them becomes part of what HAProxy runs as root, so they must be as
// hard to change.
func readOriginals(node string, networks map[string]string, s *state) (*importer.Import, error) {
	n := importer.Node{ID: node, Networks: networks}
	for path, to := range map[string]*importer.Source{s.HAProxy.File: &n.HAProxy, s.Keepalived.File: &n.Keepalived} {
		text, err := readSafely(original(path))
		if err != nil {
			return nil, err
		}
		*to = importer.Source{Path: path, Text: text}
	}
	return importer.Read(n)
}

// readSafely reads a file that nobody but root, or the agent's own user, can
// change.
func readSafely(path string) (text string, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if owner != 0 && int(owner) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 || !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s can be changed by others than root: chown root and chmod go-w it first", path)
	}
	data, err := io.ReadAll(file)
	return string(data), err
}

// keptOf is what is kept, for the renderer; nil: nothing.
func keptOf(k *importer.Kept) *config.Kept {
	if k.Empty() {
		return nil
	}
	out := &config.Kept{Global: k.Global, Defaults: k.Defaults}
	for _, s := range k.Sections {
		out.Sections = append(out.Sections, config.KeptSection{Kind: s.Kind, Name: s.Name, Lines: s.Lines})
	}
	return out
}

// coversProxy refuses a configuration that lacks what the hand-written file has:
// clients would lose it.
func coversProxy(i *importer.Import, c *haproxyv1.Config) error {
	for _, l := range i.Config.GetListeners() {
		if !slices.ContainsFunc(c.GetFrontends(), func(f *haproxyv1.Frontend) bool { return f.GetName() == l.GetName() }) {
			return lacks("listener", l.GetName())
		}
	}
	for _, p := range i.Config.GetPools() {
		if !slices.ContainsFunc(c.GetBackends(), func(b *haproxyv1.Backend) bool { return b.GetName() == p.GetName() }) {
			return lacks("pool", p.GetName())
		}
	}
	if i.Config.GetCluster().GetStatsPage() != nil && c.GetGlobal().GetStats() == nil {
		return lacks("statistics page", "of the hand-written file")
	}
	return nil
}

func lacks(kind, name string) error {
	return fmt.Errorf("not taken over yet: the configuration lacks the %s %s: apply what lb-agent adopt --output has written", kind, name)
}

// speaksLike tells whether an instance advertises from and to where the running pair
// does: another list is not heard there.
func speaksLike(is *keepalivedv1.Instance, runs importer.Speaking) bool {
	if len(is.GetSpeakers()) == 0 || len(runs.Peers) == 0 {
		return len(is.GetSpeakers()) == len(runs.Peers)
	}
	var peers []netip.Addr
	for _, s := range is.GetSpeakers() {
		for _, a := range s.GetAddresses() {
			if address, err := netip.ParseAddr(a); err == nil && a != is.GetUnicastSource() {
				peers = append(peers, address)
			}
		}
	}
	return !slices.ContainsFunc(runs.Peers, func(text string) bool {
		a, err := netip.ParseAddr(text)
		return err != nil || !slices.Contains(peers, a)
	}) && (runs.Source == "" || runs.Source == is.GetUnicastSource())
}

// coversVRRP refuses a configuration that is not what the running pair speaks:
// both nodes would hold the VIP.
func coversVRRP(i *importer.Import, c *keepalivedv1.Config) error {
	vrrp := i.Config.GetCluster().GetVrrp()
	for _, v := range i.Config.GetVips() {
		n := slices.IndexFunc(c.GetInstances(), func(i *keepalivedv1.Instance) bool { return i.GetName() == v.GetName() })
		if n < 0 {
			return lacks("VIP", v.GetName())
		}
		is := c.GetInstances()[n]
		advert := vrrp.GetAdvertInterval()
		if v.GetAdvertInterval() != nil {
			advert = v.GetAdvertInterval()
		}
		network := v.GetNetwork()
		if network == "" {
			network = importer.FrontNetwork
		}
		var differs string
		switch {
		case is.GetVersion() != vrrp.GetVersion():
			differs = "version"
		case is.GetVrid() != v.GetVrid():
			differs = "VRID"
		case is.GetNetwork() != network:
			differs = "network"
		case !proto.Equal(is.GetAdvertInterval(), advert):
			differs = "interval"
		case is.GetAuthPassword() != vrrp.GetAuthPassword():
			differs = "password"
		case is.GetAnchor() != v.GetAddresses()[0]:
			differs = "address"
		case is.GetVrrpNetwork() != v.GetVrrpNetwork():
			differs = "network of the advertisements"
		case is.GetVirtualMac() != v.GetVirtualMac():
			differs = "virtual MAC address"
		case !speaksLike(is, i.Speaking[v.GetName()]):
			differs = "way to advertise by unicast, or an address of it,"
		}
		if differs != "" {
			return fmt.Errorf("not taken over yet: the %s of VIP %s is not that of the running pair, so that both nodes would hold it: "+
				"apply what lb-agent adopt --output has written", differs, v.GetName())
		}
	}
	return nil
}
