package probe

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// Report is what a run counted. Times are of the machine's clock, which all
// hosts of a lab share.
type Report struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	// Kinds counts the attempts of each kind that was sent.
	Kinds map[Kind]Count `json:"kinds"`
	// Servers counts the answers of each web server.
	Servers map[string]int `json:"servers"`
	// Failures are the first failed attempts, at most 1000; Kinds has them all.
	Failures []Failure `json:"failures,omitempty"`
	// LongestGap is the longest time in which no new connection was answered,
	// with no more said when none were opened.
	LongestGap Gap `json:"longest_gap,omitzero"`
	// Gaps are all such times that cannot be the sampling itself: longer than
	// five intervals and 20 ms.
	Gaps []Gap `json:"gaps,omitempty"`
	// Answers are all answers in order of time, if they were asked for.
	Answers []AnswerAt `json:"answers,omitempty"`
}

// Count counts the attempts of one kind.
type Count struct {
	Attempts int `json:"attempts"`
	Failed   int `json:"failed"`
}

// Failure is one failed attempt.
type Failure struct {
	At      time.Time `json:"at"` // when the attempt began
	AfterMS float64   `json:"after_ms"`
	Kind    Kind      `json:"kind"`
	Phase   Phase     `json:"phase"`
	Error   string    `json:"error"`
}

// Gap is a time without answers to new connections.
type Gap struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	MS   float64   `json:"ms"`
	// Open says that the run ended before an answer came.
	Open bool `json:"open,omitempty"`
}

// AnswerAt is one answer: when it was complete and who gave it.
type AnswerAt struct {
	At     time.Time `json:"at"`
	Kind   Kind      `json:"kind"`
	Server string    `json:"server"`
}

// Failed returns the number of failed attempts of the given kinds, of all
// kinds if none is given.
func (r *Report) Failed(kinds ...Kind) int {
	sum := 0
	for kind, count := range r.Kinds {
		if len(kinds) == 0 || slices.Contains(kinds, kind) {
			sum += count.Failed
		}
	}
	return sum
}

// Attempts returns the number of all attempts.
func (r *Report) Attempts() int {
	sum := 0
	for _, count := range r.Kinds {
		sum += count.Attempts
	}
	return sum
}

const maxFailures = 1000

// recorder collects results from all clients of a run.
type recorder struct {
	keepAnswers bool

	mu       sync.Mutex
	rep      Report
	answered []time.Time // new connections, when their answer was complete
	lastNew  time.Time   // when the last of them was due
}

func newRecorder(keepAnswers bool) *recorder {
	return &recorder{
		keepAnswers: keepAnswers,
		rep:         Report{Start: time.Now(), Kinds: map[Kind]Count{}, Servers: map[string]int{}},
	}
}

func (r *recorder) add(res result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count := r.rep.Kinds[res.kind]
	count.Attempts++
	if res.err != nil {
		count.Failed++
		r.addFailure(res)
	} else {
		r.rep.Servers[res.server]++
		if r.keepAnswers {
			r.rep.Answers = append(r.rep.Answers, AnswerAt{At: res.end, Kind: res.kind, Server: res.server})
		}
		if res.kind == New {
			r.answered = append(r.answered, res.end)
		}
	}
	r.rep.Kinds[res.kind] = count
}

func (r *recorder) addFailure(res result) {
	if len(r.rep.Failures) == maxFailures {
		return
	}
	f := Failure{At: res.start, AfterMS: milliseconds(res.end.Sub(res.start)), Kind: res.kind, Error: res.err.Error()}
	var phase *phaseError
	if errors.As(res.err, &phase) {
		f.Phase, f.Error = phase.phase, phase.err.Error()
	}
	r.rep.Failures = append(r.rep.Failures, f)
}

// sampled says that no new connection is opened after t.
func (r *recorder) sampled(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastNew = t
}

// report closes the books. No client may add to them afterwards.
func (r *recorder) report(interval time.Duration) *Report {
	rep := &r.rep
	rep.End = time.Now()
	slices.SortFunc(rep.Failures, func(a, b Failure) int { return a.At.Compare(b.At) })
	slices.SortFunc(rep.Answers, func(a, b AnswerAt) int { return a.At.Compare(b.At) })
	if interval > 0 {
		slices.SortFunc(r.answered, time.Time.Compare)
		rep.LongestGap, rep.Gaps = gaps(rep.Start, r.answered, r.lastNew, max(5*interval, 20*time.Millisecond))
	}
	return rep
}

// gaps returns the longest time between two answers and all those longer than
// the least. The time from the start to the first answer counts, and so does
// that from the last answer to the end.
func gaps(start time.Time, answered []time.Time, end time.Time, least time.Duration) (longest Gap, all []Gap) {
	from := start
	for i := range len(answered) + 1 {
		gap := Gap{From: from, To: end, Open: true}
		if i < len(answered) {
			gap.To, gap.Open = answered[i], false
		}
		length := gap.To.Sub(gap.From)
		gap.MS = milliseconds(length)
		if gap.MS > longest.MS {
			longest = gap
		}
		if length > least {
			all = append(all, gap)
		}
		from = gap.To
	}
	return longest, all
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}
