package keepalived

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/beat"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/track"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
)

// A track is something that a VIP needs beside the node, such as a gateway. While the
// node has lost it, its weight is added to the priority of the VIP's instances. That
// is true for as long as somebody asks: it ends with the agent, a few seconds later, so
// that a restart of the agent moves nothing. The end of an agent is a guard's to see.

const (
	// trackLease is how long what tracks add outlives the agent, and trackRenew how
	// often a living one says that it lives.
	trackLease = 4 * time.Second
	trackRenew = time.Second
	// trackKey is the guard's; no VIP is called so.
	trackKey = " tracks"
	// overScore counts while the network that only advertisements go over has no
	// carrier. keepalived does not give the VIP up for that, since on a cable between two
	// nodes the survivor of the other one has none either, and weighs no interface of its
	// own (vrrp.c: "Ignoring track_interface ... since own interface"). It is the weight of
	// a track by default.
	overScore = -44
)

// tracked is a track of an instance.
type tracked struct {
	spec   track.Spec
	weight int
}

// TrackStatus is a track of an instance.
type TrackStatus struct {
	// Name is such as "ping 192.168.1.1".
	Name string
	// Lost tells that the node does not have it.
	Lost bool
	// Reason of that.
	Reason string
	// Since when it is lost, or found; zero: it was not asked for yet.
	Since time.Time
}

var trackKinds = map[keepalivedv1.TrackKind]track.Kind{
	keepalivedv1.TrackKind_TRACK_KIND_GATEWAY: track.Gateway,
	keepalivedv1.TrackKind_TRACK_KIND_PING:    track.Ping,
	keepalivedv1.TrackKind_TRACK_KIND_URL:     track.URL,
	keepalivedv1.TrackKind_TRACK_KIND_NETWORK: track.Link,
}

// links are the tracks whose weight keepalived adds itself. It sees an interface go down
// within milliseconds, and without the agent. With a weight and not without: an instance
// whose interface is in FAULT, and both nodes may lose that network at once.
func (i *instance) links() (all []tracked) {
	for _, t := range i.tracks {
		if i.linked(&t.spec) {
			all = append(all, t)
		}
	}
	return all
}

// linked tells whether keepalived adds the weight of a track itself: of a network, but
// for the one that advertisements go over.
func (i *instance) linked(s *track.Spec) bool {
	return s.Kind == track.Link && s.Interface != i.over
}

// resolveTracks checks an instance's tracks, once its interfaces are known, and gives
// networks theirs. The network of advertisements is one where it is not that of the
// addresses.
func resolveTracks(c *keepalivedv1.Instance, i *instance, networks map[string]string) error {
	for n, t := range c.GetTracks() {
		field := fmt.Sprintf("instance %s: tracks[%d].", i.name, n)
		if t.GetKind() == keepalivedv1.TrackKind_TRACK_KIND_NETWORK {
			if err := resolveLink(field, t, i, networks); err != nil {
				return err
			}
			continue
		}
		s := track.Spec{
			Kind: trackKinds[t.GetKind()], Target: t.GetTarget(), Interface: i.iface, Six: i.anchor.Addr().Is6(),
			Lowest: int(t.GetLowestStatus()), Highest: int(t.GetHighestStatus()),
			Interval: t.GetInterval().AsDuration(), Timeout: t.GetTimeout().AsDuration(),
			Rise: int(t.GetRise()), Fall: int(t.GetFall()),
		}
		if s.Target != "" {
			s.Six = false // it makes no difference
		}
		for _, err := range []error{
			checkTarget(field, &s),
			checkRange(field+"rise", s.Rise, 1, 100),
			checkRange(field+"fall", s.Fall, 1, 100),
			checkRange(field+"weight", int(t.GetWeight()), trialScore, -1),
			checkPace(field, &s),
		} {
			if err != nil {
				return &RefusedError{err.Error()}
			}
		}
		i.tracks = append(i.tracks, tracked{s, int(t.GetWeight())})
	}
	if i.apart() {
		i.tracks = append(i.tracks, tracked{carrierOf(c.GetVrrpNetwork(), i.over), overScore})
	}
	return nil
}

// carrierOf is the state of a network's interface.
func carrierOf(network, name string) track.Spec {
	return track.Spec{Kind: track.Link, Target: network, Interface: name, Rise: 1, Fall: 1}
}

// resolveLink checks a track of a network.
func resolveLink(field string, t *keepalivedv1.Track, i *instance, networks map[string]string) error {
	if err := checkRange(field+"weight", int(t.GetWeight()), trialScore, -1); err != nil {
		return &RefusedError{err.Error()}
	}
	if err := nameToken.check(field+"target", t.GetTarget()); err != nil {
		return &RefusedError{err.Error()}
	}
	name, err := interfaceOf(t.GetTarget(), networks)
	if err != nil {
		return &FailedError{fmt.Errorf("VIP %s: %w", i.vip, err)}
	}
	if name == i.iface || name == i.over || slices.ContainsFunc(i.links(), func(l tracked) bool { return l.spec.Interface == name }) {
		return &FailedError{fmt.Errorf("VIP %s: network %s is on interface %s, which the VIP needs anyway: map it to another one in the agent's configuration file", i.vip, t.GetTarget(), name)}
	}
	i.tracks = append(i.tracks, tracked{carrierOf(t.GetTarget(), name), int(t.GetWeight())})
	return nil
}

func checkTarget(field string, s *track.Spec) error {
	switch s.Kind {
	case track.URL:
		u, err := url.Parse(s.Target)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
			return fmt.Errorf("%starget must be an http or https URL with a host, and without user and password", field)
		}
		if err := checkRange(field+"lowest_status", s.Lowest, 100, 599); err != nil {
			return err
		}
		return checkRange(field+"highest_status", s.Highest, s.Lowest, 599)
	case track.Gateway, track.Ping:
		if s.Target == "" && s.Kind == track.Gateway {
			return nil
		}
		if a, err := netip.ParseAddr(s.Target); err != nil || a.Zone() != "" || a.Is4In6() {
			return fmt.Errorf("%starget is %q: must be an IP address without zone", field, s.Target)
		}
		return nil
	default:
		return fmt.Errorf("%skind must be gateway, ping, url or network", field)
	}
}

func checkPace(field string, s *track.Spec) error {
	if s.Interval < 100*time.Millisecond || s.Interval > time.Minute {
		return fmt.Errorf("%sinterval is %v: must be 100ms to 1m", field, s.Interval)
	}
	if s.Timeout < 10*time.Millisecond || s.Timeout > s.Interval {
		return fmt.Errorf("%stimeout is %v: must be 10ms to the interval, %v", field, s.Timeout, s.Interval)
	}
	return nil
}

// watchTracks has the instances' tracks asked for.
func (o *observer) watchTracks() {
	var specs []track.Spec
	for n := range o.watched {
		for _, t := range o.watched[n].tracks {
			specs = append(specs, t.spec)
		}
	}
	o.tracks.Watch(specs)
}

// track brings what tracks add up to date, and renews it.
func (d *Driver) track(ctx context.Context) error {
	tick := time.NewTimer(beat.In(trackRenew))
	defer tick.Stop()
	for told := false; ; {
		if err := d.weigh(ctx); err != nil && ctx.Err() == nil {
			if !told {
				d.log.Error("what tracks find is not in the score", "error", err)
			}
			told = true
		} else {
			told = false
		}
		select {
		case <-d.observer.tracks.Changed():
		case <-tick.C:
			tick.Reset(beat.In(trackRenew))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// weigh puts what was found into the scores, once a guard has the lease.
func (d *Driver) weigh(ctx context.Context) error {
	var files []string
	lost := false
	if err := d.do(ctx, func(o *observer) { files, lost = o.lookAtTracks() }); err != nil {
		return err
	}
	if len(files) == 0 {
		return nil
	}
	var unguarded error
	if lost {
		unguarded = d.guardScore(ctx, trackKey, files, trackLease, d.opts.TrackGuard)
	}
	var err error
	ended := d.do(ctx, func(o *observer) { err = o.weigh(unguarded == nil, time.Now()) })
	return errors.Join(ended, err, unguarded)
}

// lookAtTracks returns the track files of all instances that have tracks, and whether
// one of them is to say something.
func (o *observer) lookAtTracks() (files []string, lost bool) {
	for n := range o.watched {
		w := &o.watched[n]
		if len(w.tracks) == 0 {
			continue
		}
		files = append(files, filepath.Join(o.scores.dir, trackFile(w.name)))
		asked, _ := o.lostBy(w)
		lost = lost || o.scores.tracks[w.name].asked != 0 || asked != 0
	}
	return files, lost
}

// lostBy is what the tracks that an instance has lost add up to: those that the agent
// adds, and those that keepalived does.
func (o *observer) lostBy(w *watched) (asked, links int) {
	for _, t := range w.tracks {
		switch lost := o.tracks.Verdict(t.spec).Lost; {
		case lost && w.linked(&t.spec):
			links += t.weight
		case lost:
			asked += t.weight
		}
	}
	return asked, links
}

// weigh takes what the watcher has found. An instance keeps what an earlier agent has
// left, or what it had before its tracks were changed, until all of them were asked for.
func (o *observer) weigh(guarded bool, now time.Time) error {
	for n := range o.watched {
		w := &o.watched[n]
		was := w.Tracks
		w.Tracks = nil
		known := true
		for _, t := range w.tracks {
			v := o.tracks.Verdict(t.spec)
			known = known && v.Known
			w.Tracks = append(w.Tracks, TrackStatus{t.spec.Name(), v.Lost, v.Reason, v.Since})
		}
		o.tellTracks(w, was)
		asked, links := o.lostBy(w)
		if !known {
			asked = min(asked, o.scores.tracks[w.name].asked)
		}
		if !guarded {
			asked = 0
		}
		o.scores.track(w.name, lostTracks{asked, links}, now)
	}
	return o.scores.write(now)
}

// tellTracks tells what is lost, and what is found again.
func (o *observer) tellTracks(w *watched, was []TrackStatus) {
	for _, t := range w.Tracks {
		before := func(s TrackStatus) bool { return s.Name == t.Name && s.Lost }
		switch lostBefore := slices.ContainsFunc(was, before); {
		case t.Lost && !lostBefore:
			o.log.Warn("a VIP's track is lost", "vip", w.vip, "instance", w.name, "track", t.Name, "reason", t.Reason)
			o.notes = append(o.notes, fmt.Sprintf("VIP %s: %s is lost: %s", w.vip, t.Name, t.Reason))
		case !t.Lost && lostBefore:
			o.log.Info("a VIP's track is there again", "vip", w.vip, "instance", w.name, "track", t.Name)
			o.notes = append(o.notes, fmt.Sprintf("VIP %s: %s is there again", w.vip, t.Name))
		}
	}
}

// lostTracks says what an instance has lost; empty: nothing.
func (w *watched) lostTracks() string {
	var lost []string
	for _, t := range w.Tracks {
		if t.Lost {
			lost = append(lost, fmt.Sprintf("%s is lost (%s)", t.Name, t.Reason))
		}
	}
	return strings.Join(lost, ", ")
}

// GuardTracks ends what tracks add when the agent does not. It takes leases as
// GuardFence does, and outlives the agent for as long as the last one; when another
// agent lives by then, unlessAgent leaves the files to that one. An agent that lives and
// has let its lease run out hangs.
func GuardTracks(ctx context.Context, in io.Reader, out io.Writer, files []string, unlessAgent func(do func() error) error) error {
	lift := func() error { return liftScore(files) }
	if hangs := outlast(ctx, in, out, true); hangs {
		return lift()
	}
	return unlessAgent(lift)
}

// lostTracks is what an instance has lost: what is asked for, which its track file says,
// and links, which keepalived sees itself.
type lostTracks struct{ asked, links int }

// setTracks makes the scores of tracks those of the instances. What an earlier agent has
// left counts until the tracks were asked for.
func (s *scores) setTracks(instances []instance) {
	old := s.tracks
	s.tracks = make(map[string]lostTracks)
	for n := range instances {
		i := &instances[n]
		if len(i.tracks) == 0 {
			continue
		}
		lost, known := old[i.name]
		if score, ok := s.read(trackFile(i.name)); !known && ok && !s.fresh {
			lost.asked = min(score, 0)
		}
		s.tracks[i.name] = lost
	}
}

// track notes what an instance's tracks add. The file is written anew while they add
// something: a guard may have ended it in the last moment.
func (s *scores) track(name string, lost lostTracks, now time.Time) {
	was, ok := s.tracks[name]
	if !ok {
		return
	}
	if b := s.standby[name]; b != nil && was != (lostTracks{}) && lost == (lostTracks{}) {
		b.well = now
	}
	if lost.asked != 0 {
		delete(s.written, trackFile(name))
	}
	s.tracks[name] = lost
}

// tracked is the value of an instance's file. Whatever a node with a proxy has lost, it
// goes before one without; but for a drained one that has lost a network, too, as
// keepalived adds that.
func (s *scores) tracked(name string, now time.Time) int {
	lost := s.tracks[name]
	lowest := unhealthyScore
	if s.healthy {
		lowest = min(trialScore-s.total(now)-lost.links, 0)
	}
	return max(lost.asked, lowest)
}
