package hubhttp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/sas"
)

const events = "/devices/d1/messages/events"

// enrolled starts a server with the device d1, whose keys are 1 and 2.
func enrolled(t *testing.T) *server {
	t.Helper()
	s := start(t)
	err := s.service.Provision(t.Context(), hub.Provisioning{Hub: host, DeviceID: "d1", Keys: attest.SymmetricKeys{Primary: testKey(1), Secondary: testKey(2)}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sent returns the system properties that the device set.
func sent(m *hub.Message) map[string]string {
	own := maps.Clone(m.System)
	for _, hubs := range []string{"connection-device-id", "connection-auth-generation-id", "connection-auth-method", "message-source", "enqueuedtime"} {
		delete(own, hubs)
	}
	return own
}

func TestTelemetry(t *testing.T) {
	s := enrolled(t)
	body := "\x00\xff{\"t\":21}"
	r := s.send("POST", events, body, "Authorization", deviceToken(testKey(2), "d1"), "Content-Type", "application/octet-stream",
		"iothub-to", "/devices/d1/messages/events", "IoTHub-MessageId", "m-1", "IOTHUB-CORRELATIONID", "c-1", "iothub-contenttype", "application/json",
		"iothub-contentencoding", "utf-8", "iothub-app-Alert", "true", "iothub-app-", "nameless", "iothub-connection-device-id", "d2", "x-other", "1")
	if r.want(t, "telemetry", 204, 0); r.body != "" {
		t.Errorf("answered %q", r.body)
	}
	ms := s.messages()
	if len(ms) != 1 {
		t.Fatalf("%d messages", len(ms))
	}
	m := ms[0]
	if string(m.Body) != body || m.DeviceID != "d1" || m.Hub != host || m.Enqueued.IsZero() {
		t.Errorf("%+v", m)
	}
	if want := map[string]string{"alert": "true"}; !maps.Equal(m.Properties, want) {
		t.Errorf("application properties %v", m.Properties)
	}
	if want := map[string]string{"to": "/devices/d1/messages/events", "message-id": "m-1", "correlation-id": "c-1",
		"content-type": "application/json", "content-encoding": "utf-8"}; !maps.Equal(sent(m), want) {
		t.Errorf("system properties %v", sent(m))
	}
	if m.System["connection-device-id"] != "d1" || !strings.Contains(m.System["connection-auth-method"], `"scope":"device","type":"sas"`) {
		t.Errorf("system properties %v", m.System)
	}
	s.send("POST", "/devices/d1/messages/events/", "", "Authorization", token(s.owner)).want(t, "empty, by a policy, with a slash", 204, 0)
	s.send("POST", events, strings.Repeat("x", hub.MaxMessageSize), "Authorization", deviceToken(testKey(1), "d1")).want(t, "largest", 204, 0)
}

// A module sends in its own name, and a token may be for sending alone.
func TestTelemetryOfAModule(t *testing.T) {
	s := enrolled(t)
	s.as("PUT", "/devices/d1/modules/m", `{"moduleId":"m","authentication":{"symmetricKey":{"primaryKey":"`+testKey(3).Base64()+`"}}}`).want(t, "create", 200, 0)
	const path = "/devices/d1/modules/m/messages/events"
	later := time.Now().Add(time.Hour)
	s.send("POST", path, "x", "Authorization", sas.Sign(testKey(3).Bytes(), host+"/devices/d1/modules/m", later, "")).want(t, "telemetry", 204, 0)
	s.send("POST", path, "x", "Authorization", sas.Sign(testKey(3).Bytes(), host+path, later, "")).want(t, "with a token for sending", 204, 0)
	s.send("POST", path, "x", "Authorization", sas.Sign(testKey(1).Bytes(), host+"/devices/d1/modules/m", later, "")).want(t, "with its device's key", 401, errs.CodeUnauthorizedAccess)
	s.send("GET", "/devices/d1/messages/devicebound", "", "Authorization", sas.Sign(testKey(1).Bytes(), host+events, later, "")).want(t, "receiving with a token for sending", 401, errs.CodeUnauthorizedAccess)
	ms := s.messages()
	if len(ms) != 2 {
		t.Fatalf("%d messages", len(ms))
	}
	for _, m := range ms {
		if m.DeviceID != "d1" || m.System["connection-module-id"] != "m" || !strings.Contains(m.System["connection-auth-method"], `"scope":"module"`) {
			t.Errorf("%+v", m)
		}
	}
}

func TestBatch(t *testing.T) {
	s := enrolled(t)
	post := func(body string) reply {
		return s.send("POST", events, body, "Authorization", deviceToken(testKey(1), "d1"), "Content-Type", "Application/vnd.microsoft.iothub.json; charset=utf-8", "iothub-app-ignored", "1")
	}
	post(`[{"body":"AP8=","base64Encoded":true,"properties":{"iothub-messageid":"1","iothub-app-camelCase":"v"}},
		{"Body":"text","base64Encoded":false},{"body":"AP8="},{}]`).want(t, "batch", 204, 0)
	var bodies []string
	for _, m := range s.messages() {
		bodies = append(bodies, string(m.Body))
	}
	if fmt.Sprintf("%q", bodies) != `["\x00\xff" "text" "\x00\xff" ""]` {
		t.Errorf("%q", bodies)
	}
	first := s.messages()[0]
	if first.Properties["camelCase"] != "v" || first.System["message-id"] != "1" {
		t.Errorf("%+v", first)
	}

	before := len(s.messages())
	large := base64.StdEncoding.EncodeToString(make([]byte, hub.MaxMessageSize/2+1))
	many := "[" + strings.Repeat("{},", hub.MaxBatch) + "{}]"
	for name, c := range map[string]struct {
		body   string
		status int
		code   errs.Code
	}{
		"no JSON":                 {`[`, 400, errs.CodeFormatError},
		"an object":               {`{"body":""}`, 400, errs.CodeFormatError},
		"nothing":                 {``, 400, errs.CodeFormatError},
		"an empty batch":          {`[]`, 400, errs.CodeArgumentInvalid},
		"one body not base64":     {`[{"body":"ok","base64Encoded":false},{"body":"***","base64Encoded":true}]`, 400, errs.CodeArgumentInvalid},
		"one body just text":      {`[{"body":"***"}]`, 400, errs.CodeArgumentInvalid},
		"a property not a string": {`[{"properties":{"iothub-app-n":1}}]`, 400, errs.CodeFormatError},
		"too many":                {many, 413, errs.CodeMessageTooLarge},
		"too large together":      {`[{"body":"` + large + `","base64Encoded":true},{"body":"` + large + `","base64Encoded":true}]`, 413, errs.CodeMessageTooLarge},
	} {
		post(c.body).want(t, name, c.status, c.code)
	}
	if after := len(s.messages()); after != before {
		t.Errorf("a refused batch left %d messages", after-before)
	}
	s.send("POST", events, strings.Repeat("x", hub.MaxMessageSize+1), "Authorization", deviceToken(testKey(1), "d1")).
		want(t, "one message, too large", 413, errs.CodeTooLarge)
}

func TestSendersThatAreRefused(t *testing.T) {
	s := enrolled(t)
	later := time.Now().Add(time.Hour)
	for name, authorization := range map[string]string{
		"nobody":                "",
		"another device's key":  deviceToken(testKey(9), "d1"),
		"another device":        deviceToken(testKey(1), "d2"),
		"expired":               sas.Sign(testKey(1).Bytes(), host, time.Now().Add(-time.Hour), ""),
		"a right it lacks":      token(s.reader),
		"a device as a policy":  sas.Sign(testKey(1).Bytes(), host, later, "d1"),
		"a provisioning token":  sas.Sign(testKey(1).Bytes(), "0ne00000001/registrations/d1", later, ""),
		"not a token":           "SharedAccessSignature sr=x",
		"a bearer of the cloud": "Bearer x",
	} {
		s.send("POST", events, "x", "Authorization", authorization).want(t, name, 401, errs.CodeUnauthorizedAccess)
	}
	s.send("POST", "/devices/d9/messages/events", "x", "Authorization", deviceToken(testKey(1), "d9")).want(t, "no such device", 401, errs.CodeUnauthorizedAccess)
	s.send("POST", "/devices/d9/messages/events", "x", "Authorization", token(s.owner)).want(t, "no such device, by a policy", 404, errs.CodeDeviceNotFound)
	s.send("POST", events, "x", "Authorization", deviceToken(testKey(1), "d1"), "Host", "hub2.example").want(t, "unknown host", 401, errs.CodeHubNotFound)
	s.as("PUT", "/devices/d1", `{"status":"disabled","authentication":{"symmetricKey":{"primaryKey":"`+testKey(1).Base64()+`"}}}`, "If-Match", "*").want(t, "disable", 200, 0)
	s.send("POST", events, "x", "Authorization", deviceToken(testKey(1), "d1")).want(t, "disabled", 403, errs.CodeDeviceDisabled)
	if ms := s.messages(); len(ms) != 0 {
		t.Errorf("kept %d messages", len(ms))
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "d2"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
}

func TestTelemetryWithACertificate(t *testing.T) {
	s := enrolled(t)
	own, stranger := selfSigned(t), selfSigned(t)
	if err := s.service.Provision(t.Context(), hub.Provisioning{Hub: host, DeviceID: "d2", Thumbprint: attest.Thumbprint(own.Certificate[0])}); err != nil {
		t.Fatal(err)
	}
	roots := s.client.Transport.(*http.Transport).TLSClientConfig.RootCAs
	present := func(cert tls.Certificate) {
		s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com", Certificates: []tls.Certificate{cert}}}}
		t.Cleanup(s.client.CloseIdleConnections)
	}
	present(own)
	s.send("POST", "/devices/d2/messages/events", "x").want(t, "its own", 204, 0)
	s.send("POST", events, "x").want(t, "another device with it", 401, errs.CodeDeviceUnauthorized)
	s.send("POST", events, "x", "Authorization", deviceToken(testKey(1), "d1")).want(t, "a key device that also has a certificate", 204, 0)

	present(stranger)
	r := s.send("POST", "/devices/d2/messages/events", "x")
	r.want(t, "a stranger's", 401, errs.CodeDeviceUnauthorized)
	for _, print := range []string{attest.Thumbprint(stranger.Certificate[0]), attest.ThumbprintSHA1(stranger.Certificate[0])} {
		if !strings.Contains(r.body, print) {
			t.Errorf("the answer does not name %s: %s", print, r.body)
		}
	}
	if strings.Contains(r.body, attest.Thumbprint(own.Certificate[0])) {
		t.Errorf("the answer names the certificate that would have been right: %s", r.body)
	}
	ms := s.messages()
	if len(ms) != 2 || !strings.Contains(ms[0].System["connection-auth-method"], `"type":"x509"`) {
		t.Errorf("%d messages", len(ms))
	}
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add([]byte(`[{"body":"AP8=","base64Encoded":true,"properties":{"iothub-messageid":"1","iothub-app-k":"v"}}]`))
	f.Add([]byte(`[{"body":null},null,{}]`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		ms, err := decodeBatch(body)
		if err != nil && errs.KindOf(err) != errs.Invalid {
			t.Errorf("not the sender's fault: %v", err)
		}
		for _, m := range ms {
			for name := range m.System {
				if strings.HasPrefix(name, "connection") {
					t.Errorf("a device set %s", name)
				}
			}
		}
	})
}
