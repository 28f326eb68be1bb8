package wire

import (
	"net/netip"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/keepalived/link"
	"github.com/tandem-lb/tandem/agent/internal/keepalived/vrrp"
)

// Jitter is how punctual the advertisements of a router are that reach this node, by the
// times at which the kernel received them: neither this process nor keepalived adds to
// it. It is measured where somebody else advertises.
type Jitter struct {
	// Mean of how far the time between two of them is from their interval, to a tenth of
	// a millisecond.
	Mean time.Duration
	// Worst is by how much the latest one came too late, to a millisecond.
	Worst time.Duration
	// Measured is for how long, at most ten minutes; 0: not yet.
	Measured time.Duration
}

const (
	// jitterPart is the part of a measurement that is forgotten at once, jitterParts how
	// many there are.
	jitterPart  = time.Minute
	jitterParts = 10
	// jitterFirst is how long it takes until a measurement is told for the first time.
	// After that it is told anew with each part, and when it has become worse.
	jitterFirst = 10 * time.Second
)

// punctuality measures one router's advertisements.
type punctuality struct {
	who    speaking
	last   time.Time // when the kernel received the one before; zero: there is none
	parts  []punctualPart
	told   Jitter
	toldAt time.Time
}

// speaking is who speaks, and what: two programs on one machine are no measure.
type speaking struct {
	source   netip.Addr
	mac      link.MAC
	interval time.Duration
}

// punctualPart is what was measured in jitterPart.
type punctualPart struct {
	began time.Time
	count int
	sum   time.Duration // of the distances from the interval
	worst time.Duration // lateness
}

// arrive takes an advertisement that the kernel has received at a time. A gap in which
// the holder is taken for dead is none of its jitter: it was lost, or restarted.
func (p *punctuality) arrive(a *vrrp.Advert, from link.MAC, at time.Time, patience time.Duration) {
	who, last := speaking{a.Source, from, a.Interval}, p.last
	same := p.who == who && !last.IsZero()
	p.who, p.last = who, at
	if a.Priority == 0 {
		p.last = time.Time{}
	}
	between := at.Sub(last)
	if !same || between <= 0 || between >= patience {
		return
	}
	if n := len(p.parts); n == 0 || at.Sub(p.parts[n-1].began) > jitterPart {
		p.parts = append(p.parts, punctualPart{began: last})
	}
	for len(p.parts) > jitterParts+1 { // that of now is not full yet
		p.parts = p.parts[1:]
	}
	part, late := &p.parts[len(p.parts)-1], between-a.Interval
	part.count++
	part.sum += max(late, -late)
	part.worst = max(part.worst, late)
}

// jitter is what was measured, told anew now and then.
func (p *punctuality) jitter(now time.Time) Jitter {
	for len(p.parts) > 0 && now.Sub(p.parts[0].began) >= (jitterParts+2)*jitterPart {
		p.parts = p.parts[1:] // nobody advertises any more
	}
	if len(p.parts) == 0 {
		p.told = Jitter{}
		return p.told
	}
	j := Jitter{Measured: min(p.last.Sub(p.parts[0].began), jitterParts*jitterPart).Truncate(jitterFirst)}
	if p.last.IsZero() {
		j.Measured = p.told.Measured
	}
	count, sum := 0, time.Duration(0)
	for _, part := range p.parts {
		count, sum = count+part.count, sum+part.sum
		j.Worst = max(j.Worst, part.worst)
	}
	j.Mean, j.Worst = (sum / time.Duration(count)).Round(time.Millisecond/10), j.Worst.Round(time.Millisecond)
	if j.Measured < jitterFirst {
		return p.told
	}
	if p.told.Measured == 0 || j.Worst > p.told.Worst || now.Sub(p.toldAt) >= jitterPart {
		p.told, p.toldAt = j, now
	}
	return p.told
}
