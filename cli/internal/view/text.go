// Package view turns the API's messages into tables for people.
package view

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/cli/internal/output"
)

// none stands for what is not set.
const none = "-"

// Clock is the time that ages are told by; times are shown in its zone.
type Clock time.Time

// At shows a time of day with its date.
func (c Clock) At(t *timestamppb.Timestamp) string {
	if t == nil {
		return none
	}
	return t.AsTime().In(time.Time(c).Location()).Format("2006-01-02 15:04:05")
}

// Ago shows how long ago something was, in one unit: "12s", "5m", "3h", "4d".
func (c Clock) Ago(t *timestamppb.Timestamp) string {
	if t == nil {
		return none
	}
	d := max(time.Time(c).Sub(t.AsTime()), 0)
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	default:
		return strconv.Itoa(int(d.Hours()/24)) + "d"
	}
}

// Since is Ago with the word.
func (c Clock) Since(t *timestamppb.Timestamp) string {
	if t == nil {
		return none
	}
	return c.Ago(t) + " ago"
}

// count is "1 user", "2 users".
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.Itoa(n) + " " + noun
}

func duration(d *durationpb.Duration) string {
	if d == nil {
		return none
	}
	return shortDuration(d.AsDuration())
}

// shortDuration is a duration without needless zeros: "1m", not "1m0s".
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func number(n *uint32) string {
	if n == nil {
		return none
	}
	return strconv.FormatUint(uint64(*n), 10)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return none
}

// or is text, or fallback when there is none.
func or(text, fallback string) string { return cmp.Or(text, fallback) }

func cells(texts ...string) []output.Cell {
	row := make([]output.Cell, len(texts))
	for i, text := range texts {
		row[i] = output.Text(text)
	}
	return row
}

// word is an enum value without its type's prefix: "UP" of
// "BACKEND_STATE_UP"; a value that this lbctl does not know stays a number.
func word(value fmt.Stringer, prefix string) string {
	return strings.TrimPrefix(value.String(), prefix)
}
