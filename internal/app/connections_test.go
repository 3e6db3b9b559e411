package app

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/limit"
)

// from dials as another address of this machine does.
func from(address string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
}

// of is client, calling from another address of this machine.
func of(t *testing.T, client *http.Client, address string) *http.Client {
	transport := client.Transport.(*http.Transport).Clone()
	transport.DialContext = from(address).DialContext
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// hungUp reports whether the server ends a connection before anything is said.
func hungUp(t *testing.T, c net.Conn) bool {
	t.Helper()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	_, err := c.Read(make([]byte, 1))
	if err == nil {
		t.Error("the server spoke first")
	}
	timeout, ok := err.(net.Error)
	return !ok || !timeout.Timeout()
}

// One address cannot take the connections of others, and has its own back when
// it lets go of them.
func TestOneAddressDoesNotTakeAllConnections(t *testing.T) {
	const most = 20
	_, s, client := start(t, func(c *Config) { c.Limits.ConnectionsPerAddress, c.Metrics.Listen = most, "127.0.0.1:0" })
	var mine []net.Conn
	for range most {
		c, err := from("127.0.0.2").Dial("tcp", s.Address().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		mine = append(mine, c)
	}
	if c, err := from("127.0.0.2").Dial("tcp", s.Address().String()); err == nil && !hungUp(t, c) {
		t.Errorf("an address has more than %d connections", most)
	}
	if took := served(t, s, client); took > 5*time.Second {
		t.Errorf("another address waited %v", took)
	}
	counts(t, s, `berth_connections_refused_total{reason="open"} 1`)
	mine[0].Close()
	same := of(t, client, "127.0.0.2")
	deadline := time.Now().Add(time.Minute)
	for {
		resp, err := same.Get("https://" + s.Address().String() + "/readyz")
		if err == nil {
			resp.Body.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("an address does not get back what it let go of: %v", err)
		}
	}
}

// Who makes connections faster than anybody may call is cut off before the
// handshake; slower ones are answered 429.
func TestConnectionsAreNotMadeWithoutEnd(t *testing.T) {
	_, s, client := start(t, func(c *Config) { c.Limits.PerAddress, c.Metrics.Listen = "3/1h", "127.0.0.1:0" })
	flood := of(t, client, "127.0.0.2")
	flood.Transport.(*http.Transport).DisableKeepAlives = true
	var said []string
	for range 8 {
		resp, err := flood.Get("https://" + s.Address().String() + "/readyz")
		if err != nil {
			said = append(said, "reset")
			continue
		}
		resp.Body.Close()
		said = append(said, resp.Status[:3])
	}
	if got := strings.Join(said, " "); got != "200 200 200 429 429 429 reset reset" {
		t.Errorf("eight calls in a row, each on a connection of its own: %s", got)
	}
	counts(t, s, `berth_connections_refused_total{reason="rate"} 2`)
	served(t, s, client)
}

// A connection is counted until it is closed, and closing it twice does not
// count twice.
func TestClosedConnectionsAreForgotten(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newFairListener(inner, 1, limit.Rate{}, time.Now, func(string) { t.Error("refused") })
	defer l.Close()
	for range 3 {
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		c.Close()
	}
	if len(l.open) != 0 {
		t.Errorf("%v are remembered", l.open)
	}
}
