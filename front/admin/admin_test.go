package admin

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/sqlite"
	"github.com/berth-iot/berth/wire/sas"
)

const (
	scope = device.IDScope("0ne00000001")
	host  = "dps.example"
)

// A server is the admin API over a fresh database.
type server struct {
	hub *hub.Service
	*testing.T
	*httptest.Server
	store     *sqlite.Store
	registrar *provision.Registrar
	enroller  *provision.Enroller
	owner     access.Policy
	webhooks  []provision.WebhookHealth
	far       *far
	ready     error
	drain     func()
}

func start(t *testing.T) *server {
	t.Helper()
	dir := t.TempDir()
	if err := soft.Create(filepath.Join(dir, "key"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	secrets, err := soft.Open(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(t.Context(), filepath.Join(dir, "db"), secrets)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if err := store.PutScope(t.Context(), provision.Scope{ID: scope, Allocation: enroll.Hashed, Hosts: []string{host, "localhost"}}); err != nil {
		t.Fatal(err)
	}
	draining := make(chan struct{})
	journal := provision.NewJournal(10)
	s := &server{T: t, store: store, far: &far{}, drain: func() { close(draining) }}
	s.owner = s.policy("provisioningserviceowner", access.AllProvisioning)
	s.registrar = provision.NewRegistrar(provision.Config{
		Enrollments: store, Records: store, Scopes: store, Hubs: nil, Secrets: secrets, Journal: journal,
		Now: time.Now, Random: rand.Reader, ChallengeWindow: time.Minute,
	})
	s.enroller = provision.NewEnroller(provision.EnrollerConfig{Store: store, Scopes: store, Records: store, Trust: store, Journal: journal, Now: time.Now, Random: rand.Reader})
	s.hub = hub.New(hub.Config{Registry: store, Stream: store, Queues: store, Presences: store, Configurations: store, Policies: store, Now: time.Now, Random: rand.Reader})
	s.Server = httptest.NewServer(documented(t, New(Config{
		Home: scope, Scopes: scopes{store}, Tenants: store, Policies: store, Secrets: secrets,
		Decisions: s.enroller,
		Links:     links{store}, Lists: s.enroller, Sharers: s.enroller, Certificates: s.enroller, Trust: s.enroller, Messages: store, Version: "1.2.3",
		Outbox: s.hub, Refusals: s.hub,
		Routing:  dispatcher(store, s.far),
		Ready:    func(context.Context) error { return s.ready },
		Draining: draining,
		Webhooks: func() []provision.WebhookHealth { return s.webhooks },
		Logger:   slog.New(slog.DiscardHandler), Random: rand.Reader, Now: time.Now,
	})))
	t.Cleanup(s.Server.Close)
	return s
}

// scopes finds a scope by the host names in the store.
type scopes struct{ *sqlite.Store }

func (s scopes) ScopeOf(ctx context.Context, host string) (*provision.Scope, error) {
	all, err := s.ListScopes(ctx)
	if err != nil {
		return nil, err
	}
	for _, scope := range all {
		if slices.Contains(scope.Hosts, host) {
			return &scope, nil
		}
	}
	return nil, errs.New(errs.NotFound, 0, "no scope is at %s", host)
}

// links are those of the store. No hub elsewhere is asked anything.
type links struct{ *sqlite.Store }

func (links) HubHealth(context.Context, device.IDScope) ([]provision.HubHealth, error) {
	return []provision.HubHealth{{Host: "far.example", Failures: 3, LastError: "no route", LastErrorTime: time.Unix(0, 0).UTC()}}, nil
}

func (links) CheckLink(_ context.Context, h provision.LinkedHub) error {
	if h.Connection.Policy != "service" {
		return errs.New(errs.Invalid, 0, "connectionString: policy %q lacks RegistryWrite", h.Connection.Policy)
	}
	return nil
}

func (s *server) policy(name string, rights access.Right) access.Policy {
	s.Helper()
	p, err := access.NewPolicy(name, rights, rand.Reader)
	if err != nil {
		s.Fatal(err)
	}
	if err := s.store.PutPolicy(s.Context(), access.ScopeOwner(scope), p); err != nil {
		s.Fatal(err)
	}
	return p
}

func token(p access.Policy) string {
	return sas.Sign(p.Primary.Bytes(), host, time.Now().Add(time.Hour), p.Name)
}

func (s *server) open(ctx context.Context, method, path, body, authorization string) *http.Response {
	s.Helper()
	return s.openAt(ctx, host, method, path, body, authorization)
}

func (s *server) openAt(ctx context.Context, host, method, path, body, authorization string) *http.Response {
	s.Helper()
	r, err := http.NewRequestWithContext(ctx, method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	r.Host = host
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	if body != "" {
		r.Header.Set("Content-Type", mediaType(path))
	}
	answer, err := s.Client().Do(r)
	if err != nil {
		s.Fatal(err)
	}
	return answer
}

func (s *server) send(method, path, body, authorization string) (status int, answer string) {
	s.Helper()
	return s.sendTo(host, method, path, body, authorization)
}

// sendTo sends a call to one of the server's hosts.
func (s *server) sendTo(host, method, path, body, authorization string) (status int, answer string) {
	s.Helper()
	r := s.openAt(s.Context(), host, method, path, body, authorization)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		s.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func (s *server) want(method, path, body string, status int, want string) {
	s.Helper()
	if got, answer := s.send(method, path, body, token(s.owner)); got != status || answer != want {
		s.Errorf("%s %s: %d %s, want %d %s", method, path, got, answer, status, want)
	}
}

func (s *server) refuses(method, path, body, authorization string, status int, kind errs.Kind) {
	s.Helper()
	got, answer := s.send(method, path, body, authorization)
	var e errorBody
	if err := json.Unmarshal([]byte(answer), &e); err != nil || got != status || e.Error.Kind != kind.String() ||
		e.Error.Code.Status() != status || e.Error.Message == "" || len(e.Error.TrackingID) != 36 {
		s.Errorf("%s %s: %d %s, want %d %s", method, path, got, answer, status, kind)
	}
}

func TestProbes(t *testing.T) {
	s := start(t)
	if status, answer := s.send("GET", "/healthz", "", ""); status != 200 || answer != `{"status":"ok"}` {
		t.Errorf("%d %s", status, answer)
	}
	if status, answer := s.send("GET", "/readyz", "", ""); status != 200 || answer != `{"status":"ready"}` {
		t.Errorf("%d %s", status, answer)
	}
	s.ready = errors.New("the disk at /var/lib is full")
	s.refuses("GET", "/readyz", "", "", 503, errs.Unavailable)
	if _, answer := s.send("GET", "/readyz", "", ""); strings.Contains(answer, "disk") {
		t.Errorf("a stranger reads the cause: %s", answer)
	}
}

// Who does not hold the key of a policy with the right gets nothing from any
// route, and is not told whether there would have been something.
func TestCallersThatAreRefused(t *testing.T) {
	s := start(t)
	later := time.Now().Add(time.Hour)
	own := s.owner.Primary.Bytes()
	weak := s.policy("weak", access.DeviceConnect|access.RegistrationStatusRead|access.RegistrationStatusWrite)
	for path, item := range readDocument(t).Paths.Map() {
		path = regexp.MustCompile(`{[^}]*}`).ReplaceAllString(path, "a")
		for method, operation := range item.Operations() {
			if operation.Security != nil {
				continue // it asks for nothing
			}
			for _, authorization := range []string{
				"", "Bearer x",
				token(weak),
				sas.Sign(own, "other.example", later, s.owner.Name),
				sas.Sign(own, host, time.Now().Add(-time.Hour), s.owner.Name),
				sas.Sign(own, host, later, "nobody"),
				sas.Sign(own, host, later, ""),
				sas.Sign(own, string(scope)+"/registrations/a", later, s.owner.Name),
				sas.Sign([]byte("another key"), host, later, s.owner.Name),
			} {
				s.refuses(method, path, "", authorization, 401, errs.Denied)
			}
		}
	}
	s.refuses("GET", "/berth/v1/other", "", token(s.owner), 404, errs.NotFound)
	s.refuses("POST", "/berth/v1/hubs", "", token(s.owner), 405, errs.NotAllowed)

	s.want("GET", "/berth/v1/version", "", 200, `{"version":"1.2.3"}`)
	if status, answer := s.send("GET", "/berth/v1/version", "", sas.Sign(own, "https://LOCALHOST:8443/", later, s.owner.Name)); status != 200 {
		t.Errorf("another of the server's names: %d %s", status, answer)
	}
}

// An operator who has the registration ID, or the tracking ID that the device
// printed, learns what the device was not told.
func TestDecisions(t *testing.T) {
	s := start(t)
	s.want("GET", "/berth/v1/decisions/pump-7", "", 200, `[]`)
	tokenOfAStranger, err := sas.Parse(sas.Sign([]byte("a stranger's key"), "0ne00000001/registrations/pump-7", time.Now().Add(time.Hour), "registration"))
	if err != nil {
		t.Fatal(err)
	}
	const tracking = "3d1f2a54-0c4e-4d55-8f1e-6a0b1c2d3e4f"
	_, err = s.registrar.Register(t.Context(), provision.Request{
		Scope: "0ne00000001", ID: "Pump-7", APIVersion: "2021-06-01", TrackingID: tracking, Wire: "https",
		Credential: attest.Credential{Token: &tokenOfAStranger},
	})
	if err == nil {
		t.Fatal("a stranger was registered")
	}
	for _, id := range []string{"pump-7", "PUMP-7", tracking} {
		status, answer := s.send("GET", "/berth/v1/decisions/"+id, "", token(s.owner))
		var found []provision.Decision
		if err := json.Unmarshal([]byte(answer), &found); err != nil || status != 200 || len(found) != 1 ||
			found[0].TrackingID != tracking || found[0].Accepted || found[0].Outcome == "" {
			t.Errorf("%s: %d %s (%v)", id, status, answer, err)
		}
	}
	s.want("GET", "/berth/v1/decisions/pump-8", "", 200, `[]`)
}

// A scope sees its own webhooks.
func TestWebhooks(t *testing.T) {
	s := start(t)
	s.want("GET", "/berth/v1/webhooks", "", 200, `[]`)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s.webhooks = []provision.WebhookHealth{
		{Scope: "0neffffffff", Kind: enroll.Group, ID: "others", Failures: 1, LastError: "down", LastFailure: at},
		{Scope: scope, Kind: enroll.Group, ID: "pumps", LastError: "f.example answered 503", LastFailure: at, LastAnswer: at},
	}
	s.want("GET", "/berth/v1/webhooks", "", 200,
		`[{"idScope":"`+string(scope)+`","kind":"group","id":"pumps","failures":0,"lastError":"f.example answered 503","lastFailure":"2026-01-01T00:00:00Z","lastAnswer":"2026-01-01T00:00:00Z"}]`)
	s.refuses("GET", "/berth/v1/webhooks", "", "", 401, errs.Denied)
}

// linked starts a server with two linked hubs.
func linked(t *testing.T) *server {
	s := start(t)
	for _, h := range []string{"hub1.example:8443", "hub2.example"} {
		if err := s.store.PutLinkedHub(t.Context(), scope, provision.LinkedHub{Host: h, Weight: 1, Allocation: true}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// arrive has messages with the given bodies arrive at a hub.
func (s *server) arrive(host string, bodies ...string) {
	s.Helper()
	var ms []*hub.Message
	for _, b := range bodies {
		ms = append(ms, &hub.Message{Hub: host, DeviceID: "d1", Enqueued: time.Date(2026, 3, 1, 12, 0, 0, 5000, time.UTC), Body: []byte(b)})
	}
	if err := s.store.Append(s.Context(), ms); err != nil {
		s.Fatal(err)
	}
}

// bodies returns the bodies in lines of messages, separated by spaces.
func bodies(lines string) string {
	var all []string
	for _, m := range regexp.MustCompile(`"body":"([^"]*)"`).FindAllStringSubmatch(lines, -1) {
		all = append(all, m[1])
	}
	return strings.Join(all, " ")
}

func TestMessages(t *testing.T) {
	s := linked(t)
	if err := s.store.Append(t.Context(), []*hub.Message{{
		Hub: "hub1.example", DeviceID: "d1", Enqueued: time.Date(2026, 3, 1, 12, 0, 0, 5000, time.UTC),
		System: map[string]string{"message-id": "1"}, Properties: map[string]string{"k": "<v>"}, Body: []byte("{\"t\":\"ä\"}\n"),
	}}); err != nil {
		t.Fatal(err)
	}
	s.arrive("hub1.example", "\xff\x00", "")
	s.arrive("hub2.example", "x")
	const path = "/berth/v1/hubs/hub1.example:8443/messages"
	s.want("GET", path, "", 200,
		`{"sequence":1,"hub":"hub1.example","deviceId":"d1","enqueuedTime":"2026-03-01T12:00:00.000005Z","systemProperties":{"message-id":"1"},"properties":{"k":"<v>"},"body":"{\"t\":\"ä\"}\n"}`+"\n"+
			`{"sequence":2,"hub":"hub1.example","deviceId":"d1","enqueuedTime":"2026-03-01T12:00:00.000005Z","systemProperties":{},"properties":{},"bodyBase64":"/wA="}`+"\n"+
			`{"sequence":3,"hub":"hub1.example","deviceId":"d1","enqueuedTime":"2026-03-01T12:00:00.000005Z","systemProperties":{},"properties":{},"body":""}`+"\n")

	var many, all []string
	for i := range 2*pageSize + 1 {
		many = append(many, fmt.Sprint("m", i))
	}
	s.arrive("hub2.example", many...)
	all = append([]string{"x"}, many...)
	for query, want := range map[string][]string{
		"":                                all,
		"?after=0&follow=false":           all,
		"?after=4":                        many,
		"?after=4&limit=3":                many[:3],
		"?limit=100":                      all[:100],
		"?limit=101&follow=true":          all[:101],
		"?after=5&limit=200&follow=true":  many[1:201],
		"?after=9223372036854775807":      nil,
		"?after=1000&limit=1&some=thing":  nil,
		"?limit=1&follow=true&after=3&":   {"x"},
		"?limit=9223372036854775807&x=y&": all,
	} {
		status, answer := s.send("GET", "/berth/v1/hubs/hub2.example/messages"+query, "", token(s.owner))
		if status != 200 || bodies(answer) != strings.Join(want, " ") {
			t.Errorf("%s: %d %s", query, status, bodies(answer))
		}
	}
	for _, query := range []string{
		"?after=-1", "?after=x", "?after=", "?after=1&after=2", "?limit=0", "?limit=", "?limit=1.5", "?follow=", "?follow=maybe", "?after=9223372036854775808", "?%zz",
	} {
		s.refuses("GET", path+query, "", token(s.owner), 400, errs.Invalid)
	}
	s.refuses("GET", "/berth/v1/hubs/hub3.example/messages", "", token(s.owner), 404, errs.NotFound)
	s.refuses("GET", "/berth/v1/hubs/hub1.example/messages", "", token(s.owner), 404, errs.NotFound)
}

// follow opens a stream that goes on and returns its lines.
func (s *server) follow(ctx context.Context, path string) (*http.Response, *bufio.Scanner) {
	s.Helper()
	r := s.open(ctx, "GET", path, "", token(s.owner))
	s.Cleanup(func() { r.Body.Close() })
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/x-ndjson; charset=utf-8" {
		s.Fatalf("%s: %s", path, r.Status)
	}
	return r, bufio.NewScanner(r.Body)
}

func TestFollow(t *testing.T) {
	s := linked(t)
	s.arrive("hub2.example", "old")
	_, lines := s.follow(t.Context(), "/berth/v1/hubs/hub2.example/messages?follow=true")
	next := func(want string) {
		t.Helper()
		if !lines.Scan() || bodies(lines.Text()) != want {
			t.Fatalf("%q, want %s (%v)", lines.Text(), want, lines.Err())
		}
	}
	next("old")
	s.arrive("hub1.example", "elsewhere")
	s.arrive("hub2.example", "new")
	next("new")
	s.arrive("hub2.example", "newer", "newest")
	next("newer")
	next("newest")
	s.drain()
	if lines.Scan() || lines.Err() != nil {
		t.Errorf("after the drain: %q, %v", lines.Text(), lines.Err())
	}
}

// A reader that leaves takes its request with it.
func TestFollowerLeaves(t *testing.T) {
	s := linked(t)
	ctx, leave := context.WithCancel(t.Context())
	r, _ := s.follow(ctx, "/berth/v1/hubs/hub2.example/messages?follow=true")
	leave()
	if _, err := io.ReadAll(r.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	s.Server.Close() // waits for every request
}

// Messages of other hubs wake no follower twice: it waits for what is newer
// than all of them.
func TestFollowerDoesNotSpin(t *testing.T) {
	quiet := &counted{newest: 7, woken: make(chan uint64, 10)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := front{Config{Messages: quiet, Now: time.Now}}
	done := make(chan error, 1)
	go func() { done <- f.stream(ctx, httptest.NewRecorder(), "hub1.example", selection{follow: true}) }()
	if after := <-quiet.woken; after != 7 {
		t.Errorf("waits for what is above %d", after)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// counted is a stream of another hub's messages that says when it is waited on.
type counted struct {
	newest uint64
	woken  chan uint64
}

func (c *counted) Read(context.Context, string, uint64, int) ([]*hub.Message, error) { return nil, nil }
func (c *counted) LastSequence(context.Context) (uint64, error)                      { return c.newest, nil }
func (c *counted) Wait(ctx context.Context, after uint64) error {
	c.woken <- after
	<-ctx.Done()
	return ctx.Err()
}

// A store that fails after the first page must not look like an end.
func TestBrokenStreamIsAborted(t *testing.T) {
	s := linked(t)
	h := New(Config{
		Scopes: scopes{s.store}, Policies: s.store, Links: links{s.store}, Messages: &failing{}, Draining: make(chan struct{}),
		Logger: slog.New(slog.DiscardHandler), Random: rand.Reader, Now: time.Now,
	})
	broken := httptest.NewServer(h)
	broken.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	defer broken.Close()
	r, err := http.NewRequestWithContext(t.Context(), "GET", broken.URL+"/berth/v1/hubs/hub2.example/messages", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	r.Header.Set("Authorization", token(s.owner))
	answer, err := broken.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if b, err := io.ReadAll(answer.Body); err == nil {
		t.Errorf("a stream that broke off ended well: %d bytes", len(b))
	}
}

// failing is a stream whose second page cannot be read.
type failing struct{ counted }

func (*failing) Read(_ context.Context, _ string, after uint64, limit int) ([]*hub.Message, error) {
	if after > 0 {
		return nil, errors.New("the disk is gone")
	}
	page := slices.Repeat([]*hub.Message{{Sequence: 1, Body: bytes.Repeat([]byte("x"), 1000)}}, limit)
	return page, nil
}

func TestEveryKindHasACode(t *testing.T) {
	for _, k := range errs.Kinds() {
		if code, ok := codes[k]; !ok || code.Status() < 400 {
			t.Errorf("%s: %d", k, code)
		}
	}
	if len(codes) != len(errs.Kinds()) {
		t.Errorf("%d codes for %d kinds", len(codes), len(errs.Kinds()))
	}
}

func TestRefusals(t *testing.T) {
	s := start(t)
	s.want("GET", "/berth/v1/refusals/pump-7", "", 200, `[]`)
	if status, answer := s.send("PUT", "/berth/v1/hubs/hub1.example", `{}`, token(s.owner)); status != 200 {
		t.Fatal(status, answer)
	}
	at := hub.Place{Hub: "hub1.example", ID: "pump-7", Module: "m1"}
	s.hub.Refuse(hub.Approach{Wire: "mqtt", Remote: "192.0.2.7:1", TrackingID: "00000000-0000-0000-0000-000000000001"}, at, "will", "it is for another topic")
	at.Hub = "hub9.example" // which is nobody's here
	s.hub.Refuse(hub.Approach{Wire: "mqtt", Remote: "192.0.2.7:1", TrackingID: "00000000-0000-0000-0000-000000000002"}, at, "will", "it is for another topic")
	for _, id := range []string{"pump-7", "00000000-0000-0000-0000-000000000001"} {
		status, answer := s.send("GET", "/berth/v1/refusals/"+id, "", token(s.owner))
		if status != 200 || strings.Count(answer, `"trackingId"`) != 1 || !strings.Contains(answer, `"moduleId":"m1"`) || !strings.Contains(answer, `"check":"will"`) {
			t.Errorf("%d %s", status, answer)
		}
	}
	s.want("GET", "/berth/v1/refusals/00000000-0000-0000-0000-000000000002", "", 200, `[]`)
}
