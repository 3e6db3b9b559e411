package hub

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/berth-iot/berth/wire/mqtt"
)

const (
	// writeTimeout is how long the hub may leave what is written to it unread.
	writeTimeout = 30 * time.Second
	// farewellTimeout is how long it may do so with what is written last.
	farewellTimeout = 2 * time.Second
	// maxPacket is the largest packet that a hub sends, in bytes: a message with
	// the longest topic.
	maxPacket = MaxMessage + 64<<10 + 1<<10
)

// A line is one MQTT connection. Many of them make a Connection.
type line struct {
	raw net.Conn
	r   *bufio.Reader

	// unsettled has a member once a message was not taken, for which the hub needs
	// another line to give it again.
	unsettled chan struct{}
	// Guarded by the Connection's mu.
	retired bool // nothing new goes to it or is taken from it
	given   int  // messages that wait for OnMessage

	mu      sync.Mutex // guards what follows
	out     []byte     // waits to be written; what is under way is bounded by those who write
	writing bool       // whether a goroutine writes
	parting error      // why it is to be closed once all is written
	closed  error      // why, once it is
	done    chan struct{}
}

func newLine(raw net.Conn) *line {
	return &line{raw: raw, r: bufio.NewReader(raw), done: make(chan struct{}), unsettled: make(chan struct{}, 1)}
}

// read returns the next packet; there is one reader.
func (l *line) read() (mqtt.Packet, error) {
	for n := 2; ; n++ {
		head, err := l.r.Peek(n)
		if err != nil {
			if len(head) > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		_, _, size, err := mqtt.Next(head, maxPacket)
		switch {
		case errors.Is(err, mqtt.ErrIncomplete) && size == 0:
			continue
		case err != nil && !errors.Is(err, mqtt.ErrIncomplete):
			return nil, err
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(l.r, b); err != nil {
			return nil, err
		}
		first, body, _, err := mqtt.Next(b, maxPacket)
		if err != nil {
			return nil, err
		}
		return mqtt.Decode(first, body)
	}
}

// write has a packet written behind those before it. It waits for nothing.
func (l *line) write(p mqtt.Packet) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed != nil {
		return l.closed
	}
	if l.parting != nil {
		return l.parting
	}
	out, err := p.Append(l.out)
	if err != nil {
		return err
	}
	l.out = out
	l.flush()
	return nil
}

// leave says farewell behind what waits to be written, and closes.
func (l *line) leave(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed != nil || l.parting != nil {
		return
	}
	l.out, _ = (&mqtt.Disconnect{}).Append(l.out) // has nothing that could be wrong
	l.parting = why
	_ = l.raw.SetWriteDeadline(time.Now().Add(farewellTimeout)) // for what is being written; it ends either way
	l.flush()
}

// flush starts to write, with mu held.
func (l *line) flush() {
	if l.writing {
		return
	}
	l.writing = true
	go func() {
		var b []byte
		for {
			l.mu.Lock()
			b, l.out = l.out, b[:0]
			if len(b) == 0 && l.parting != nil {
				l.closeLocked(l.parting)
			}
			if len(b) == 0 || l.closed != nil {
				l.out, l.writing = nil, false
				l.mu.Unlock()
				return
			}
			timeout := writeTimeout
			if l.parting != nil {
				timeout = farewellTimeout
			}
			l.mu.Unlock()
			err := l.raw.SetWriteDeadline(time.Now().Add(timeout))
			if err == nil {
				_, err = l.raw.Write(b)
			}
			if err != nil {
				l.close(err)
			}
		}
	}()
}

// close ends the line; the first reason given is why.
func (l *line) close(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeLocked(why)
}

func (l *line) closeLocked(why error) {
	if l.closed != nil {
		return
	}
	if l.parting != nil {
		why = l.parting // whoever was quicker
	}
	l.closed = why
	close(l.done)
	go l.raw.Close() // TLS and WebSocket say farewell, which may take a moment
}

func (l *line) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// unsettle says that the hub has something to give again.
func (l *line) unsettle() {
	select {
	case l.unsettled <- struct{}{}:
	default:
	}
}
