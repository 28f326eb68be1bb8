package access

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/tandem-lb/tandem/agent/internal/logfile"
)

// sink is where lines go. Only the writer's goroutine uses it.
type sink interface {
	// write takes lines and returns how many it lost.
	write(ctx context.Context, lines []byte) (lost uint64, err error)
	close() error
}

// fileSink writes lines as a syslog daemon would, or JSON alone.
type fileSink struct {
	file *logfile.File
	json bool
	host string
	text []byte
}

func newFileSink(o logfile.Options, json bool) *fileSink {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return &fileSink{file: logfile.New(o), json: json, host: host}
}

func (s *fileSink) close() error { return s.file.Close() }

func (s *fileSink) write(_ context.Context, lines []byte) (uint64, error) {
	s.text = s.text[:0]
	count := uint64(0)
	for line := range bytes.Lines(lines) {
		before := len(s.text)
		if s.json {
			s.text = appendJSON(s.text, line)
		} else {
			s.text = appendWithHost(s.text, line, s.host)
		}
		if len(s.text) > before {
			count++
		}
	}
	if count == 0 {
		return 0, nil
	}
	if _, err := s.file.Write(s.text); err != nil {
		return count, err
	}
	return 0, nil
}

// appendJSON appends the message of a line "<PRI>Mmm dd hh:mm:ss TAG: {…}". What
// is no JSON object is no request, such as that a listener was stopped.
func appendJSON(text, line []byte) []byte {
	_, message, _ := bytes.Cut(line, []byte("]: "))
	if !bytes.HasPrefix(message, []byte("{")) {
		return text
	}
	return append(text, message...)
}

// stampLength is that of a time in a line, "Mmm dd hh:mm:ss " (RFC 3164, 4.1.2).
const stampLength = 16

// appendWithHost appends a line without its priority and with the host's name
// after the time, as syslog daemons do.
func appendWithHost(text, line []byte, host string) []byte {
	if _, rest, found := bytes.Cut(line, []byte(">")); found && line[0] == '<' {
		line = rest
	}
	if len(line) < stampLength {
		return append(text, line...)
	}
	text = append(text, line[:stampLength]...)
	text = append(text, host...)
	text = append(text, ' ')
	return append(text, line[stampLength:]...)
}

// syslogSink sends each line to a local syslog socket, which journald has too.
type syslogSink struct {
	path       string
	connection net.Conn // nil: none
}

// syslogTimeout is how long a daemon that takes nothing is waited for.
const syslogTimeout = time.Second

func (s *syslogSink) close() error {
	if s.connection == nil {
		return nil
	}
	err := s.connection.Close()
	s.connection = nil
	return err
}

func (s *syslogSink) write(ctx context.Context, lines []byte) (uint64, error) {
	err := s.send(ctx, &lines)
	if err == nil {
		return 0, nil
	}
	// The daemon may only have been restarted.
	_ = s.close()
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		err = s.send(ctx, &lines)
	}
	if err == nil {
		return 0, nil
	}
	return uint64(bytes.Count(lines, []byte("\n"))), errors.Join(err, s.close())
}

// send takes off lines what it has sent.
func (s *syslogSink) send(ctx context.Context, lines *[]byte) error {
	if s.connection == nil {
		connection, err := (&net.Dialer{}).DialContext(ctx, "unixgram", s.path)
		if err != nil {
			return err
		}
		s.connection = connection
	}
	if err := s.connection.SetWriteDeadline(time.Now().Add(syslogTimeout)); err != nil {
		return err
	}
	for len(*lines) > 0 {
		line, rest, _ := bytes.Cut(*lines, []byte("\n"))
		if _, err := s.connection.Write(line); err != nil {
			return err
		}
		*lines = rest
	}
	return nil
}
