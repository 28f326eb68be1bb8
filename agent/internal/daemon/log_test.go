package daemon

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBigLogIsRotatedAtStart(t *testing.T) {
	spec := script(t.TempDir(), `echo new`)
	if err := os.WriteFile(spec.LogFile, make([]byte, maxLog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	waitDone(t, startForTest(t, spec))
	if got, err := os.ReadFile(spec.LogFile); err != nil || string(got) != "new\n" {
		t.Errorf("log %q, %v", got, err)
	}
	if info, err := os.Stat(spec.LogFile + ".1"); err != nil || info.Size() != maxLog+1 {
		t.Errorf("old log: %v", err)
	}
}

func TestBigLogIsTrimmedWhileItGrows(t *testing.T) {
	spec := script(t.TempDir(), `head -c 1100000 /dev/zero; echo; read -r line <"$0.go"; echo after; exec sleep 1000`)
	spec.Args = append(spec.Args, spec.PIDFile)
	if err := unix.Mkfifo(spec.PIDFile+".go", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(spec.LogFile, []byte("an earlier run\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startForTest(t, spec)
	size := func() int64 {
		info, err := os.Stat(spec.LogFile)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	eventually(t, "output", func() bool { return size() == 1100000+1+15 })
	if err := p.TrimLog(); err != nil || size() != 0 {
		t.Errorf("trim: %v, %d bytes are left", err, size())
	}
	if err := os.WriteFile(spec.PIDFile+".go", []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log goes on", func() bool { return p.Tail() == "after" })
	if err := p.TrimLog(); err != nil || size() == 0 {
		t.Errorf("a small log was trimmed: %v", err)
	}
}
