package app

import (
	"crypto/rand"
	"crypto/tls"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/pki"
)

// plant returns a factory's CA, and its intermediate.
func plant(t *testing.T) (root, line *pki.Issuer) {
	t.Helper()
	root, err := pki.NewRoot("Plant CA", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if line, err = root.NewIntermediate("Line 1", time.Now(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	return root, line
}

// issued returns a device's certificate, with those above it and its key.
func issued(t *testing.T, by *pki.Issuer, id string) tls.Certificate {
	t.Helper()
	leaf, err := by.IssueDevice(id, time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Certificate{Certificate: [][]byte{leaf.Certificate.Raw}, PrivateKey: leaf.Key}
	for _, above := range leaf.Above {
		c.Certificate = append(c.Certificate, above.Raw)
	}
	return c
}

// A CA vouches for the devices of the hubs of its scope, from when it is verified
// until it is taken away, and for nobody else's.
func TestAPlantVouchesForItsDevices(t *testing.T) {
	h := newHouse(t)
	const southernHub = "hub.south.example"
	north, south := h.let("north.example", admin.ScopeChange{}), h.let("south.example", admin.ScopeChange{})
	root, line := plant(t)
	_, stranger := plant(t)
	ctx := t.Context()
	owners := map[string]admin.PolicyKeys{}
	for host, r := range map[string]renter{northernHub: north, southernHub: south} {
		if _, err := r.LinkHub(ctx, admin.Link{Host: host, Weight: 1, Allocation: true}); err != nil {
			t.Fatal(err)
		}
		keys, err := r.PolicyKeys(ctx, host, hubOwner)
		if err != nil {
			t.Fatal(err)
		}
		owners[host] = *keys
	}
	h.renew()
	for host, keys := range owners {
		body := `{"authentication":{"type":"certificateAuthority"}}`
		if status, answer := h.call("PUT", host, "/devices/pump-7?api-version=2021-04-12", keys, host, body); status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
	}
	want := func(what, host string, with tls.Certificate, status int) {
		t.Helper()
		transport := h.http.Clone()
		defer transport.CloseIdleConnections()
		transport.TLSClientConfig.Certificates = []tls.Certificate{with}
		r, err := http.NewRequestWithContext(ctx, "POST", "https://"+host+"/devices/pump-7/messages/events?api-version=2020-03-13", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		a, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		if a.StatusCode != status {
			t.Errorf("%s: %d, want %d", what, a.StatusCode, status)
		}
	}
	mine, others := issued(t, line, "pump-7"), issued(t, line, "pump-8")
	want("a CA that nobody has", northernHub, mine, 401)
	if _, err := north.PutCACertificate(ctx, "plant", root.Certificate.Raw, nil, ""); err != nil {
		t.Fatal(err)
	}
	want("one that is not verified", northernHub, mine, 401)
	c, err := north.GenerateVerificationCode(ctx, "plant", "")
	if err != nil {
		t.Fatal(err)
	}
	proof, err := root.ProvePossession(c.Properties.VerificationCode, time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := north.VerifyCACertificate(ctx, "plant", proof.Raw, ""); err != nil {
		t.Fatal(err)
	}
	want("a verified one", northernHub, mine, 204)
	want("another device's certificate", northernHub, others, 401)
	want("a CA of another scope", southernHub, mine, 401)
	want("another CA of the same name", northernHub, issued(t, stranger, "pump-7"), 401)
	if _, err := north.DeleteCACertificate(ctx, "plant", ""); err != nil {
		t.Fatal(err)
	}
	want("one that was taken away", northernHub, mine, 401)
}
