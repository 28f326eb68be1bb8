package fleet

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// slowAfter is how long jitter must have been measured before an interval may be called
// needlessly slow; that is as far as the agents remember.
const slowAfter = 10 * time.Minute

// validDuration is a duration as an agent may say it, from 0 to an hour.
func validDuration(d *durationpb.Duration) *durationpb.Duration {
	return durationpb.New(min(max(d.AsDuration(), 0), time.Hour))
}

// addJitter adds the jitter of an instance to its VIP's on a node: the worse one.
func addJitter(s *tandemv1.VipNodeStatus, i *agentv1.InstanceObservation) {
	j := i.GetJitter()
	if j == nil || s.GetJitter() != nil && s.GetJitter().GetWorst().AsDuration() >= j.GetWorst().AsDuration() {
		return
	}
	s.Jitter = &tandemv1.Jitter{Mean: j.GetMean(), Worst: j.GetWorst(), Measured: j.GetMeasured()}
}

// propose adds the profile that suits what the nodes measure of a VIP, and a note where
// the one that is set does not.
func (c *cluster) propose(s *tandemv1.VipStatus, v *tandemv1.Vip) {
	var worst *tandemv1.Jitter
	where := ""
	for _, on := range s.GetNodes() {
		if j := on.GetJitter(); j != nil && (worst == nil || j.GetWorst().AsDuration() > worst.GetWorst().AsDuration()) {
			worst, where = j, on.GetNode()
		}
	}
	if worst == nil {
		return
	}
	late, interval := worst.GetWorst().AsDuration(), state.EffectiveAdvertInterval(c.head, v)
	profile, pace := state.ProfileFor(c.head, late)
	s.ProposedProfile = profile
	measured := fmt.Sprintf("an advertisement came to %s up to %v too late within the last %v", where, late, worst.GetMeasured().AsDuration())
	command := fmt.Sprintf("lbctl vip set %s --profile %s", lastID(v.GetName()), profile)
	if v.GetAdvertInterval() != nil {
		command += " --unset advert-interval"
	}
	switch {
	case late > interval && profile == "":
		s.Notes = append(s.Notes, fmt.Sprintf("the interval of %v is too nervous for this network: %s, and no profile bears that: use lbctl vip set %s --advert-interval %v",
			interval, measured, lastID(v.GetName()), (2*late).Truncate(time.Second)+time.Second))
	case late > interval:
		s.Notes = append(s.Notes, fmt.Sprintf("the interval of %v is too nervous for this network: %s: use %s", interval, measured, command))
	case profile != "" && interval >= 3*pace && worst.GetMeasured().AsDuration() >= slowAfter:
		s.Notes = append(s.Notes, fmt.Sprintf("the interval of %v is slower than this network needs: %s: %s would do, with %v", interval, measured, command, pace))
	}
}
