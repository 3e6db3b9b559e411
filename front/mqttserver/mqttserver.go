// Package mqttserver takes in the MQTT connections of devices, over TLS and over
// WebSocket, and gives each to the front that its user name is for: the
// provisioning service's or the hubs'.
package mqttserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-iot/berth/errs"
	machine "github.com/berth-iot/berth/front/internal/mqtt"
	"github.com/berth-iot/berth/front/internal/websocket"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/mqtt"
)

// limits bound a connection. The largest packet is the largest message, with the
// longest topic: properties stand there. The silence is IoT Hub's: one and a half
// times the longest keep-alive that it advises.
var limits = machine.Limits{
	Packet:      hub.MaxMessageSize + 64<<10,
	Window:      64,
	WindowBytes: 1 << 20,
	Pending:     1 << 20,
	Connect:     30 * time.Second,
	Write:       30 * time.Second,
	Silence:     1767 * time.Second,
}

const (
	handshakeTimeout = 15 * time.Second
	// acceptPause is how long to wait when a connection could not be accepted: for
	// want of file descriptors, perhaps.
	acceptPause = 5 * time.Millisecond
	// maxLogged bounds what is logged of a client identifier, in bytes. Those of
	// devices are not longer.
	maxLogged = 128
)

// A Front is what connections are for.
type Front interface {
	// Serves reports whether the front is the one that a user name means.
	Serves(username string) bool
	// Greet judges a CONNECT, and is the greeter of the connection.
	Greet(ctx context.Context, c *machine.Conn, p machine.Peer, connect *mqtt.Connect) (machine.Session, mqtt.ReturnCode, error)
}

// A Server takes in connections. Its zero value has no front.
type Server struct {
	// Fronts are asked in order.
	Fronts []Front
	// Observe is told how every CONNECT was answered; nil for nobody.
	Observe func(mqtt.ReturnCode)
	Logger  *slog.Logger

	open    atomic.Int64
	running sync.WaitGroup
}

// Open is how many connections there are.
func (s *Server) Open() int64 { return s.open.Load() }

// Serve takes in the connections of a listener until ctx ends, which ends them.
// It closes the listener, and does not wait for the connections.
func (s *Server) Serve(ctx context.Context, l net.Listener, config *tls.Config) error {
	config = config.Clone()
	config.NextProtos = nil // whatever a client calls the protocol, it is this one
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		raw, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				raw.Close()
			}
			return nil
		case err != nil && isTemporary(err):
			time.Sleep(acceptPause)
			continue
		case err != nil:
			return fmt.Errorf("accepting MQTT connections: %w", err)
		}
		s.running.Go(func() { s.handshake(ctx, tls.Server(raw, config)) })
	}
}

func isTemporary(err error) bool {
	var e interface{ Temporary() bool }
	return errors.As(err, &e) && e.Temporary()
}

func (s *Server) handshake(ctx context.Context, c *tls.Conn) {
	shaking, cancel := context.WithTimeout(ctx, handshakeTimeout)
	err := c.HandshakeContext(shaking)
	cancel()
	if err != nil {
		s.Logger.Debug("mqtt handshake", "remote", c.RemoteAddr().String(), "error", err)
		c.Close()
		return
	}
	s.Converse(ctx, c, c.ConnectionState().PeerCertificates)
}

// Wait returns when no connection is left. It is for after Serve has returned, and
// every Upgrade.
func (s *Server) Wait() { s.running.Wait() }

// Upgrade makes a request a connection, which lives until ctx ends; the request is
// over before.
func (s *Server) Upgrade(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	// Whoever shuts the HTTP server down waits no longer for a request than until
	// its connection is taken over.
	s.running.Add(1)
	defer s.running.Done()
	if ctx.Err() != nil {
		http.Error(w, "the server stops", http.StatusServiceUnavailable)
		return
	}
	c, err := websocket.Accept(w, r, "mqtt")
	if err != nil {
		s.Logger.Debug("mqtt upgrade", "remote", r.RemoteAddr, "error", err)
		return
	}
	var chain []*x509.Certificate
	if r.TLS != nil {
		chain = r.TLS.PeerCertificates
	}
	s.running.Go(func() { s.Converse(ctx, c, chain) })
}

// Wanted reports whether a request asks to become a connection.
func Wanted(r *http.Request) bool { return websocket.Wanted(r) }

// Converse speaks with a client over a connection that is made, whatever it goes
// over, until it ends. chain is what TLS proved, leaf first.
func (s *Server) Converse(ctx context.Context, c net.Conn, chain []*x509.Certificate) {
	s.open.Add(1)
	peer := machine.Peer{Address: c.RemoteAddr().String(), Chain: chain}
	defer func() {
		s.open.Add(-1)
		if p := recover(); p != nil {
			c.Close()
			s.Logger.Error("mqtt connection", "remote", peer.Address, "error", fmt.Sprint("panic: ", p), "stack", string(debug.Stack()))
		}
	}()
	err := machine.Serve(ctx, c, limits, func(ctx context.Context, conn *machine.Conn, connect *mqtt.Connect) (machine.Session, mqtt.ReturnCode, error) {
		username := ""
		if connect.Username != nil {
			username = *connect.Username
		}
		for _, f := range s.Fronts {
			if f.Serves(username) {
				session, code, err := f.Greet(ctx, conn, peer, connect)
				if err == nil {
					s.answered(mqtt.Accepted)
				}
				return session, code, err
			}
		}
		return nil, mqtt.NotAuthorized, errors.New("the user name is for nobody here")
	})
	if refusal := (*machine.Refusal)(nil); errors.As(err, &refusal) {
		s.answered(refusal.Code)
		s.refused(peer, refusal)
		return
	}
	s.Logger.Debug("mqtt connection ended", "remote", peer.Address, "reason", err)
}

// refused logs why a client is not let in.
func (s *Server) refused(peer machine.Peer, r *machine.Refusal) {
	level := slog.LevelInfo
	if errs.KindOf(r.Err) == errs.Busy {
		level = slog.LevelDebug // a flood must not become a flood of lines
	}
	s.Logger.Log(context.Background(), level, "mqtt connection refused",
		"client_id", r.ClientID[:min(len(r.ClientID), maxLogged)], "remote", peer.Address, "code", r.Code.String(), "error", r.Err)
}

func (s *Server) answered(code mqtt.ReturnCode) {
	if s.Observe != nil {
		s.Observe(code)
	}
}
