package beat

import (
	"testing"
	"testing/synctest"
	"time"
)

// bubble has a beat begin with a test whose time is not real.
func bubble(t *testing.T, test func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		was := begun
		defer func() { begun = was }()
		begun = time.Now()
		test(t)
	})
}

func TestFrom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for at, want := range map[time.Duration]time.Duration{
			0: 0, 1: Every, Every - 1: Every, Every: Every, Every + 1: 2 * Every,
			-1: 0, -Every: -Every, -Every - 1: -Every, time.Hour + 1: time.Hour + Every,
		} {
			if got := From(begun.Add(at)).Sub(begun); got != want {
				t.Errorf("the beat from %v is at %v, want %v", at, got, want)
			}
		}
	})
}

// Whoever begins when, and however late each time, meets the others at a beat, as often
// as it wants to.
func TestIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, every := range []time.Duration{Every, 2 * Every, time.Second} {
			for _, late := range []time.Duration{0, 1, time.Millisecond, Every/2 - 1, Every / 2, Every - 1} {
				<-time.After(late) // off the beat at first
				<-time.After(In(every))
				began := time.Now()
				const times = 10
				for range times {
					if off := time.Since(begun) % Every; off != 0 {
						t.Errorf("each %v, %v late: %v off the beat", every, late, off)
					}
					if late < Every/2 {
						<-time.After(late)
					}
					<-time.After(In(every))
				}
				if took := time.Since(began); took != times*every {
					t.Errorf("each %v, %v late: %d times take %v", every, late, times, took)
				}
			}
		}
	})
}

// The beat after a time does not depend on when that is asked.
func TestAfter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		then := time.Now().Add(time.Millisecond)
		for _, asked := range []time.Duration{0, time.Microsecond, Every} {
			<-time.After(asked)
			if got := After(then, time.Second).Sub(begun); got != time.Second {
				t.Errorf("asked %v later: %v", asked, got)
			}
		}
	})
}
