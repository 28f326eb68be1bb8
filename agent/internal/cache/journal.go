package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// A journal is a line that names the good configuration that it continues, by
// its checksum, and ends with its own CRC-32C in hexadecimal; and then records:
//
//	length    4 bytes, big-endian
//	checksum  4 bytes, CRC-32C of length and change
//	change    tandem.agent.v1.Update
//
// A journal of another good configuration is an old one and counts for nothing.
const journalMagic = "tandem-journal 1 "

const (
	// maxJournal is the size in bytes from which a journal is long.
	maxJournal = 1 << 20
	// recordHead is the size of what comes before a change.
	recordHead = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// journal is the file. One that was opened before belongs to base.
type journal struct {
	path string
	base string   // checksum of the good configuration; empty: there is none
	file *os.File // nil: none yet, or it is not to be trusted any more
	size int64    // of what is whole in it
	torn bool     // something follows that
	// damaged tells that the file counts as far as prefix alone.
	damaged bool
	prefix  []*agentv1.Update
}

// follow begins anew, after another good configuration.
func (j *journal) follow(base string) {
	j.close()
	j.base, j.size = base, 0
	j.damaged, j.prefix = false, nil
}

// cut has the next append leave out all but these changes, and go on from them.
func (j *journal) cut(prefix []*agentv1.Update) { j.damaged, j.prefix = true, prefix }

func (j *journal) close() {
	if j.file != nil {
		_ = j.file.Close() // what counts was fsynced
		j.file = nil
	}
}

// open reads the changes after a good configuration and goes on behind them. A
// record that a crash has cut off at the end was never acknowledged and is left
// out; any other damage is ErrCorrupt, with the changes before it.
func (j *journal) open(base string) ([]*agentv1.Update, error) {
	j.follow(base)
	changes, _, err := j.read()
	return changes, err
}

// read returns the changes, and the records as they are on disk.
func (j *journal) read() ([]*agentv1.Update, []byte, error) {
	data, err := os.ReadFile(j.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("configuration cache: %w", err)
	}
	if data == nil {
		return nil, nil, nil
	}
	line, records, _ := bytes.Cut(data, []byte("\n"))
	var base string
	if _, err := fmt.Sscanf(string(line), journalMagic+"%64s", &base); err != nil || string(line) != header(base) {
		return nil, nil, fmt.Errorf("journal %s is %w: its first line is not what was written", j.path, ErrCorrupt)
	}
	if base != j.base {
		return nil, nil, nil
	}
	changes, whole, err := parse(records)
	if err != nil {
		return changes, nil, fmt.Errorf("journal %s is %w: %w", j.path, ErrCorrupt, err)
	}
	return changes, records[:whole], nil
}

// header is the first line, without its end.
func header(base string) string {
	line := journalMagic + base
	return fmt.Sprintf("%s %08x", line, crc32.Checksum([]byte(line), castagnoli))
}

// append makes a change durable. After an error the journal is as before, and
// the next call tries to make it fit for use.
func (j *journal) append(change *agentv1.Update) error {
	next, err := record(change)
	if err != nil {
		return fmt.Errorf("configuration cache: %w", err)
	}
	if j.file == nil {
		err = j.rewrite(next)
	} else {
		err = j.write(next)
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// rewrite replaces the file by one with the same changes and one more. After a
// failed fsync nothing less will do: the kernel takes the lost pages for
// written.
func (j *journal) rewrite(next []byte) error {
	records, err := j.records()
	if err != nil {
		return err
	}
	data := slices.Concat([]byte(header(j.base)+"\n"), records, next)
	if err := atomicfile.WriteFile(j.path, data, 0o600); err != nil {
		return err
	}
	j.file, err = os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0)
	j.size, j.torn = int64(len(data)), false
	j.damaged, j.prefix = false, nil
	return err
}

// records returns those that count.
func (j *journal) records() ([]byte, error) {
	if !j.damaged {
		_, records, err := j.read()
		return records, err
	}
	var records []byte
	for _, change := range j.prefix {
		one, err := record(change)
		if err != nil {
			return nil, err
		}
		records = append(records, one...)
	}
	return records, nil
}

// write appends to the file.
func (j *journal) write(next []byte) error {
	if j.torn {
		if err := j.file.Truncate(j.size); err != nil {
			return err
		}
		j.torn = false
	}
	if _, err := j.file.Write(next); err != nil {
		// What was written of it must not stand before the next one.
		j.torn = j.file.Truncate(j.size) != nil
		return err
	}
	if err := j.file.Sync(); err != nil {
		_ = j.file.Truncate(j.size)
		j.close()
		return err
	}
	j.size += int64(len(next))
	return nil
}

// record returns a change as it stands in the file.
func record(change *agentv1.Update) ([]byte, error) {
	data, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, recordHead), change)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(data, uint32(len(data)-recordHead))
	binary.BigEndian.PutUint32(data[4:], sum(data))
	return data, nil
}

// sum is the checksum of a record.
func sum(data []byte) uint32 {
	return crc32.Update(crc32.Checksum(data[:4], castagnoli), castagnoli, data[recordHead:])
}

// parse returns the changes, and how many bytes of them are whole. Whatever a
// crash leaves of a record is at the end; one that is wrong with a whole one
// behind it is an error, with those before it.
func parse(data []byte) (changes []*agentv1.Update, whole int, err error) {
	for {
		change, size := first(data[whole:])
		if change == nil {
			break
		}
		changes = append(changes, change)
		whole += size
	}
	for at := whole + 1; at < len(data); at++ {
		if change, _ := first(data[at:]); change != nil {
			return changes, whole, fmt.Errorf("record %d is not what was written", len(changes)+1)
		}
	}
	return changes, whole, nil
}

// first returns the change that data begin with and the size of its record; nil
// when they begin with no whole one.
func first(data []byte) (*agentv1.Update, int) {
	if len(data) <= recordHead {
		return nil, 0
	}
	length := binary.BigEndian.Uint32(data)
	if length == 0 || int64(length) > int64(len(data)-recordHead) {
		return nil, 0
	}
	size := recordHead + int(length)
	if binary.BigEndian.Uint32(data[4:]) != sum(data[:size]) {
		return nil, 0
	}
	change := &agentv1.Update{}
	if err := proto.Unmarshal(data[recordHead:size], change); err != nil {
		return nil, 0
	}
	return change, size
}
