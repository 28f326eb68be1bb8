// Package events keeps what happened, in a file of its own that never delays
// a change of configuration.
package events

import (
	"context"
	"errors"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"github.com/hashicorp/go-hclog"
)

// ErrExpired means that events after the given one are no longer kept, or that
// there never was such an event: a watcher must begin anew.
var ErrExpired = errors.New("the events after this one are no longer kept")

// Options of a log.
type Options struct {
	// Keep is how many events of a cluster are kept; 0 means 100,000.
	Keep int
	// Logger; nil: none.
	Logger hclog.Logger
}

// Log is the event log of all clusters.
type Log struct{}

// Open opens the log at path, and makes it if there is none.
func Open(path string, o Options) (*Log, error) { panic("not yet") }

// Run writes what is appended until ctx ends, and then what is left.
func (l *Log) Run(ctx context.Context) error { panic("not yet") }

// Close closes the file, after Run has returned.
func (l *Log) Close() error { panic("not yet") }

// Epoch was minted when the file was made; ids compare within it only.
func (l *Log) Epoch() string { panic("not yet") }

// Append queues an event of a cluster and never blocks. The log gives it its
// name, and its receive time if it has none; the caller no longer uses e. When
// the disk cannot follow, events are dropped and an event says how many.
func (l *Log) Append(cluster string, e *tandemv1.Event) { panic("not yet") }

// Last is the id of a cluster's newest event, 0 if there is none.
func (l *Log) Last(cluster string) uint64 { panic("not yet") }

// List returns at most limit events with ids below before (0: the newest), the
// newest first.
func (l *Log) List(cluster string, before uint64, limit int) ([]*tandemv1.Event, error) {
	panic("not yet")
}

// Watch returns the events after the one with the id given, those that are
// kept and those to come. ErrExpired if there is a gap.
func (l *Log) Watch(cluster string, after uint64) (*Watch, error) { panic("not yet") }

// Watch reads events in order, each once. One goroutine uses it.
type Watch struct{}

// Next returns the next event; it blocks until there is one or ctx ends.
// ErrExpired if the reader was so slow that what it wants is no longer kept.
func (w *Watch) Next(ctx context.Context) (*tandemv1.Event, error) { panic("not yet") }

// ID returns the id in an event's name, 0 if it has none.
func ID(e *tandemv1.Event) uint64 { panic("not yet") }
