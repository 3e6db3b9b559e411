// Package websocket is the server's side of WebSocket connections (RFC 6455),
// for protocols that see a stream of bytes in their binary frames.
package websocket

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/berth-iot/berth/wire/websocket"
)

// closeTimeout bounds how long a farewell may take.
const closeTimeout = time.Second

// Wanted reports whether a request asks to become a WebSocket.
func Wanted(r *http.Request) bool {
	return hasToken(r.Header, "Connection", "upgrade") && hasToken(r.Header, "Upgrade", "websocket")
}

// Accept makes a request a connection that speaks one of the protocols, the one
// that the client names first; it is answered in the client's spelling. With an
// error the request has been answered.
//
// The connection is read by one goroutine at a time; all else may be done by
// several. What is written goes out in one frame.
func Accept(w http.ResponseWriter, r *http.Request, protocols ...string) (*Conn, error) {
	key := r.Header.Get("Sec-WebSocket-Key")
	protocol := choose(r.Header, protocols)
	switch nonce, err := base64.StdEncoding.DecodeString(key); {
	case r.Method != http.MethodGet || !Wanted(r):
		return nil, refuse(w, http.StatusUpgradeRequired, "this is for WebSockets")
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		w.Header().Set("Sec-WebSocket-Version", "13")
		return nil, refuse(w, http.StatusUpgradeRequired, "the WebSocket version is not 13")
	case err != nil || len(nonce) != 16:
		return nil, refuse(w, http.StatusBadRequest, "Sec-WebSocket-Key is not 16 bytes in base64")
	case protocol == "":
		return nil, refuse(w, http.StatusBadRequest, "no sub-protocol is offered that is spoken here: "+strings.Join(protocols, ", "))
	}
	raw, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, refuse(w, http.StatusInternalServerError, "the connection cannot be taken over: "+err.Error())
	}
	// The deadlines were those of the request.
	if err := raw.SetDeadline(time.Time{}); err != nil {
		raw.Close()
		return nil, err
	}
	c := &Conn{Conn: raw}
	if n := buffered.Reader.Buffered(); n > 0 {
		// The buffer goes back to where it came from; an idle connection has none.
		early, err := buffered.Reader.Peek(n)
		if err != nil {
			raw.Close()
			return nil, err
		}
		c.early = append([]byte(nil), early...)
	}
	_, err = io.WriteString(raw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "+websocket.Accept(key)+"\r\nSec-WebSocket-Protocol: "+protocol+"\r\n\r\n")
	if err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

func refuse(w http.ResponseWriter, status int, reason string) error {
	if status == http.StatusUpgradeRequired {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
	}
	http.Error(w, reason, status)
	return errors.New(reason)
}

// choose returns the first offered protocol that is spoken, as it is spelled.
func choose(h http.Header, spoken []string) string {
	for _, line := range h.Values("Sec-WebSocket-Protocol") {
		for offered := range strings.SplitSeq(line, ",") {
			offered = strings.TrimSpace(offered)
			for _, p := range spoken {
				if strings.EqualFold(offered, p) {
					return offered
				}
			}
		}
	}
	return ""
}

func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// A Conn is a WebSocket as a stream of bytes: where frames and messages begin and
// end says nothing.
type Conn struct {
	net.Conn
	early []byte // arrived with the request

	frame   websocket.Header // that is being read
	at      uint64           // how far into its payload
	message bool             // more frames of the message are to come
	ended   bool             // a Close frame has arrived

	writing sync.Mutex // held while a frame is written
	closing sync.Once
}

// Read returns what the client's binary frames carry. Pings are answered on the
// way. After the client's Close frame, which is answered, it returns io.EOF.
func (c *Conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for !c.ended && c.at == c.frame.Length {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	if c.ended {
		return 0, io.EOF
	}
	if left := c.frame.Length - c.at; uint64(len(b)) > left {
		b = b[:left]
	}
	n, err := c.raw(b)
	websocket.Apply(c.frame.Mask, b[:n], c.at)
	c.at += uint64(n)
	return n, noEOF(err)
}

// next reads frames until one with a payload for the reader begins.
func (c *Conn) next() error {
	h, err := c.header()
	if err != nil {
		return err
	}
	switch {
	case !h.Masked:
		return c.breach(websocket.StatusProtocolError, "a frame is not masked")
	case h.Opcode.IsControl():
		return c.control(h)
	case h.Opcode == websocket.Text:
		return c.breach(websocket.StatusUnsupported, "a frame carries text")
	case (h.Opcode == websocket.Continuation) != c.message:
		return c.breach(websocket.StatusProtocolError, "a message begins or goes on where it does not")
	}
	c.frame, c.at, c.message = h, 0, !h.Final
	return nil
}

// header reads no byte more than a header has.
func (c *Conn) header() (websocket.Header, error) {
	var b [websocket.MaxHeader]byte
	for have := 0; ; {
		h, _, err := websocket.DecodeHeader(b[:have])
		if err == nil {
			return h, nil
		}
		if !errors.Is(err, websocket.ErrIncomplete) {
			return h, c.breach(websocket.StatusProtocolError, err.Error())
		}
		want := missing(b[:have])
		if _, err := io.ReadFull(reader(c.raw), b[have:want]); err != nil {
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
func (c *Conn) control(h websocket.Header) error {
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(reader(c.raw), payload); err != nil {
		return noEOF(err)
	}
	websocket.Apply(h.Mask, payload, 0)
	switch h.Opcode {
	case websocket.Ping:
		return c.write(websocket.Pong, payload)
	case websocket.Close:
		c.ended = true
		if len(payload) > 2 {
			payload = payload[:2] // the status is echoed, the reason is not
		}
		c.farewell(payload)
	}
	return nil
}

// raw reads the connection below.
func (c *Conn) raw(b []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(b, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
		return n, nil
	}
	return c.Conn.Read(b)
}

type reader func([]byte) (int, error)

func (r reader) Read(b []byte) (int, error) { return r(b) }

// noEOF makes an end within a frame an error.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// breach tells the client why it is hung up on.
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
	h := websocket.Header{Final: true, Opcode: opcode, Length: uint64(len(payload))}
	frame := append(h.Append(make([]byte, 0, websocket.MaxHeader+len(payload))), payload...)
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.Conn.Write(frame)
	return err
}

// farewell writes the one Close frame, if there is a moment for it.
func (c *Conn) farewell(payload []byte) {
	c.closing.Do(func() {
		// Whoever is writing, and waits for a client that does not read, is cut off.
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
