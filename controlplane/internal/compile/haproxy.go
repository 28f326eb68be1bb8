package compile

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// proxy is HAProxy's part of a configuration, alike on all nodes of a cluster.
type proxy struct {
	parts []*part
	hash  [sha256.Size]byte
}

// proxyMemo remembers the last proxy and what it was made of.
type proxyMemo struct {
	structure, runtime *state.Config

	last    *proxy
	cluster *tandemv1.Cluster
	vips    []*tandemv1.Vip

	backends  memo[*tandemv1.Pool]
	frontends memo[*tandemv1.Listener]
	servers   map[string]*memo[*tandemv1.Backend]
}

func (m *proxyMemo) compile(t Target) (*proxy, error) {
	if t.Structure == m.structure && t.Runtime == m.runtime {
		return m.last, nil
	}
	last, err := m.compileAnew(t)
	if err != nil {
		*m = proxyMemo{} // half of it may be of t
		return nil, err
	}
	m.structure, m.runtime, m.last = t.Structure, t.Runtime, last
	m.cluster, m.vips = t.Structure.Cluster(), t.Structure.Vips()
	return last, nil
}

func (m *proxyMemo) compileAnew(t Target) (*proxy, error) {
	c := t.Structure
	sameCluster := m.cluster == c.Cluster()
	sameVips := sameSlice(m.vips, c.Vips())
	backends, err := m.backends.compile("haproxy/backend/", c.Pools(), sameCluster, func(p *tandemv1.Pool) (*agentv1.Resource, error) {
		return backend(c, p)
	})
	if err != nil {
		return nil, err
	}
	frontends, err := m.frontends.compile("haproxy/frontend/", c.Listeners(), sameCluster && sameVips, func(l *tandemv1.Listener) (*agentv1.Resource, error) {
		return frontend(c, l)
	})
	if err != nil {
		return nil, err
	}
	global := newPart("haproxy/global", []*agentv1.Resource{seal(haproxyGlobal(c))})
	parts := []*part{backends, frontends, global}
	servers, err := m.compileServers(t)
	if err != nil {
		return nil, err
	}
	parts = append(parts, servers...)
	return &proxy{parts: parts, hash: hashParts(parts)}, nil
}

// compileServers compiles the runtime's backends of the structure's pools. A
// backend of a pool that the structure does not have is left out.
func (m *proxyMemo) compileServers(t Target) ([]*part, error) {
	memos := make(map[string]*memo[*tandemv1.Backend], len(t.Structure.Pools()))
	var parts []*part
	for _, p := range t.Structure.Pools() {
		pool := id(p)
		s := m.servers[pool]
		if s == nil {
			s = &memo[*tandemv1.Backend]{}
		}
		memos[pool] = s
		part, err := s.compile("haproxy/server/"+pool+"/", t.Runtime.Backends(pool), true, func(b *tandemv1.Backend) (*agentv1.Resource, error) {
			return server(pool, b)
		})
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	m.servers = memos
	sortParts(parts)
	return parts, nil
}

func haproxyGlobal(c *state.Config) *agentv1.Resource {
	g := &haproxyv1.Global{MaxConnections: state.EffectiveMaxConnections(c)}
	setLogging(g, state.EffectiveLogging(c))
	if page := state.EffectiveStatsPage(c); page != nil {
		address, err := netip.ParseAddr(page.GetAddress())
		g.Stats = &haproxyv1.Stats{
			Bind:    &haproxyv1.Bind{Address: page.GetAddress(), Port: page.GetPort(), Floating: err == nil && isVirtual(c, address)},
			Path:    page.GetPath(),
			Realm:   page.GetRealm(),
			Refresh: page.GetRefresh(),
		}
		for _, u := range page.GetUsers() {
			g.Stats.Users = append(g.Stats.Users, &haproxyv1.User{
				Name:         u.GetName(),
				PasswordHash: c.Secret("stats/" + u.GetName()),
			})
		}
	}
	return &agentv1.Resource{Key: "haproxy/global", Body: &agentv1.Resource_HaproxyGlobal{HaproxyGlobal: g}}
}

// setLogging resolves where and how requests are logged. What is as it was
// before there was a choice leaves the fields of the choice zero.
func setLogging(g *haproxyv1.Global, l *tandemv1.Logging) {
	g.LogFacility = l.GetFacility()
	local, isLocal := localLogs[l.GetTarget()]
	switch {
	case l.GetTarget() == "":
		return
	case isLocal:
		g.LogLocal = local
	default:
		g.LogTarget = l.GetTarget()
	}
	if l.GetFormat() == "json" {
		g.LogFormat = haproxyv1.LogFormat_LOG_FORMAT_JSON
	}
	g.LogWithoutQuery = !l.GetQuery()
}

var localLogs = map[string]haproxyv1.LocalLog{
	"syslog":   haproxyv1.LocalLog_LOCAL_LOG_SYSLOG,
	"journald": haproxyv1.LocalLog_LOCAL_LOG_JOURNALD,
	"file":     haproxyv1.LocalLog_LOCAL_LOG_FILE,
}

func frontend(c *state.Config, l *tandemv1.Listener) (*agentv1.Resource, error) {
	mode, err := mode(l.GetProtocol())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.GetName(), err)
	}
	binds, err := binds(c, l)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.GetName(), err)
	}
	settings := state.EffectiveListener(c, l)
	f := &haproxyv1.Frontend{
		Name:           id(l),
		Mode:           mode,
		Binds:          binds,
		DefaultBackend: l.GetPool(),
		ClientTimeout:  settings.GetClientTimeout(),
		MaxConnections: settings.GetMaxConnections(),
	}
	if mode == haproxyv1.Mode_MODE_HTTP {
		f.HttpRequestTimeout = settings.GetHttpRequestTimeout()
		f.HttpKeepAliveTimeout = settings.GetHttpKeepAliveTimeout()
		f.ForwardedFor = settings.GetForwardedFor()
	}
	return &agentv1.Resource{Key: "haproxy/frontend/" + f.GetName(), Body: &agentv1.Resource_Frontend{Frontend: f}}, nil
}

// binds resolves a listener's binds: a VIP is all its addresses, and any
// address of a VIP floats, however it was written.
func binds(c *state.Config, l *tandemv1.Listener) ([]*haproxyv1.Bind, error) {
	var out []*haproxyv1.Bind
	add := func(address string, port *tandemv1.Bind, floating bool) {
		out = append(out, &haproxyv1.Bind{
			Address: address, Port: port.GetPort(), PortEnd: port.GetPortEnd(), Floating: floating,
		})
	}
	for _, b := range l.GetBinds() {
		switch {
		case b.GetVip() != "":
			vip := c.Vip(b.GetVip())
			if vip == nil {
				return nil, fmt.Errorf("VIP %q does not exist", b.GetVip())
			}
			prefixes, err := prefixes(vip)
			if err != nil {
				return nil, err
			}
			for _, p := range prefixes {
				add(p.Addr().String(), b, true)
			}
		case b.GetAddress() != "":
			address, err := netip.ParseAddr(b.GetAddress())
			if err != nil {
				return nil, err
			}
			add(address.String(), b, isVirtual(c, address))
		default:
			add("", b, false)
		}
	}
	return out, nil
}

func isVirtual(c *state.Config, address netip.Addr) bool {
	for _, v := range c.Vips() {
		for _, s := range v.GetAddresses() {
			if p, err := netip.ParsePrefix(s); err == nil && p.Addr() == address {
				return true
			}
		}
	}
	return false
}

func backend(c *state.Config, p *tandemv1.Pool) (*agentv1.Resource, error) {
	mode, err := mode(p.GetProtocol())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.GetName(), err)
	}
	balance, ok := balances[state.EffectiveBalance(p)]
	if !ok {
		return nil, fmt.Errorf("%s: balance %q is unknown", p.GetName(), p.GetBalance())
	}
	check, err := check(c, p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.GetName(), err)
	}
	settings := state.EffectivePool(c, p)
	b := &haproxyv1.Backend{
		Name:           id(p),
		Mode:           mode,
		Balance:        balance,
		ConnectTimeout: settings.GetConnectTimeout(),
		ServerTimeout:  settings.GetServerTimeout(),
		QueueTimeout:   settings.GetQueueTimeout(),
		Retries:        settings.GetRetries(),
		Redispatch:     settings.GetRedispatch(),
		Check:          check,
	}
	return &agentv1.Resource{Key: "haproxy/backend/" + b.GetName(), Body: &agentv1.Resource_Backend{Backend: b}}, nil
}

func check(c *state.Config, p *tandemv1.Pool) (*haproxyv1.Check, error) {
	k := state.EffectiveCheck(c, p)
	if k == nil {
		return nil, nil
	}
	out := &haproxyv1.Check{
		Interval: k.GetInterval(),
		Timeout:  k.GetTimeout(),
		Rise:     k.GetRise(),
		Fall:     k.GetFall(),
		Port:     k.GetPort(),
	}
	if h := k.GetHttp(); h != nil {
		low, high, err := statusRange(h.GetExpectedStatus())
		if err != nil {
			return nil, err
		}
		out.Http = &haproxyv1.HttpCheck{
			Method: h.GetMethod(), Path: h.GetPath(), Host: h.GetHost(),
			StatusMin: low, StatusMax: high,
		}
	}
	return out, nil
}

// statusRange parses "200" and "200-399".
func statusRange(s string) (low, high uint32, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	l, errLow := strconv.ParseUint(from, 10, 16)
	h, errHigh := strconv.ParseUint(to, 10, 16)
	if errLow != nil || errHigh != nil || l > h {
		return 0, 0, fmt.Errorf("%q is not a status or a range of them, such as 200-399", s)
	}
	return uint32(l), uint32(h), nil
}

func server(pool string, b *tandemv1.Backend) (*agentv1.Resource, error) {
	address, err := netip.ParseAddr(b.GetAddress())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.GetName(), err)
	}
	s := &haproxyv1.Server{
		Backend:        pool,
		Name:           id(b),
		Id:             b.GetId(),
		Address:        address.String(),
		Port:           b.GetPort(),
		Weight:         state.EffectiveWeight(b),
		MaxConnections: b.GetMaxConnections(),
		Backup:         b.GetBackup(),
	}
	switch admin := state.EffectiveState(b); admin {
	case "ready":
	case "drain":
		s.ReadyWeight, s.Weight = proto.Uint32(s.GetWeight()), 0
	case "maintenance":
		s.Maintenance = true
	default:
		return nil, fmt.Errorf("%s: override state %q is unknown", b.GetName(), admin)
	}
	return &agentv1.Resource{Key: "haproxy/server/" + pool + "/" + s.GetName(), Body: &agentv1.Resource_Server{Server: s}}, nil
}

var balances = map[string]haproxyv1.Balance{
	"roundrobin": haproxyv1.Balance_BALANCE_ROUNDROBIN,
	"leastconn":  haproxyv1.Balance_BALANCE_LEASTCONN,
	"first":      haproxyv1.Balance_BALANCE_FIRST,
	"random":     haproxyv1.Balance_BALANCE_RANDOM,
	"source":     haproxyv1.Balance_BALANCE_SOURCE,
	"uri":        haproxyv1.Balance_BALANCE_URI,
}

func mode(protocol string) (haproxyv1.Mode, error) {
	switch p := state.EffectiveProtocol(protocol); p {
	case "http":
		return haproxyv1.Mode_MODE_HTTP, nil
	case "tcp":
		return haproxyv1.Mode_MODE_TCP, nil
	default:
		return 0, fmt.Errorf("protocol %q is unknown", p)
	}
}

// id returns the last id of a resource's name.
func id(r interface{ GetName() string }) string {
	return r.GetName()[strings.LastIndexByte(r.GetName(), '/')+1:]
}
