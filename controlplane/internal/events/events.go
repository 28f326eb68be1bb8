// Package events keeps what happened, in a file of its own that never delays
// a change of configuration.
package events

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/boltfile"
	"github.com/tandem-lb/tandem/controlplane/internal/crash"
)

// ErrExpired means that events after the given one are no longer kept, or that
// there never was such an event: a watcher must begin anew.
var ErrExpired = errors.New("the events after this one are no longer kept")

// ReasonEventsLost is the reason of the event that tells of dropped ones.
const ReasonEventsLost = "EVENTS_LOST"

const (
	// queueDepth is how many events can wait for the disk.
	queueDepth = 4096
	// maxBatch bounds how many events share a transaction.
	maxBatch = 1024
	// retryWrite is the pause after a failed write.
	retryWrite = time.Second
	// pageSize is how many events a watcher reads at once.
	pageSize = 256
)

// The file holds "meta" with the epoch, "events" with a bucket a cluster:
// id, big-endian → tandem.v1.Event, and "positions" of sources. Ids of a bucket
// have no gaps.
var (
	metaBucket      = []byte("meta")
	eventsBucket    = []byte("events")
	positionsBucket = []byte("positions")
	epochKey        = []byte("epoch")
)

// Options of a log.
type Options struct {
	// Keep is how many events of a cluster are kept; 0 means 100,000.
	Keep int
	// Logger; nil: none.
	Logger hclog.Logger
}

// Log is the event log of all clusters. Its methods may be called from any
// goroutine; that of Run alone writes.
type Log struct {
	db    *boltfile.File
	log   hclog.Logger
	keep  uint64
	epoch string

	queue chan entry
	lost  atomic.Uint64 // dropped since the last write

	mu      sync.Mutex
	written map[string]chan struct{} // by cluster; closed when an event is added
}

// entry is an event on its way to the disk.
type entry struct {
	cluster string
	event   *tandemv1.Event
	source  *Source // nil: nobody sends it again
	written func()  // nil: nobody waits
}

// Open opens the log at path, and makes it if there is none.
func Open(path string, o Options) (*Log, error) {
	if o.Keep == 0 {
		o.Keep = 100_000
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	db, err := boltfile.Open(path, prepare)
	if err != nil {
		return nil, fmt.Errorf("event log %s: %w", path, err)
	}
	l := &Log{db: db, log: o.Logger, keep: uint64(o.Keep),
		queue: make(chan entry, queueDepth), written: map[string]chan struct{}{}}
	if err := l.identify(); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("event log %s: %w", path, err)
	}
	return l, nil
}

// prepare makes the buckets that the file lacks, and mints the epoch of a new
// one.
func prepare(tx *bolt.Tx) error {
	for _, name := range [][]byte{eventsBucket, positionsBucket, metaBucket} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	meta := tx.Bucket(metaBucket)
	if meta.Get(epochKey) != nil {
		return nil
	}
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	return meta.Put(epochKey, fmt.Appendf(nil, "%x", b))
}

// prepared tells whether the file has its buckets. An older version's lacks some.
func prepared(tx *bolt.Tx) bool {
	return tx.Bucket(eventsBucket) != nil && tx.Bucket(positionsBucket) != nil && tx.Bucket(metaBucket) != nil
}

// identify reads what the file is. It writes only what an older version's file
// lacks, so that a full disk keeps no controller from starting.
func (l *Log) identify() error {
	whole := false
	if err := l.db.View(func(tx *bolt.Tx) error { whole = prepared(tx); return nil }); err != nil {
		return err
	}
	if !whole {
		if err := l.db.Update(prepare); err != nil {
			return err
		}
	}
	return l.db.View(func(tx *bolt.Tx) error {
		l.epoch = string(tx.Bucket(metaBucket).Get(epochKey))
		return nil
	})
}

// Close closes the file, after Run has returned.
func (l *Log) Close() error { return l.db.Close() }

// Epoch was minted when the file was made; ids compare within it only.
func (l *Log) Epoch() string { return l.epoch }

// Append queues an event of a cluster and never blocks. The log gives it its
// name, and its times if it has none; the caller no longer uses e. When the
// disk cannot follow, events are dropped and an event says how many.
func (l *Log) Append(cluster string, e *tandemv1.Event) {
	if !l.put(entry{cluster: cluster, event: e}) {
		l.lost.Add(1)
	}
}

// AppendFrom is Append for a source that can send the event again: false means
// that the queue is full, and nothing has happened. An event that the log has
// from this source already is not written again, whenever the controller was
// killed in between. Run's goroutine calls written, if it is not nil, once the
// event is on disk. written must not block.
func (l *Log) AppendFrom(cluster string, from Source, e *tandemv1.Event, written func()) bool {
	return l.put(entry{cluster, e, &from, written})
}

// put queues an event, unless the queue is full.
func (l *Log) put(e entry) bool {
	now := timestamppb.Now()
	if e.event.ReceiveTime == nil {
		e.event.ReceiveTime = now
	}
	if e.event.Time == nil {
		e.event.Time = e.event.ReceiveTime
	}
	select {
	case l.queue <- e:
		return true
	default:
		return false
	}
}

// Run writes what is appended until ctx ends, and then what is left. It is
// called once.
func (l *Log) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			for left := l.drain(nil); len(left) > 0; left = l.drain(nil) {
				if err := l.write(left); err != nil {
					return fmt.Errorf("write the last events: %w", err)
				}
			}
			return nil
		case e := <-l.queue:
			l.persist(ctx, l.drain([]entry{e}))
		}
	}
}

// drain adds all that wait now to a batch.
func (l *Log) drain(batch []entry) []entry {
	for len(batch) < maxBatch {
		select {
		case e := <-l.queue:
			batch = append(batch, e)
		default:
			return batch
		}
	}
	return batch
}

// persist writes a batch; it tries again, and what comes meanwhile waits in
// the queue, until that succeeds or ctx ends.
func (l *Log) persist(ctx context.Context, batch []entry) {
	for {
		err := l.write(batch)
		if err == nil {
			return
		}
		l.log.Error("events could not be written, will retry", "events", len(batch), "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryWrite):
		}
	}
}

// write makes a batch durable and wakes those who watch.
func (l *Log) write(batch []entry) error {
	lost := l.lost.Load()
	if lost > 0 {
		batch = append(batch, lostEvent(batch[len(batch)-1].cluster, lost))
	}
	err := l.db.Update(func(tx *bolt.Tx) error {
		for _, e := range batch {
			if err := l.add(tx, e); err != nil {
				return fmt.Errorf("event of cluster %q: %w", e.cluster, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	crash.EventWritten.Pass()
	l.lost.Add(-lost)
	l.wake(batch)
	for _, e := range batch {
		if e.written != nil {
			e.written()
		}
	}
	return nil
}

// lostEvent tells of dropped events.
func lostEvent(cluster string, n uint64) entry {
	now := timestamppb.Now()
	return entry{cluster: cluster, event: &tandemv1.Event{
		Time: now, ReceiveTime: now, Subject: "clusters/" + cluster,
		Type: tandemv1.EventType_EVENT_TYPE_CONFIG, Severity: tandemv1.EventSeverity_EVENT_SEVERITY_WARNING,
		Reason: ReasonEventsLost, Message: fmt.Sprintf("%d events could not be written in time and were dropped", n),
	}}
}

// add gives an event its name and stores it in place of the oldest one, unless
// it is there.
func (l *Log) add(tx *bolt.Tx, e entry) error {
	if e.source != nil {
		if fresh, err := advance(tx, e.cluster, *e.source); err != nil || !fresh {
			return err
		}
	}
	b, err := tx.Bucket(eventsBucket).CreateBucketIfNotExists([]byte(e.cluster))
	if err != nil {
		return err
	}
	id, err := b.NextSequence()
	if err != nil {
		return err
	}
	e.event.Name = fmt.Sprintf("clusters/%s/events/%d", e.cluster, id)
	v, err := proto.Marshal(e.event)
	if err != nil {
		return err
	}
	b.FillPercent = 1 // ids only grow
	if err := b.Put(key(id), v); err != nil {
		return err
	}
	// More than one if Keep is less than it was; never many at once.
	cur := b.Cursor()
	for range 2 {
		k, _ := cur.First()
		if id-binary.BigEndian.Uint64(k) < l.keep {
			return nil
		}
		if err := cur.Delete(); err != nil {
			return err
		}
	}
	return nil
}

// wake wakes those who watch the clusters of a batch.
func (l *Log) wake(batch []entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range batch {
		if ch := l.written[e.cluster]; ch != nil {
			close(ch)
			delete(l.written, e.cluster)
		}
	}
}

// wait returns a channel that is closed when an event of the cluster is added.
func (l *Log) wait(cluster string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	ch := l.written[cluster]
	if ch == nil {
		ch = make(chan struct{})
		l.written[cluster] = ch
	}
	return ch
}

func key(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// ID returns the id in an event's name, 0 if it has none.
func ID(e *tandemv1.Event) uint64 {
	name := e.GetName()
	id, err := strconv.ParseUint(name[strings.LastIndexByte(name, '/')+1:], 10, 64)
	if err != nil {
		return 0
	}
	return id
}
