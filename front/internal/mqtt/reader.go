package mqtt

import (
	"errors"
	"io"

	"github.com/berth-iot/berth/wire/mqtt"
)

// smallPacket is the size in bytes of the packets that are read into a
// connection's own buffer: what keeps it alive, acknowledgements, most of the
// topics. A larger one is read into a buffer of its own.
const smallPacket = 64

// A reader reads packets. While it waits for one it keeps nothing but its small
// buffer.
type reader struct {
	raw   io.Reader
	limit int
	small [smallPacket]byte
	have  int // bytes at the start of small that were read and not used
}

// packet reads one packet. What it returns is the caller's.
func (r *reader) packet() (mqtt.Packet, error) {
	for {
		first, body, size, err := mqtt.Next(r.small[:r.have], r.limit)
		switch {
		case err == nil:
			p, err := mqtt.Decode(first, append([]byte(nil), body...))
			r.have = copy(r.small[:], r.small[size:r.have])
			return p, err
		case !errors.Is(err, mqtt.ErrIncomplete):
			return nil, err
		case size > len(r.small):
			return r.large(size)
		}
		n, err := r.raw.Read(r.small[r.have:])
		r.have += n
		if n == 0 && err != nil {
			if r.have > 0 && errors.Is(err, io.EOF) {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// large reads a packet that does not fit into the small buffer. Its size is
// within the limit, but a client that announces it need not send it: the buffer
// grows with what arrives.
func (r *reader) large(size int) (mqtt.Packet, error) {
	b := make([]byte, 0, min(size, 4<<10))
	b = append(b, r.small[:r.have]...)
	r.have = 0
	for len(b) < size {
		if len(b) == cap(b) {
			grown := make([]byte, len(b), min(size, 4*cap(b)))
			copy(grown, b)
			b = grown
		}
		n, err := r.raw.Read(b[len(b):min(size, cap(b))])
		b = b[:len(b)+n]
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	first, body, _, err := mqtt.Next(b, size)
	if err != nil {
		return nil, err
	}
	return mqtt.Decode(first, body)
}
