package events

import (
	"encoding/binary"

	bolt "go.etcd.io/bbolt"
)

// Source names an event by where it comes from. A source's events come in the
// order of their positions, some more than once.
type Source struct {
	// Node is the identity of a node; it is never given to another one.
	Node string
	Position
}

// Position is an event's place among those of its source: Sequence grows within
// a Boot, and a Boot that has given way to another does not come back.
type Position struct {
	Boot     string
	Sequence uint64
}

// Position returns that of the newest event that the log has from a node, the
// zero position if there is none or the log is closed.
func (l *Log) Position(cluster, node string) Position {
	var p Position
	_ = l.db.View(func(tx *bolt.Tx) error {
		p = positionOf(tx, cluster, node)
		return nil
	})
	return p
}

// advance moves a source on to a position, in the transaction that writes its
// event. It returns false when the source is there already.
func advance(tx *bolt.Tx, cluster string, s Source) (fresh bool, err error) {
	at := positionOf(tx, cluster, s.Node)
	if at.Boot == s.Boot && s.Sequence <= at.Sequence {
		return false, nil
	}
	value := append(binary.BigEndian.AppendUint64(nil, s.Sequence), s.Boot...)
	return true, tx.Bucket(positionsBucket).Put(sourceKey(cluster, s.Node), value)
}

func positionOf(tx *bolt.Tx, cluster, node string) Position {
	v := tx.Bucket(positionsBucket).Get(sourceKey(cluster, node))
	if len(v) < 8 {
		return Position{}
	}
	return Position{Boot: string(v[8:]), Sequence: binary.BigEndian.Uint64(v)}
}

func sourceKey(cluster, node string) []byte { return []byte(cluster + "/" + node) }
