package websocket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// A Stream is a WebSocket as a stream of bytes: what binary frames carry, one
// behind the other; where frames and messages begin and end says nothing. It is
// either end of a connection, which is handed in. It is read by one goroutine at
// a time; all else may be done by several.
type Stream struct {
	From io.Reader // the connection; no byte more than a frame has is read of it
	To   io.Writer // gets each frame with one call
	// Mask draws the mask of a frame that is written, at a client's end. A server's
	// has none: it masks no frame, and takes those alone that are masked.
	Mask func() [4]byte
	// Hurry bounds from now on how long To takes, for a farewell.
	Hurry func() error

	frame   Header // that is being read
	at      uint64 // how far into its payload
	message bool   // more frames of the message are to come
	ended   bool   // a Close frame has arrived, or something that ends it as well

	writing sync.Mutex // held while a frame is written
	closing sync.Once
}

// Read returns what the peer's binary frames carry. Pings are answered on the way.
// After the peer's Close frame, which is answered, it returns io.EOF. A breach of
// the protocol is told to the peer and ends the stream.
func (s *Stream) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for !s.ended && s.at == s.frame.Length {
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	if s.ended {
		return 0, io.EOF
	}
	n, err := s.From.Read(b[:min(uint64(len(b)), s.frame.Length-s.at)])
	s.unmask(s.frame, b[:n], s.at)
	s.at += uint64(n)
	return n, noEOF(err)
}

// next reads frames until one with a payload for the reader begins.
func (s *Stream) next() error {
	h, err := s.header()
	if err != nil {
		return err
	}
	client := s.Mask != nil
	switch {
	case client && h.Masked:
		return s.breach(StatusProtocolError, "a frame of the server is masked")
	case !client && !h.Masked:
		return s.breach(StatusProtocolError, "a frame is not masked")
	case h.Opcode.IsControl():
		return s.control(h)
	case h.Opcode == Text:
		return s.breach(StatusUnsupported, "a frame carries text")
	case (h.Opcode == Continuation) != s.message:
		return s.breach(StatusProtocolError, "a message begins or goes on where it does not")
	}
	s.frame, s.at, s.message = h, 0, !h.Final
	return nil
}

// header reads no byte more than a header has.
func (s *Stream) header() (Header, error) {
	var b [MaxHeader]byte
	for have := 0; ; {
		h, _, err := DecodeHeader(b[:have])
		if err == nil {
			return h, nil
		}
		if !errors.Is(err, ErrIncomplete) {
			return h, s.breach(StatusProtocolError, err.Error())
		}
		want := missing(b[:have])
		if _, err := io.ReadFull(s.From, b[have:want]); err != nil {
			if have == 0 && errors.Is(err, io.EOF) {
				return h, io.EOF // hung up between frames, without a farewell
			}
			return h, noEOF(err)
		}
		have = want
	}
}

// missing says up to where a header has to be read before more can be told of it.
func missing(b []byte) int {
	if len(b) < 2 {
		return 2
	}
	n := 2
	switch b[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if b[1]&0x80 != 0 {
		n += 4
	}
	return n
}

// control reads a control frame and does what it asks for.
func (s *Stream) control(h Header) error {
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(s.From, payload); err != nil {
		return noEOF(err)
	}
	s.unmask(h, payload, 0)
	switch h.Opcode {
	case Ping:
		return s.write(Pong, payload)
	case Close:
		s.ended = true
		s.farewell(payload[:min(2, len(payload))]) // the status is echoed, the reason is not
	}
	return nil
}

func (s *Stream) unmask(h Header, b []byte, offset uint64) {
	if h.Masked {
		Apply(h.Mask, b, offset)
	}
}

// noEOF makes an end within a frame an error.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// breach tells the peer why it is hung up on.
func (s *Stream) breach(status uint16, reason string) error {
	s.ended = true
	s.Farewell(status)
	return fmt.Errorf("websocket: %s", reason)
}

// Write writes b as one binary frame.
func (s *Stream) Write(b []byte) (int, error) {
	if err := s.write(Binary, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (s *Stream) write(opcode Opcode, payload []byte) error {
	h := Header{Final: true, Opcode: opcode, Length: uint64(len(payload))}
	if s.Mask != nil {
		h.Masked, h.Mask = true, s.Mask()
	}
	frame := h.Append(make([]byte, 0, MaxHeader+len(payload)))
	head := len(frame)
	frame = append(frame, payload...)
	s.unmask(h, frame[head:], 0) // masking is its own inverse
	s.writing.Lock()
	defer s.writing.Unlock()
	_, err := s.To.Write(frame)
	return err
}

// Farewell writes the one Close frame, with a status, if there is a moment for it
// and it was not written before.
func (s *Stream) Farewell(status uint16) {
	s.farewell(binary.BigEndian.AppendUint16(nil, status))
}

func (s *Stream) farewell(payload []byte) {
	s.closing.Do(func() {
		// Whoever is writing, and waits for a peer that does not read, is cut off.
		if s.Hurry() == nil {
			_ = s.write(Close, payload) // the connection ends either way
		}
	})
}
