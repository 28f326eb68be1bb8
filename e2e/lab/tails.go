package lab

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Tails writes the last lines of every log file of the lab, for a person who
// looks at a failure.
func (l *Lab) Tails(w io.Writer, lines int) error {
	logs, err := filepath.Glob(filepath.Join(l.Dir, "*", "*.log"))
	if err != nil {
		return err
	}
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "==> %s <==\n%s\n", log, tail(text, lines)); err != nil {
			return err
		}
	}
	return nil
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
