package firewall

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// walk takes a packet through the chains of one table.
type walk struct {
	*packet
	base    *chain
	certain bool  // all that was decided so far is certain
	lost    *Drop // the packet is lost here
	maybe   *Drop // it may have been lost here before
	depth   int
}

// found is what became of it.
func (w *walk) found() []Drop {
	if w.lost != nil {
		return []Drop{*w.lost}
	}
	if w.maybe != nil {
		return []Drop{*w.maybe}
	}
	return nil
}

// maxDepth is that of the kernel (NFT_JUMP_STACK_SIZE).
const maxDepth = 16

// enter goes through a base chain.
func (w *walk) enter(c *chain) {
	if w.chain(c) {
		return
	}
	if c.drops {
		w.drop(c, nil, w.certain)
	}
}

// chain goes through a chain and tells whether that was the end of the way.
func (w *walk) chain(c *chain) (end bool) {
	if c == nil || c.broken || w.depth == maxDepth {
		w.certain = false
		return false
	}
	w.depth++
	defer func() { w.depth-- }()
	for _, r := range c.rules {
		matches, verdict := w.rule(c, r)
		if matches == no || verdict == nil {
			continue
		}
		sure := w.certain
		if matches == maybe {
			w.certain = false
		}
		switch verdict.Kind {
		case expr.VerdictDrop:
			w.drop(c, r, sure && matches == yes)
			if matches == yes {
				return true
			}
			w.certain = sure // who gets past it is as certain as before
		case expr.VerdictAccept, expr.VerdictStop, expr.VerdictQueue, expr.VerdictStolen:
			if matches == yes {
				return true
			}
		case expr.VerdictJump, expr.VerdictGoto:
			if w.chain(c.in.chains[verdict.Chain]) && matches == yes {
				return true
			}
			if verdict.Kind == expr.VerdictGoto && matches == yes {
				return false
			}
		case expr.VerdictReturn:
			if matches == yes {
				return false
			}
		case expr.VerdictBreak, expr.VerdictContinue, expr.VerdictRepeat:
		}
	}
	return false
}

// drop notes that the packet is lost, or may be.
func (w *walk) drop(c *chain, r *nftables.Rule, certain bool) {
	d := &Drop{Family: families[c.family], Table: c.table, Base: w.base.name, Chain: c.name, Certain: certain, Owner: w.base.owner()}
	if r != nil {
		d.Handle = r.Handle
		for _, e := range r.Exprs {
			if counter, ok := e.(*expr.Counter); ok {
				d.Packets = &counter.Packets
			}
		}
	}
	if certain {
		w.lost = d
	} else if w.maybe == nil {
		w.maybe = d
	}
}

// rule tells whether a rule matches and what it decides then; nil: nothing.
func (w *walk) rule(c *chain, r *nftables.Rule) (matches truth, verdict *expr.Verdict) {
	matches = yes
	w.registers = registers{}
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Verdict:
			return matches, e
		case *expr.Reject:
			return matches, &expr.Verdict{Kind: expr.VerdictDrop}
		case *expr.Target:
			if e.Name == "DROP" || e.Name == "REJECT" {
				return matches, &expr.Verdict{Kind: expr.VerdictDrop}
			}
		case *expr.NAT, *expr.Masq, *expr.Redir:
			return matches, &expr.Verdict{Kind: expr.VerdictAccept}
		case *expr.Queue:
			return min(matches, maybe), &expr.Verdict{Kind: expr.VerdictQueue}
		case *expr.Lookup:
			how, decided := w.lookup(c, e)
			if matches = min(matches, how); decided != nil && matches != no {
				return matches, decided
			}
		default:
			matches = min(matches, w.match(e))
		}
		if matches == no {
			return no, nil
		}
	}
	return matches, nil
}

// lookup looks a register up in a set, or in a map of verdicts.
func (w *walk) lookup(c *chain, e *expr.Lookup) (truth, *expr.Verdict) {
	s := c.in.sets[e.SetName]
	if s == nil || s.broken || s.Concatenation {
		return maybe, w.anyVerdict(s, e)
	}
	key, known := w.take(e.SourceRegister, keyLength(s))
	if !known {
		return maybe, w.anyVerdict(s, e)
	}
	element := s.find(key)
	if e.IsDestRegSet && s.IsMap {
		switch {
		case element == nil:
			return no, nil
		case e.DestRegister == unix.NFT_REG_VERDICT:
			return yes, verdictOf(element)
		}
		w.forget(e.DestRegister, 16)
		return yes, nil
	}
	if (element != nil) != e.Invert {
		return yes, nil
	}
	return no, nil
}

// anyVerdict is the worst that a map may decide of which it is not known which
// element counts; nil when it decides nothing.
func (w *walk) anyVerdict(s *set, e *expr.Lookup) *expr.Verdict {
	if s == nil || !e.IsDestRegSet || e.DestRegister != unix.NFT_REG_VERDICT {
		return nil
	}
	var worst *expr.Verdict
	for n := range s.elements {
		if v := verdictOf(&s.elements[n]); v != nil && (worst == nil || v.Kind == expr.VerdictDrop) {
			worst = v
		}
	}
	return worst
}

// verdictOf is what an element of a map of verdicts decides: two netlink attributes, of
// which the second one, the chain, is there when it is sent to one.
func verdictOf(e *nftables.SetElement) *expr.Verdict {
	const header = 4
	if len(e.Val) < 2*header {
		return nil // the end of an interval
	}
	v := &expr.Verdict{Kind: expr.VerdictKind(int32(binary.BigEndian.Uint32(e.Val[header:])))}
	if len(e.Val) > 3*header {
		v.Chain = string(bytes.TrimRight(e.Val[3*header:], "\x00"))
	}
	return v
}

func keyLength(s *set) int {
	if len(s.elements) > 0 {
		return len(s.elements[0].Key)
	}
	return int(s.KeyType.Bytes)
}

// find returns the element that a key is in. Intervals are elements of which each
// ends where the next one begins.
func (s *set) find(key []byte) *nftables.SetElement {
	if !s.Interval {
		for n := range s.elements {
			if bytes.Equal(s.elements[n].Key, key) {
				return &s.elements[n]
			}
		}
		return nil
	}
	sorted := slices.Clone(s.elements)
	slices.SortStableFunc(sorted, func(a, b nftables.SetElement) int { return bytes.Compare(a.Key, b.Key) })
	var last *nftables.SetElement
	for n := range sorted {
		if bytes.Compare(sorted[n].Key, key) > 0 {
			break
		}
		// Where one ends, another may begin.
		if last == nil || !bytes.Equal(last.Key, sorted[n].Key) || last.IntervalEnd {
			last = &sorted[n]
		}
	}
	if last == nil || last.IntervalEnd {
		return nil
	}
	return last
}
