package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/probe"
	"github.com/tandem-lb/tandem/e2e/internal/traffic"
	"github.com/tandem-lb/tandem/e2e/lab"
)

// step does something to a side's master that clients may notice.
type step struct {
	do func(ctx context.Context, s side) error
	// to is where the guide's VIP is once that has shown in full; none: where it was.
	to string
}

func killProxy(ctx context.Context, s side) error { return atMaster(s).KillAll(ctx, "haproxy") }
func killVRRP(ctx context.Context, s side) error  { return atMaster(s).KillAll(ctx, "keepalived") }
func powerCut(ctx context.Context, s side) error  { return atMaster(s).PowerCut(ctx) }
func powerBack(ctx context.Context, s side) error { return s.powerBack(ctx) }
func cut(ctx context.Context, s side) error       { return atMaster(s).Cut(ctx) }
func plug(ctx context.Context, s side) error      { return atMaster(s).Plug(ctx) }
func mute(ctx context.Context, s side) error      { return atMaster(s).Drop(ctx, lab.Out, "") }
func deaf(ctx context.Context, s side) error      { return atMaster(s).Drop(ctx, lab.In, "") }
func heal(ctx context.Context, s side) error      { return atMaster(s).Undrop(ctx) }

// stopVRRP asks keepalived's first process, which stops the others.
func stopVRRP(_ context.Context, s side) error {
	pids, err := atMaster(s).Pids("keepalived")
	if err != nil || len(pids) == 0 {
		return errors.Join(err, fmt.Errorf("keepalived has the processes %v", pids))
	}
	return syscall.Kill(pids[0], syscall.SIGTERM)
}

func atMaster(s side) *lab.Host { return s.network().Host(master) }

// sampling opens a new connection each 5 ms, from a client that has the VIP's
// place in its ARP cache: outages show to about 10 ms.
func sampling() probe.Config {
	return probe.Config{Target: target, Interval: 5 * time.Millisecond, Timeout: time.Second, Answers: true}
}

// outages returns a measurement that samples the VIP while each step in turn
// changes something. Its figures are the longest times without an answer, one a
// step.
func outages(steps ...step) func(context.Context, *runner, side) ([]float64, error) {
	return func(ctx context.Context, r *runner, s side) ([]float64, error) {
		p, err := traffic.StartProbe(ctx, s.network().Host("client"), r.Labhost, sampling())
		if err != nil {
			return nil, err
		}
		var begun []time.Time
		var failure error
		for _, step := range steps {
			begun = append(begun, time.Now())
			if failure = step.do(ctx, s); failure == nil {
				failure = watch(ctx, s, step.to)
			}
			if failure != nil {
				break
			}
		}
		begun = append(begun, time.Now()) // the end of the last step
		report, err := p.Stop(ctx)
		if err := errors.Join(failure, err); err != nil {
			return nil, err
		}
		var figures []float64
		for i := range steps {
			figures = append(figures, longestGap(report, begun[i], begun[i+1]))
		}
		return figures, nil
	}
}

// longestGap is the longest time without an answer to a new connection between
// two moments, in milliseconds, and no more than patience. The report has answers.
func longestGap(report *probe.Report, from, to time.Time) float64 {
	var longest time.Duration
	last := report.Start
	note := func(at time.Time) {
		begin, end := last, at
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		longest, last = max(longest, end.Sub(begin)), at
	}
	for _, a := range report.Answers {
		if a.Kind == probe.New {
			note(a.At)
		}
	}
	note(to)
	return float64(min(longest, patience).Microseconds()) / 1000
}

// afterwards is how long a VIP that answers again is watched on.
const afterwards = 500 * time.Millisecond

// watch lets a step show and waits until the VIP answers again, or until patience
// ends.
func watch(ctx context.Context, s side, to string) error {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	inRow := 0
	err := s.shown(bounded, to)
	if err == nil {
		err = lab.Until(bounded, "answers of the VIP", func(context.Context) error {
			if err := ask(bounded, s.network().Host("client")); err != nil {
				inRow = 0
				return err
			}
			if inRow++; inRow < 20 {
				return errors.New("it answers now and then")
			}
			return nil
		})
	}
	if err == nil {
		err = wait(bounded, afterwards)
	}
	if bounded.Err() != nil {
		return ctx.Err() // an outage without an end is a figure like another
	}
	return err
}

// ask makes one request to the VIP.
func ask(ctx context.Context, from *lab.Host) error {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", target)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("answer %s", answer.Status)
	}
	return nil
}

// gone kills HAProxy for good.
func gone(ctx context.Context, r *runner, s side) ([]float64, error) {
	if err := s.forbid(ctx); err != nil {
		return nil, err
	}
	figures, err := outages(step{do: killProxy})(ctx, r, s)
	return figures, errors.Join(err, s.permit(context.WithoutCancel(ctx)))
}

// frozen stops HAProxy's processes and lets them go on in the end. One that was
// killed meanwhile does not.
func frozen(ctx context.Context, r *runner, s side) ([]float64, error) {
	var pids []int
	figures, err := outages(step{do: func(context.Context, side) (err error) {
		pids, err = atMaster(s).SignalAll("haproxy", syscall.SIGSTOP)
		return err
	}})(ctx, r, s)
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	return figures, err
}
