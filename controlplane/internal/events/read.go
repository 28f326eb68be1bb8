package events

import (
	"context"
	"encoding/binary"
	"fmt"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
)

// Last is the id of a cluster's newest event, 0 if there is none or the log is
// closed.
func (l *Log) Last(cluster string) uint64 {
	var last uint64
	_ = l.view(cluster, func(b *bolt.Bucket) error {
		last = b.Sequence()
		return nil
	})
	return last
}

// List returns at most limit events with ids below before (0: the newest), the
// newest first.
func (l *Log) List(cluster string, before uint64, limit int) ([]*tandemv1.Event, error) {
	var out []*tandemv1.Event
	err := l.view(cluster, func(b *bolt.Bucket) error {
		cur := b.Cursor()
		k, v := cur.Last()
		if before != 0 {
			if at, _ := cur.Seek(key(before)); at != nil {
				k, v = cur.Prev()
			} else {
				k, v = cur.Last()
			}
		}
		for ; k != nil && len(out) < limit; k, v = cur.Prev() {
			e, err := decode(k, v)
			if err != nil {
				return err
			}
			out = append(out, e)
		}
		return nil
	})
	return out, err
}

// view runs fn on a cluster's bucket, if there is one.
func (l *Log) view(cluster string, fn func(*bolt.Bucket) error) error {
	return l.db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(eventsBucket).Bucket([]byte(cluster)); b != nil {
			return fn(b)
		}
		return nil
	})
}

func decode(k, v []byte) (*tandemv1.Event, error) {
	e := &tandemv1.Event{}
	if err := proto.Unmarshal(v, e); err != nil {
		return nil, fmt.Errorf("event %d: %w", binary.BigEndian.Uint64(k), err)
	}
	return e, nil
}

// Watch reads events in order, each once. One goroutine uses it. It holds
// nothing that must be closed.
type Watch struct {
	log     *Log
	cluster string
	after   uint64
	page    []*tandemv1.Event
}

// Watch returns the events after the one with the id given, those that are
// kept and those to come. ErrExpired if there is a gap.
func (l *Log) Watch(cluster string, after uint64) (*Watch, error) {
	w := &Watch{log: l, cluster: cluster, after: after}
	if err := w.read(); err != nil {
		return nil, err
	}
	return w, nil
}

// Next returns the next event; it blocks until there is one or ctx ends.
// ErrExpired if the reader was so slow that what it wants is no longer kept.
func (w *Watch) Next(ctx context.Context) (*tandemv1.Event, error) {
	for len(w.page) == 0 {
		more := w.log.wait(w.cluster) // before reading, so that nothing is missed
		if err := w.read(); err != nil {
			return nil, err
		}
		if len(w.page) > 0 {
			break
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	e := w.page[0]
	w.page = w.page[1:]
	return e, nil
}

// read reads the next page, empty if nothing has come.
func (w *Watch) read() error {
	last := uint64(0)
	err := w.log.view(w.cluster, func(b *bolt.Bucket) error {
		last = b.Sequence()
		cur := b.Cursor()
		k, v := cur.Seek(key(w.after + 1))
		if k != nil && binary.BigEndian.Uint64(k) != w.after+1 {
			return ErrExpired
		}
		for ; k != nil && len(w.page) < pageSize; k, v = cur.Next() {
			e, err := decode(k, v)
			if err != nil {
				return err
			}
			w.page = append(w.page, e)
		}
		return nil
	})
	if err == nil && w.after > last {
		err = ErrExpired
	}
	if err != nil {
		return err
	}
	w.after += uint64(len(w.page))
	return nil
}
