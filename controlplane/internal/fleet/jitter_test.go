package fleet

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// The profile that suits what the nodes measure is proposed, and one that does not is
// noted with the command that sets it; nothing follows by itself.
func TestAProfileIsProposedFromJitter(t *testing.T) {
	const ms = time.Millisecond
	measuring := func(worst, measured time.Duration) *agentv1.Observation {
		set := holding(backup)
		set.Instances[0].Jitter = &agentv1.Jitter{Mean: durationpb.New(ms), Worst: durationpb.New(worst), Measured: durationpb.New(measured)}
		return &agentv1.Observation{Instances: set}
	}
	for name, test := range map[string]struct {
		vip             *tandemv1.Vip
		worst, measured time.Duration
		profile, note   string
	}{
		"punctual":                {&tandemv1.Vip{}, 2 * ms, time.Minute, "fast", ""},
		"the limit of fast":       {&tandemv1.Vip{}, 25 * ms, time.Minute, "fast", ""},
		"normal":                  {&tandemv1.Vip{}, 26 * ms, time.Hour, "normal", ""},
		"late, and normal bears":  {&tandemv1.Vip{}, 100 * ms, time.Minute, "wan", ""},
		"too nervous":             {&tandemv1.Vip{}, 101 * ms, time.Minute, "wan", "the interval of 100ms is too nervous for this network: an advertisement came to lb-backup up to 101ms too late within the last 1m0s: use lbctl vip set web --profile wan"},
		"fast is too nervous":     {&tandemv1.Vip{Profile: "fast"}, 51 * ms, time.Minute, "wan", "use lbctl vip set web --profile wan"},
		"no profile bears it":     {&tandemv1.Vip{Profile: "wan"}, 1200 * ms, time.Minute, "", "use lbctl vip set web --advert-interval 3s"},
		"slow":                    {&tandemv1.Vip{Profile: "wan"}, 30 * ms, 10 * time.Minute, "normal", "lbctl vip set web --profile normal would do, with 100ms"},
		"slow by hand":            {&tandemv1.Vip{AdvertInterval: durationpb.New(time.Second)}, 2 * ms, 10 * time.Minute, "fast", "lbctl vip set web --profile fast --unset advert-interval would do"},
		"slow, not known so long": {&tandemv1.Vip{Profile: "wan"}, 30 * ms, 9 * time.Minute, "normal", ""},
		"a boast":                 {&tandemv1.Vip{}, -time.Hour, 10 * time.Minute, "fast", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			l, _, b := pair(t)
			test.vip.Name = "clusters/default/vips/web"
			l.change(state.UpdateVip(test.vip, nil))
			b.observe(measuring(test.worst, test.measured))
			synctest.Wait()
			s := l.status().GetVips()[0]
			notes := strings.Join(s.GetNotes(), "\n")
			if s.GetProposedProfile() != test.profile || (test.note == "") != (notes == "") || !strings.Contains(notes, test.note) {
				t.Errorf("%s: proposes %q, notes %q; want %q, %q", name, s.GetProposedProfile(), notes, test.profile, test.note)
			}
			if j := s.GetNodes()[1].GetJitter(); j.GetMean().AsDuration() != ms || s.GetNodes()[0].GetJitter() != nil {
				t.Errorf("%s: the nodes' are %v", name, s.GetNodes())
			}
		})
	}
}

// VRRPv2 knows whole seconds only, so that no other profile is proposed for it.
func TestAProfileSuitsTheVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, b := pair(t)
		l.change(state.UpdateCluster(&tandemv1.Cluster{Name: "clusters/default", Vrrp: &tandemv1.Vrrp{Version: proto.Uint32(2), AdvertInterval: durationpb.New(time.Second)}},
			&fieldmaskpb.FieldMask{Paths: []string{"vrrp"}}))
		b.observe(jittery(2*time.Millisecond, nil))
		synctest.Wait()
		if got := l.status().GetVips()[0].GetProposedProfile(); got != "wan" {
			t.Errorf("%q is proposed", got)
		}
	})
}

// jittery is what a standby says that measures this, by one family and perhaps another.
func jittery(worst time.Duration, other *agentv1.Jitter) *agentv1.Observation {
	set := holding(backup)
	set.Instances[0].Jitter = &agentv1.Jitter{Mean: durationpb.New(time.Millisecond), Worst: durationpb.New(worst), Measured: durationpb.New(time.Minute)}
	if other != nil {
		set.Instances = append(set.Instances, &agentv1.InstanceObservation{Name: "web-v6", Vip: "web", State: backup, Jitter: other})
	}
	return &agentv1.Observation{Instances: set}
}

// The worst that any node measures, of any family, decides, and nobody's word is taken for
// more than an hour.
func TestTheWorstJitterDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		worst := &agentv1.Jitter{Mean: durationpb.New(time.Millisecond), Worst: durationpb.New(40 * time.Millisecond), Measured: durationpb.New(time.Minute)}
		a.observe(jittery(2*time.Millisecond, nil))
		b.observe(jittery(3*time.Millisecond, worst))
		synctest.Wait()
		s := l.status().GetVips()[0]
		if got := s.GetNodes()[1].GetJitter().GetWorst().AsDuration(); got != 40*time.Millisecond || s.GetProposedProfile() != "normal" {
			t.Errorf("lb-backup shows %v, %q is proposed", got, s.GetProposedProfile())
		}
		b.observe(jittery(1000*time.Hour, nil))
		synctest.Wait()
		if got := l.status().GetVips()[0].GetNodes()[1].GetJitter().GetWorst().AsDuration(); got != time.Hour {
			t.Errorf("lb-backup shows %v", got)
		}
	})
}
