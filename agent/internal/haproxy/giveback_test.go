package haproxy

import (
	"errors"
	"syscall"
	"testing"
)

// A HAProxy that the driver gives up is not told dead, which would be an alarm in the
// middle of a release, and can be had again.
func TestGivenUpIsNoDeath(t *testing.T) {
	for name, giveUp := range map[string]func(*rig) error{
		"finished": func(r *rig) error { _, err := r.driver.LetGo(r.t.Context()); return err },
		"stopped":  func(r *rig) error { return r.driver.Quit(r.t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c := r.config(newWeb(t, "web1").backend(1))
			r.apply(c)
			pid := r.processes().Master.PID
			if err := giveUp(r); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it has ended", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
			if is := r.driver.Snapshot().State; is != Idle {
				t.Errorf("it is %v", is)
			}
			r.apply(c) // takes longer than word of a death does
			if told := r.toldDead(); told != "" {
				t.Errorf("it was told dead: %q", told)
			}
		})
	}
}
