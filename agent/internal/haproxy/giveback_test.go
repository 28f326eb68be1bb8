package haproxy

import "testing"

// A HAProxy that the driver gives up is not told dead: that would be an alarm in the
// middle of a release.
func TestGivenUpIsNoDeath(t *testing.T) {
	for name, giveUp := range map[string]func(*rig) error{
		"finished": func(r *rig) error { _, err := r.driver.LetGo(r.t.Context()); return err },
		"stopped":  func(r *rig) error { return r.driver.Quit(r.t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.apply(r.config(newWeb(t, "web1").backend(1)))
			if err := giveUp(r); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it has ended", func() bool {
				_, err := r.driver.client.Processes(t.Context())
				return err != nil
			})
			if told, is := r.toldDead(), r.driver.Snapshot().State; told != "" || is != Idle {
				t.Errorf("it is %v, and was told dead: %q", is, told)
			}
		})
	}
}
