package dpshttp

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

// Some clients look headers up with case, so the bytes on the wire count.
func TestHeaderNamesOnTheWire(t *testing.T) {
	s := newServer(t)
	s.enrollKey("dev-1")
	s.enrollKey("dev-2")
	listening := httptest.NewUnstartedServer(s)
	listening.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	listening.StartTLS()
	t.Cleanup(listening.Close)

	exchange := func(request string) []string {
		t.Helper()
		conn, err := tls.Dial("tcp", listening.Listener.Addr().String(), &tls.Config{
			RootCAs: listening.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		var lines []string
		for in := bufio.NewScanner(conn); in.Scan() && in.Text() != ""; {
			lines = append(lines, in.Text())
		}
		return lines
	}
	has := func(lines []string, prefix string) bool {
		for _, line := range lines {
			if strings.HasPrefix(line, prefix) {
				return true
			}
		}
		return false
	}

	answer := exchange("POST /enrollments/query" + version + " HTTP/1.1\r\nHost: contoso.example:443\r\n" +
		"authorization: " + s.token + "\r\nx-ms-max-item-count: 1\r\ncontent-length: 0\r\n\r\n")
	for _, prefix := range []string{
		"HTTP/1.1 200 OK", "x-ms-item-type: Enrollment", "x-ms-continuation: ", "x-ms-request-id: ",
		"Content-Type: application/json; charset=utf-8", "Strict-Transport-Security: max-age=31536000; includeSubDomains",
	} {
		if !has(answer, prefix) {
			t.Errorf("no %q in:\n%s", prefix, strings.Join(answer, "\n"))
		}
	}
	answer = exchange("GET /enrollments/dev-1" + version + " HTTP/1.1\r\nHost: contoso.example\r\nContent-Length: 2\r\n\r\n{}")
	for _, prefix := range []string{"HTTP/1.1 401 Unauthorized", "x-ms-error-code: 401002", "x-ms-request-id: "} {
		if !has(answer, prefix) {
			t.Errorf("no %q in:\n%s", prefix, strings.Join(answer, "\n"))
		}
	}
	answer = exchange("PUT /enrollments/dev-1" + version + " HTTP/1.1\r\nHost: contoso.example\r\n" +
		"Authorization: " + s.token + "\r\nTransfer-Encoding: chunked\r\n\r\n" +
		fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 96<<10+1, strings.Repeat(" ", 96<<10+1)))
	if !has(answer, "HTTP/1.1 413 ") || !has(answer, "Connection: close") {
		t.Errorf("oversize, chunked:\n%s", strings.Join(answer, "\n"))
	}
}

// The certificate of the handshake is the device's credential, whoever signed
// it.
func TestCertificateOfTheHandshake(t *testing.T) {
	s := newServer(t)
	leaf := s.issue("dev-1", false, nil)
	s.want(200, s.service("PUT", "/enrollments/dev-1",
		`{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":`+quote(leaf.pem())+`}}}}}`))
	listening := httptest.NewUnstartedServer(s)
	listening.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	listening.Config.ErrorLog = log.New(io.Discard, "", 0)
	listening.StartTLS()
	t.Cleanup(listening.Close)

	client := listening.Client()
	transport := client.Transport.(*http.Transport)
	register := func(certificates ...tls.Certificate) int {
		t.Helper()
		transport.CloseIdleConnections()
		transport.TLSClientConfig.Certificates = certificates
		r, err := http.NewRequest("PUT", listening.URL+registerPath("dev-1")+version, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		return answer.StatusCode
	}
	if got := register(tls.Certificate{Certificate: [][]byte{leaf.cert.Raw}, PrivateKey: leaf.key}); got != 202 {
		t.Errorf("with the certificate: %d\n%s", got, s.log.String())
	}
	if got := register(); got != 401 {
		t.Errorf("without one: %d", got)
	}
	stranger := s.issue("dev-1", false, nil)
	if got := register(tls.Certificate{Certificate: [][]byte{stranger.cert.Raw}, PrivateKey: stranger.key}); got != 401 {
		t.Errorf("with another: %d", got)
	}
}

// Nothing that is sent makes the server fail: what it does not understand is
// the sender's fault.
func TestRandomBodiesAreTheSendersFault(t *testing.T) {
	s := newServer(t)
	token := s.enrollKey("dev-1")
	random := rand.New(rand.NewPCG(1, 2))
	targets := []func(body string) *http.Request{
		func(body string) *http.Request { return request("PUT", registerPath("dev-1"), token, body) },
		func(body string) *http.Request { return request("PUT", registerPath("dev-2"), "", body) },
		func(body string) *http.Request {
			return request("POST", "/0ne00111111/registrations/dev-1", token, body)
		},
		func(body string) *http.Request { return s.service("PUT", "/enrollments/dev-2", body) },
		func(body string) *http.Request { return s.service("PUT", "/enrollmentGroups/dev-2", body) },
		func(body string) *http.Request { return s.service("POST", "/enrollments/query", body) },
		func(body string) *http.Request { return s.service("POST", "/registrations/g/query", body) },
	}
	for range 1000 {
		body := make([]byte, 2+random.IntN(300))
		for i := range body {
			body[i] = byte(random.Uint32())
		}
		r := targets[random.IntN(len(targets))](string(body))
		if a := s.do(r); a.status < 400 || a.status > 499 {
			t.Errorf("%s %s with %q: %d %s", r.Method, r.URL.Path, body, a.status, a.body)
		}
	}

	// Bodies that are nearly right reach deeper.
	const good = `{"registrationId":"dev-2","etag":"IiI=","attestation":{"type":"x509","x509":{"clientCertificates":{"primary":` +
		`{"certificate":"MIIB"},"secondary":{"info":{"version":3}}}}},"initialTwin":{"tags":{"a":[1,2.5e3,"é"]}},"query":"SELECT *",` +
		`"tpm":{"endorsementKey":"AToA","storageRootKey":"ARoA"},"payload":{"a":null},"csr":null,"iotHubs":["a"],"capabilities":{"iotEdge":true}}`
	for range 3000 {
		body := []byte(good)
		for range 1 + random.IntN(4) {
			i := random.IntN(len(body))
			switch random.IntN(3) {
			case 0:
				body[i] = `{}[]",:0aZ\ntfn`[random.IntN(15)]
			case 1:
				body = append(body[:i], body[min(len(body), i+1+random.IntN(9)):]...)
			case 2:
				body = append(body[:i:i], append([]byte(good)[random.IntN(len(good)):][:1], body[i:]...)...)
			}
		}
		r := targets[random.IntN(len(targets))](string(body))
		if a := s.do(r); a.status > 499 {
			t.Errorf("%s %s with %q: %d %s", r.Method, r.URL.Path, body, a.status, a.body)
		}
	}
}

// A service that is too busy says when to come back, and a fault of ours says
// nothing.
func TestErrorsOfTheService(t *testing.T) {
	s := newServer(t)
	token := s.enrollKey("dev-1")
	s.store.refusal = fmt.Errorf("assigning: %w", net.ErrClosed)
	a := s.want(500, request("PUT", registerPath("dev-1"), token, ""))
	if a.json["message"] != "Internal error" || strings.Contains(a.body, net.ErrClosed.Error()) {
		t.Errorf("internal: %s", a.body)
	}
	if !strings.Contains(s.log.String(), net.ErrClosed.Error()) || !strings.Contains(s.log.String(), "level=ERROR") {
		t.Errorf("the cause is not in the log:\n%s", s.log.String())
	}

	busy := errs.New(errs.Busy, errs.CodeTooManyRequests, "Too many requests")
	busy.RetryAfter = 1500 * time.Millisecond
	s = newServer(t, func(c *provision.Config) { c.Scopes = busyScopes{s.store, busy} })
	a = s.want(429, request("PUT", registerPath("dev-1"), token, ""))
	if a.header.Get("Retry-After") != "2" {
		t.Errorf("busy: Retry-After %q", a.header.Get("Retry-After"))
	}
}

// busyScopes is too busy to look a scope up.
type busyScopes struct {
	*store
	err error
}

func (s busyScopes) Scope(context.Context, device.IDScope) (*provision.Scope, error) {
	return nil, s.err
}
