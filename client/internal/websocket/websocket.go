// Package websocket is the client's side of a WebSocket connection (RFC 6455),
// for protocols that see a stream of bytes in its binary frames.
package websocket

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/wire/websocket"
)

const (
	// closeTimeout bounds how long a farewell may take.
	closeTimeout = time.Second
	maxRefusal   = 4 << 10 // bytes that are read of a body
	maxHeader    = 16 << 10
)

// Upgrade asks the server at the other end of raw to go on with the protocol, at
// a path. The deadlines of raw hold for the exchange. A server that will not is the
// client.Error of its answer.
func Upgrade(raw net.Conn, host, path, protocol string) (*Conn, error) {
	nonce := make([]byte, 16)
	rand.Read(nonce) // never fails
	key := base64.StdEncoding.EncodeToString(nonce)
	request := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: path}, Host: host, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {key}, "Sec-Websocket-Protocol": {protocol}, "User-Agent": {"berth-go"},
		},
	}
	if err := request.Write(raw); err != nil {
		return nil, err
	}
	header := &io.LimitedReader{R: raw, N: maxHeader}
	buffered := bufio.NewReader(header)
	answer, err := http.ReadResponse(buffered, request)
	if err != nil {
		return nil, fmt.Errorf("reading the answer to a WebSocket's request: %w", err)
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, maxRefusal)) // the status says enough
		return nil, rest.Refusal(&rest.Answer{Status: answer.StatusCode, Header: answer.Header, Body: body})
	}
	switch h := answer.Header; {
	case !strings.EqualFold(h.Get("Upgrade"), "websocket"), !strings.EqualFold(h.Get("Connection"), "upgrade"),
		h.Get("Sec-WebSocket-Accept") != websocket.Accept(key):
		return nil, errors.New("the server switches, but not to the WebSocket that was asked for")
	case !strings.EqualFold(h.Get("Sec-WebSocket-Protocol"), protocol):
		return nil, fmt.Errorf("the server does not speak %s on its WebSockets", protocol)
	}
	header.N = 1<<63 - 1
	return &Conn{Conn: raw, r: buffered}, nil
}

// A Conn is a WebSocket as a stream of bytes: where frames and messages begin and
// end says nothing. It is read by one goroutine at a time; all else may be done
// by several.
type Conn struct {
	net.Conn
	r *bufio.Reader

	left    uint64 // of the payload that is being read
	message bool   // more frames of the message are to come
	ended   bool   // a Close frame has arrived

	writing sync.Mutex // held while a frame is written
	closing sync.Once
}

// Read returns what the server's binary frames carry. Pings are answered on the
// way. After the server's Close frame, which is answered, it returns io.EOF.
func (c *Conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for !c.ended && c.left == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	if c.ended {
		return 0, io.EOF
	}
	n, err := c.r.Read(b[:min(uint64(len(b)), c.left)])
	c.left -= uint64(n)
	return n, noEOF(err)
}

// next reads frames until one with a payload for the reader begins.
func (c *Conn) next() error {
	h, err := c.header()
	if err != nil {
		return err
	}
	switch {
	case h.Masked:
		return c.breach(websocket.StatusProtocolError, "a frame of the server is masked")
	case h.Opcode.IsControl():
		return c.control(h)
	case h.Opcode == websocket.Text:
		return c.breach(websocket.StatusUnsupported, "a frame carries text")
	case (h.Opcode == websocket.Continuation) != c.message:
		return c.breach(websocket.StatusProtocolError, "a message begins or goes on where it does not")
	}
	c.left, c.message = h.Length, !h.Final
	return nil
}

func (c *Conn) header() (websocket.Header, error) {
	for want := 2; ; want++ {
		b, err := c.r.Peek(want)
		if err != nil {
			if len(b) > 0 {
				err = noEOF(err)
			}
			return websocket.Header{}, err
		}
		h, size, err := websocket.DecodeHeader(b)
		switch {
		case err == nil:
			_, err = c.r.Discard(size)
			return h, err
		case !errors.Is(err, websocket.ErrIncomplete):
			return h, c.breach(websocket.StatusProtocolError, err.Error())
		}
	}
}

// control reads a control frame and does what it asks for.
func (c *Conn) control(h websocket.Header) error {
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(c.r, payload); err != nil {
		return noEOF(err)
	}
	switch h.Opcode {
	case websocket.Ping:
		return c.write(websocket.Pong, payload)
	case websocket.Close:
		c.ended = true
		c.farewell(payload[:min(2, len(payload))]) // the status is echoed, the reason is not
	}
	return nil
}

// noEOF makes an end within a frame an error.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// breach tells the server why it is hung up on.
func (c *Conn) breach(status uint16, reason string) error {
	c.ended = true
	c.farewell(binary.BigEndian.AppendUint16(nil, status))
	return fmt.Errorf("websocket: %s", reason)
}

// Write writes b as one binary frame.
func (c *Conn) Write(b []byte) (int, error) {
	if err := c.write(websocket.Binary, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *Conn) write(opcode websocket.Opcode, payload []byte) error {
	h := websocket.Header{Final: true, Opcode: opcode, Masked: true, Length: uint64(len(payload))}
	rand.Read(h.Mask[:]) // never fails
	frame := h.Append(make([]byte, 0, websocket.MaxHeader+len(payload)))
	head := len(frame)
	frame = append(frame, payload...)
	websocket.Apply(h.Mask, frame[head:], 0)
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.Conn.Write(frame)
	return err
}

// farewell writes the one Close frame, if there is a moment for it.
func (c *Conn) farewell(payload []byte) {
	c.closing.Do(func() {
		// Whoever is writing, and waits for a server that does not read, is cut off.
		if c.Conn.SetWriteDeadline(time.Now().Add(closeTimeout)) == nil {
			_ = c.write(websocket.Close, payload) // the connection ends either way
		}
	})
}

// Close says farewell and closes the connection.
func (c *Conn) Close() error {
	c.farewell(binary.BigEndian.AppendUint16(nil, websocket.StatusNormal))
	return c.Conn.Close()
}
