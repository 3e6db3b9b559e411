package app

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/berth-iot/berth/wire/mqtt"
)

// greet makes a connection one of MQTT, as a device that is to register.
func greet(t *testing.T, c net.Conn, scope string) {
	t.Helper()
	username := scope + "/registrations/pump-7/api-version=2019-03-31"
	b, err := (&mqtt.Connect{Level: 4, ClientID: "pump-7", CleanSession: true, Username: &username}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 4)
	if _, err := io.ReadFull(c, answer); err != nil || !bytes.Equal(answer, []byte{0x20, 2, 0, 0}) {
		t.Fatalf("% x, %v", answer, err)
	}
}

// upgrade makes a connection a WebSocket, up to where frames begin.
func upgrade(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := io.WriteString(c, "GET /$iothub/websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	var heard []byte
	for b := make([]byte, 1); !bytes.HasSuffix(heard, []byte("\r\n\r\n")); heard = append(heard, b...) {
		if _, err := c.Read(b); err != nil {
			t.Fatalf("%q, %v", heard, err)
		}
	}
	if !bytes.HasPrefix(heard, []byte("HTTP/1.1 101 ")) {
		t.Fatalf("%q", heard)
	}
}

// secured connects from an address with TLS, and gives up after a minute.
func secured(t *testing.T, from string, to net.Addr, client *http.Client) (net.Conn, error) {
	t.Helper()
	d := &tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}, Config: trusting(client)}
	c, err := d.DialContext(t.Context(), "tcp", to.String())
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c, c.SetDeadline(time.Now().Add(time.Minute))
}

// An address has no more MQTT connections than it may, and one that has them
// takes none from others, nor from its own calls over HTTPS.
func TestMQTTConnectionsOfOneAddressAreBounded(t *testing.T) {
	t.Parallel()
	config, s, client := start(t, func(c *Config) { c.Limits.ConnectionsPerAddress = 2 })
	var open []net.Conn
	for range 2 {
		c, err := secured(t, "127.0.0.1", s.MQTTAddress(), client)
		if err != nil {
			t.Fatal(err)
		}
		greet(t, c, config.IDScope)
		open = append(open, c)
	}
	if _, err := secured(t, "127.0.0.1", s.MQTTAddress(), client); err == nil {
		t.Error("there is a third connection")
	}
	served(t, s, client)
	c, err := secured(t, "127.0.0.2", s.MQTTAddress(), client)
	if err != nil {
		t.Fatalf("another address: %v", err)
	}
	greet(t, c, config.IDScope)

	open[0].Close()
	for deadline := time.Now().Add(time.Minute); ; {
		c, err := secured(t, "127.0.0.1", s.MQTTAddress(), client)
		if err == nil {
			greet(t, c, config.IDScope)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a connection was closed: %v", err)
		}
	}
}

// A server that stops does not wait for MQTT clients, whatever they are about,
// and they come back to the next one.
func TestAServerStopsAndIsBackForMQTTClients(t *testing.T) {
	t.Parallel()
	config, client := initialised(t)
	connect := func(to net.Addr) net.Conn {
		t.Helper()
		c, err := secured(t, "127.0.0.1", to, client)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for range 2 {
		s, stop := run(t, config)
		config.Listen, config.MQTT.Listen = s.Address().String(), s.MQTTAddress().String()
		subscribed, within, idle, socket := connect(s.MQTTAddress()), connect(s.MQTTAddress()), connect(s.MQTTAddress()), connect(s.Address())
		greet(t, subscribed, config.IDScope)
		greet(t, within, config.IDScope)
		if _, err := io.WriteString(within, "\x30\x80\x10\x00"); err != nil { // a message begins
			t.Fatal(err)
		}
		upgrade(t, socket)
		half, err := net.Dial("tcp", s.MQTTAddress().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { half.Close() })
		if _, err := half.Write([]byte{22, 3, 1, 2, 0, 1}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if stop(); time.Since(began) > time.Duration(config.DrainTimeout)/2 {
			t.Errorf("it took %v to stop", time.Since(began))
		}
		for _, c := range []net.Conn{subscribed, within, idle, socket, half} {
			if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			_, err := io.ReadAll(c)
			if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
				t.Error("a connection outlived the server")
			}
		}
	}
}
