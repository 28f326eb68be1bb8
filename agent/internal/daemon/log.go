package daemon

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
)

const (
	maxLog       = 1 << 20
	maxTail      = 8 << 10
	maxTailLines = 20
)

// openLog opens the log for appending and tells where it ends. The daemon gets
// a file and not a pipe, because a pipe would break with the agent.
func openLog(path string) (*os.File, int64, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, 0, err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// trimLog moves the content of a log that has grown too big away. Lines that
// come meanwhile may be lost. The daemon goes on at the beginning, as it has
// the file open for appending.
func trimLog(path string) (trimmed bool, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // the daemon's output goes elsewhere
	}
	if err != nil || info.Size() <= maxLog {
		return false, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	if err := atomicfile.WriteVolatile(path+".1", data, 0o640); err != nil {
		return false, err
	}
	return true, os.Truncate(path, 0)
}

// tail returns the last lines of the file from the offset on.
func tail(path string, offset int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	offset = min(offset, info.Size())
	cut := info.Size()-offset > maxTail
	if cut {
		offset = info.Size() - maxTail
	}
	data, err := io.ReadAll(io.NewSectionReader(f, offset, maxTail))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if cut {
		lines = lines[1:] // a part of a line
	}
	if len(lines) > maxTailLines {
		lines = lines[len(lines)-maxTailLines:]
	}
	return strings.Join(lines, "\n")
}
