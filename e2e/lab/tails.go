package lab

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Tails writes the last lines of every log file of the lab, for a person who
// looks at a failure: of the processes of its hosts, and of what those log
// below the hosts' directories.
func (l *Lab) Tails(w io.Writer, lines int) error {
	return filepath.WalkDir(l.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || filepath.Ext(path) != ".log" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || len(text) == 0 {
			return err
		}
		_, err = fmt.Fprintf(w, "==> %s <==\n%s\n", path, tail(text, lines))
		return err
	})
}

// Tail returns the last lines of the process's log file.
func (p *Process) Tail(lines int) string {
	text, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(tail(text, lines))
}

// tail returns at most the last n lines of a text.
func tail(text []byte, n int) []byte {
	text = bytes.TrimRight(text, "\n")
	cut := len(text)
	for ; n > 0 && cut >= 0; n-- {
		cut = bytes.LastIndexByte(text[:cut], '\n')
	}
	return text[cut+1:]
}
