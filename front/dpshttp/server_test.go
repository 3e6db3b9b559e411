package dpshttp

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/sas"
)

const (
	scope   = device.IDScope("0ne00111111")
	dpsHost = "contoso.example"
	version = "?api-version=2021-10-01"
)

// store keeps everything the provisioning service wants kept, in memory.
type store struct {
	mu      sync.Mutex // guards entries and records
	entries map[enroll.Kind]map[device.RegistrationID]*enroll.Entry
	records map[device.RegistrationID]*provision.Registration
	cas     map[string]*enroll.CACertificate

	sharers    []string // of every key, when it is asked for
	sharedKeys provision.SharedKeys

	policies []access.Policy
	hubs     []provision.LinkedHub
	refusal  error // what the hubs answer to Assign
}

func (s *store) ScopeOf(_ context.Context, host string) (*provision.Scope, error) {
	ours := []string{dpsHost, "alias.example"}
	if !slices.Contains(ours, host) {
		return nil, errs.New(errs.NotFound, 0, "no scope is at %s", host)
	}
	return &provision.Scope{ID: scope, Hosts: ours}, nil
}

func (s *store) Entry(_ context.Context, _ device.IDScope, kind enroll.Kind, key device.RegistrationID) (*enroll.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[kind][key]; e != nil {
		return e, nil
	}
	return nil, enroll.NotFound()
}

func (s *store) ChangeEntry(_ context.Context, _ device.IDScope, kind enroll.Kind, key device.RegistrationID, decide func(*enroll.Entry) (*enroll.Entry, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := decide(s.entries[kind][key])
	if err != nil {
		return err
	}
	if next == nil {
		delete(s.entries[kind], key)
		return nil
	}
	s.entries[kind][key] = next
	return nil
}

func (s *store) ChangeEntryUnshared(ctx context.Context, scope device.IDScope, kind enroll.Kind, key device.RegistrationID, decide func(*enroll.Entry) (*enroll.Entry, error)) error {
	return s.ChangeEntry(ctx, scope, kind, key, func(old *enroll.Entry) (*enroll.Entry, error) {
		next, err := decide(old)
		if err == nil && len(s.sharers) > 0 {
			err = errs.New(errs.Conflict, errs.CodeConflict, "The key is also that of %s", strings.Join(s.sharers, ", "))
		}
		return next, err
	})
}

func (s *store) SharedKeys(context.Context, device.IDScope, attest.SymmetricKeys, device.RegistrationID) ([]string, error) {
	return s.sharers, nil
}

func (s *store) ListSharedKeys(context.Context, device.IDScope, int) ([][]string, error) {
	return nil, nil
}

func (s *store) Entries(_ context.Context, _ device.IDScope, kind enroll.Kind, after device.RegistrationID, limit int) ([]*enroll.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return page(s.entries[kind], after, limit), nil
}

func (s *store) Groups(_ context.Context, _ device.IDScope, mechanism attest.Type) ([]*enroll.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	groups := page(s.entries[enroll.Group], "", len(s.entries[enroll.Group]))
	return slices.DeleteFunc(groups, func(e *enroll.Entry) bool { return e.Attestation.Type != mechanism }), nil
}

func (s *store) EndorsementKeys(_ context.Context, _ device.IDScope, group device.RegistrationID) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[enroll.Group][group]
	if e == nil || e.Attestation.TPMGroup == nil || e.Attestation.TPMGroup.List == nil || e.Attestation.TPMGroup.List.Keys == nil {
		return nil, enroll.NotFound()
	}
	return e.Attestation.TPMGroup.List.Keys, nil
}

func (s *store) CACertificate(_ context.Context, _ device.IDScope, name string) (*enroll.CACertificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cas[enroll.CertificateKey(name)]; c != nil {
		return c, nil
	}
	return nil, enroll.NoCACertificate()
}

func (s *store) CACertificates(context.Context, device.IDScope) ([]*enroll.CACertificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.cas)), nil
}

func (s *store) ChangeCACertificate(_ context.Context, _ device.IDScope, name string, decide func(*enroll.CACertificate) (*enroll.CACertificate, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := decide(s.cas[enroll.CertificateKey(name)])
	if err == nil {
		s.cas[enroll.CertificateKey(name)] = next
	}
	return err
}

func (s *store) Registration(_ context.Context, _ device.IDScope, key device.RegistrationID) (*provision.Registration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.records[key]; r != nil {
		return r, nil
	}
	return nil, errs.New(errs.NotFound, 0, "there is no such record")
}

func (s *store) ChangeRegistration(_ context.Context, _ device.IDScope, key device.RegistrationID, decide func(*provision.Registration) (*provision.Registration, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := decide(s.records[key])
	if err != nil {
		return err
	}
	if next == nil {
		delete(s.records, key)
		return nil
	}
	s.records[key] = next
	return nil
}

func (s *store) Registrations(_ context.Context, _ device.IDScope, group string, after device.RegistrationID, limit int) ([]*provision.Registration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := map[device.RegistrationID]*provision.Registration{}
	for key, r := range s.records {
		if strings.EqualFold(r.GroupID, group) {
			of[key] = r
		}
	}
	return page(of, after, limit), nil
}

func (s *store) DueRegistrations(_ context.Context, now time.Time, limit int) ([]*provision.Registration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	due := map[device.RegistrationID]*provision.Registration{}
	for key, r := range s.records {
		if r.Pending != nil && !r.Pending.Due.After(now) {
			due[key] = r
		}
	}
	return page(due, "", limit), nil
}

func (s *store) Together(ctx context.Context, do func(context.Context) error) error {
	s.mu.Lock()
	before := maps.Clone(s.records)
	s.mu.Unlock()
	err := do(ctx)
	if err != nil {
		s.mu.Lock()
		s.records = before
		s.mu.Unlock()
	}
	return err
}

func page[K cmp.Ordered, V any](all map[K]V, after K, limit int) []V {
	var found []V
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if key > after && len(found) < limit {
			found = append(found, all[key])
		}
	}
	return found
}

func (s *store) Scope(_ context.Context, id device.IDScope) (*provision.Scope, error) {
	if id != scope {
		return nil, errs.New(errs.NotFound, 0, "there is no such scope")
	}
	return &provision.Scope{ID: scope, Allocation: enroll.Hashed, SharedKeys: s.sharedKeys}, nil
}

func (s *store) Linked(context.Context, device.IDScope) ([]provision.LinkedHub, error) {
	return s.hubs, nil
}

func (s *store) Assign(context.Context, provision.Assignment) error { return s.refusal }

func (s *store) AssignElsewhere(context.Context, provision.Assignment) error { return s.refusal }

func (s *store) Policies(_ context.Context, owner access.Owner) ([]access.Policy, error) {
	if owner != access.ScopeOwner(scope) {
		return nil, nil
	}
	return s.policies, nil
}

// secret derives keys as a key in a file would.
type secret struct{}

func (secret) Derive(info []byte, size int) ([]byte, error) {
	return hkdf.Key(sha256.New, []byte("of one test"), nil, string(info), size)
}

// A server is the front, the real service behind it and a clock.
type server struct {
	http.Handler
	t     *testing.T
	store *store
	now   time.Time
	log   bytes.Buffer
	token string // of the policy with all rights
	front Config // what Handler was made of
}

// challengeWindow is that of the server.
const challengeWindow = 5 * time.Minute

func newServer(t *testing.T, settings ...func(*provision.Config)) *server {
	t.Helper()
	s := &server{t: t, now: time.Date(2026, 5, 4, 3, 2, 1, 123456700, time.UTC)}
	s.store = &store{
		entries: map[enroll.Kind]map[device.RegistrationID]*enroll.Entry{enroll.Individual: {}, enroll.Group: {}},
		records: map[device.RegistrationID]*provision.Registration{},
		cas:     map[string]*enroll.CACertificate{},
		hubs:    []provision.LinkedHub{{Host: "hub-1.example", Weight: 1, Allocation: true}},
	}
	clock := func() time.Time { return s.now }
	journal := provision.NewJournal(100)
	config := provision.Config{
		Enrollments: s.store, Records: s.store, Scopes: s.store, Hubs: s.store, Secrets: secret{},
		Journal: journal, Now: clock, Random: rand.Reader, ChallengeWindow: challengeWindow, AnswerAtOnce: true,
	}
	for _, set := range settings {
		set(&config)
	}
	s.front = Config{
		Registrar: provision.NewRegistrar(config),
		Enroller: provision.NewEnroller(provision.EnrollerConfig{
			Store: s.store, Scopes: s.store, Records: s.store, Journal: journal, Now: clock, Random: rand.Reader}),
		Policies:  s.store,
		Secrets:   secret{},
		Scopes:    s.store,
		PublicURL: "https://dps.example",
		Now:       clock,
		Logger:    slog.New(slog.NewTextHandler(&s.log, nil)),
		Random:    rand.Reader,
	}
	s.Handler = New(s.front)
	s.token = s.policyToken("owner", access.AllProvisioning)
	return s
}

// policyToken makes a policy and a service token with its key.
func (s *server) policyToken(name string, rights access.Right) string {
	p, err := access.NewPolicy(name, rights, rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	s.store.policies = append(s.store.policies, p)
	return sas.Sign(p.Primary.Bytes(), dpsHost, s.now.Add(time.Hour), name)
}

// An answer is a response, read.
type answered struct {
	status int
	header http.Header
	body   string
	json   map[string]any // the body if it is an object
}

// etag is the etag member of the body.
func (a answered) etag() string { s, _ := a.json["etag"].(string); return s }

// do sends a request and checks what every answer must have: a tracking ID,
// and with an error its body.
func (s *server) do(r *http.Request) answered {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	a := answered{status: w.Code, header: w.Result().Header, body: w.Body.String()}
	json.Unmarshal(w.Body.Bytes(), &a.json)
	name := r.Method + " " + r.URL.Path
	if ids := a.header["x-ms-request-id"]; len(ids) != 1 || len(ids[0]) != 36 {
		s.t.Errorf("%s: x-ms-request-id %q", name, ids)
	}
	if a.status != http.StatusNoContent && a.header.Get("Content-Type") != "application/json; charset=utf-8" {
		s.t.Errorf("%s: Content-Type %q", name, a.header.Get("Content-Type"))
	}
	if _, challenge := a.json["authenticationKey"]; a.status >= 400 && !challenge {
		code, _ := a.json["errorCode"].(float64)
		if int(code)/1000 != a.status || a.json["trackingId"] != a.header["x-ms-request-id"][0] ||
			a.json["message"] == "" || a.json["timestampUtc"] == nil || a.header["x-ms-error-code"] == nil {
			s.t.Errorf("%s: status %d with error body %s", name, a.status, a.body)
		}
	}
	return a
}

// want sends a request and fails the test on another status.
func (s *server) want(status int, r *http.Request) answered {
	s.t.Helper()
	a := s.do(r)
	if a.status != status {
		s.t.Fatalf("%s %s: status %d, want %d: %s\n%s", r.Method, r.URL.Path, a.status, status, a.body, s.log.String())
	}
	return a
}

// request makes a request with an Authorization header unless it is empty, and
// headers as name, value pairs.
func request(method, path, authorization, body string, headers ...string) *http.Request {
	if !strings.Contains(path, "?") {
		path += version
	}
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = dpsHost
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

// service makes a request of the service API with all rights.
func (s *server) service(method, path, body string, headers ...string) *http.Request {
	return request(method, path, s.token, body, headers...)
}

// deviceToken signs for a device that provisions.
func (s *server) deviceToken(key []byte, id string) string {
	return sas.Sign(key, sas.DeviceResource(string(scope), id), s.now.Add(time.Hour), "registration")
}

// key32 is a symmetric key and its base64.
func key32(b byte) ([]byte, string) {
	key := bytes.Repeat([]byte{b}, 32)
	return key, base64.StdEncoding.EncodeToString(key)
}

// enrollKey makes an individual enrollment with a symmetric key and returns the
// device's token.
func (s *server) enrollKey(id string) string {
	s.t.Helper()
	key, text := key32(7)
	s.want(200, s.service("PUT", "/enrollments/"+id,
		`{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"`+text+`"}}}`))
	return s.deviceToken(key, id)
}

// A holder is a certificate and its key.
type holder struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (h holder) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.cert.Raw}))
}

// issue makes a certificate signed by issuer, or by itself when issuer is nil.
func (s *server) issue(name string, ca bool, issuer *holder) holder {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0x5EED), Subject: pkix.Name{CommonName: name},
		NotBefore: s.now.Add(-time.Hour), NotAfter: s.now.Add(time.Hour),
		BasicConstraintsValid: true, IsCA: ca, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if ca {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		s.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	return holder{cert, key}
}

// quote returns s as a JSON string.
func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}
