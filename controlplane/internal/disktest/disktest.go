// Package disktest stands between a test and its disk. It sees each system call
// that changes a file, just before the kernel does, and may let it fail, so that
// the code under test needs no seam for that. From what it saw, a Recorder plays
// power losses.
//
// It works by a seccomp filter on one thread, whose calls another thread
// answers (seccomp_unotify(2), Linux 5.5 or newer). That needs no privilege.
package disktest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Op is what a call does.
type Op int

// Ops of a Call.
const (
	Create   Op = iota // of a file that was not there
	Write              // Data at Offset
	Truncate           // to Size
	Sync               // of a file or of the directory
	Rename             // to To
	Remove
)

// Call is a call that is about to change a file.
type Call struct {
	Op     Op
	Path   string
	To     string
	Offset int64
	Data   []byte
	Size   int64
}

// Judge decides what becomes of a call: nil lets the kernel carry it out, an
// Errno makes it fail with that, Skip makes it succeed without effect.
type Judge func(Call) error

// Skip is a Judge's word for a call that is told to have succeeded, and is not
// carried out: a disk that lies.
var Skip = errors.New("skip") //nolint:revive,staticcheck // it is a verdict, as fs.SkipDir is

// Run calls f in a goroutine whose calls on files in the directory dir go
// through judge, and waits for it. Calls by other goroutines do not. judge runs
// in another goroutine than f: what both use is guarded. f must not end the test. It skips the test where the kernel cannot do that.
func Run(t testing.TB, dir string, judge Judge, f func()) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	over, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	listener := make(chan int)
	failed := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer end.Close()
		runtime.LockOSThread() // for ever: the thread ends with the goroutine, and the filter with it
		fd, err := filter()
		if err != nil {
			failed <- err
			return
		}
		listener <- fd
		f()
	}()
	select {
	case err := <-failed:
		t.Skipf("calls cannot be intercepted here: %v", err)
	case fd := <-listener:
		defer unix.Close(fd)
		if err := answer(fd, int(over.Fd()), dir, judge); err != nil {
			t.Fatal(err)
		}
		<-done
	}
}

// watched are the calls that change files, beside SYS_WRITE.
var watched = []uint32{
	unix.SYS_OPENAT, unix.SYS_PWRITE64, unix.SYS_FTRUNCATE,
	unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_RENAMEAT, unix.SYS_UNLINKAT,
}

// firstArgument is its offset in struct seccomp_data, of which it is the lower
// half on machines of this byte order.
const firstArgument = 16

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

// unwatched are descriptors that Go itself writes to while it holds up whoever
// answers: standard error for the race detector, an eventfd for the poller.
func unwatched() ([]uint32, error) {
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	free := []uint32{2}
	for _, d := range descriptors {
		if target, err := os.Readlink("/proc/self/fd/" + d.Name()); err != nil || target != "anon_inode:[eventfd]" {
			continue
		}
		n, err := strconv.ParseUint(d.Name(), 10, 32)
		if err != nil {
			return nil, err
		}
		free = append(free, uint32(n))
	}
	return free, nil
}

// filter makes this thread's watched calls wait for an answer on the descriptor
// that it returns.
func filter() (int, error) {
	free, err := unwatched()
	if err != nil {
		return 0, err
	}
	program := []unix.SockFilter{load(0)} // the call's number
	for i, nr := range watched {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jt: uint8(len(watched) - i + len(free) + 1)})
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_WRITE, Jf: uint8(len(free) + 2)},
		load(firstArgument))
	for i, fd := range free {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: fd, Jt: uint8(len(free) - i)})
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("no_new_privs: %w", err)
	}
	// Once taken up, a call is not interrupted by Go's own signals (Linux 5.19).
	for _, flags := range []uintptr{unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 0} {
		fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
		fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
			unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|flags, uintptr(unsafe.Pointer(&fprog)))
		if errno == 0 {
			return int(fd), nil
		}
		if flags == 0 {
			return 0, fmt.Errorf("seccomp: %w", errno)
		}
	}
	panic("unreachable")
}

// notification is struct seccomp_notif.
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// answer answers calls until the other end of over is closed.
func answer(fd, over int, dir string, judge Judge) error {
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(over)}}
		if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for a call: %w", err)
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			if poll[1].Revents != 0 {
				return nil
			}
			continue
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue // interrupted, or the call is no more
		}
		r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		call, ok := n.call(dir)
		if ok {
			err := judge(call)
			var errno unix.Errno
			switch {
			case errors.As(err, &errno):
				r.flags, r.errno = 0, -int32(errno)
			case errors.Is(err, Skip):
				r.flags, r.value = 0, int64(len(call.Data))
			}
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r))); errno != 0 && errno != unix.ENOENT {
			return fmt.Errorf("answer a call: %w", errno)
		}
	}
}

// call reads what the thread asks for; ok tells that it concerns dir.
func (n *notification) call(dir string) (c Call, ok bool) {
	switch n.nr {
	case unix.SYS_OPENAT:
		c = Call{Op: Create, Path: text(n.args[1])}
		_, err := os.Lstat(c.Path)
		if n.args[2]&unix.O_CREAT == 0 || err == nil {
			return c, false
		}
	case unix.SYS_RENAMEAT:
		c = Call{Op: Rename, Path: text(n.args[1]), To: text(n.args[3])}
	case unix.SYS_UNLINKAT:
		c = Call{Op: Remove, Path: text(n.args[1])}
	case unix.SYS_FTRUNCATE:
		c = Call{Op: Truncate, Path: opened(n.args[0]), Size: int64(n.args[1])}
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC:
		c = Call{Op: Sync, Path: opened(n.args[0])}
	case unix.SYS_PWRITE64:
		c = Call{Op: Write, Path: opened(n.args[0]), Offset: int64(n.args[3])}
	case unix.SYS_WRITE:
		c = Call{Op: Write, Path: opened(n.args[0])}
	}
	if c.Path != dir && !strings.HasPrefix(c.Path, dir+"/") {
		return c, false
	}
	if c.Op == Write {
		c.Data = memory(n.args[1], int(n.args[2]))
		if n.nr == unix.SYS_WRITE {
			c.Offset, _ = unix.Seek(int(n.args[0]), 0, unix.SEEK_CUR)
		}
	}
	return c, true
}

// opened is the path of an open file.
func opened(fd uint64) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return path
}

// memory copies memory of this process, which the waiting thread keeps alive.
func memory(address uint64, n int) []byte {
	if n == 0 {
		return nil
	}
	out := make([]byte, n)
	local := []unix.Iovec{{Base: &out[0], Len: uint64(n)}}
	got, err := unix.ProcessVMReadv(os.Getpid(), local, []unix.RemoteIovec{{Base: uintptr(address), Len: n}}, 0)
	if err != nil {
		return nil
	}
	return out[:got]
}

// text copies a string that ends in a zero byte.
func text(address uint64) string {
	const page = 4096
	var out []byte
	for {
		// Never across a page that may not be there.
		part := memory(address, page-int(address%page))
		if before, _, found := bytes.Cut(part, []byte{0}); found || len(part) == 0 {
			return filepath.Clean(string(append(out, before...)))
		}
		out = append(out, part...)
		address += uint64(len(part))
	}
}
