// Package statelog writes the state log: one line for each step of a VIP into
// another state, in the form of the guide's keepalived-state.log.
package statelog

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/keepalived"
	"github.com/tandem-lb/tandem/agent/internal/logfile"
)

const (
	// maxWaiting is how many lines wait for a disk that takes none.
	maxWaiting = 1000
	// retryEvery is how often they are tried again.
	retryEvery = 10 * time.Second
)

// Log is a state log. Run does the work; the other methods never block.
type Log struct {
	file  *logfile.File
	tell  func(text string)
	lines chan []byte // waiting
}

// New returns a log. tell gets what keeps it from being written, and an empty
// text when nothing does any more.
func New(o logfile.Options, tell func(text string)) *Log {
	return &Log{file: logfile.New(o), tell: tell, lines: make(chan []byte, maxWaiting)}
}

// Transition adds a line such as
//
//	Thu Nov 26 14:27:40 UTC 2026: Became MASTER: VIP web, priority 230
func (l *Log) Transition(t *keepalived.Transition, at time.Time) {
	text := fmt.Sprintf("%s: VIP %s", became(t.State), t.VIP)
	if t.Name != t.VIP {
		text = fmt.Sprintf("%s: instance %s", became(t.State), t.Name)
		if t.VIP != "" {
			text += " of VIP " + t.VIP
		}
	}
	if t.Priority != 0 {
		text += fmt.Sprintf(", priority %d", t.Priority)
	}
	if t.Reason != "" {
		text += ": " + t.Reason
	}
	l.Note(text, at)
}

// became are the guide's words.
func became(s keepalived.InstanceState) string {
	switch s {
	case keepalived.InstanceMaster:
		return "Became MASTER"
	case keepalived.InstanceBackup:
		return "Became BACKUP"
	case keepalived.InstanceFault:
		return "Fault detected"
	case keepalived.InstanceInit, keepalived.InstanceUnknown:
		return "Stopped"
	default:
		return "Unknown state: " + strings.ToUpper(string(s))
	}
}

// Note adds a line for people. When too many wait, it is lost.
func (l *Log) Note(text string, at time.Time) {
	line := at.Format(time.UnixDate) + ": " + strings.ReplaceAll(text, "\n", " ") + "\n"
	select {
	case l.lines <- []byte(line):
	default:
	}
}

// Run writes lines until ctx ends. It says when it begins and ends, as nothing
// is known of what is in between.
func (l *Log) Run(ctx context.Context) error {
	defer l.file.Close()
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	waiting := []byte(time.Now().Format(time.UnixDate) + ": Agent started\n")
	for {
		waiting = l.write(waiting)
		lines := l.lines
		if bytes.Count(waiting, []byte("\n")) >= maxWaiting {
			lines = nil // the channel fills up and then loses
		}
		select {
		case line := <-lines:
			waiting = append(waiting, line...)
		case <-retry.C:
		case <-ctx.Done():
			l.Note("Agent stopped", time.Now())
			for len(l.lines) > 0 {
				waiting = append(waiting, <-l.lines...)
			}
			l.write(waiting)
			return nil
		}
	}
}

// write returns what could not be written.
func (l *Log) write(lines []byte) []byte {
	if len(lines) == 0 {
		return lines
	}
	if _, err := l.file.Write(lines); err != nil {
		l.tell("state log: " + err.Error())
		return lines
	}
	l.tell("")
	return nil
}
