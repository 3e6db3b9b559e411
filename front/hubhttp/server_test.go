package hubhttp

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/sqlite"
	"github.com/berth-iot/berth/wire/sas"
)

const host = "hub1.example"

// hosts is the hub of these tests and its other name.
type hosts struct{}

func (hosts) Hub(name string) (hub.Host, bool) {
	h := hub.Host{Name: host, Aliases: []string{"hub1.device.example"}}
	return h, name == host || name == h.Aliases[0]
}

// A server is a hub on a fresh database behind TLS.
type server struct {
	*testing.T
	url     string
	client  *http.Client
	service *hub.Service
	store   *sqlite.Store
	owner   access.Policy // may do everything
	reader  access.Policy // may read the registry
}

func start(t *testing.T) *server {
	t.Helper()
	dir := t.TempDir()
	if err := soft.Create(filepath.Join(dir, "key"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	k, err := soft.Open(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(t.Context(), filepath.Join(dir, "db"), k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	s := &server{T: t, store: store}
	s.owner, s.reader = s.policy("iothubowner", access.AllHub), s.policy("registryRead", access.RegistryRead)
	s.service = hub.New(hub.Config{Registry: store, Stream: store, Queues: store, Presences: store, Configurations: store, Policies: store, Now: time.Now, Random: rand.Reader})

	ts := httptest.NewUnstartedServer(New(Config{
		Service: s.service, Hubs: hosts{}, Logger: slog.New(slog.DiscardHandler), Random: rand.Reader, Now: time.Now,
	}))
	ts.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	ts.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	ts.StartTLS()
	t.Cleanup(ts.Close)
	s.url, s.client = ts.URL, ts.Client()
	return s
}

func (s *server) policy(name string, rights access.Right) access.Policy {
	s.Helper()
	p, err := access.NewPolicy(name, rights, rand.Reader)
	if err != nil {
		s.Fatal(err)
	}
	if err := s.store.PutPolicy(s.Context(), access.HubOwner(host), p); err != nil {
		s.Fatal(err)
	}
	return p
}

// token is the Authorization of a policy for the whole hub.
func token(p access.Policy) string {
	return sas.Sign(p.Primary.Bytes(), host, time.Now().Add(time.Hour), p.Name)
}

// deviceToken is the Authorization of a device.
func deviceToken(k device.SymmetricKey, id string) string {
	return sas.Sign(k.Bytes(), sas.HubDeviceResource(host, id), time.Now().Add(time.Hour), "")
}

// A reply is an answer that has been read.
type reply struct {
	status int
	header http.Header
	body   string
}

// send sends one request. The query is an api-version unless path has its own;
// headers are pairs of names and values.
func (s *server) send(method, path, body string, headers ...string) reply {
	s.Helper()
	if !strings.Contains(path, "?") {
		path += "?api-version=2021-04-12"
	}
	r, err := http.NewRequestWithContext(s.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	r.Host = host
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
			continue
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := s.client.Do(r)
	if err != nil {
		s.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		s.Fatal(err)
	}
	return reply{answer.StatusCode, answer.Header, string(b)}
}

// as sends a request with the token of the owner.
func (s *server) as(method, path, body string, headers ...string) reply {
	s.Helper()
	return s.send(method, path, body, append(headers, "Authorization", token(s.owner))...)
}

// messages returns what the stream holds.
func (s *server) messages() []*hub.Message {
	s.Helper()
	ms, err := s.store.Read(s.Context(), host, 0, 1000)
	if err != nil {
		s.Fatal(err)
	}
	return ms
}

func testKey(b byte) device.SymmetricKey {
	k, _ := device.NewSymmetricKey(bytes.Repeat([]byte{b}, 32))
	return k
}
