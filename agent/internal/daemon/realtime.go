package daemon

import "golang.org/x/sys/unix"

// maxRealTime is how many microseconds a real-time process may run without
// ever waiting, before the kernel ends it: one in an endless loop would leave
// the rest of the machine little.
const maxRealTime = 1_000_000

// setRealTime gives a process, and with it its later children, a real-time
// priority.
func setRealTime(pid, priority int) error {
	if priority == 0 {
		return nil
	}
	limit := unix.Rlimit{Cur: maxRealTime, Max: maxRealTime}
	if err := unix.Prlimit(pid, unix.RLIMIT_RTTIME, &limit, nil); err != nil {
		return err
	}
	return unix.SchedSetAttr(pid, &unix.SchedAttr{
		Size:     unix.SizeofSchedAttr,
		Policy:   unix.SCHED_RR,
		Priority: uint32(priority),
	}, 0)
}
