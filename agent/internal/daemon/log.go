package daemon

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
)

// Output is where a daemon's words go.
type Output interface {
	// Tail returns the last lines of this process, at most 20 and 8 KiB.
	Tail() string
	// Listen begins to listen; the function tells what has been said since, at
	// most 64 KiB.
	Listen() (said func(context.Context) string)
	// Trim is called now and then and throws away what is too much.
	Trim() error
}

// logFile is output in a file, which is moved to PATH.1 when it has grown past
// maxLog.
type logFile struct {
	path   string
	offset atomic.Int64 // where this process's output begins
}

var _ Output = (*logFile)(nil)

func newLogFile(path string, offset int64) *logFile {
	f := &logFile{path: path}
	f.offset.Store(offset)
	return f
}

// Tail implements Output.
func (f *logFile) Tail() string { return tail(f.path, f.offset.Load()) }

// Listen implements Output.
func (f *logFile) Listen() func(context.Context) string {
	var offset int64
	if info, err := os.Stat(f.path); err == nil {
		offset = info.Size()
	}
	return func(context.Context) string {
		file, err := os.Open(f.path)
		if err != nil {
			return ""
		}
		defer file.Close()
		text, err := io.ReadAll(io.NewSectionReader(file, offset, maxSaid))
		if err != nil {
			return ""
		}
		return string(text)
	}
}

// Trim implements Output.
func (f *logFile) Trim() error {
	trimmed, err := trimLog(f.path)
	if trimmed {
		f.offset.Store(0)
	}
	return err
}

const (
	maxLog       = 1 << 20
	maxSaid      = 64 << 10
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
