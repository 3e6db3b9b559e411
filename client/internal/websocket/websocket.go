// Package websocket is the client's side of a WebSocket connection (RFC 6455),
// for protocols that see a stream of bytes in its binary frames.
package websocket

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
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
	return newConn(raw, buffered), nil
}

// A Conn is a WebSocket as a stream of bytes; see [websocket.Stream].
type Conn struct {
	net.Conn
	stream websocket.Stream
}

func newConn(raw net.Conn, from io.Reader) *Conn {
	c := &Conn{Conn: raw}
	c.stream.From, c.stream.To = from, raw
	c.stream.Mask = func() (mask [4]byte) {
		rand.Read(mask[:]) // never fails
		return mask
	}
	c.stream.Hurry = func() error { return raw.SetWriteDeadline(time.Now().Add(closeTimeout)) }
	return c
}

// Read reads the stream.
func (c *Conn) Read(b []byte) (int, error) { return c.stream.Read(b) }

// Write writes b as one frame.
func (c *Conn) Write(b []byte) (int, error) { return c.stream.Write(b) }

// Close says farewell and closes the connection.
func (c *Conn) Close() error {
	c.stream.Farewell(websocket.StatusNormal)
	return c.Conn.Close()
}
