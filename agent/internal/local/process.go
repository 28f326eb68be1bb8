package local

import (
	"fmt"
	"os"
	"runtime/metrics"

	localv1 "github.com/tandem-lb/tandem/gen/tandem/agent/local/v1"
)

// process tells what this process takes of its machine. What the kernel does not
// tell is 0.
func process() *localv1.Process {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/sched/goroutines:goroutines"},
	}
	metrics.Read(samples)
	return &localv1.Process{
		ResidentBytes: resident(),
		LiveHeapBytes: samples[0].Value.Uint64(),
		Collections:   samples[1].Value.Uint64(),
		Goroutines:    samples[2].Value.Uint64(),
		OpenFiles:     openFiles(),
	}
}

// resident is the memory of this process, by the second figure of statm,
// proc_pid_statm(5).
func resident() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages uint64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// openFiles counts the descriptors of this process, but for the one that it
// takes to count them.
func openFiles() uint64 {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return uint64(len(files) - 1)
}
