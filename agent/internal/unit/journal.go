package unit

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/daemon"
)

// journal is the output of a unit, which systemd's journal keeps: operators look
// there first.
type journal struct{ unit string }

var _ daemon.Output = (*journal)(nil)

const (
	maxSaid = 64 << 10
	// readTimeout bounds one look into the journal, the flush before it
	// included.
	readTimeout = 10 * time.Second
)

// Tail implements daemon.Output with nothing. It is asked for in the moment in
// which a daemon ends, when the score must change and nobody may wait for the
// journal.
func (j *journal) Tail() string { return "" }

// Listen implements daemon.Output.
func (j *journal) Listen() func(context.Context) string {
	since := time.Now()
	return func(ctx context.Context) string { return last(j.read(ctx, since), maxSaid) }
}

// Trim implements daemon.Output: the journal has limits of its own.
func (j *journal) Trim() error { return nil }

// read returns what was said since then, nothing when the journal cannot be read.
func (j *journal) read(ctx context.Context, since time.Time) string {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	// What was said a moment ago is on its way to the journal still.
	_ = exec.CommandContext(ctx, "journalctl", "--sync").Run()
	// The daemon's own words, without what systemd says of the unit.
	said, err := exec.CommandContext(ctx, "journalctl", "--quiet", "--no-pager", "--output=cat", "--boot",
		fmt.Sprintf("--since=@%d.%06d", since.Unix(), since.Nanosecond()/1000),
		"_SYSTEMD_UNIT="+j.unit).Output()
	if err != nil {
		return ""
	}
	return string(said)
}

// last cuts a text to whole lines of at most that many bytes.
func last(text string, most int) string {
	if len(text) <= most {
		return text
	}
	_, whole, _ := strings.Cut(text[len(text)-most:], "\n")
	return whole
}
