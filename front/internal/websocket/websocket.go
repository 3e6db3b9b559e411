// Package websocket is the server's side of WebSocket connections (RFC 6455),
// for protocols that see a stream of bytes in their binary frames.
package websocket

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
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
	var early []byte
	if n := buffered.Reader.Buffered(); n > 0 {
		// The buffer goes back to where it came from; an idle connection has none.
		peeked, err := buffered.Reader.Peek(n)
		if err != nil {
			raw.Close()
			return nil, err
		}
		early = bytes.Clone(peeked)
	}
	_, err = io.WriteString(raw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "+websocket.Accept(key)+"\r\nSec-WebSocket-Protocol: "+protocol+"\r\n\r\n")
	if err != nil {
		raw.Close()
		return nil, err
	}
	return newConn(raw, early), nil
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

// A Conn is a WebSocket as a stream of bytes; see [websocket.Stream].
type Conn struct {
	net.Conn
	stream websocket.Stream
}

func newConn(raw net.Conn, early []byte) *Conn {
	c := &Conn{Conn: raw}
	c.stream.From, c.stream.To = raw, raw
	if len(early) > 0 {
		c.stream.From = io.MultiReader(bytes.NewReader(early), raw)
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
