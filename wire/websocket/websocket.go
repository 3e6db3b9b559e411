// Package websocket turns the frames of the WebSocket protocol (RFC 6455) into bytes
// and back, for both ends of a connection, which is handed in. It opens none and
// reads no clock.
package websocket

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
)

// An Opcode says what a frame carries (RFC 6455 section 5.2).
type Opcode byte

// The opcodes.
const (
	Continuation Opcode = 0
	Text         Opcode = 1
	Binary       Opcode = 2
	Close        Opcode = 8
	Ping         Opcode = 9
	Pong         Opcode = 10
)

// IsControl reports whether frames with the opcode stand outside of messages.
func (o Opcode) IsControl() bool { return o >= Close }

// MaxControl is how much a control frame carries at most, in bytes.
const MaxControl = 125

// The status codes of Close frames (RFC 6455 section 7.4.1) that are used here.
const (
	StatusNormal        = 1000
	StatusProtocolError = 1002
	StatusUnsupported   = 1003
)

// A Header is what stands before the payload of a frame.
type Header struct {
	Final  bool // the message ends with this frame
	Opcode Opcode
	Masked bool // as every frame of a client is, and none of a server
	Mask   [4]byte
	Length uint64 // of the payload, in bytes
}

// MaxHeader is the size of the longest header in bytes.
const MaxHeader = 14

// ErrIncomplete says that a header's bytes are not all there yet.
var ErrIncomplete = errors.New("the frame header is incomplete")

// DecodeHeader reads a header and says how many bytes it takes. An error other
// than ErrIncomplete is a breach of the protocol.
func DecodeHeader(b []byte) (h Header, size int, err error) {
	if len(b) < 2 {
		return h, 0, ErrIncomplete
	}
	h = Header{Final: b[0]&0x80 != 0, Opcode: Opcode(b[0] & 0x0f), Masked: b[1]&0x80 != 0, Length: uint64(b[1] & 0x7f)}
	switch {
	case b[0]&0x70 != 0:
		return h, 0, errors.New("a reserved bit is set, and no extension was agreed on")
	case h.Opcode > Binary && h.Opcode < Close || h.Opcode > Pong:
		return h, 0, fmt.Errorf("opcode %d is reserved", h.Opcode)
	case h.Opcode.IsControl() && !h.Final:
		return h, 0, errors.New("a control frame is fragmented")
	case h.Opcode.IsControl() && h.Length > MaxControl:
		return h, 0, errors.New("a control frame is longer than 125 bytes")
	}
	size = 2
	switch h.Length {
	case 126:
		if size = 4; len(b) < size {
			return h, 0, ErrIncomplete
		}
		if h.Length = uint64(binary.BigEndian.Uint16(b[2:])); h.Length < 126 {
			return h, 0, errors.New("the length is not in its shortest form")
		}
	case 127:
		if size = 10; len(b) < size {
			return h, 0, ErrIncomplete
		}
		h.Length = binary.BigEndian.Uint64(b[2:])
		if h.Length < 1<<16 || h.Length > 1<<63-1 {
			return h, 0, errors.New("the length is not in its shortest form, or negative")
		}
	}
	if h.Masked {
		if len(b) < size+4 {
			return h, 0, ErrIncomplete
		}
		h.Mask = [4]byte(b[size:])
		size += 4
	}
	return h, size, nil
}

// Append adds the header's bytes to b.
func (h Header) Append(b []byte) []byte {
	first, second := byte(h.Opcode), byte(0)
	if h.Final {
		first |= 0x80
	}
	if h.Masked {
		second = 0x80
	}
	switch {
	case h.Length < 126:
		b = append(b, first, second|byte(h.Length))
	case h.Length < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, first, second|126), uint16(h.Length))
	default:
		b = binary.BigEndian.AppendUint64(append(b, first, second|127), h.Length)
	}
	if h.Masked {
		b = append(b, h.Mask[:]...)
	}
	return b
}

// Apply masks or unmasks a part of a payload that begins offset bytes into it
// (RFC 6455 section 5.3).
func Apply(mask [4]byte, b []byte, offset uint64) {
	for i := range b {
		b[i] ^= mask[(offset+uint64(i))&3]
	}
}

// acceptGUID is appended to a key before it is hashed (RFC 6455 section 1.3).
const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// Accept returns the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key.
func Accept(key string) string {
	sum := sha1.Sum([]byte(key + acceptGUID))
	return base64.StdEncoding.EncodeToString(sum[:])
}
