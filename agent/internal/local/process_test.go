package local

import (
	"os"
	"runtime"
	"runtime/debug"
	"testing"
)

func TestProcessTellsWhatIsTaken(t *testing.T) {
	const more = 100
	debug.FreeOSMemory() // what is free, yet resident, would be taken again without growth
	before := process()
	end := make(chan struct{})
	defer close(end)
	kept := make([][]byte, more)
	for i := range more {
		file, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		kept[i] = make([]byte, 1<<18)
		for j := range kept[i] {
			kept[i][j] = byte(i) // memory that is not written is not resident
		}
		go func() { <-end }()
	}
	runtime.GC()
	after := process()
	// Other tests' connections may end meanwhile.
	for _, figure := range []struct {
		name          string
		before, after uint64
		grown         uint64
	}{
		{"open files", before.GetOpenFiles(), after.GetOpenFiles(), more},
		{"goroutines", before.GetGoroutines(), after.GetGoroutines(), more},
		{"live heap", before.GetLiveHeapBytes(), after.GetLiveHeapBytes(), more << 18},
		{"resident memory", before.GetResidentBytes(), after.GetResidentBytes(), more << 18},
	} {
		if n := int64(figure.after - figure.before); n < int64(figure.grown)/2 {
			t.Errorf("%s: grew by %d, want %d at least", figure.name, n, figure.grown)
		}
	}
	if after.GetCollections() <= before.GetCollections() {
		t.Errorf("%d collections, after %d", after.GetCollections(), before.GetCollections())
	}
	runtime.KeepAlive(kept)
}
