package state

import (
	"maps"
	"slices"
	"time"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// newestDefaults is the version that new clusters get. A changed default is a
// new version: an existing cluster keeps those it was made with.
const newestDefaults = 1

// defaults are the values of what nobody has set.
type defaults struct {
	proxy          *tandemv1.ProxySettings
	maxConnections uint32
	vrrpVersion    uint32
	advert         time.Duration
	advertV2       time.Duration // VRRPv2 knows whole seconds only
	stats          *tandemv1.StatsPage
	check          *tandemv1.HealthCheck
	httpCheck      *tandemv1.HttpCheck
	firstPriority  uint32 // of the first node; each next one gets priorityStep less
	priorityStep   uint32
}

var defaultsByVersion = map[uint32]*defaults{
	1: {
		proxy: &tandemv1.ProxySettings{
			ConnectTimeout:       durationpb.New(5 * time.Second),
			ClientTimeout:        durationpb.New(time.Minute),
			ServerTimeout:        durationpb.New(time.Minute),
			HttpRequestTimeout:   durationpb.New(10 * time.Second),
			HttpKeepAliveTimeout: durationpb.New(10 * time.Second),
			QueueTimeout:         durationpb.New(time.Minute),
			Retries:              proto.Uint32(3),
			Redispatch:           proto.Bool(true),
			ForwardedFor:         proto.Bool(true),
			MaxConnections:       proto.Uint32(3000),
		},
		maxConnections: 8000,
		vrrpVersion:    3,
		advert:         100 * time.Millisecond,
		advertV2:       time.Second,
		stats: &tandemv1.StatsPage{
			Port:    proto.Uint32(8080),
			Path:    "/stats",
			Realm:   "HAProxy Statistics",
			Refresh: durationpb.New(30 * time.Second),
		},
		check: &tandemv1.HealthCheck{
			Interval: durationpb.New(2 * time.Second),
			Rise:     proto.Uint32(2),
			Fall:     proto.Uint32(3),
		},
		httpCheck:     &tandemv1.HttpCheck{Method: "GET", Path: "/", ExpectedStatus: "200-399"},
		firstPriority: 230,
		priorityStep:  10,
	},
}

func (c *Config) defaults() *defaults { return defaultsByVersion[c.counters.Defaults] }

// EffectiveCluster returns the proxy settings that the cluster hands down,
// every field filled in.
func EffectiveCluster(c *Config) *tandemv1.ProxySettings {
	s, d := c.cluster.GetDefaults(), c.defaults().proxy
	return &tandemv1.ProxySettings{
		ConnectTimeout:       or(s.GetConnectTimeout(), d.ConnectTimeout),
		ClientTimeout:        or(s.GetClientTimeout(), d.ClientTimeout),
		ServerTimeout:        or(s.GetServerTimeout(), d.ServerTimeout),
		HttpRequestTimeout:   or(s.GetHttpRequestTimeout(), d.HttpRequestTimeout),
		HttpKeepAliveTimeout: or(s.GetHttpKeepAliveTimeout(), d.HttpKeepAliveTimeout),
		QueueTimeout:         or(s.GetQueueTimeout(), d.QueueTimeout),
		Retries:              or(optional(s, func() *uint32 { return s.Retries }), d.Retries),
		Redispatch:           or(optional(s, func() *bool { return s.Redispatch }), d.Redispatch),
		ForwardedFor:         or(optional(s, func() *bool { return s.ForwardedFor }), d.ForwardedFor),
		MaxConnections:       or(optional(s, func() *uint32 { return s.MaxConnections }), d.MaxConnections),
	}
}

// EffectiveListener returns a listener's five proxy settings with what it
// inherits from the cluster; the other fields are unset.
func EffectiveListener(c *Config, l *tandemv1.Listener) *tandemv1.ProxySettings {
	d := EffectiveCluster(c)
	return &tandemv1.ProxySettings{
		ClientTimeout:        or(l.GetClientTimeout(), d.ClientTimeout),
		HttpRequestTimeout:   or(l.GetHttpRequestTimeout(), d.HttpRequestTimeout),
		HttpKeepAliveTimeout: or(l.GetHttpKeepAliveTimeout(), d.HttpKeepAliveTimeout),
		ForwardedFor:         or(l.ForwardedFor, d.ForwardedFor),
		MaxConnections:       or(l.MaxConnections, d.MaxConnections),
	}
}

// EffectivePool returns a pool's five proxy settings with what it inherits
// from the cluster; the other fields are unset.
func EffectivePool(c *Config, p *tandemv1.Pool) *tandemv1.ProxySettings {
	d := EffectiveCluster(c)
	return &tandemv1.ProxySettings{
		ConnectTimeout: or(p.GetConnectTimeout(), d.ConnectTimeout),
		ServerTimeout:  or(p.GetServerTimeout(), d.ServerTimeout),
		QueueTimeout:   or(p.GetQueueTimeout(), d.QueueTimeout),
		Retries:        or(p.Retries, d.Retries),
		Redispatch:     or(p.Redispatch, d.Redispatch),
	}
}

// EffectiveMaxConnections is HAProxy's process-wide limit.
func EffectiveMaxConnections(c *Config) uint32 {
	return *or(c.cluster.MaxConnections, &c.defaults().maxConnections)
}

// EffectiveStatsPage returns the statistics page with every field but the
// address filled in, nil if there is none. Users carry no passwords: see
// Config.Secret.
func EffectiveStatsPage(c *Config) *tandemv1.StatsPage {
	s, d := c.cluster.GetStatsPage(), c.defaults().stats
	if s == nil {
		return nil
	}
	return &tandemv1.StatsPage{
		Address: s.GetAddress(),
		Port:    or(s.Port, d.Port),
		Path:    orText(s.GetPath(), d.Path),
		Realm:   orText(s.GetRealm(), d.Realm),
		Refresh: or(s.GetRefresh(), d.Refresh),
		Users:   s.GetUsers(),
	}
}

// EffectiveLogging returns where the access log goes, every field filled in; an
// empty target means nowhere.
func EffectiveLogging(c *Config) *tandemv1.Logging {
	l := c.cluster.GetLogging()
	e := &tandemv1.Logging{
		Target:   l.GetTarget(),
		Facility: orText(l.GetFacility(), "local0"),
		Format:   orText(l.GetFormat(), "haproxy"),
		Query:    optional(l, func() *bool { return l.Query }),
	}
	if e.Query == nil {
		e.Query = proto.Bool(e.Format == "haproxy")
	}
	return e
}

// EffectiveCheck returns a pool's health check with every field but host and
// port filled in, nil if checks are off.
func EffectiveCheck(c *Config, p *tandemv1.Pool) *tandemv1.HealthCheck {
	k, d := p.GetCheck(), c.defaults()
	if k.GetDisabled() {
		return nil
	}
	if k == nil {
		k = &tandemv1.HealthCheck{}
	}
	interval := or(k.GetInterval(), d.check.Interval)
	out := &tandemv1.HealthCheck{
		Interval: interval,
		Timeout:  or(k.GetTimeout(), interval),
		Rise:     or(k.Rise, d.check.Rise),
		Fall:     or(k.Fall, d.check.Fall),
		Port:     k.Port,
	}
	if h := k.GetHttp(); h != nil {
		out.Http = &tandemv1.HttpCheck{
			Method:         orText(h.GetMethod(), d.httpCheck.Method),
			Path:           orText(h.GetPath(), d.httpCheck.Path),
			Host:           h.GetHost(),
			ExpectedStatus: orText(h.GetExpectedStatus(), d.httpCheck.ExpectedStatus),
		}
	}
	return out
}

// EffectiveProtocol returns "http" or "tcp" for a listener's or pool's
// protocol.
func EffectiveProtocol(protocol string) string { return orText(protocol, "http") }

// EffectiveBalance returns a pool's balance algorithm.
func EffectiveBalance(p *tandemv1.Pool) string { return orText(p.GetBalance(), "roundrobin") }

// EffectiveState returns a backend's administrative state: "ready", "drain" or
// "maintenance".
func EffectiveState(b *tandemv1.Backend) string { return orText(b.GetOverride().GetState(), "ready") }

// EffectiveWeight returns a backend's weight, 0 to 256, with its override.
func EffectiveWeight(b *tandemv1.Backend) uint32 {
	if o := b.GetOverride(); o != nil && o.Weight != nil {
		return *o.Weight
	}
	if b.Weight != nil {
		return *b.Weight
	}
	return 1
}

// EffectiveVrrpVersion is 2 or 3.
func EffectiveVrrpVersion(c *Config) uint32 {
	if v := c.cluster.GetVrrp(); v != nil && v.Version != nil {
		return *v.Version
	}
	return c.defaults().vrrpVersion
}

// DefaultHandoverTimeout is for a VIP that names none.
const DefaultHandoverTimeout = 5 * time.Minute

// EffectiveHandoverTimeout is how long established connections may outlive a
// planned move of a VIP; 0: not at all.
func EffectiveHandoverTimeout(v *tandemv1.Vip) time.Duration {
	if v.GetHandoverTimeout() == nil {
		return DefaultHandoverTimeout
	}
	return v.GetHandoverTimeout().AsDuration()
}

// profiles are the intervals between advertisements that have names.
var profiles = map[string]time.Duration{
	"fast":   50 * time.Millisecond,
	"normal": 100 * time.Millisecond,
	"wan":    time.Second,
}

// ProfileFor is the fastest profile that bears advertisements that come so late, and its
// interval: they may be half of it too late. Empty: none does.
func ProfileFor(c *Config, late time.Duration) (profile string, interval time.Duration) {
	for _, name := range []string{"fast", "normal", "wan"} {
		interval = profiles[name]
		if late <= interval/2 && (EffectiveVrrpVersion(c) != 2 || interval%time.Second == 0) {
			return name, interval
		}
	}
	return "", 0
}

// EffectiveAdvertInterval is the time between a VIP's advertisements: what the VIP
// says, by an interval or a profile, or else the cluster, or the default.
func EffectiveAdvertInterval(c *Config, v *tandemv1.Vip) time.Duration {
	for _, says := range []interface {
		GetAdvertInterval() *durationpb.Duration
		GetProfile() string
	}{v, c.cluster.GetVrrp()} {
		if d := says.GetAdvertInterval(); d != nil {
			return d.AsDuration()
		}
		if d, ok := profiles[says.GetProfile()]; ok {
			return d
		}
	}
	if EffectiveVrrpVersion(c) == 2 {
		return c.defaults().advertV2
	}
	return c.defaults().advert
}

// EffectiveAnnounceRepeat is how many announcements of each address a new holder
// sends.
func EffectiveAnnounceRepeat(v *tandemv1.Vip) uint32 {
	if v.AnnounceRepeat != nil {
		return v.GetAnnounceRepeat()
	}
	return 5
}

// EffectiveAnnounceRefresh is how often the holder announces the addresses anew; 0:
// never.
func EffectiveAnnounceRefresh(v *tandemv1.Vip) time.Duration {
	if d := v.GetAnnounceRefresh(); d != nil {
		return d.AsDuration()
	}
	return time.Minute
}

// EffectiveUnicast tells whether a VIP is advertised to the nodes' own addresses.
func EffectiveUnicast(c *Config, v *tandemv1.Vip) bool {
	if v.Unicast != nil {
		return v.GetUnicast()
	}
	return c.cluster.GetVrrp().GetUnicast()
}

// EffectiveNetwork is the name of the network that a VIP lives on.
func EffectiveNetwork(v *tandemv1.Vip) string { return orText(v.GetNetwork(), "front") }

// EffectiveVrrpNetwork is the name of the network that a VIP is advertised over.
func EffectiveVrrpNetwork(v *tandemv1.Vip) string {
	return orText(v.GetVrrpNetwork(), EffectiveNetwork(v))
}

// EffectiveFailBack is "automatic", "delayed" or "never".
func EffectiveFailBack(v *tandemv1.Vip) string { return orText(v.GetFailBack(), "automatic") }

// EffectivePriority is a node's priority for a VIP, 1 to 234. Where a VIP names
// priorities, a node that it does not name comes after all that it names, so
// that a node that joins takes nothing over. Beyond the gap that a VIP may have
// nodes are equal, and VRRP prefers the higher address among them.
func EffectivePriority(c *Config, v *tandemv1.Vip, node *tandemv1.Node) uint32 {
	n, err := ParseName(node.GetName())
	if p, ok := v.GetPriorities()[n.ID]; err == nil && ok {
		return p
	}
	if len(v.GetPriorities()) > 0 {
		named := slices.Sorted(maps.Values(v.GetPriorities()))
		lowest, highest := named[0], named[len(named)-1]
		return max(lowest, highest-min(highest, maxPriorityGap)+1, 2) - 1
	}
	d := c.defaults()
	below := (max(node.GetNumber(), 1) - 1) * d.priorityStep
	return d.firstPriority - min(below, maxPriorityGap/d.priorityStep*d.priorityStep)
}

func or[T any](v, fallback *T) *T {
	if v != nil {
		return v
	}
	return fallback
}

func orText(v, fallback string) string {
	if v != "" {
		return v
	}
	return fallback
}

// optional reads a field of a message that may be absent.
func optional[M, T any](m *M, field func() *T) *T {
	if m == nil {
		return nil
	}
	return field()
}
