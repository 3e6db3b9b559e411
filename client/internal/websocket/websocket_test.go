package websocket

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/wire/websocket"
)

// meet upgrades a connection to a server that answers as told; KEY in the answer
// stands for what the client's key is accepted with.
func meet(t *testing.T, answer string) (*Conn, net.Conn, *http.Request, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	requests := make(chan *http.Request, 1)
	go func() {
		r, err := http.ReadRequest(bufio.NewReader(theirs))
		if err == nil {
			io.WriteString(theirs, strings.ReplaceAll(answer, "KEY", websocket.Accept(r.Header.Get("Sec-WebSocket-Key"))))
		}
		if !strings.HasPrefix(answer, "HTTP/1.1 101") {
			theirs.Close()
		}
		requests <- r
	}()
	c, err := Upgrade(ours, "hub.example:8443", "/$iothub/websocket", "mqtt")
	if err != nil {
		theirs.Close()
	}
	return c, theirs, <-requests, err
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: KEY\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"

func frame(h websocket.Header, payload string) string {
	h.Length = uint64(len(payload))
	return string(h.Append(nil)) + payload
}

func TestUpgrade(t *testing.T) {
	_, _, r, err := meet(t, switching)
	if err != nil {
		t.Fatal(err)
	}
	if r.Method != "GET" || r.URL.Path != "/$iothub/websocket" || r.Host != "hub.example:8443" || r.Header.Get("Upgrade") != "websocket" ||
		r.Header.Get("Connection") != "Upgrade" || r.Header.Get("Sec-WebSocket-Version") != "13" || r.Header.Get("Sec-WebSocket-Protocol") != "mqtt" {
		t.Errorf("%+v", r)
	}
	for name, answer := range map[string]string{
		"accepts another key":     strings.Replace(switching, "KEY", "x", 1),
		"switches to another":     strings.Replace(switching, "WebSocket\r\n", "h2c\r\n", 1),
		"does not switch":         strings.Replace(switching, "Connection: upgrade\r\n", "", 1),
		"speaks another protocol": strings.Replace(switching, "mqtt", "amqp", 1),
		"does not end its header": "HTTP/1.1 101 Switching Protocols\r\nX: " + strings.Repeat("x", maxHeader),
		"does not speak HTTP":     "\x15\x03\x01\r\n\r\n",
		"hangs up":                "",
	} {
		if _, _, _, err := meet(t, answer); err == nil {
			t.Errorf("a server that %s is taken", name)
		}
	}
	_, _, _, err = meet(t, "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone")
	if refused, ok := errors.AsType[*client.Error](err); !ok || refused.Status != 404 || refused.Body != "none" {
		t.Errorf("%v", err)
	}
}

// What comes in is a stream, however it is cut; pings are answered on the way, and
// what goes out is masked.
func TestAStreamInFrames(t *testing.T) {
	long := strings.Repeat("long ", 20000)
	early := frame(websocket.Header{Opcode: websocket.Binary}, "ear")
	c, server, _, err := meet(t, switching+early)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := io.WriteString(server, frame(websocket.Header{Opcode: websocket.Continuation, Final: true}, "ly ")+
			frame(websocket.Header{Opcode: websocket.Ping, Final: true}, "ping")+
			frame(websocket.Header{Opcode: websocket.Binary, Final: true}, "")+frame(websocket.Header{Opcode: websocket.Binary, Final: true}, long))
		done <- err
	}()
	pong := make(chan string, 1)
	go func() { pong <- unmask(t, server) }()
	b := make([]byte, len("early ")+len(long))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "early "+long {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := <-pong; got != "\x0aping" {
		t.Errorf("a ping is answered %q", got)
	}
	go func() { pong <- unmask(t, server) }()
	if n, err := c.Write([]byte("hello")); n != 5 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if got := <-pong; got != "\x02hello" {
		t.Errorf("heard %q", got)
	}
	go func() {
		io.WriteString(server, frame(websocket.Header{Opcode: websocket.Close, Final: true}, "\x03\xe8bye"))
		pong <- unmask(t, server)
	}()
	if _, err := c.Read(b); err != io.EOF {
		t.Errorf("after the farewell: %v", err)
	}
	if got := <-pong; got != "\x08\x03\xe8" {
		t.Errorf("the farewell is answered %q", got)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// unmask reads a frame of the client: its opcode and its payload.
func unmask(t *testing.T, r io.Reader) string {
	var b []byte
	for {
		h, size, err := websocket.DecodeHeader(b)
		if err == nil {
			payload := make([]byte, h.Length)
			if _, err := io.ReadFull(r, payload); err != nil || !h.Masked || size != len(b) {
				t.Errorf("%+v %v", h, err)
			}
			websocket.Apply(h.Mask, payload, 0)
			return string([]byte{byte(h.Opcode)}) + string(payload)
		}
		one := make([]byte, 1)
		if _, err := r.Read(one); err != nil {
			t.Error(err)
			return ""
		}
		b = append(b, one...)
	}
}

func TestServersThatBreakTheProtocolAreHungUpOn(t *testing.T) {
	for name, b := range map[string]string{
		"masks":                 frame(websocket.Header{Opcode: websocket.Binary, Final: true, Masked: true}, "x"),
		"sends text":            frame(websocket.Header{Opcode: websocket.Text, Final: true}, "x"),
		"goes on with nothing":  frame(websocket.Header{Opcode: websocket.Continuation, Final: true}, "x"),
		"begins in the middle":  frame(websocket.Header{Opcode: websocket.Binary}, "") + frame(websocket.Header{Opcode: websocket.Binary, Final: true}, "x"),
		"uses reserved bits":    "\xf2\x00",
		"stops within a header": "\x82\x7e\x00",
		"stops within a frame":  "\x82\x05hel",
		"stops within a ping":   "\x89\x05hel",
	} {
		c, server, _, err := meet(t, switching)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			io.WriteString(server, b)
			if strings.HasPrefix(name, "stops") {
				server.Close()
			}
			io.Copy(io.Discard, server)
		}()
		if b, err := io.ReadAll(c); err == nil {
			t.Errorf("a server that %s: %q", name, b)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(frame(websocket.Header{Opcode: websocket.Binary, Final: true}, "x")))
	f.Add([]byte(frame(websocket.Header{Opcode: websocket.Ping, Final: true}, "x") + "\x88\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := newConn(deaf{}, bytes.NewReader(b))
		got, _ := io.ReadAll(c)
		if len(got) > len(b) {
			t.Errorf("%d bytes out of %d", len(got), len(b))
		}
	})
}

// deaf is a connection that nobody reads.
type deaf struct{ net.Conn }

func (deaf) SetWriteDeadline(time.Time) error { return nil }

func (deaf) Write(b []byte) (int, error) { return len(b), nil }
