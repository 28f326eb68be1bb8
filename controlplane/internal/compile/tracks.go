package compile

import (
	"fmt"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

var trackKinds = map[string]keepalivedv1.TrackKind{
	"gateway": keepalivedv1.TrackKind_TRACK_KIND_GATEWAY,
	"ping":    keepalivedv1.TrackKind_TRACK_KIND_PING,
	"url":     keepalivedv1.TrackKind_TRACK_KIND_URL,
	"network": keepalivedv1.TrackKind_TRACK_KIND_NETWORK,
}

// tracks returns a VIP's, resolved.
func tracks(v *tandemv1.Vip) ([]*keepalivedv1.Track, error) {
	var all []*keepalivedv1.Track
	for _, t := range v.GetTracks() {
		t = state.EffectiveTrack(t)
		kind, ok := trackKinds[t.GetKind()]
		if !ok {
			return nil, fmt.Errorf("track kind %q is unknown", t.GetKind())
		}
		out := &keepalivedv1.Track{
			Kind: kind, Target: t.GetTarget(),
			Interval: t.GetInterval(), Timeout: t.GetTimeout(), Rise: t.GetRise(), Fall: t.GetFall(), Weight: t.GetWeight(),
		}
		if t.GetExpectedStatus() != "" {
			var err error
			if out.LowestStatus, out.HighestStatus, err = statusRange(t.GetExpectedStatus()); err != nil {
				return nil, err
			}
		}
		all = append(all, out)
	}
	return all, nil
}
