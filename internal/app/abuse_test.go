package app

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest/x509id"
	"github.com/berth-iot/berth/pki"
)

// served reports how long the server takes for a request of somebody else.
func served(t *testing.T, s *Server, client *http.Client) time.Duration {
	t.Helper()
	client.CloseIdleConnections()
	began := time.Now()
	resp, err := client.Get("https://" + s.Address().String() + "/readyz")
	if err != nil {
		t.Fatalf("others are not served: %v", err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("others are answered %d", resp.StatusCode)
	}
	return time.Since(began)
}

// Connections that do nothing, and those that talk a byte at a time, are cut
// off; nobody else waits for them.
func TestIdlersAreCutOff(t *testing.T) {
	t.Parallel()
	_, s, client := start(t)
	address := s.Address().String()
	idlers := map[string]func() (net.Conn, error){
		"before the handshake": func() (net.Conn, error) { return net.Dial("tcp", address) },
		"in the handshake": func() (net.Conn, error) {
			c, err := net.Dial("tcp", address)
			if err == nil {
				_, err = c.Write([]byte{22, 3, 1, 2, 0, 1}) // a record of 512 bytes begins
			}
			return c, err
		},
		"before the request": func() (net.Conn, error) { return tls.Dial("tcp", address, trusting(client)) },
		"in the headers": func() (net.Conn, error) {
			c, err := tls.Dial("tcp", address, trusting(client))
			if err == nil {
				_, err = io.WriteString(c, "PUT /0ne00000000/registrations/x/register?api-version=2021-06-01 HTTP/1.1\r\nHost: x\r\nX-")
			}
			return c, err
		},
		"in the body": func() (net.Conn, error) {
			c, err := tls.Dial("tcp", address, trusting(client))
			if err == nil {
				_, err = io.WriteString(c, "PUT /0ne00000000/registrations/x/register?api-version=2021-06-01 HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n{")
			}
			return c, err
		},
	}
	type end struct {
		name string
		err  error
	}
	ends := make(chan end)
	for name, idle := range idlers {
		c, err := idle()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(requestTimeout + 15*time.Second))
		go func() {
			_, err := io.Copy(io.Discard, c)
			ends <- end{name, err}
		}()
	}
	if took := served(t, s, client); took > 5*time.Second {
		t.Errorf("another client waited %v", took)
	}
	for range idlers {
		if e := <-ends; errors.Is(e.err, os.ErrDeadlineExceeded) {
			t.Errorf("idle %s: still connected", e.name)
		}
	}
}

// Many connections at once cost bounded memory each, and the next client is
// served.
func TestManyConnectionsCostBoundedMemory(t *testing.T) {
	const many, most = 500, 160 << 10 // bytes for both ends, which this process holds, with TLS
	_, s, client := start(t)
	served(t, s, client)
	before := heap()
	for range many {
		c, err := tls.Dial("tcp", s.Address().String(), trusting(client))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if each := (heap() - before) / many; each > most {
		t.Errorf("%d KiB for a connection", each>>10)
	} else {
		t.Logf("%d KiB for both ends of an idle TLS connection", each>>10)
	}
	if took := served(t, s, client); took > 5*time.Second {
		t.Errorf("another client waited %v", took)
	}
}

// A chain of more certificates than are looked at is refused before it is
// walked, with a reason that the operator can read, and one that nobody could
// mean before the handshake is over.
func TestLongChainsAreRefused(t *testing.T) {
	config, s, client := start(t)
	for length, want := range map[int]int{x509id.MaxChain + 1: http.StatusUnauthorized, maxPresented: http.StatusUnauthorized, maxPresented + 1: 0} {
		transport := client.Transport.(*http.Transport).Clone()
		transport.TLSClientConfig.Certificates = []tls.Certificate{chainOf(t, length)}
		defer transport.CloseIdleConnections()
		r, err := http.NewRequest("PUT", "https://"+s.Address().String()+"/"+config.IDScope+"/registrations/dev-1/register?api-version=2021-06-01", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		if resp, err := transport.RoundTrip(r); err == nil {
			resp.Body.Close()
			got = resp.StatusCode
		}
		if got != want {
			t.Errorf("%d certificates: status %d, want %d (0: no handshake)", length, got, want)
		}
	}
	served(t, s, client)
}

// chainOf is a device's certificate and those above it.
func chainOf(t *testing.T, length int) tls.Certificate {
	t.Helper()
	ca, err := pki.NewRoot("Chain 0", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	above := [][]byte{ca.Certificate.Raw}
	for i := range length - 2 {
		if ca, err = ca.NewIntermediate(fmt.Sprint("Chain ", i+1), time.Now(), rand.Reader); err != nil {
			t.Fatal(err)
		}
		above = append([][]byte{ca.Certificate.Raw}, above...)
	}
	leaf, err := ca.IssueDevice("dev-1", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: append([][]byte{leaf.Certificate.Raw}, above...), PrivateKey: leaf.Key}
}

func trusting(client *http.Client) *tls.Config {
	c := client.Transport.(*http.Transport).TLSClientConfig.Clone()
	c.ServerName = "localhost"
	return c
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
