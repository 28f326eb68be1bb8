package machines

import "testing"

// hangHAProxy: the VIP leaves a HAProxy that answers nobody, and systemd replaces one
// that does not come to.
func (s *site) hangHAProxy(t *testing.T) {
	pid := s.pid(t, master, "haproxy")
	load := s.load(t, everyNew)
	s.run(t, master, "systemctl", "kill", "--kill-whom=all", "--signal=STOP", "haproxy")
	s.held(t, backup)
	s.well(t)
	report := load.end()
	if now := s.pid(t, master, "haproxy"); now == "0" || now == pid {
		t.Errorf("haproxy is process %s, after process %s hung", now, pid)
	}
	t.Logf("longest gap %.0f ms", report.LongestGap.MS)
	if gap := report.LongestGap; gap.MS > 3000 || gap.Open {
		t.Errorf("clients were without an answer for %.0f ms", gap.MS)
	}
}

// crashWithoutAgent: the unit's hook moves the VIP.
func (s *site) crashWithoutAgent(t *testing.T) {
	s.run(t, master, "systemctl", "stop", "lb-agent")
	s.override(t, master, "haproxy", "Restart=no")
	load := s.load(t, everyNew)
	s.run(t, master, "systemctl", "kill", "--kill-whom=all", "--signal=KILL", "haproxy")
	s.held(t, backup)
	s.serves(t)
	report := load.end()
	t.Logf("longest gap %.0f ms", report.LongestGap.MS)
	if gap := report.LongestGap; gap.MS > 3000 || gap.Open {
		t.Errorf("clients were without an answer for %.0f ms", gap.MS)
	}
	s.override(t, master, "haproxy", "Restart=always")
	s.run(t, master, "systemctl", "start", "haproxy")
	s.held(t, master)
	s.run(t, master, "systemctl", "start", "lb-agent")
	s.well(t)
}
