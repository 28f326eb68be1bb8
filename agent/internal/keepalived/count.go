package keepalived

import (
	"context"
	"errors"
)

// Count is what keepalived has sent and received of an instance since it was started.
// What a firewall has dropped on its way in is not received.
type Count struct {
	Sent     uint64 `json:"advert_sent"`
	Received uint64 `json:"advert_rcvd"`
}

// errNoCount is why nothing is counted.
var errNoCount = errors.New("keepalived does not run with a configuration of the agent's")

// Counts asks keepalived for its counts, by the names of instances. It waits while a
// configuration is put in effect, until ctx ends.
func (d *Driver) Counts(ctx context.Context) (map[string]Count, error) {
	c, err := d.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer d.release(c)
	if !c.running() || c.probed == nil || c.intent == nil {
		return nil, errNoCount
	}
	said, err := d.ask(ctx, c)
	if err != nil {
		return nil, err
	}
	counts := make(map[string]Count, len(said))
	for n := range said {
		counts[said[n].Name] = said[n].Count
	}
	return counts, nil
}
