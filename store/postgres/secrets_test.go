package postgres

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/record"
)

func newKeys(t *testing.T) attest.SymmetricKeys {
	t.Helper()
	p, err := access.NewPolicy("", 0, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return attest.SymmetricKeys{Primary: p.Primary, Secondary: p.Secondary}
}

func putDevice(t *testing.T, s *Store, id device.ID, keys attest.SymmetricKeys) {
	t.Helper()
	err := s.Change(t.Context(), hub.Place{Hub: "hub-1", ID: id}, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
		return &hub.Identity{Place: hub.Place{Hub: "hub-1", ID: id}, Auth: hub.Authentication{Type: hub.AuthSAS, Keys: keys}}, nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSymmetricKeysAreNowhereInTheTables(t *testing.T) {
	s := openTest(t)
	keys := newKeys(t)
	for _, kind := range []enroll.Kind{enroll.Individual, enroll.Group} {
		err := s.ChangeEntry(t.Context(), testScope, kind, "pump-7", func(*enroll.Entry) (*enroll.Entry, error) {
			return &enroll.Entry{Scope: testScope, Kind: kind, ID: "pump-7", ETag: "in plain sight",
				Attestation: attest.Mechanism{Type: attest.TypeSymmetricKey, SymmetricKey: &keys}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	putDevice(t, s, "pump-7", keys)
	if err := s.PutPolicy(t.Context(), access.ScopeOwner(testScope), access.Policy{Name: "owner", Primary: keys.Primary, Secondary: keys.Secondary}); err != nil {
		t.Fatal(err)
	}
	elsewhere := provision.LinkedHub{Host: "hub-2", Connection: &provision.Connection{Policy: "iothubowner", Key: keys.Primary}}
	if err := s.PutLinkedHub(t.Context(), testScope, elsewhere); err != nil {
		t.Fatal(err)
	}

	sink := hub.SinkConfig{Hub: "hub-1", Name: "ops", Kind: "webhook", URL: "https://ops.example.com/?code=" + keys.Primary.Base64(), Secret: hub.NewSecret(keys.Secondary.Bytes())}
	err := s.ChangeRouting(t.Context(), "hub-1", func(hub.Routing) (hub.Routing, error) {
		return hub.Routing{Sinks: []hub.SinkConfig{sink}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}

	text := func(r *record.Row) (string, error) { return r.Text(), nil }
	tables, err := list(t.Context(), s, text, "SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema()")
	if err != nil {
		t.Fatal(err)
	}
	var everything strings.Builder
	for _, table := range tables {
		rows, err := list(t.Context(), s, text, "SELECT t::text FROM "+table+" AS t")
		if err != nil {
			t.Fatal(err)
		}
		everything.WriteString(strings.Join(rows, "\n"))
	}
	if !strings.Contains(everything.String(), "in plain sight") || !strings.Contains(everything.String(), "owner") {
		t.Fatal("this test does not see what is in the tables")
	}
	for _, k := range []device.SymmetricKey{keys.Primary, keys.Secondary} {
		for _, form := range []string{
			string(k.Bytes()), hex.EncodeToString(k.Bytes()), hex.EncodeToString(k.Bytes()[:16]),
			strings.TrimRight(base64.StdEncoding.EncodeToString(k.Bytes()), "="), base64.RawURLEncoding.EncodeToString(k.Bytes()),
		} {
			if strings.Contains(everything.String(), form) {
				t.Error("a key is in the tables")
			}
		}
	}
}

// Keys that someone with access to the database moved to another record do not
// open there.
func TestSealedKeysStayWithTheirRecord(t *testing.T) {
	s := openTest(t)
	putDevice(t, s, "pump-7", newKeys(t))
	putDevice(t, s, "pump-8", newKeys(t))
	behind(t, s, "UPDATE device SET keys = (SELECT keys FROM device WHERE id = 'pump-7') WHERE id = 'pump-8'")
	if _, err := s.Identity(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-8"}); err == nil {
		t.Error("read pump-8 with the keys of pump-7")
	}
}
