package websocket

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/wire/websocket"
)

const nonce = "dGhlIHNhbXBsZSBub25jZQ=="

// A client is a raw connection to a server that returns what it hears.
type client struct {
	*testing.T
	net.Conn
	in *bufio.Reader
	// read is what the server read, and how it ended.
	read chan string
}

// dial makes the handshake; what follows goes out in the same segment.
func dial(t *testing.T, handshake string, follows []byte) (*client, *http.Response) {
	t.Helper()
	c := &client{T: t, read: make(chan string, 1)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := Accept(w, r, "mqtt", "AMQPWSB10")
		if err != nil {
			c.read <- "refused: " + err.Error()
			return
		}
		go func() {
			defer ws.Close()
			var b bytes.Buffer
			buffer := make([]byte, 7)
			for {
				n, err := ws.Read(buffer)
				b.Write(buffer[:n])
				if bytes.HasSuffix(b.Bytes(), []byte("echo")) {
					if _, err := ws.Write(b.Bytes()); err != nil {
						c.read <- err.Error()
						return
					}
				}
				if err != nil {
					c.read <- b.String() + ": " + err.Error()
					return
				}
			}
		}()
	}))
	t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c.Conn, c.in = conn, bufio.NewReader(conn)
	if _, err := conn.Write(append([]byte(strings.ReplaceAll(handshake, "\n", "\r\n")+"\r\n\r\n"), follows...)); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, answer
}

const handshake = "GET /$iothub/websocket HTTP/1.1\nHost: hub\nUpgrade: WebSocket\nConnection: keep-alive, Upgrade\n" +
	"Sec-WebSocket-Key: " + nonce + "\nSec-WebSocket-Version: 13\nSec-WebSocket-Protocol: "

func frame(final bool, opcode websocket.Opcode, payload string) []byte {
	h := websocket.Header{Final: final, Opcode: opcode, Masked: true, Mask: [4]byte{1, 2, 3, 4}, Length: uint64(len(payload))}
	b := []byte(payload)
	websocket.Apply(h.Mask, b, 0)
	return append(h.Append(nil), b...)
}

func (c *client) send(b ...[]byte) {
	c.Helper()
	if _, err := c.Write(bytes.Join(b, nil)); err != nil {
		c.Fatal(err)
	}
}

// hears wants one frame of the server.
func (c *client) hears(opcode websocket.Opcode, payload string) {
	c.Helper()
	b := make([]byte, 0, 20)
	for {
		h, size, err := websocket.DecodeHeader(b)
		if errors.Is(err, websocket.ErrIncomplete) {
			next, err := c.in.ReadByte()
			if err != nil {
				c.Fatal(err)
			}
			b = append(b, next)
			continue
		}
		got := make([]byte, h.Length)
		if _, err := io.ReadFull(c.in, got); err != nil || size != len(b) || h.Masked || !h.Final || h.Opcode != opcode || string(got) != payload {
			c.Fatalf("%+v %q (%v), want opcode %d %q", h, got, err, opcode, payload)
		}
		return
	}
}

func (c *client) serverRead(want string) {
	c.Helper()
	select {
	case got := <-c.read:
		if got != want {
			c.Errorf("the server read %q, want %q", got, want)
		}
	case <-time.After(10 * time.Second):
		c.Error("the server reads on")
	}
}

func TestProtocolIsEchoedAsSpelled(t *testing.T) {
	for offered, want := range map[string]string{
		"mqtt": "mqtt", "MQTT": "MQTT", "AMQPWSB10": "AMQPWSB10", "chat, Mqtt": "Mqtt", "chat,mqtt ,amqpwsb10": "mqtt",
	} {
		c, answer := dial(t, handshake+offered, nil)
		if answer.StatusCode != 101 || answer.Header.Get("Sec-WebSocket-Protocol") != want || answer.Header.Get("Upgrade") != "websocket" ||
			answer.Header.Get("Connection") != "Upgrade" || answer.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
			t.Errorf("%s: %d %v", offered, answer.StatusCode, answer.Header)
		}
		c.Close()
		c.serverRead(": EOF")
	}
}

func TestHandshakesThatAreRefused(t *testing.T) {
	whole := handshake + "mqtt"
	for name, c := range map[string]struct {
		handshake string
		status    int
	}{
		"no upgrade":       {"GET / HTTP/1.1\nHost: hub", 426},
		"a POST":           {strings.Replace(whole, "GET", "POST", 1), 426},
		"another upgrade":  {strings.Replace(whole, "WebSocket\n", "h2c\n", 1), 426},
		"version 8":        {strings.Replace(whole, "Version: 13", "Version: 8", 1), 426},
		"no key":           {strings.Replace(whole, "Sec-WebSocket-Key: "+nonce+"\n", "", 1), 400},
		"a short key":      {strings.Replace(whole, nonce, "AAAA", 1), 400},
		"no protocol":      {strings.Replace(whole, "\nSec-WebSocket-Protocol: mqtt", "", 1), 400},
		"another protocol": {handshake + "chat", 400},
	} {
		t.Run(name, func(t *testing.T) {
			if _, answer := dial(t, c.handshake, nil); answer.StatusCode != c.status {
				t.Errorf("%d, want %d", answer.StatusCode, c.status)
			}
		})
	}
}

func TestFramesAreOneStream(t *testing.T) {
	hello := frame(true, websocket.Binary, "hello, ")
	c, _ := dial(t, handshake+"mqtt", hello[:3]) // it begins with the request
	c.send(hello[3:5])
	c.send(hello[5:], frame(false, websocket.Binary, "fragments"), frame(true, websocket.Ping, "still there?"),
		frame(false, websocket.Continuation, ""), frame(true, websocket.Pong, ""), frame(true, websocket.Continuation, " and "), frame(true, websocket.Binary, "echo"))
	c.hears(websocket.Pong, "still there?")
	c.hears(websocket.Binary, "hello, fragments and echo")
	c.send(frame(true, websocket.Close, "\x03\xe8bye"))
	c.hears(websocket.Close, "\x03\xe8")
	c.serverRead("hello, fragments and echo: EOF")
}

func TestLargeFrames(t *testing.T) {
	for _, n := range []int{125, 126, 65535, 65536, 300000} {
		text := strings.Repeat("x", n-4) + "echo"
		c, _ := dial(t, handshake+"mqtt", nil)
		c.send(frame(true, websocket.Binary, text))
		c.hears(websocket.Binary, text)
	}
}

func TestBreachesEndTheConnection(t *testing.T) {
	unmasked := append(websocket.Header{Final: true, Opcode: websocket.Binary, Length: 1}.Append(nil), 'a')
	for name, c := range map[string]struct {
		frames []byte
		status uint16
		read   string
	}{
		"unmasked":            {unmasked, 1002, ": websocket: a frame is not masked"},
		"text":                {frame(true, websocket.Text, "a"), 1003, ": websocket: a frame carries text"},
		"goes on at first":    {frame(true, websocket.Continuation, "a"), 1002, ": websocket: a message begins or goes on where it does not"},
		"begins in a message": {append(frame(false, websocket.Binary, "a"), frame(true, websocket.Binary, "b")...), 1002, "a: websocket: a message begins or goes on where it does not"},
		"reserved bit":        {[]byte{0xc2, 0x80, 0, 0, 0, 0}, 1002, ": websocket: a reserved bit is set, and no extension was agreed on"},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := dial(t, handshake+"mqtt", c.frames)
			w.hears(websocket.Close, string(binary.BigEndian.AppendUint16(nil, c.status)))
			w.serverRead(c.read)
		})
	}
}

func TestCutOff(t *testing.T) {
	whole := frame(true, websocket.Binary, "hello")
	for n := 1; n < len(whole); n++ {
		c, _ := dial(t, handshake+"mqtt", whole[:n])
		c.Close()
		c.serverRead("hello"[:max(0, n-6)] + ": unexpected EOF")
	}
}
