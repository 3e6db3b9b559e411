package scenario

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/wire/sas"
)

var heavy = flag.Bool("heavy", false, "abuse a server for longer and with more")

// A siege is a server, a device that registers all the while, and strangers at
// another address who mean it harm.
type siege struct {
	*fleet
	server *process
}

// strangers is where they call from: what they use up is not the device's.
const strangers = "127.0.0.2"

// patience is how long the device may wait for its home meanwhile, with a
// server and its besiegers on one machine.
const patience = 10 * time.Second

// Each kind of abuse has the effect that is documented, and a device that
// registers meanwhile notices nothing but a busy machine.
func TestAbuse(t *testing.T) {
	idle, floods, most := 500, time.Second/2, 1024 // MiB; the race detector takes several times what the server does
	if *heavy {
		idle, floods, most = 4900, 10*time.Second, 512
	}
	for _, c := range []struct {
		name string
		do   func(s *siege) (effect string)
	}{
		{"idle connections", func(s *siege) string { return s.hold(idle, s.shake) }},
		{"idle connections with twenty certificates and 400 names each", func(s *siege) string {
			shown := s.presented(19, elliptic.P256(), 20)
			return s.hold(idle/4, func() (net.Conn, error) { return s.shakeWith(shown) })
		}},
		{"half a handshake", func(s *siege) string { return s.hold(idle, s.halfShake) }},
		{"handshakes without end", func(s *siege) string { return s.shakeFor(floods) }},
		{"certificates", (*siege).certificates},
		{"JSON", (*siege).bodies},
		{"continuations", (*siege).continuations},
		{"headers", (*siege).headers},
		{"MQTT without a CONNECT", func(s *siege) string { return s.hold(idle, s.shakeMQTT) }},
		{"half a handshake of MQTT", func(s *siege) string { return s.hold(idle, s.halfShakeMQTT) }},
		{"half a CONNECT", func(s *siege) string { return s.hold(idle/4, s.halfConnect) }},
		{"CONNECTs without end", func(s *siege) string { return s.connectFor(floods) }},
		{"packets", (*siege).packets},
		{"a device that does not read", (*siege).doesNotRead},
		{"a device that acknowledges nothing", (*siege).hoards},
		{"a device that means harm", (*siege).insider},
		{"a device at many places", func(s *siege) string { return s.fightFor(floods) }},
		{"devices that send without end", func(s *siege) string { return s.sendFor(floods) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := besiege(t)
			before := s.resident()
			stop := s.registerMeanwhile()
			effect := c.do(s)
			slowest, after := stop(), s.resident()
			t.Logf("%s; resident %d MiB before, %d MiB after, %d MiB at most; a device had its home in %v at most",
				effect, before.now, after.now, after.peak, slowest.Round(time.Millisecond))
			if slowest > patience {
				t.Errorf("a device waited %v for its home", slowest)
			}
			if after.peak > most {
				t.Errorf("the server had %d MiB at most", after.peak)
			}
		})
	}
}

func besiege(t *testing.T) *siege {
	t.Helper()
	f := newFleet(t, t.TempDir()+"/server")
	err := app.Init(t.Context(), app.InitOptions{
		Data: f.world.data, Hosts: []string{dpsHost}, Hub: hubHost, Listen: "127.0.0.1:0",
		Config: func(c *app.Config) { c.Limits.PerDevice = "off" }, // there is one device, and it registers all the time
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s := &siege{fleet: f, server: startProcess(t, f.world.data)}
	f.connect(s.server)
	f.enroll()
	return s
}

// registerMeanwhile registers a device until it is stopped, each time on a new
// connection, and tells how long that took at most.
func (s *siege) registerMeanwhile() (stop func() time.Duration) {
	ctx, cancel := context.WithCancel(s.t.Context())
	slowest := make(chan time.Duration)
	u := s.unit("key", "0-0")
	go func() {
		var most time.Duration
		for first := true; first || ctx.Err() == nil; first = false {
			s.client.CloseIdleConnections()
			began := time.Now()
			if err := s.provision(u); err != nil {
				s.t.Errorf("a device was not let in: %v", err)
				break
			}
			most = max(most, time.Since(began))
		}
		slowest <- most
	}()
	return func() time.Duration { cancel(); return <-slowest }
}

// resident is the server's memory in MiB.
type resident struct{ now, peak int }

func (s *siege) resident() (r resident) {
	s.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.server.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			r.now = kib >> 10
		}
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			r.peak = kib >> 10
		}
	}
	return r
}

func (s *siege) dialStranger() (net.Conn, error) { return dialFrom(strangers, s.server.address) }

func dialFrom(ip, address string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: patience}
	return d.Dial("tcp", address)
}

func (s *siege) shake() (net.Conn, error) { return s.shakeWith(nil) }

// shakeWith connects with a certificate, or without.
func (s *siege) shakeWith(certificate *tls.Certificate) (net.Conn, error) {
	c, err := s.dialStranger()
	if err != nil {
		return nil, err
	}
	return s.secure(c, certificate)
}

func (s *siege) secure(c net.Conn, certificate *tls.Certificate) (net.Conn, error) {
	c.SetDeadline(time.Now().Add(patience))
	secure := tls.Client(c, s.world.tls(certificate))
	if err := secure.Handshake(); err != nil {
		c.Close()
		return nil, err
	}
	return secure, nil
}

// halfShake begins a handshake.
func (s *siege) halfShake() (net.Conn, error) {
	c, err := s.dialStranger()
	if err == nil {
		_, err = c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}) // the first bytes of a ClientHello of 512
	}
	return c, err
}

// hold opens connections and does nothing with them until the device has its
// home once more.
func (s *siege) hold(many int, open func() (net.Conn, error)) string {
	before := s.resident().now
	for range many {
		c, err := open()
		if err != nil {
			s.t.Fatal(err)
		}
		defer c.Close()
	}
	if err := s.provision(s.unit("key", "0-1")); err != nil {
		s.t.Error(err)
	}
	return fmt.Sprintf("%d connections, %d KiB each", many, (s.resident().now-before)<<10/many)
}

// shakeFor makes one connection after the other, without a call.
func (s *siege) shakeFor(d time.Duration) string {
	var made, reset atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for range 8 {
		wg.Go(func() {
			for time.Now().Before(end) {
				c, err := s.shake()
				if err != nil {
					reset.Add(1)
					continue
				}
				made.Add(1)
				c.Close()
			}
		})
	}
	wg.Wait()
	return fmt.Sprintf("%d handshakes in %v, and %d refused", made.Load(), d, reset.Load())
}

// presented is a chain of a leaf and CAs above it, all with one key of the curve,
// the CAs with the name of the enrolled one, and each with so many other names.
func (s *siege) presented(above int, curve elliptic.Curve, names int) *tls.Certificate {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	chain := &tls.Certificate{PrivateKey: key}
	for i := range above + 1 {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i)), Subject: s.ca.Above[0].Subject, SubjectKeyId: []byte{byte(i)},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: manyNames(names),
			BasicConstraintsValid: true, IsCA: i > 0, KeyUsage: x509.KeyUsageCertSign,
		}
		if i == 0 {
			template.Subject = pkix.Name{CommonName: "stranger"}
		}
		der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: s.ca.Above[0].Subject}, key.Public(), key)
		if err != nil {
			s.t.Fatal(err)
		}
		chain.Certificate = append(chain.Certificate, der)
	}
	return chain
}

func manyNames(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("n%d.example", i))
	}
	return names
}

// certificates shows chains that cost whoever looks at them.
func (s *siege) certificates() string {
	one := func(fill func(*x509.Certificate), public crypto.PublicKey) *tls.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			s.t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stranger"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
		}
		fill(template)
		if public == nil {
			public = key.Public()
		}
		der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: s.ca.Above[0].Subject}, public, key)
		if err != nil {
			s.t.Fatal(err)
		}
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	const refused, handshake = 401, 0
	var slowest time.Duration
	var costliest string
	for _, c := range []struct {
		name  string
		shown *tls.Certificate
		want  int
	}{
		{"nine CAs with slow keys that sign each other", s.presented(9, elliptic.P521(), 0), refused},
		{"a chain of twenty", s.presented(19, elliptic.P256(), 0), refused},
		{"a chain of twenty-one", s.presented(20, elliptic.P256(), 0), handshake},
		{"800 names", one(func(c *x509.Certificate) { c.DNSNames = manyNames(800) }, nil), refused},
		{"15,000 names", one(func(c *x509.Certificate) { c.DNSNames = manyNames(15000) }, nil), handshake},
		{"700 name constraints", one(func(c *x509.Certificate) { c.PermittedDNSDomains = manyNames(700) }, nil), refused},
		{"a key of 16,384 bits", &tls.Certificate{Certificate: one(func(*x509.Certificate) {}, hollowKey{}.Public()).Certificate, PrivateKey: hollowKey{}}, handshake},
	} {
		used := s.cpu()
		began := time.Now()
		got := s.show(c.shown)
		if got != c.want {
			s.t.Errorf("%s: status %d, want %d (0: no handshake)", c.name, got, c.want)
		}
		s.t.Logf("%s: status %d after %v, of which the server and its other caller used %v", c.name, got, time.Since(began).Round(time.Millisecond), s.cpu()-used)
		if took := time.Since(began); took > slowest {
			slowest, costliest = took, c.name
		}
	}
	return fmt.Sprintf("refused; the slowest (%s) after %v", costliest, slowest.Round(time.Millisecond))
}

// A hollowKey has a public RSA key of 16,384 bits with primes that are none, and
// signs with zeros: to find real ones takes minutes, and nobody who looks at the
// size goes on.
type hollowKey struct{}

func (hollowKey) Public() crypto.PublicKey {
	n := new(big.Int).Lsh(big.NewInt(1), 16383)
	return &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}
}

func (hollowKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return make([]byte, 16384/8), nil
}

// cpu is the time that the server's process has used.
func (s *siege) cpu() time.Duration {
	s.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.server.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), ") ")
	var user, system int64
	fields := strings.Fields(after)
	fmt.Sscan(fields[11]+" "+fields[12], &user, &system)
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ
}

// show registers with a chain; 0 says that there was no handshake.
func (s *siege) show(shown *tls.Certificate) (status int) {
	s.t.Helper()
	client := s.stranger(shown)
	r, err := http.NewRequest("PUT", "https://"+dpsHost+"/"+s.world.scope+"/registrations/stranger/register?api-version=2021-06-01", strings.NewReader("{}"))
	if err != nil {
		s.t.Fatal(err)
	}
	a, err := exchange(client, r)
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		s.t.Fatal(err)
	case err != nil:
		return 0
	}
	return a.status
}

func (s *siege) stranger(certificate *tls.Certificate) *http.Client {
	c := s.newClient(certificate)
	transport := c.Transport.(*http.Transport)
	transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return s.dialStranger() }
	s.t.Cleanup(c.CloseIdleConnections)
	return c
}

// bodies are sent to everything that takes JSON, with the rights of an owner:
// they are to reach the decoder.
func (s *siege) bodies() string {
	const size = 90 << 10
	bombs := map[string]string{
		"arrays in arrays":    strings.Repeat("[", size),
		"closed arrays":       strings.Repeat("[", size/2) + strings.Repeat("]", size/2),
		"objects in objects":  strings.Repeat(`{"a":`, size/5),
		"deep in a member":    `{"payload":` + strings.Repeat(`{"a":`, size/6) + "1" + strings.Repeat("}", size/6) + "}",
		"deep in desired":     `{"properties":{"desired":` + strings.Repeat(`{"a":`, size/7) + "1" + strings.Repeat("}", size/7) + "}}",
		"a number of digits":  `{"payload":` + strings.Repeat("9", size) + "}",
		"a number of zeros":   `{"tags":{"a":1e` + strings.Repeat("9", 300) + "}}",
		"one member":          `{"a` + strings.Repeat(`":1,"a`, size/6) + `":1}`,
		"many members":        manyMembers(size),
		"a long string":       `{"registrationId":"` + strings.Repeat("x", size) + `"}`,
		"escapes":             `{"registrationId":"` + strings.Repeat(`\u0061`, size/6) + `"}`,
		"half a surrogate":    `{"payload":"\ud800"}`,
		"no UTF-8":            `{"payload":"` + strings.Repeat("\xff", size) + `"}`,
		"nothing but a quote": `"`,
		"null":                "null",
		"too long":            `{"payload":"` + strings.Repeat("x", 9<<20) + `"}`,
	}
	client := s.stranger(nil)
	key := s.unit("key", "0-0")
	var sent int
	var slowest time.Duration
	for _, e := range s.endpoints() {
		for _, name := range slices.Sorted(maps.Keys(bombs)) {
			r, err := http.NewRequest(e.method, "https://"+e.host+e.path, strings.NewReader(bombs[name]))
			if err != nil {
				s.t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("If-Match", "*")
			token := s.world.owner.token(dpsHost, time.Now())
			if e.host == hubHost {
				token = s.world.hub.token(hubHost, time.Now())
			}
			if e.device {
				token = sas.Sign(key.key.Bytes(), sas.DeviceResource(s.world.scope, key.id), time.Now().Add(time.Hour), "registration")
			}
			r.Header.Set("Authorization", token)
			began := time.Now()
			a, err := exchange(client, r)
			if err != nil && name != "too long" { // a body that nobody reads is cut off
				s.t.Errorf("%s %s, %s: %v", e.method, e.path, name, err)
			}
			if a.status >= 500 {
				s.t.Errorf("%s %s, %s: status %d: %s", e.method, e.path, name, a.status, a.body)
			}
			sent++
			slowest = max(slowest, time.Since(began))
		}
	}
	return fmt.Sprintf("%d bodies, no status of 500 or above; the slowest answer after %v", sent, slowest.Round(time.Millisecond))
}

func manyMembers(size int) string {
	var b strings.Builder
	b.WriteString(`{"payload":{`)
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, `"%d":0,`, i)
	}
	return b.String() + `"":0}}`
}

// An endpoint takes JSON.
type endpoint struct {
	method, host, path string
	device             bool
}

func (s *siege) endpoints() []endpoint {
	s.t.Helper()
	scope := "/" + s.world.scope
	all := []endpoint{
		{"PUT", dpsHost, scope + "/registrations/key-0-0/register?api-version=2021-06-01", true},
		{"POST", dpsHost, scope + "/registrations/key-0-0?api-version=2021-06-01", true},
	}
	for _, path := range []string{"/enrollments", "/enrollmentGroups"} {
		all = append(all, endpoint{"PUT", dpsHost, path + "/bomb?api-version=2021-10-01", false},
			endpoint{"POST", dpsHost, path + "/query?api-version=2021-10-01", false},
			endpoint{"POST", dpsHost, path + "?api-version=2021-10-01", false},
			endpoint{"POST", dpsHost, path + "/bomb/attestationmechanism?api-version=2021-10-01", false})
	}
	all = append(all, endpoint{"POST", dpsHost, "/registrations/key-group/query?api-version=2021-10-01", false},
		endpoint{"PUT", hubHost, "/devices/bomb?api-version=2020-03-13", false},
		endpoint{"PUT", hubHost, "/twins/key-0-0?api-version=2020-03-13", false},
		endpoint{"PATCH", hubHost, "/twins/key-0-0?api-version=2020-03-13", false},
		endpoint{"POST", hubHost, "/devices/key-0-0/messages/events?api-version=2020-03-13", false})
	var document struct {
		Paths map[string]map[string]json.RawMessage
	}
	if status := s.operate("GET", dpsHost, "/berth/v1/openapi.json", nil, &document); status != http.StatusOK {
		s.t.Fatalf("the description of the administration API: status %d", status)
	}
	for path, operations := range document.Paths {
		for method, o := range operations {
			if bytes.Contains(o, []byte(`"requestBody"`)) {
				path := strings.NewReplacer("{", "", "}", "").Replace(path) // the names of the parameters will do
				all = append(all, endpoint{strings.ToUpper(method), dpsHost, path, false})
			}
		}
	}
	return all
}

// continuations that the server did not make, or made for something else.
func (s *siege) continuations() string {
	list := func(path, continuation string, size string) (status int, next string) {
		s.t.Helper()
		r, err := http.NewRequest("POST", "https://"+dpsHost+path+"/query?api-version=2021-10-01", strings.NewReader("{}"))
		if err != nil {
			s.t.Fatal(err)
		}
		r.Header.Set("Authorization", s.world.owner.token(dpsHost, time.Now()))
		r.Header["x-ms-continuation"], r.Header["x-ms-max-item-count"] = []string{continuation}, []string{size}
		response, err := s.client.Do(r)
		if err != nil {
			s.t.Fatal(err)
		}
		defer response.Body.Close()
		io.Copy(io.Discard, response.Body)
		return response.StatusCode, response.Header.Get("x-ms-continuation")
	}
	status, good := list("/enrollments", "", "2")
	if status != http.StatusOK || good == "" {
		s.t.Fatalf("the first page: status %d, continuation %q", status, good)
	}
	for name, c := range map[string]struct {
		path, continuation string
		want               int
	}{
		"the right one":                {"/enrollments", good, 200},
		"the right one again":          {"/enrollments", good, 200},
		"of another listing":           {"/enrollmentGroups", good, 400},
		"with one character changed":   {"/enrollments", "A" + good[1:], 400},
		"cut off":                      {"/enrollments", good[:len(good)-2], 400},
		"made up":                      {"/enrollments", "eyJza2lwIjoxMDAwMDAwfQ==", 400},
		"long":                         {"/enrollments", strings.Repeat("A", 12<<10), 400},
		"with a quote and a semicolon": {"/enrollments", "'; DROP TABLE enrollment; --", 400},
	} {
		if status, _ := list(c.path, c.continuation, "2"); status != c.want && !(good[0] == 'A' && name == "with one character changed") {
			s.t.Errorf("a continuation %s: status %d, want %d", name, status, c.want)
		}
	}
	return "forged and foreign ones answered 400"
}

// headers without end.
func (s *siege) headers() string {
	lines := func(n, size int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "X-%d: %s\r\n", i, strings.Repeat("x", size))
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		request string
		want    int
	}{
		"one of a megabyte":   {"GET /readyz HTTP/1.1\r\nHost: x\r\n" + lines(1, 1<<20), 431},
		"a hundred thousand":  {"GET /readyz HTTP/1.1\r\nHost: x\r\n" + lines(100_000, 1), 431},
		"a thousand":          {"GET /readyz HTTP/1.1\r\nHost: x\r\n" + lines(1000, 1) + "\r\n", 200},
		"a path of 100 KB":    {"GET /" + strings.Repeat("x", 100_000) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
		"a path of 5 KB":      {"GET /" + strings.Repeat("x", 5_000) + " HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"two lengths":         {"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ", 400},
		"a length and chunks": {"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 404},
		"bare line feeds":     {"GET /readyz HTTP/1.1\nHost: x\nX : y\n\n", 400},
	} {
		conn, err := s.shake()
		if err != nil {
			s.t.Fatal(err)
		}
		defer conn.Close()
		go io.Copy(conn, strings.NewReader(c.request)) // which nobody may read to its end
		answer := make([]byte, 12)
		if _, err := io.ReadFull(conn, answer); err != nil {
			s.t.Errorf("%s: %v", name, err)
			continue
		}
		if want := fmt.Sprint("HTTP/1.1 ", c.want); string(answer) != want {
			s.t.Errorf("%s: %s, want %d", name, bytes.TrimSpace(answer), c.want)
		}
	}
	return "431 above 16 KiB"
}
