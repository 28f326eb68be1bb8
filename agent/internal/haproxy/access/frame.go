package access

import (
	"bytes"
	"fmt"
)

// maxFrame bounds a frame in bytes; HAProxy's are shorter.
const maxFrame = 64 << 10

// nextFrame takes the first frame off the buffer: the message's length in
// decimal, a space and the message (RFC 6587, 3.4.1). size is that of the whole
// frame, 0 while a part of it is missing.
func nextFrame(buffer []byte) (message []byte, size int, err error) {
	length := 0
	for n, c := range buffer {
		switch {
		case c == ' ' && n > 0:
			if len(buffer)-n-1 < length {
				return nil, 0, nil
			}
			size = n + 1 + length
			return buffer[n+1 : size], size, nil
		case c < '0' || c > '9':
			return nil, 0, fmt.Errorf("a frame begins with %q, which is no length and space", buffer[:n+1])
		}
		if length = 10*length + int(c-'0'); length > maxFrame {
			return nil, 0, fmt.Errorf("a frame of more than %d bytes", maxFrame)
		}
	}
	return nil, 0, nil
}

// appendLine appends a message to lines, each of which ends in a newline and
// has none inside.
func appendLine(lines, message []byte) []byte {
	message = bytes.TrimRight(message, "\r\n\x00")
	from := len(lines)
	lines = append(lines, message...)
	for n, c := range lines[from:] {
		if c == '\n' {
			lines[from+n] = ' '
		}
	}
	return append(lines, '\n')
}
