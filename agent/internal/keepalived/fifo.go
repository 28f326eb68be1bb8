package keepalived

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// notice is one line of keepalived's notify FIFO about an instance.
type notice struct {
	instance string
	word     string // MASTER, BACKUP, FAULT, STOP, DELETED, MASTER_RX_LOWER_PRI, MASTER_PRIORITY, …
	priority int
}

// parseNotice parses a line such as `INSTANCE "web" MASTER 230`.
func parseNotice(line string) (notice, error) {
	rest, ok := strings.CutPrefix(line, `INSTANCE "`)
	name, rest, quoted := strings.Cut(rest, `" `)
	word, number, spaced := strings.Cut(rest, " ")
	if !ok || !quoted || !spaced || word == "" {
		return notice{}, fmt.Errorf("line %q is not INSTANCE \"NAME\" STATE PRIORITY", line)
	}
	priority, err := strconv.ParseUint(number, 10, 8)
	if err != nil {
		return notice{}, fmt.Errorf("line %q: priority: %w", line, err)
	}
	return notice{instance: name, word: word, priority: int(priority)}, nil
}

// maxNotice is far more than a line can have: a name has at most 32 letters.
const maxNotice = 4096

// readNotices sends what it reads until r ends or ctx is done. A line that is
// no notice, or too long to be one, is handed to bad and skipped.
func readNotices(ctx context.Context, r io.Reader, out chan<- notice, bad func(error)) error {
	lines := bufio.NewReaderSize(r, maxNotice)
	for skip := false; ; {
		line, part, err := lines.ReadLine()
		if err != nil {
			return err
		}
		if part || skip {
			if !skip {
				bad(fmt.Errorf("line longer than %d bytes", maxNotice))
			}
			skip = part
			continue
		}
		n, err := parseNotice(string(line))
		if err != nil {
			bad(err)
			continue
		}
		select {
		case out <- n:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ownLine is what the driver itself writes into the FIFO, behind all that keepalived
// has said so far. No instance has an empty name.
const (
	ownLine = `INSTANCE "" ` + ownWord + " 0\n"
	ownWord = "HEARD"
)

// hearOut returns when the observer has taken what keepalived has said through the
// FIFO until now. It is called by whoever has the control. After a call that was
// given up the next one may return early.
func (d *Driver) hearOut(ctx context.Context) error {
	reached := make(chan struct{})
	if err := d.do(ctx, func(o *observer) { o.reached = reached }); err != nil {
		return err
	}
	deadline, _ := ctx.Deadline() // without one, that of an earlier call ends here
	if err := d.fifo.SetWriteDeadline(deadline); err != nil {
		return err
	}
	if _, err := d.fifo.WriteString(ownLine); err != nil {
		return fmt.Errorf("notify FIFO: %w", err)
	}
	select {
	case <-reached:
		return nil
	case <-d.ended:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// openFIFO makes the FIFO, where it does not exist, and opens it for reading
// and writing, so that it neither blocks nor ends when keepalived does. What
// was said while nobody listened is old and returned apart.
func openFIFO(path string) (fifo *os.File, old []byte, err error) {
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, nil, fmt.Errorf("make FIFO %s: %w", path, err)
	}
	// keepalived would append its lines to a regular file.
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("look at FIFO: %w", err)
	}
	if info.Mode().Type() != fs.ModeNamedPipe {
		return nil, nil, fmt.Errorf("%s is no FIFO: remove it", path)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open FIFO %s: %w", path, err)
	}
	part := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, part)
		if n <= 0 && !errors.Is(err, unix.EINTR) {
			return os.NewFile(uintptr(fd), path), old, nil
		}
		// A FIFO holds 64 KiB, and a writer could go on.
		if len(old) < 1<<20 {
			old = append(old, part[:max(0, n)]...)
		}
	}
}
