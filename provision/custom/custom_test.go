package custom

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

var linked = []string{"hub-1.example", "Hub-2.example:8443"}

func certificate(t testing.TB) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "pump-7"},
		NotBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestRequest(t *testing.T) {
	created := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	keys := attest.SymmetricKeys{}
	for _, k := range []*device.SymmetricKey{&keys.Primary, &keys.Secondary} {
		var err error
		if *k, err = device.GenerateSymmetricKey(rand.Reader, 32); err != nil {
			t.Fatal(err)
		}
	}
	entry := func(kind enroll.Kind, id string, m attest.Mechanism) *enroll.Entry {
		return &enroll.Entry{Kind: kind, ID: id, Attestation: m, Allocation: enroll.Custom,
			Custom: &enroll.CustomAllocation{WebhookURL: "https://f.example/", APIVersion: "2021-10-01"}, ETag: "1", Created: created, Updated: created}
	}
	const rest = `"capabilities":{"iotEdge":false},"etag":"IjEi","provisioningStatus":"enabled","createdDateTimeUtc":"2026-03-04T05:06:07Z",` +
		`"lastUpdatedDateTimeUtc":"2026-03-04T05:06:07Z","allocationPolicy":"custom","customAllocationDefinition":{"webhookUrl":"https://f.example/","apiVersion":"2021-10-01"}}`
	leaf := certificate(t)
	info, err := json.Marshal(dpsjson.CertificateInfo(leaf))
	if err != nil {
		t.Fatal(err)
	}
	der := base64.StdEncoding.EncodeToString(leaf.Raw)
	for _, c := range []struct {
		name string
		q    provision.Question
		want string
	}{
		{"a device of a group, anew", provision.Question{
			Entry: entry(enroll.Group, "pumps", attest.Mechanism{Type: attest.TypeSymmetricKey, SymmetricKey: &keys}), ID: "Pump-7",
			Payload: json.RawMessage(`{"region":"eu","<":1.0}`), Linked: linked,
		}, `{"enrollmentGroup":{"enrollmentGroupId":"pumps","attestation":{"type":"symmetricKey"},` + rest +
			`,"deviceRuntimeContext":{"registrationId":"Pump-7","symmetricKey":{},"payload":{"region":"eu","<":1.0}},"linkedHubs":["hub-1.example","Hub-2.example:8443"]}`},
		{"a device with a certificate, again", provision.Question{
			Entry: entry(enroll.Individual, "pump-7", attest.Mechanism{Type: attest.TypeX509, X509: &attest.X509{Use: attest.ClientCertificates, Primary: leaf.Raw}}), ID: "pump-7",
			Current: provision.Place{Hub: "hub-1.example", DeviceID: "p7"}, Certificate: leaf.Raw, Linked: linked[:1],
		}, `{"individualEnrollment":{"registrationId":"pump-7","attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"info":` + string(info) + `}}}},` + rest +
			`,"deviceRuntimeContext":{"registrationId":"pump-7","currentIotHubHostName":"hub-1.example","currentDeviceId":"p7",` +
			`"x509":{"clientCertificates":{"primary":{"certificate":"` + der + `","info":` + string(info) + `}}}},"linkedHubs":["hub-1.example"]}`},
		{"a device with a TPM, and nowhere to go", provision.Question{
			Entry: entry(enroll.Individual, "pump-7", attest.Mechanism{Type: attest.TypeTPM, TPM: &attest.TPM{EndorsementKey: []byte("ek")}}), ID: "pump-7",
			TPM: &attest.TPM{EndorsementKey: []byte("ek"), StorageRootKey: []byte("srk")},
		}, `{"individualEnrollment":{"registrationId":"pump-7","attestation":{"type":"tpm","tpm":{"endorsementKey":"ZWs="}},` + rest +
			`,"deviceRuntimeContext":{"registrationId":"pump-7","tpm":{"endorsementKey":"ZWs=","storageRootKey":"c3Jr"}},"linkedHubs":[]}`},
	} {
		got, err := Request(c.q)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %v\n got %s\nwant %s", c.name, err, got, c.want)
		}
		for _, key := range []device.SymmetricKey{keys.Primary, keys.Secondary} {
			if strings.Contains(string(got), key.Base64()) {
				t.Errorf("%s: a key of the enrollment is in the request", c.name)
			}
		}
	}
	damaged := provision.Question{Entry: entry(enroll.Individual, "pump-7", attest.Mechanism{Type: attest.TypeX509}), ID: "pump-7", Certificate: []byte("junk")}
	if _, err := Request(damaged); err == nil || errs.KindOf(err) != errs.Internal {
		t.Errorf("a damaged certificate: %v", err)
	}
}

func TestChoice(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		want         provision.Choice
	}{
		{"a hub", `{"iotHubHostName":"hub-1.example"}`, provision.Choice{Hub: "hub-1.example"}},
		{"in other letters", `{"iotHubHostName":"HUB-2.EXAMPLE:8443"}`, provision.Choice{Hub: "Hub-2.example:8443"}},
		{"with nulls and more", `{"iotHubHostName":"hub-1.example","initialTwin":null,"payload":null,"note":[1]}`, provision.Choice{Hub: "hub-1.example"}},
		{"members in other letters", ` {"IotHubHostName" : "hub-1.example"} `, provision.Choice{Hub: "hub-1.example"}},
		{"with all", `{"iotHubHostName":"hub-1.example","initialTwin":{"tags":{"a":1},"properties":{"desired":{"b":2}}},"payload":[1, "two"]}`,
			provision.Choice{Hub: "hub-1.example", Twin: &enroll.InitialTwin{Tags: json.RawMessage(`{"a":1}`), Desired: json.RawMessage(`{"b":2}`)}, Payload: json.RawMessage(`[1,"two"]`)}},
		{"an empty twin is one", `{"iotHubHostName":"hub-1.example","initialTwin":{}}`, provision.Choice{Hub: "hub-1.example", Twin: &enroll.InitialTwin{}}},
		{"tags alone", `{"iotHubHostName":"hub-1.example","initialTwin":{"tags":{}}}`, provision.Choice{Hub: "hub-1.example", Twin: &enroll.InitialTwin{Tags: json.RawMessage(`{}`)}}},
	} {
		got, err := Choice([]byte(c.answer), linked)
		if err != nil || !reflect.DeepEqual(*got, c.want) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

func TestChoiceRefuses(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		code         errs.Code
		cause        string // what the operator reads
	}{
		{"nothing", "", errs.CodeCustomAllocation, "reading the answer: body: not one JSON value"},
		{"a page", "<html>", errs.CodeCustomAllocation, "reading the answer: body: not one JSON value"},
		{"a string", `"hub-1.example"`, errs.CodeCustomAllocation, "reading the answer: body: not an object"},
		{"null", "null", errs.CodeCustomAllocation, "reading the answer: body: not an object"},
		{"two answers", `{"iotHubHostName":"hub-1.example"}{}`, errs.CodeCustomAllocation, "reading the answer: body: not one JSON value"},
		{"no hub", `{}`, errs.CodeHubNotSpecified, "the answer has no iotHubHostName"},
		{"a null for a hub", `{"iotHubHostName":null}`, errs.CodeHubNotSpecified, "the answer has no iotHubHostName"},
		{"an unlinked hub", `{"iotHubHostName":"hub-9.example"}`, errs.CodeHubNotSpecified, `iotHubHostName "hub-9.example" is none of the 2 linked hubs`},
		{"a longer name", `{"iotHubHostName":"hub-1.example.evil.example"}`, errs.CodeHubNotSpecified, `iotHubHostName "hub-1.example.evil.example" is none`},
		{"a hub with a blank", `{"iotHubHostName":"hub-1.example "}`, errs.CodeHubNotSpecified, `iotHubHostName "hub-1.example " is none`},
		{"a hub without its port", `{"iotHubHostName":"hub-2.example"}`, errs.CodeHubNotSpecified, `iotHubHostName "hub-2.example" is none`},
		{"two hubs", `{"iotHubHostName":"hub-1.example","iothubhostname":"Hub-2.example:8443"}`, errs.CodeCustomAllocation, "reading the answer: iotHubHostName: given twice"},
		{"a number for a hub", `{"iotHubHostName":1}`, errs.CodeCustomAllocation, "reading the answer: iotHubHostName: not a string"},
		{"a list of hubs", `{"iotHubHostName":["hub-1.example"]}`, errs.CodeCustomAllocation, "reading the answer: iotHubHostName: not a string"},
		{"a twin that is a list", `{"iotHubHostName":"hub-1.example","initialTwin":[]}`, errs.CodeCustomAllocation, "reading the answer: initialTwin: not an object"},
		{"tags that are text", `{"iotHubHostName":"hub-1.example","initialTwin":{"tags":"a"}}`, errs.CodeCustomAllocation, "reading the answer: initialTwin.tags: not an object"},
		{"large tags", `{"iotHubHostName":"hub-1.example","initialTwin":{"tags":{"a":"` + strings.Repeat("x", 9000) + `"}}}`, errs.CodeCustomAllocation, "initialTwin.tags: has 9008 bytes; 8192 are allowed"},
		{"large desired properties", `{"iotHubHostName":"hub-1.example","initialTwin":{"properties":{"desired":{"a":"` + strings.Repeat("x", 33000) + `"}}}}`, errs.CodeCustomAllocation, "initialTwin.properties.desired: has 33008 bytes"},
		{"a large answer", `{"iotHubHostName":"hub-1.example","payload":"` + strings.Repeat("x", 64<<10) + `"}`, errs.CodeCustomAllocation, "reading the answer: body: longer than 65536 bytes"},
		{"a deep answer", `{"iotHubHostName":"hub-1.example","payload":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, errs.CodeCustomAllocation, "reading the answer: body: nested deeper than 32"},
		{"what is not UTF-8", "{\"iotHubHostName\":\"\xff\"}", errs.CodeCustomAllocation, "reading the answer: body: not UTF-8"},
	} {
		got, err := Choice([]byte(c.answer), linked)
		if got != nil || err == nil {
			t.Errorf("%s: taken: %+v", c.name, got)
			continue
		}
		public := errs.Public(err)
		if public.Kind != errs.Invalid || public.Code != c.code || !strings.HasPrefix(public.Message, "Custom allocation failed") || strings.Contains(public.Message, "example") {
			t.Errorf("%s: the device sees kind %v, code %d, %q", c.name, public.Kind, public.Code, public.Message)
		}
		if !strings.Contains(err.Error(), c.cause) {
			t.Errorf("%s: %v\nwant %s", c.name, err, c.cause)
		}
	}
	if _, err := Choice([]byte(`{"iotHubHostName":""}`), nil); errs.Public(err).Code != errs.CodeHubNotSpecified {
		t.Errorf("an empty name among no hubs: %v", err)
	}
}

// Whatever is answered, the choice is a linked hub in its own spelling and twin
// and payload are JSON, or the registration fails.
func FuzzChoice(f *testing.F) {
	for _, seed := range []string{
		`{"iotHubHostName":"hub-1.example"}`,
		`{"iotHubHostName":"HUB-2.example:8443","initialTwin":{"tags":{"a":1},"properties":{"desired":{"b":[2]}}},"payload":{"c":null}}`,
		`{"iotHubHostName":"hub-9.example"}`, `"hub-1.example"`, `{"initialTwin":{"tags":[]}}`, `{"payload":1e999}`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		got, err := Choice(answer, linked)
		if err != nil {
			if errs.KindOf(err) != errs.Invalid {
				t.Fatalf("kind %v: %v", errs.KindOf(err), err)
			}
			return
		}
		if !slices.Contains(linked, got.Hub) {
			t.Fatalf("%q is not linked", got.Hub)
		}
		if got.Payload != nil && !json.Valid(got.Payload) {
			t.Fatalf("payload %q", got.Payload)
		}
		if err := enroll.CheckTwin(got.Twin); err != nil {
			t.Fatal(err)
		}
	})
}
