package provision_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/symkey"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hsm/tpm2"
	"github.com/berth-iot/berth/hsm/tpm2/swtpm"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/sqlite"
	"github.com/berth-iot/berth/wire/sas"
)

const (
	scope  = device.IDScope("0ne00111111")
	window = 5 * time.Minute
	hub1   = "hub-1.example"
	hub2   = "hub-2.example"
)

var operator = access.Caller{Policy: "owner", Rights: access.AllProvisioning | access.AllHub}

// A service is the whole provisioning service over a real store, with hubs in
// the same process and a clock that the test turns.
type service struct {
	t         testing.TB
	store     *sqlite.Store
	hub       *hub.Service
	registrar *provision.Registrar
	enroller  *provision.Enroller

	mu  sync.Mutex // guards now
	now time.Time

	refusal error // what the hubs answer, or nil
}

func newService(t testing.TB, settings ...func(*provision.Config)) *service {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "server.key")
	if err := soft.Create(path, rand.Reader); err != nil {
		t.Fatal(err)
	}
	key, err := soft.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(t.Context(), filepath.Join(dir, "berth.db"), key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	s := &service{t: t, store: store, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	s.hub = hub.New(hub.Config{Registry: store, Stream: store, Queues: store, Presences: store, Configurations: store, Policies: store, Now: s.clock, Random: rand.Reader})
	journal := provision.NewJournal(256)
	config := provision.Config{
		Enrollments: store, Trust: store, Records: store, Scopes: store, Hubs: hubs{s}, Secrets: key, Journal: journal,
		Now: s.clock, Random: rand.Reader, ChallengeWindow: window, AnswerAtOnce: true,
	}
	for _, set := range settings {
		set(&config)
	}
	s.registrar = provision.NewRegistrar(config)
	s.enroller = provision.NewEnroller(provision.EnrollerConfig{
		Store: store, Scopes: store, Records: store, Trust: store, Journal: journal, Now: s.clock, Random: rand.Reader})
	if err := store.PutScope(t.Context(), provision.Scope{ID: scope, Allocation: enroll.Hashed}); err != nil {
		t.Fatal(err)
	}
	s.link(hub1, 1)
	return s
}

func (s *service) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *service) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

// hubs are the hubs of the process, as the server has them.
type hubs struct{ s *service }

func (h hubs) Linked(ctx context.Context, scope device.IDScope) ([]provision.LinkedHub, error) {
	return h.s.store.Linked(ctx, scope)
}

func (h hubs) Assign(ctx context.Context, a provision.Assignment) error {
	if h.s.refusal != nil {
		return h.s.refusal
	}
	p := hub.Provisioning{
		Hub: a.Hub, DeviceID: a.DeviceID, IoTEdge: a.IoTEdge, Keys: a.Keys, Thumbprint: a.Thumbprint,
		From: hub.Place{Hub: a.From.Hub, ID: a.From.DeviceID}, MigrateTwin: a.MigrateTwin,
	}
	if a.Twin != nil {
		p.Twin = &hub.InitialTwin{Tags: a.Twin.Tags, Desired: a.Twin.Desired}
	}
	return h.s.hub.Provision(ctx, p)
}

func (h hubs) AssignElsewhere(context.Context, provision.Assignment) error {
	return errors.New("no hub is elsewhere")
}

func (s *service) link(host string, weight int) {
	s.t.Helper()
	if err := s.store.PutLinkedHub(s.t.Context(), scope, provision.LinkedHub{Host: host, Weight: weight, Allocation: true}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) unlink(host string) {
	s.t.Helper()
	if err := s.store.DeleteLinkedHub(s.t.Context(), scope, host); err != nil {
		s.t.Fatal(err)
	}
}

// enroll writes an enrollment, over one that may be there.
func (s *service) enroll(e *enroll.Entry) *enroll.Entry {
	s.t.Helper()
	e.Scope = scope
	put, err := s.enroller.Put(s.t.Context(), operator, e, nil)
	if errs.KindOf(err) == errs.Conflict {
		put, err = s.enroller.Put(s.t.Context(), operator, e, func(string) bool { return true })
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return put
}

// A request is what a device sends to register.
func request(id string, c attest.Credential) provision.Request {
	return provision.Request{
		Scope: string(scope), ID: id, Credential: c, APIVersion: "2025-07-01-preview",
		TrackingID: "track-" + errs.TrackingID(id), Wire: "https", Remote: "192.0.2.7",
	}
}

// register wants a device to be taken in at once.
func (s *service) register(id string, c attest.Credential) provision.Registration {
	s.t.Helper()
	out, err := s.registrar.Register(s.t.Context(), request(id, c))
	if err != nil {
		s.t.Fatalf("registering %s: %v", id, err)
	}
	if out.Operation == nil {
		s.t.Fatalf("registering %s: a challenge", id)
	}
	return out.Operation.Registration
}

// refused wants a device to be refused with a code, and nothing to be stored.
func (s *service) refused(code errs.Code, id string, c attest.Credential) {
	s.t.Helper()
	before := s.record(id)
	out, err := s.registrar.Register(s.t.Context(), request(id, c))
	if err == nil || errs.Public(err).Code != code {
		s.t.Errorf("registering %s: %+v, %v; want error %d", id, out, err, code)
	}
	if after := s.record(id); (before == nil) != (after == nil) || before != nil && before.ETag != after.ETag {
		s.t.Errorf("the refused call changed the record of %s", id)
	}
}

// record returns the registration record, or nil.
func (s *service) record(id string) *provision.Registration {
	s.t.Helper()
	r, err := s.enroller.Registration(s.t.Context(), operator, scope, id)
	if err != nil && errs.KindOf(err) != errs.NotFound {
		s.t.Fatal(err)
	}
	return r
}

// device returns a hub's identity, or nil.
func (s *service) device(host, id string) *hub.Identity {
	s.t.Helper()
	d, err := s.hub.Identity(s.t.Context(), operator, hub.Place{Hub: host, ID: device.ID(id)})
	if err != nil && errs.KindOf(err) != errs.NotFound {
		s.t.Fatal(err)
	}
	return d
}

// twin returns a hub's twin of a device that is there.
func (s *service) twin(host, id string) *hub.Twin {
	s.t.Helper()
	_, twin, err := s.hub.Twin(s.t.Context(), operator, hub.Place{Hub: host, ID: device.ID(id)})
	if err != nil {
		s.t.Fatal(err)
	}
	return twin
}

// decisions returns what was decided about id, newest first.
func (s *service) decisions(id string) []provision.Decision {
	s.t.Helper()
	found, err := s.enroller.Decisions(s.t.Context(), operator, scope, id)
	if err != nil || len(found) == 0 {
		s.t.Fatalf("decisions about %s: %v, %v", id, found, err)
	}
	return found
}

// token is signed by a symmetric key and good for an hour.
func (s *service) token(key device.SymmetricKey, id string) attest.Credential {
	s.t.Helper()
	return s.parsed(sas.Sign(key.Bytes(), sas.DeviceResource(string(scope), id), s.clock().Add(time.Hour), "registration"))
}

func (s *service) parsed(text string) attest.Credential {
	s.t.Helper()
	token, err := sas.Parse(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return attest.Credential{Token: &token}
}

// key is a symmetric key of 32 equal bytes.
func key(b byte) device.SymmetricKey {
	k, err := device.NewSymmetricKey(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		panic(err)
	}
	return k
}

func derived(group device.SymmetricKey, id string) device.SymmetricKey {
	return symkey.DeriveDeviceKey(group, id)
}

// byKey is an enrollment with two symmetric keys.
func byKey(kind enroll.Kind, id string, primary, secondary device.SymmetricKey) *enroll.Entry {
	return &enroll.Entry{Kind: kind, ID: id, Attestation: attest.Mechanism{
		Type: attest.TypeSymmetricKey, SymmetricKey: &attest.SymmetricKeys{Primary: primary, Secondary: secondary}}}
}

func byCA(id string, ca *x509.Certificate) *enroll.Entry {
	return &enroll.Entry{Kind: enroll.Group, ID: id, Attestation: attest.Mechanism{
		Type: attest.TypeX509, X509: &attest.X509{Use: attest.SigningCertificates, Primary: ca.Raw}}}
}

func byTPM(id string, keys attest.TPM) *enroll.Entry {
	return &enroll.Entry{Kind: enroll.Individual, ID: id, Attestation: attest.Mechanism{Type: attest.TypeTPM, TPM: &keys}}
}

// shown is what TLS hands over of a client that presents a leaf and what is
// above it.
func shown(leaf *pki.Leaf) attest.Credential {
	return attest.Credential{Chain: append([]*x509.Certificate{leaf.Certificate}, leaf.Above...)}
}

// A chip is a software TPM.
type chip struct {
	*tpm2.TPM
	t    *testing.T
	keys attest.TPM
}

func newChip(t *testing.T) *chip {
	t.Helper()
	return openChip(t, t.TempDir())
}

// openChip starts the software TPM whose state is in dir.
func openChip(t *testing.T, dir string) *chip {
	t.Helper()
	instance, err := swtpm.Start(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { instance.Stop() })
	own, err := tpm2.Open(t.Context(), instance.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	c := &chip{TPM: own, t: t}
	if c.keys.EndorsementKey, err = own.EndorsementKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.keys.StorageRootKey, err = own.StorageRootKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// activate takes a blob in.
func (c *chip) activate(blob []byte) {
	c.t.Helper()
	if err := c.Activate(c.t.Context(), blob); err != nil {
		c.t.Fatal(err)
	}
}

// holds reports whether the TPM signs with key.
func (c *chip) holds(key device.SymmetricKey) bool {
	c.t.Helper()
	message := []byte("prove it")
	got, err := c.MAC(c.t.Context(), message)
	if err != nil {
		c.t.Fatal(err)
	}
	mac := hmac.New(sha256.New, key.Bytes())
	mac.Write(message)
	return hmac.Equal(got, mac.Sum(nil))
}

// token is signed by the TPM.
func (s *service) signedBy(c *chip, id string) *sas.Token {
	s.t.Helper()
	text, err := sas.SignWith(func(msg []byte) ([]byte, error) { return c.MAC(s.t.Context(), msg) },
		sas.DeviceResource(string(scope), id), s.clock().Add(time.Hour), "registration")
	if err != nil {
		s.t.Fatal(err)
	}
	return s.parsed(text).Token
}

// challenged wants a call to be answered with a challenge.
func (s *service) challenged(id string, c attest.Credential) *provision.Challenge {
	s.t.Helper()
	out, err := s.registrar.Register(s.t.Context(), request(id, c))
	if err != nil || out.Challenge == nil {
		s.t.Fatalf("registering %s: %+v, %v; want a challenge", id, out, err)
	}
	return out.Challenge
}

var errHubDown = errors.New("connection refused")

// A scope that refuses shared keys lets none in, and lets what is shared already be
// changed.
func TestSharedKeysAreRefusedWhereTheScopeWantsIt(t *testing.T) {
	s := newService(t)
	everything := access.Caller{Rights: access.AllProvisioning}
	key, err := device.GenerateSymmetricKey(rand.Reader, 32)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(id string) *enroll.Entry {
		return &enroll.Entry{Scope: scope, Kind: enroll.Individual, ID: id, Attestation: attest.Mechanism{
			Type: attest.TypeSymmetricKey, SymmetricKey: &attest.SymmetricKeys{Primary: key}}}
	}
	for _, id := range []string{"pump-7", "Pump-8"} {
		if _, err := s.enroller.Put(t.Context(), everything, entry(id), nil); err != nil {
			t.Fatal(err)
		}
	}
	others, err := s.enroller.SharedWith(t.Context(), everything, entry("pump-7"))
	if err != nil || !slices.Equal(others, []string{"Pump-8"}) {
		t.Errorf("%v, %v", others, err)
	}
	if err := s.store.PutScope(t.Context(), provision.Scope{ID: scope, Allocation: enroll.Hashed, SharedKeys: provision.RefuseSharedKeys}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.enroller.Put(t.Context(), everything, entry("pump-9"), nil); errs.KindOf(err) != errs.Conflict || !strings.Contains(err.Error(), "pump-7, Pump-8") {
		t.Errorf("a third: %v", err)
	}
	disabled := entry("pump-7")
	disabled.Disabled = true
	if _, err := s.enroller.Put(t.Context(), everything, disabled, func(string) bool { return true }); err != nil {
		t.Errorf("one of the two: %v", err)
	}
	group := entry("fleet")
	group.Kind = enroll.Group
	if _, err := s.enroller.Put(t.Context(), everything, group, nil); err != nil {
		t.Errorf("a group: %v", err)
	}
	for name, err := range map[string]error{
		"SharedWith": func() error {
			_, err := s.enroller.SharedWith(t.Context(), access.Caller{Rights: access.EnrollmentRead}, entry("pump-7"))
			return err
		}(),
		"SharedKeys": func() error {
			_, err := s.enroller.SharedKeys(t.Context(), access.Caller{Rights: access.EnrollmentWrite}, scope, 1)
			return err
		}(),
	} {
		if errs.KindOf(err) != errs.Denied {
			t.Errorf("%s without the right: %v", name, err)
		}
	}
}
