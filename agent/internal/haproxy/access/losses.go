package access

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
)

// tellEvery limits how often losses are told.
const tellEvery = time.Minute

// losses counts lines that were lost and says so at most once in tellEvery.
type losses struct {
	tell   func(text string)
	count  uint64 // not told yet
	reason string
	told   time.Time // zero: nothing is
}

// add counts lost lines.
func (l *losses) add(n uint64, reason string, now time.Time) {
	l.count, l.reason = l.count+n, reason
	if l.told.IsZero() || now.Sub(l.told) >= tellEvery {
		l.say(now)
	}
}

// look is called every tellEvery. When nothing was lost since it was last told,
// it tells that it is over.
func (l *losses) look(now time.Time) {
	switch {
	case l.told.IsZero():
	case l.count > 0:
		l.say(now)
	default:
		l.told = time.Time{}
		l.tell("")
	}
}

func (l *losses) say(now time.Time) {
	l.tell(fmt.Sprintf("access log: %d lines lost: %s", l.count, l.reason))
	l.count, l.told = 0, now
}

// ringLosses is how many lines the ring had no room for, which it says in a line
// of its own: "<PRI>Mmm dd hh:mm:ss TAG[PID]: 7 events dropped".
func ringLosses(lines []byte) (n uint64) {
	if !bytes.Contains(lines, []byte(" dropped\n")) {
		return 0
	}
	for line := range bytes.Lines(lines) {
		_, message, _ := bytes.Cut(line, []byte("]: "))
		count, words, _ := bytes.Cut(bytes.TrimSuffix(message, []byte("\n")), []byte(" "))
		if w := string(words); w != "events dropped" && w != "event dropped" {
			continue
		}
		if lost, err := strconv.ParseUint(string(count), 10, 32); err == nil {
			n += lost
		}
	}
	return n
}
