package app

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/sas"
)

// A house is a server with several scopes.
type house struct {
	*testing.T
	config Config
	server *Server
	http   *http.Transport
	home   *admin.Client
}

func newHouse(t *testing.T, change ...func(*Config)) *house {
	t.Helper()
	config, server, trusting := start(t, change...)
	transport := trusting.Transport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.Address().String())
	}
	t.Cleanup(transport.CloseIdleConnections)
	h := &house{T: t, config: config, server: server, http: transport}
	text, err := os.ReadFile(filepath.Join(config.Data, ServiceConnectionFile))
	if err != nil {
		t.Fatal(err)
	}
	h.home = h.operator(string(text))
	return h
}

// operator is the client of a connection string.
func (h *house) operator(connection string) *admin.Client {
	h.Helper()
	c, err := admin.New(strings.TrimSpace(connection), client.HTTP{Transport: h.http, Attempts: 1})
	if err != nil {
		h.Fatal(err)
	}
	return c
}

// renew gives the server a certificate with the names that there are, and has it
// taken.
func (h *house) renew() {
	h.Helper()
	if _, err := Renew(h.Context(), RenewOptions{Data: h.config.Data}, time.Now()); err != nil {
		h.Fatal(err)
	}
	h.server.tls.reload(slog.New(slog.DiscardHandler))
	h.http.CloseIdleConnections()
}

// A renter is one scope beside the server's own.
type renter struct {
	*admin.Client
	id    device.IDScope
	host  string
	owner admin.PolicyKeys
}

// let makes a scope, and its operator.
func (h *house) let(host string, change admin.ScopeChange) renter {
	h.Helper()
	change.Hosts = []string{host}
	scope, policies, err := h.home.CreateScope(h.Context(), "", change)
	if err != nil || len(policies) != 1 {
		h.Fatal(policies, err)
	}
	h.renew()
	return renter{h.operator(policies[0].ConnectionString(host, access.Primary)), scope.IDScope, host, policies[0]}
}

// call makes a request as somebody who has the key of a policy, with a token for
// resource.
func (h *house) call(method, host, path string, p admin.PolicyKeys, resource, body string) (status int, answer string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "https://"+host+path, strings.NewReader(body))
	if err != nil {
		h.Fatal(err)
	}
	r.Header.Set("Authorization", sas.Sign(p.Primary.Bytes(), resource, time.Now().Add(time.Hour), p.Name))
	r.Header.Set("Content-Type", "application/json")
	if strings.HasSuffix(path, "/endorsementKeys") {
		r.Header.Set("Content-Type", "text/plain")
	}
	a, err := h.http.RoundTrip(r)
	if err != nil {
		h.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		h.Fatal(err)
	}
	return a.StatusCode, string(b)
}

const (
	northernHub   = "hub.north.example"
	northernKey   = "bm9ydGhlcm4gZGV2aWNlIGtleSwgMzIgYnl0ZXMuLi4="
	northernGroup = "bm9ydGhlcm4gZ3JvdXAga2V5LCAzMiBieXRlcyBvciA="
	reelDigest    = "000b4a1f2d6c8e0b93755a7e6f10c2d4b68a1c3e5f708192a3b4c5d6e7f8091a2b3c"
)

// furnish puts one of everything into a scope.
func (h *house) furnish(n renter) {
	h.Helper()
	ctx := h.Context()
	if _, err := n.LinkHub(ctx, admin.Link{Host: northernHub, Weight: 1, Allocation: true}); err != nil {
		h.Fatal(err)
	}
	h.renew()
	root, err := pki.NewRoot("Northern Plant CA", time.Now(), rand.Reader)
	if err != nil {
		h.Fatal(err)
	}
	verified := true
	if _, err := n.PutCACertificate(ctx, "plant", root.Certificate.Raw, &verified, ""); err != nil {
		h.Fatal(err)
	}
	for path, body := range map[string]string{
		"/enrollments/pump-7":     `{"registrationId":"pump-7","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"` + northernKey + `","secondaryKey":"` + northernKey + `"}}}`,
		"/enrollmentGroups/fleet": `{"enrollmentGroupId":"fleet","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"` + northernGroup + `","secondaryKey":"` + northernGroup + `"}}}`,
		"/enrollmentGroups/reel":  `{"enrollmentGroupId":"reel","attestation":{"type":"tpm","tpm":{"endorsementKeyList":{"keys":["` + reelDigest + `"]}}}}`,
	} {
		if status, answer := h.call("PUT", n.host, path+"?api-version=2021-10-01", n.owner, n.host, body); status != 200 {
			h.Fatalf("%s: %d %s", path, status, answer)
		}
	}
	key, err := device.ParseSymmetricKey(northernKey)
	if err != nil {
		h.Fatal(err)
	}
	registration := admin.PolicyKeys{Policy: admin.Policy{Name: "registration"}, Primary: key}
	path := "/" + string(n.id) + "/registrations/pump-7/register?api-version=2021-06-01"
	if status, answer := h.call("PUT", n.host, path, registration, string(n.id)+"/registrations/pump-7", `{"registrationId":"pump-7"}`); status != 202 || !strings.Contains(answer, northernHub) {
		h.Fatalf("%d %s", status, answer)
	}
	hubDevice := admin.PolicyKeys{Primary: key}
	if status, answer := h.call("POST", northernHub, "/devices/pump-7/messages/events?api-version=2020-03-13", hubDevice, northernHub+"/devices/pump-7", "northern message"); status != 204 {
		h.Fatalf("%d %s", status, answer)
	}
}

// belongings is all that the store has of a scope and its hub.
func (h *house) belongings(id device.IDScope) []any {
	h.Helper()
	ctx, s := h.Context(), h.server.store
	var all []any
	keep := func(v any, err error) {
		h.Helper()
		if err != nil {
			h.Fatal(err)
		}
		all = append(all, v)
	}
	v1, err := s.Scope(ctx, id)
	keep(v1, err)
	for _, owner := range []access.Owner{access.ScopeOwner(id), access.HubOwner(northernHub)} {
		policies, err := s.Policies(ctx, owner)
		for _, p := range policies {
			keep([]any{p.Name, p.Rights, p.Primary.Base64(), p.Secondary.Base64()}, err)
		}
	}
	linked, err := s.Linked(ctx, id)
	keep(linked, err)
	for _, kind := range []enroll.Kind{enroll.Individual, enroll.Group} {
		entries, err := s.Entries(ctx, id, kind, "", 100)
		for _, e := range entries {
			keep([]any{e.ID, e.ETag, e.Updated}, err)
		}
	}
	record, err := s.Registration(ctx, id, "pump-7")
	keep(record, err)
	certificates, err := s.CACertificates(ctx, id)
	keep(certificates, err)
	trust, err := s.TrustVersions(ctx, id)
	keep(trust, err)
	d, err := s.Identity(ctx, hub.Place{Hub: northernHub, ID: "pump-7"})
	if err != nil {
		h.Fatal(err)
	}
	keep([]any{d.ETag, d.GenerationID}, nil)
	twin, err := s.Twin(ctx, hub.Place{Hub: northernHub, ID: "pump-7"})
	keep(twin, err)
	return all
}

// An attack is a call that would reach something of the northern scope, if it
// reached it at all.
type attack struct{ method, path, body string }

// attacks are every operation that operators have, with the northern scope's names.
func (h *house) attacks(id device.IDScope) (all []attack) {
	h.Helper()
	status, text := h.call("GET", "localhost", "/berth/v1/openapi.json", admin.PolicyKeys{}, "", "")
	var document struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal([]byte(text), &document); err != nil || status != 200 || len(document.Paths) < 20 {
		h.Fatalf("%d, %v", status, err)
	}
	bodies := map[string]string{
		"put /berth/v1/hubs/{host}":                            `{"weight":9}`,
		"put /berth/v1/policies/{policy}":                      `{"rights":["EnrollmentRead"]}`,
		"put /berth/v1/hubs/{host}/policies/{policy}":          `{"rights":["RegistryRead"]}`,
		"post /berth/v1/policies/{policy}/rollKey":             `{"key":"secondary"}`,
		"post /berth/v1/hubs/{host}/policies/{policy}/rollKey": `{"key":"primary"}`,
		"patch /berth/v1/scope":                                `{"hosts":["north.example","south.example"]}`,
		"patch /berth/v1/scopes/{idScope}":                     `{"allocationPolicy":"static"}`,
		"post /berth/v1/scopes":                                `{"idScope":"` + string(id) + `","hosts":["new.example"]}`,
		"put /berth/v1/enrollmentGroups/{id}/endorsementKeys":  strings.Repeat("ab", 32) + "\n",
		"post /berth/v1/trust":                                 `{"source":"x","certificates":[]}`,
		"post /berth/v1/trust/remove":                          `{"source":"x","thumbprints":["` + strings.Repeat("AB", 32) + `"]}`,
	}
	ids := map[string][]string{
		"{host}": {northernHub}, "{policy}": {"iothubowner"}, "{name}": {"plant"}, "{idScope}": {string(id)}, "{id}": {"pump-7", "fleet", "reel"},
	}
	for path, methods := range document.Paths {
		for method := range methods {
			if method == "parameters" || path == "/healthz" || path == "/readyz" || path == "/berth/v1/openapi.json" || path == "/berth/v1/version" {
				continue
			}
			for _, filled := range fill(path, ids) {
				all = append(all, attack{strings.ToUpper(method), filled, bodies[method+" "+path]})
			}
		}
	}
	// The service API has no document of ours.
	const version = "?api-version=2021-10-01"
	const key = `"attestation":{"type":"symmetricKey"}`
	for _, a := range []attack{
		{"GET", "/enrollments/pump-7", ""}, {"DELETE", "/enrollments/pump-7", ""}, {"POST", "/enrollments/pump-7/attestationmechanism", ""},
		{"POST", "/enrollments/query", `{"query":"SELECT * FROM enrollments"}`},
		{"POST", "/enrollments", `{"mode":"delete","enrollments":[{"registrationId":"pump-7",` + key + `}]}`},
		{"PUT", "/enrollments/pump-7", `{"registrationId":"pump-7",` + key + `}`},
		{"GET", "/enrollmentGroups/fleet", ""}, {"DELETE", "/enrollmentGroups/fleet", ""}, {"POST", "/enrollmentGroups/fleet/attestationmechanism", ""},
		{"POST", "/enrollmentGroups/query", `{"query":"SELECT * FROM enrollmentGroups"}`},
		{"POST", "/enrollmentGroups", `{"mode":"delete","enrollmentGroups":[{"enrollmentGroupId":"fleet",` + key + `}]}`},
		{"PUT", "/enrollmentGroups/fleet", `{"enrollmentGroupId":"fleet",` + key + `}`},
		{"GET", "/registrations/pump-7", ""}, {"DELETE", "/registrations/pump-7", ""}, {"POST", "/registrations/fleet/query", ""},
	} {
		a.path += version
		all = append(all, a)
	}
	return all
}

// fill puts names into a path, in every combination.
func fill(path string, names map[string][]string) []string {
	variable := regexp.MustCompile(`{[^}]*}`).FindString(path)
	if variable == "" {
		return []string{path}
	}
	var all []string
	for _, name := range names[variable] {
		all = append(all, fill(strings.Replace(path, variable, name, 1), names)...)
	}
	return all
}

// What a scope's operator can do, all of it: nothing of another scope is told or
// changed, at whichever host it is asked and whatever the token says.
func TestAScopeReachesNothingOfAnother(t *testing.T) {
	h := newHouse(t)
	north, south := h.let("north.example", admin.ScopeChange{}), h.let("south.example", admin.ScopeChange{})
	h.furnish(north)
	before := h.belongings(north.id)
	secrets := []string{northernKey, northernGroup, "Northern", north.owner.Primary.Base64(), "northern", northernHub + `","weight`}

	attacks := h.attacks(north.id)
	if len(attacks) < 50 {
		t.Fatalf("%d attacks", len(attacks))
	}
	for _, a := range attacks {
		name := a.method + " " + a.path
		for resource, host := range map[string]string{"south.example": "north.example", "north.example": "north.example", northernHub: "north.example"} {
			if status, answer := h.call(a.method, host, a.path, south.owner, resource, a.body); status != 401 {
				t.Errorf("%s at the host of another scope, with a token for %s: %d %s", name, resource, status, answer)
			}
		}
		status, answer := h.call(a.method, south.host, a.path, south.owner, south.host, a.body)
		for _, secret := range secrets {
			if strings.Contains(answer, secret) {
				t.Errorf("%s tells %s: %d %s", name, secret, status, answer)
			}
		}
		if strings.HasPrefix(a.path, "/berth/v1/scopes") && status != 403 {
			t.Errorf("%s: %d %s", name, status, answer)
		}
		if strings.Contains(a.path, northernHub) && status != 404 && status != 409 {
			t.Errorf("%s: %d %s", name, status, answer)
		}
		if status >= 500 {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
	for _, path := range []string{"/devices", "/devices/pump-7", "/twins/pump-7", "/statistics/devices", "/configurations"} {
		for _, resource := range []string{northernHub, south.host, north.host} {
			if status, answer := h.call("GET", northernHub, path+"?api-version=2021-04-12", south.owner, resource, ""); status != 401 {
				t.Errorf("GET %s at the hub of another scope: %d %s", path, status, answer)
			}
		}
	}
	if after := h.belongings(north.id); !reflect.DeepEqual(before, after) {
		t.Errorf("before %v\nafter  %v", before, after)
	}
	// And the northern operators still see all of it.
	hubs, err := north.Hubs(t.Context())
	if err != nil || len(hubs) != 1 {
		t.Errorf("%v, %v", hubs, err)
	}
	decisions, err := north.Decisions(t.Context(), "pump-7")
	if err != nil || len(decisions) != 1 {
		t.Errorf("%v, %v", decisions, err)
	}
	if decisions, err = south.Decisions(t.Context(), string(decisions[0].TrackingID)); err != nil || len(decisions) != 0 {
		t.Errorf("%v, %v", decisions, err)
	}
}

// A host name that no scope has is nobody's, whoever holds which key.
func TestHostsOfNoScope(t *testing.T) {
	h := newHouse(t)
	north := h.let("north.example", admin.ScopeChange{})
	scope, err := h.home.Scope(t.Context(), string(north.id))
	if err != nil || scope.Home || !slices.Equal(scope.Hosts, []string{"north.example"}) {
		t.Fatalf("%+v, %v", scope, err)
	}
	if _, err := h.home.ChangeScope(t.Context(), string(north.id), admin.ScopeChange{Hosts: []string{"polar.example"}, IfMatch: scope.ETag}); err != nil {
		t.Fatal(err)
	}
	h.renew()
	if status, answer := h.call("GET", "polar.example", "/berth/v1/scope", north.owner, "polar.example", ""); status != 200 || !strings.Contains(answer, string(north.id)) {
		t.Errorf("%d %s", status, answer)
	}
	h.http.TLSClientConfig.ServerName = "polar.example" // the certificate has lost the name
	for _, path := range []string{"/berth/v1/scope", "/enrollments/x?api-version=2021-10-01"} {
		if status, answer := h.call("GET", "north.example", path, north.owner, "north.example", ""); status != 404 {
			t.Errorf("%d %s", status, answer)
		}
	}
}

// The scopes of a server come and go. A name is of one at a time.
func TestScopesComeAndGo(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	refuse := provision.RefuseSharedKeys
	north := h.let("north.example", admin.ScopeChange{SharedKeys: &refuse})
	if own, err := north.Scope(ctx, ""); err != nil || own.IDScope != north.id || own.SharedKeys != refuse {
		t.Errorf("%+v, %v", own, err)
	}
	warn, static := provision.WarnOfSharedKeys, enroll.Static
	if own, err := north.ChangeScope(ctx, "", admin.ScopeChange{SharedKeys: &warn, Allocation: &static}); err != nil || own.SharedKeys != warn || own.Allocation != static {
		t.Errorf("%+v, %v", own, err)
	}
	for name, change := range map[string]admin.ScopeChange{
		"hosts":  {Hosts: []string{"north.example", "south.example"}},
		"limits": {Limits: &provision.Limits{PerAddress: "off"}},
	} {
		if _, err := north.ChangeScope(ctx, "", change); err == nil || !strings.Contains(err.Error(), "403000") {
			t.Errorf("a tenant sets its %s: %v", name, err)
		}
	}
	for _, taken := range []string{"north.example", "localhost", "127.0.0.1"} {
		if _, _, err := h.home.CreateScope(ctx, "", admin.ScopeChange{Hosts: []string{taken}}); err == nil || !strings.Contains(err.Error(), "409000") {
			t.Errorf("the name %s twice: %v", taken, err)
		}
	}
	if _, err := h.home.ChangeScope(ctx, string(north.id), admin.ScopeChange{Hosts: []string{}}); err == nil {
		t.Error("a scope without a name")
	}
	if err := h.home.DeleteScope(ctx, h.config.IDScope); err == nil || !strings.Contains(err.Error(), "409000") {
		t.Errorf("the server's own scope: %v", err)
	}
	// Whoever loses every key asks the landlord, who finds one or makes one.
	if _, err := north.PutPolicy(ctx, "", admin.PolicyKeys{Policy: admin.Policy{Name: "second", Rights: []string{"ServiceConfig"}}}, ""); err != nil {
		t.Fatal(err)
	}
	if keys, err := h.home.ScopeKeys(ctx, string(north.id)); err != nil || len(keys) != 2 || !keys[0].Primary.Equal(north.owner.Primary) {
		t.Errorf("%+v, %v", keys, err)
	}
	err := h.server.store.ChangePolicies(ctx, access.ScopeOwner(north.id), func([]access.Policy) ([]access.Policy, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	keys, err := h.home.ScopeKeys(ctx, string(north.id))
	if err != nil || len(keys) != 1 {
		t.Fatalf("%+v, %v", keys, err)
	}
	north.Client = h.operator(keys[0].ConnectionString(north.host, access.Primary))
	if _, err := north.LinkHub(ctx, admin.Link{Host: northernHub, Weight: 1}); err != nil {
		t.Fatal(err)
	}
	if err := h.home.DeleteScope(ctx, string(north.id)); err == nil || !strings.Contains(err.Error(), "linked hubs") {
		t.Errorf("a scope with a hub: %v", err)
	}
	if err := north.UnlinkHub(ctx, northernHub); err != nil {
		t.Fatal(err)
	}
	if err := h.home.DeleteScope(ctx, string(north.id)); err != nil {
		t.Error(err)
	}
	if _, err := north.Scope(ctx, ""); err == nil || !strings.Contains(err.Error(), "404000") {
		t.Errorf("a scope that is gone: %v", err)
	}
	again := h.let("north.example", admin.ScopeChange{})
	if _, err := again.LinkHub(ctx, admin.Link{Host: northernHub, Weight: 1}); err != nil {
		t.Error(err)
	}
	if all, err := h.home.Scopes(ctx); err != nil || len(all) != 2 {
		t.Errorf("%v, %v", fmt.Sprint(all), err)
	}
}

// A scope has limits of its own, which count apart from the server's, and a change
// of them holds from then on.
func TestLimitsOfAScope(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Limits.PerAddress, c.Limits.PerDevice = "off", "off" })
	north := h.let("north.example", admin.ScopeChange{Limits: &provision.Limits{PerDevice: "2/1h"}})
	h.furnish(north)
	poll := func(id device.IDScope) int {
		t.Helper()
		status, _ := h.call("GET", "localhost", "/"+string(id)+"/registrations/valve-1/operations/x?api-version=2021-06-01", admin.PolicyKeys{}, "x", "")
		return status
	}
	limited := func(call func() int) int {
		t.Helper()
		n := 0
		for range 10 {
			if call() == http.StatusTooManyRequests {
				n++
			}
		}
		return n
	}
	if n := limited(func() int { return poll(north.id) }); n != 8 {
		t.Errorf("%d of 10 calls of a device were over a limit of 2", n)
	}
	if n := limited(func() int { return poll(device.IDScope(h.config.IDScope)) }); n != 0 {
		t.Errorf("%d calls of another scope's device were over it", n)
	}
	// Its addresses: its devices, its operators and its hubs together.
	if _, err := h.home.ChangeScope(t.Context(), string(north.id), admin.ScopeChange{Limits: &provision.Limits{PerAddress: "3/1h"}}); err != nil {
		t.Fatal(err)
	}
	calls := []func() int{
		func() int { return poll(north.id) },
		func() int {
			s, _ := h.call("GET", north.host, "/berth/v1/scope", north.owner, north.host, "")
			return s
		},
		func() int {
			s, _ := h.call("GET", northernHub, "/devices?api-version=2021-04-12", admin.PolicyKeys{}, northernHub, "")
			return s
		},
	}
	for i, call := range calls {
		if status := call(); status == http.StatusTooManyRequests {
			t.Errorf("call %d is over the limit", i)
		}
	}
	for i, call := range calls {
		if status := call(); status != http.StatusTooManyRequests {
			t.Errorf("call %d: %d, and the limit is used up", i, status)
		}
	}
	if _, err := h.home.Scopes(t.Context()); err != nil {
		t.Errorf("another scope's operators: %v", err)
	}
}

// A scope that was linked to a hub of another one by a connection string has its name
// in registration records. When the link is gone, a device that comes again takes
// nothing away there.
func TestAFormerLinkReachesNothing(t *testing.T) {
	h := newHouse(t)
	north, south := h.let("north.example", admin.ScopeChange{}), h.let("south.example", admin.ScopeChange{})
	h.furnish(north)
	const southernHub = "hub.south.example"
	if _, err := south.LinkHub(t.Context(), admin.Link{Host: southernHub, Weight: 1, Allocation: true}); err != nil {
		t.Fatal(err)
	}
	before := h.belongings(north.id)
	key, err := device.ParseSymmetricKey(northernKey)
	if err != nil {
		t.Fatal(err)
	}
	keys := attest.SymmetricKeys{Primary: key, Secondary: key}
	for _, from := range []string{northernHub, strings.ToUpper(northernHub)} {
		a := provision.Assignment{
			Scope: south.id, Hub: southernHub, DeviceID: "pump-7", MigrateTwin: true, Keys: keys,
			From: provision.Place{Hub: from, DeviceID: "pump-7"},
		}
		if err := h.server.hubs.Assign(t.Context(), a); err != nil {
			t.Error(err)
		}
		a.Tried = []provision.Place{{Hub: from, DeviceID: "pump-7"}}
		if err := h.server.hubs.AssignElsewhere(t.Context(), a); err != nil {
			t.Error(err)
		}
	}
	if after := h.belongings(north.id); !reflect.DeepEqual(before, after) {
		t.Errorf("before %v\nafter  %v", before, after)
	}
	if _, err := h.server.store.Identity(t.Context(), hub.Place{Hub: southernHub, ID: "pump-7"}); err != nil {
		t.Errorf("the device has no home: %v", err)
	}
	own := provision.Assignment{Scope: north.id, Hub: northernHub, DeviceID: "pump-8", Keys: keys, From: provision.Place{Hub: northernHub, DeviceID: "pump-7"}}
	if err := h.server.hubs.Assign(t.Context(), own); err != nil {
		t.Error(err)
	}
	if _, err := h.server.store.Identity(t.Context(), hub.Place{Hub: northernHub, ID: "pump-7"}); err == nil {
		t.Error("a scope cannot rename a device of its own hub")
	}
}

// A hub elsewhere is linked when it accepts the policy and the policy has the rights,
// and who links it is told what is wrong otherwise.
func TestLinksAreTriedOut(t *testing.T) {
	h, peer := newHouse(t), newHouse(t)
	ctx := t.Context()
	const far = "far.example"
	if _, err := peer.home.LinkHub(ctx, admin.Link{Host: far, Weight: 1}); err != nil {
		t.Fatal(err)
	}
	peer.renew()
	h.server.hubs.links.http = client.HTTP{Transport: peer.http}
	policy := func(name string, rights ...string) *admin.PolicyKeys {
		t.Helper()
		if _, err := peer.home.PutPolicy(ctx, far, admin.PolicyKeys{Policy: admin.Policy{Name: name, Rights: rights}}, ""); err != nil {
			t.Fatal(err)
		}
		keys, err := peer.home.PolicyKeys(ctx, far, name)
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	service := policy("service", "RegistryRead", "RegistryWrite", "ServiceConnect")
	stranger := *service
	stranger.Name = "nobody"
	for want, p := range map[string]*admin.PolicyKeys{
		`policy \"reader\" lacks ServiceConnect and RegistryWrite`: policy("reader", "RegistryRead"),
		`the hub does not accept the key of policy`:                &stranger,
	} {
		_, err := h.home.LinkHub(ctx, admin.Link{Host: far, Weight: 1, ConnectionString: p.ConnectionString(far, access.Primary)})
		if want = strings.ReplaceAll(want, `\"`, `"`); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), p.Primary.Base64()) {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
	if hubs, err := h.home.Hubs(ctx); err != nil || len(hubs) != 1 {
		t.Errorf("%+v, %v", hubs, err)
	}
	hub, err := h.home.LinkHub(ctx, admin.Link{Host: far, Weight: 1, ConnectionString: service.ConnectionString(far, access.Secondary)})
	if err != nil || hub.Kind != "linked" || hub.Policy != "service" {
		t.Fatalf("%+v, %v", hub, err)
	}
	if status, answer := h.call("GET", "localhost", "/devices?api-version=2021-04-12", *service, far, ""); status != 401 {
		t.Errorf("a hub elsewhere answers here: %d %s", status, answer)
	}
}
