package view

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Clusters is a table of clusters.
func Clusters(clusters []*tandemv1.Cluster, clock Clock) output.Table {
	t := output.Table{Columns: output.Columns("NAME", "VRRP", "ADVERT", "STATS PAGE", "CREATED", "+MAX CONN", "+LOG", "+ETAG")}
	for _, c := range clusters {
		version := none
		if c.GetVrrp().GetVersion() != 0 {
			version = "v" + strconv.Itoa(int(c.GetVrrp().GetVersion()))
		}
		t.Rows = append(t.Rows, cells(name.ID(c.GetName()), version, duration(c.GetVrrp().GetAdvertInterval()),
			statsPage(c.GetStatsPage()), clock.Since(c.GetCreateTime()), number(c.MaxConnections),
			or(c.GetLogging().GetTarget(), none), c.GetEtag()))
	}
	return t
}

func statsPage(page *tandemv1.StatsPage) string {
	if page == nil {
		return none
	}
	port := "8080"
	if page.Port != nil {
		port = number(page.Port)
	}
	return fmt.Sprintf("%s%s, %s", net.JoinHostPort(or(page.GetAddress(), "*"), port), or(page.GetPath(), "/stats"), count(len(page.GetUsers()), "user"))
}

// Nodes is a table of nodes.
func Nodes(nodes []*tandemv1.Node, clock Clock) output.Table {
	t := output.Table{Columns: output.Columns("NAME", "NUMBER", "DRAIN", "JOINED", "+UID", "+ETAG")}
	for _, n := range nodes {
		drain := output.Cell{Text: yesNo(n.GetDrain())}
		if n.GetDrain() {
			drain.Tone = output.Warn
		}
		row := cells(name.ID(n.GetName()), strconv.Itoa(int(n.GetNumber())), "", clock.Since(n.GetJoinTime()), n.GetUid(), n.GetEtag())
		row[2] = drain
		t.Rows = append(t.Rows, row)
	}
	return t
}

// Vips is a table of VIPs.
func Vips(vips []*tandemv1.Vip) output.Table {
	t := output.Table{Columns: output.Columns("NAME", "ADDRESSES", "VRID", "NETWORK", "FAIL BACK", "PRIORITIES", "+ADVERT", "+OVER", "+VIRTUAL MAC", "+HANDOVER", "+TRACKS", "+ETAG")}
	for _, v := range vips {
		failBack := or(v.GetFailBack(), "automatic")
		if v.GetFailBackDelay() != nil {
			failBack += " " + duration(v.GetFailBackDelay())
		}
		t.Rows = append(t.Rows, cells(name.ID(v.GetName()), strings.Join(v.GetAddresses(), ", "), strconv.Itoa(int(v.GetVrid())),
			or(v.GetNetwork(), "front"), failBack, priorities(v.GetPriorities()), duration(v.GetAdvertInterval()), over(v), yesNo(v.GetVirtualMac()), duration(v.GetHandoverTimeout()), tracks(v.GetTracks()), v.GetEtag()))
	}
	return t
}

// over is what a VIP's advertisements go over, where it says that.
func over(v *tandemv1.Vip) string {
	var parts []string
	if v.GetVrrpNetwork() != "" {
		parts = append(parts, v.GetVrrpNetwork())
	}
	switch {
	case v.GetUnicast():
		parts = append(parts, "unicast")
	case v.Unicast != nil:
		parts = append(parts, "multicast")
	}
	return or(strings.Join(parts, ", "), "-")
}

func tracks(all []*tandemv1.Track) string {
	var parts []string
	for _, t := range all {
		part := strings.TrimSuffix(t.GetKind()+" "+t.GetTarget(), " ")
		if t.Weight != nil {
			part += fmt.Sprintf(" weight %d", t.GetWeight())
		}
		parts = append(parts, part)
	}
	return or(strings.Join(parts, ", "), none)
}

func priorities(byNode map[string]uint32) string {
	var parts []string
	for _, node := range slices.Sorted(maps.Keys(byNode)) {
		parts = append(parts, fmt.Sprintf("%s=%d", node, byNode[node]))
	}
	return or(strings.Join(parts, ", "), none)
}

// Listeners is a table of listeners.
func Listeners(listeners []*tandemv1.Listener) output.Table {
	t := output.Table{Columns: output.Columns("NAME", "BINDS", "PROTOCOL", "POOL", "+CLIENT TIMEOUT", "+MAX CONN", "+ETAG")}
	for _, l := range listeners {
		effective := settings(l.GetEffective())
		var binds []string
		for _, bind := range l.GetBinds() {
			binds = append(binds, Bind(bind))
		}
		t.Rows = append(t.Rows, cells(name.ID(l.GetName()), strings.Join(binds, ", "), or(l.GetProtocol(), "http"), l.GetPool(),
			duration(effective.GetClientTimeout()), number(effective.MaxConnections), l.GetEtag()))
	}
	return t
}

// Bind is one bind on one line: "web:80", "192.0.2.1:8000-8010", "*:80".
func Bind(bind *tandemv1.Bind) string {
	port := strconv.Itoa(int(bind.GetPort()))
	if bind.GetPortEnd() > bind.GetPort() {
		port += "-" + strconv.Itoa(int(bind.GetPortEnd()))
	}
	return net.JoinHostPort(or(bind.GetVip(), or(bind.GetAddress(), "*")), port)
}

// Pools is a table of pools.
func Pools(pools []*tandemv1.Pool) output.Table {
	t := output.Table{Columns: output.Columns("NAME", "PROTOCOL", "BALANCE", "CHECK", "+CONNECT TIMEOUT", "+SERVER TIMEOUT", "+QUEUE TIMEOUT", "+RETRIES", "+ETAG")}
	for _, p := range pools {
		effective := settings(p.GetEffective())
		t.Rows = append(t.Rows, cells(name.ID(p.GetName()), or(p.GetProtocol(), "http"), or(p.GetBalance(), "roundrobin"), check(p.GetCheck()),
			duration(effective.GetConnectTimeout()), duration(effective.GetServerTimeout()), duration(effective.GetQueueTimeout()),
			number(effective.Retries), p.GetEtag()))
	}
	return t
}

// settings is never nil, so that its optional fields can be read.
func settings(s *tandemv1.ProxySettings) *tandemv1.ProxySettings {
	if s == nil {
		return &tandemv1.ProxySettings{}
	}
	return s
}

func check(c *tandemv1.HealthCheck) string {
	text := "tcp"
	switch {
	case c.GetDisabled():
		return "none"
	case c.GetHttp() != nil:
		text = or(c.GetHttp().GetMethod(), "GET") + " " + or(c.GetHttp().GetPath(), "/")
	}
	if c.GetInterval() != nil {
		text += " every " + duration(c.GetInterval())
	}
	return text
}

// Backends is a table of backends, perhaps of several pools.
func Backends(backends []*tandemv1.Backend, clock Clock) output.Table {
	t := output.Table{Columns: output.Columns("NAME", "ADDRESS", "WEIGHT", "ADMIN STATE", "REASON", "+BY", "+UNTIL", "+MAX CONN", "+BACKUP", "+ID", "+ETAG")}
	for _, b := range backends {
		override := b.GetOverride()
		state := output.Cell{Text: or(override.GetState(), "ready")}
		if state.Text != "ready" {
			state.Tone = output.Warn
		}
		weight := "1"
		if b.Weight != nil {
			weight = number(b.Weight)
		}
		if override != nil && override.Weight != nil {
			weight = fmt.Sprintf("%s (set by hand, else %s)", number(override.Weight), weight)
		}
		row := cells(name.Short(b.GetName()), net.JoinHostPort(b.GetAddress(), strconv.Itoa(int(b.GetPort()))), weight, "",
			or(override.GetReason(), none), or(override.GetAuthor(), none), clock.At(override.GetExpireTime()),
			number(b.MaxConnections), yesNo(b.GetBackup()), strconv.Itoa(int(b.GetId())), b.GetEtag())
		row[3] = state
		t.Rows = append(t.Rows, row)
	}
	return t
}

// Revisions is a table of revisions.
func Revisions(revisions []*tandemv1.Revision, clock Clock) output.Table {
	t := output.Table{Columns: output.Columns("REVISION", "TIME", "AUTHOR", "CHANGES", "MESSAGE", "+EPOCH", "+REQUEST ID")}
	for _, r := range revisions {
		t.Rows = append(t.Rows, cells(strconv.FormatUint(r.GetNumber(), 10), clock.At(r.GetCreateTime()), r.GetAuthor(),
			summary(r.GetChanges()), r.GetMessage(), r.GetEpoch(), r.GetRequestId()))
	}
	return t
}

// maxSummary is how many changed resources one line names.
const maxSummary = 3

func summary(changes []*tandemv1.Change) string {
	var parts []string
	for _, change := range changes {
		if len(parts) == maxSummary {
			parts = append(parts, fmt.Sprintf("and %d more", len(changes)-maxSummary))
			break
		}
		parts = append(parts, mark(change)+name.InCluster(change.GetName()))
	}
	return strings.Join(parts, " ")
}

// Events is a table of events.
func Events(events []*tandemv1.Event, clock Clock) output.Table {
	t := output.Table{Columns: output.Columns("TIME", "SEVERITY", "NODE", "SUBJECT", "REASON", "MESSAGE", "+REVISION", "+ID")}
	for _, e := range events {
		t.Rows = append(t.Rows, EventRow(e, clock))
	}
	return t
}

// EventRow is one row of Events.
func EventRow(e *tandemv1.Event, clock Clock) []output.Cell {
	tones := map[tandemv1.EventSeverity]output.Tone{
		tandemv1.EventSeverity_EVENT_SEVERITY_WARNING: output.Warn,
		tandemv1.EventSeverity_EVENT_SEVERITY_ERROR:   output.Bad,
	}
	revision := none
	if e.GetRevision() != 0 {
		revision = strconv.FormatUint(e.GetRevision(), 10)
	}
	row := cells(clock.At(e.GetTime()), strings.ToLower(word(e.GetSeverity(), "EVENT_SEVERITY_")), or(e.GetNode(), "controller"),
		name.InCluster(e.GetSubject()), e.GetReason(), e.GetMessage(), revision, name.ID(e.GetName()))
	row[1].Tone = tones[e.GetSeverity()]
	return row
}
