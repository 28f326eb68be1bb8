package state

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

func TestEffectiveTrack(t *testing.T) {
	for name, test := range map[string]struct{ given, want *tandemv1.Track }{
		"nothing": {&tandemv1.Track{Kind: "gateway"}, &tandemv1.Track{
			Kind: "gateway", Interval: dur(time.Second), Timeout: dur(500 * time.Millisecond),
			Rise: proto.Uint32(2), Fall: proto.Uint32(3), Weight: proto.Int32(-44),
		}},
		"a URL": {&tandemv1.Track{Kind: "url", Target: "http://c/", Interval: dur(10 * time.Second)}, &tandemv1.Track{
			Kind: "url", Target: "http://c/", ExpectedStatus: "200-399", Interval: dur(10 * time.Second), Timeout: dur(5 * time.Second),
			Rise: proto.Uint32(2), Fall: proto.Uint32(3), Weight: proto.Int32(-44),
		}},
		"a network": {&tandemv1.Track{Kind: "network", Target: "back"}, &tandemv1.Track{Kind: "network", Target: "back", Weight: proto.Int32(-44)}},
		"everything": {&tandemv1.Track{
			Kind: "url", Target: "http://c/", ExpectedStatus: "204", Interval: dur(time.Minute), Timeout: dur(time.Second),
			Rise: proto.Uint32(1), Fall: proto.Uint32(1), Weight: proto.Int32(-1),
		}, nil},
	} {
		if test.want == nil {
			test.want = test.given
		}
		if d := cmp.Diff(test.want, EffectiveTrack(test.given), protocmp.Transform()); d != "" {
			t.Errorf("%s (-want +got): %s", name, d)
		}
	}
}

// What is said of a URL lacks its query, which may hold a secret; by that it is another one
// all the same.
func TestTheQueryOfATrack(t *testing.T) {
	c := guide(t)
	tracked := func(targets ...string) (*tandemv1.Vip, error) {
		v := proto.CloneOf(c.Vip("web"))
		for _, target := range targets {
			v.Tracks = append(v.Tracks, &tandemv1.Track{Kind: "url", Target: target, Weight: proto.Int32(-1)})
		}
		_, _, err := c.Apply(UpdateVip(v, nil), env())
		return v, err
	}
	two, err := tracked("http://192.0.2.1/up?token=secret", "http://192.0.2.1/up?token=another")
	if err != nil {
		t.Errorf("two that differ in their queries: %v", err)
	}
	if said := strings.Join(Notes(c, two), "\n"); !strings.Contains(said, "url http://192.0.2.1/up?...") || strings.Contains(said, "secret") {
		t.Errorf("of a weight that is too light: %q", said)
	}
	_, err = tracked("http://192.0.2.1/up?token=secret", "http://192.0.2.1/up?token=secret")
	if err == nil || !strings.Contains(err.Error(), `"url http://192.0.2.1/up?..." is a track`) || strings.Contains(err.Error(), "secret") {
		t.Errorf("the same twice: %v", err)
	}
}

// A weight that cannot move the VIP is told, with one that can; the default always can.
func TestNotesOnTheWeightOfTracks(t *testing.T) {
	c := guide(t)
	vip := func(change func(*tandemv1.Vip), weights ...int32) *tandemv1.Vip {
		v := proto.CloneOf(c.Vip("web"))
		for _, w := range weights {
			track := &tandemv1.Track{Kind: "gateway"}
			if w != 0 {
				track.Weight = proto.Int32(w)
			}
			v.Tracks = append(v.Tracks, track)
		}
		if change != nil {
			change(v)
		}
		return v
	}
	never := func(v *tandemv1.Vip) { v.FailBack = "never" }
	widest := func(v *tandemv1.Vip) {
		v.FailBack, v.Priorities = "never", map[string]uint32{"lb-master": 230, "lb-backup": 209}
	}
	for name, test := range map[string]struct {
		vip  *tandemv1.Vip
		want []string // the weight that would do
	}{
		"no tracks":            {vip(nil), nil},
		"the default":          {vip(nil, 0), nil},
		"the default, widest":  {vip(widest, 0), nil},
		"as much as the gap":   {vip(nil, -10), []string{"use -11 to -56"}},
		"just enough":          {vip(nil, -11), nil},
		"sticky and too light": {vip(never, -32), []string{"use -33 to -56"}},
		"sticky, just enough":  {vip(never, -33), nil},
		"two of them":          {vip(nil, -1, -11, -9), []string{"use -11 to -56", "use -11 to -56"}},
	} {
		got := Notes(c, test.vip)
		for n, words := range test.want {
			if n >= len(got) || !strings.HasSuffix(got[n], words) || !strings.Contains(got[n], "lb-master") {
				t.Errorf("%s: %q, want notes that end with %q", name, got, test.want)
				break
			}
		}
		if len(got) != len(test.want) {
			t.Errorf("%s: %q, want %d notes", name, got, len(test.want))
		}
	}
	alone := apply(t, emptyCluster(t), AddNode("lb-master", "uid-1"), CreateVip("web", vip(nil, -1)))
	if got := Notes(alone, alone.Vip("web")); got != nil {
		t.Errorf("a node alone: %q", got)
	}
}
