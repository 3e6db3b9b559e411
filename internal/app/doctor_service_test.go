package app

import (
	"crypto/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// furnish puts what an operator makes into a data directory without a server: a hub
// elsewhere, CA certificates, groups that go by them, and a
// registration that waits for the hub.
func furnish(t *testing.T, data, far string) (id device.IDScope) {
	t.Helper()
	config, err := LoadConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	s := openRestored(t, data)
	defer s.Close()
	ctx, now := t.Context(), time.Now().UTC().Truncate(time.Millisecond)
	id = device.IDScope(config.IDScope)
	key, err := device.ParseSymmetricKey(deviceKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PutLinkedHub(ctx, id, provision.LinkedHub{Host: far, Weight: 1, Connection: &provision.Connection{Policy: "service", Key: key}}); err != nil {
		t.Fatal(err)
	}
	root, err := pki.NewRoot("Plant CA", now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, verified := range map[string]bool{"plant": true, "unproved": false} {
		err := s.ChangeCACertificate(ctx, id, name, func(*enroll.CACertificate) (*enroll.CACertificate, error) {
			return &enroll.CACertificate{Scope: id, Name: name, Certificate: root.Certificate.Raw, Verified: verified, ETag: "a", Created: now, Updated: now}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for group, by := range map[string][2]string{"Line-1": {"PLANT", ""}, "Line-2": {"gone", "plant"}, "Line-3": {"plant", "Unproved"}} {
		e := &enroll.Entry{
			Scope: id, Kind: enroll.Group, ID: group, ETag: "a", Created: now, Updated: now,
			Attestation: attest.Mechanism{Type: attest.TypeX509, X509: &attest.X509{Use: attest.CAReferences, PrimaryReference: by[0], SecondaryReference: by[1]}},
		}
		if err := s.ChangeEntry(ctx, id, enroll.Group, e.Key(), func(*enroll.Entry) (*enroll.Entry, error) { return e, nil }); err != nil {
			t.Fatal(err)
		}
	}
	err = s.ChangeRegistration(ctx, id, "waits", func(*provision.Registration) (*provision.Registration, error) {
		return &provision.Registration{
			Scope: id, Key: "waits", ID: "waits", Status: provision.Assigning, Attestation: attest.TypeX509, Created: now, Updated: now, OperationID: "4.x",
			Pending: &provision.Pending{Due: now.Add(time.Hour), Tried: []provision.Place{{Hub: far, DeviceID: "waits"}}},
		}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// The doctor looks at what operators made, too, and asks whom the server depends on.
func TestTheDoctorExaminesTheService(t *testing.T) {
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }))
	t.Cleanup(refuses.Close)
	data := patient(t)
	rolled := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	t.Cleanup(rolled.Close)
	far := rolled.Listener.Addr().String()
	write(t, filepath.Join(data, "far.pem"), string(pki.EncodeCertificates(rolled.Certificate())), 0o644)
	replaceIn(t, filepath.Join(data, configFile), "[linked_hubs]\n  ca_file = \"\"", "[linked_hubs]\n  ca_file = \"far.pem\"")
	mqtt, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mqtt.Close()
	replaceIn(t, filepath.Join(data, configFile), "[mqtt]\n  listen = \"\"", "[mqtt]\n  listen = \""+mqtt.Addr().String()+"\"")
	scope := furnish(t, data, far)

	want(t, data, "warning mqtt.listen: nothing listens on "+mqtt.Addr().String())
	serve(t, data)
	failWebhook(t, data, refuses.URL+"/?code=secret")
	findings := want(t, data,
		"warning groups: Line-2 of "+string(scope)+" goes by the CA certificate gone, which is not there",
		"warning groups: Line-3 of "+string(scope)+" goes by the CA certificate Unproved, which is not verified",
		"warning hub "+far+": is linked to "+string(scope)+", and devices wait",
		"ok mqtt.listen: "+mqtt.Addr().String()+" takes connections, as localhost",
		"warning webhooks: that of the enrollment pump-7 did not answer as it must, 1 times in a row",
	)
	for _, f := range findings {
		if strings.Contains(f.Text, "Line-1") || strings.Contains(f.Text+f.Fix, deviceKey) || strings.Contains(f.Text+f.Fix, "secret") && f.About == "webhooks" {
			t.Errorf("%s: %s", f.About, f.Text)
		}
	}
}

// want has the doctor find things.
func want(t *testing.T, data string, texts ...string) []Finding {
	t.Helper()
	findings := Examine(t.Context(), data, time.Now())
	for _, text := range texts {
		if !slices.ContainsFunc(findings, func(f Finding) bool {
			return strings.HasPrefix(string(f.Status)+" "+f.About+": "+f.Text, text)
		}) {
			t.Errorf("not found: %s\n%s", text, told(findings))
		}
	}
	return findings
}

// failWebhook registers a device whose webhook refuses.
func failWebhook(t *testing.T, data, url string) {
	t.Helper()
	connection, err := os.ReadFile(filepath.Join(data, ServiceConnectionFile))
	if err != nil {
		t.Fatal(err)
	}
	config, err := LoadConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	e := examination{data: data, now: time.Now(), config: config, hosts: []string{"localhost"}}
	n := tenant{t: t, config: config, http: client.HTTP{RootCAs: e.roots(), Transport: e.transport(config.Listen)}}
	if n.operator, err = service.New(strings.TrimSpace(string(connection)), n.http); err != nil {
		t.Fatal(err)
	}
	if err := n.enroll("pump-7", dpsjson.CustomAllocationDefinition{WebhookURL: url, APIVersion: "2021-10-01"}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.register("pump-7", "null"); err == nil || !strings.Contains(err.Error(), "400207") {
		t.Fatal(err)
	}
}
