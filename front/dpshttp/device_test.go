package dpshttp

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/berth-iot/berth/attest/symkey"
	"github.com/berth-iot/berth/attest/tpmid"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/limit"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/tpm"
	"github.com/berth-iot/berth/wire/sas"
)

// state is the registrationState of an operation.
func (a answered) state() map[string]any {
	m, _ := a.json["registrationState"].(map[string]any)
	return m
}

func pollPath(a answered, id string) string {
	op, _ := a.json["operationId"].(string)
	return "/" + string(scope) + "/registrations/" + id + "/operations/" + op
}

func registerPath(id string) string {
	return "/" + string(scope) + "/registrations/" + id + "/register"
}

func TestDeviceRegistersWithKeyAndPolls(t *testing.T) {
	s := newServer(t, func(c *provision.Config) { c.AnswerAtOnce = false })
	token := s.enrollKey("dev-1")

	accepted := s.want(202, request("PUT", registerPath("dev-1"), token, `{"registrationId":"dev-1","payload":{"a":1}}`))
	if accepted.json["status"] != "assigning" || accepted.header.Get("Retry-After") != "3" {
		t.Errorf("register: %s, Retry-After %q", accepted.body, accepted.header.Get("Retry-After"))
	}
	if got := accepted.header.Get("Location"); got != "https://dps.example/0ne00111111/registrations/dev-1/register" {
		t.Errorf("Location %q", got)
	}
	if got := accepted.header.Get("Strict-Transport-Security"); got != "max-age=31536000; includeSubDomains" {
		t.Errorf("Strict-Transport-Security %q", got)
	}

	final := s.want(200, request("GET", pollPath(accepted, "dev-1"), token, "{}"))
	if final.header.Get("Retry-After") != "" || final.json["status"] != "assigned" {
		t.Errorf("poll: %s, Retry-After %q", final.body, final.header.Get("Retry-After"))
	}
	for member, want := range map[string]any{
		"registrationId": "dev-1", "assignedHub": "hub-1.example", "deviceId": "dev-1", "status": "assigned",
		"substatus": "initialAssignment", "createdDateTimeUtc": "2026-05-04T03:02:01.1234567Z",
	} {
		if got := final.state()[member]; got != want {
			t.Errorf("%s is %v, want %v", member, got, want)
		}
	}

	// The lookup and the service API tell the same.
	lookup := s.want(200, request("POST", "/"+string(scope)+"/registrations/dev-1", token, ""))
	record := s.want(200, s.service("GET", "/registrations/dev-1", ""))
	enrollment := s.want(200, s.service("GET", "/enrollments/dev-1", ""))
	for _, member := range []string{"etag", "createdDateTimeUtc", "lastUpdatedDateTimeUtc", "assignedHub", "status", "substatus"} {
		want := final.state()[member]
		if want == nil || lookup.json[member] != want || record.json[member] != want || enrollment.state()[member] != want {
			t.Errorf("%s: device %v, lookup %v, record %v, enrollment %v",
				member, want, lookup.json[member], record.json[member], enrollment.state()[member])
		}
	}
}

// When everything is local the 202 is the final answer, without Retry-After.
func TestFinalAnswerAtOnce(t *testing.T) {
	s := newServer(t)
	token := s.enrollKey("dev-1")
	a := s.want(202, request("PUT", registerPath("dev-1"), token, ""))
	if a.json["status"] != "assigned" || a.state()["assignedHub"] != "hub-1.example" || a.header.Get("Retry-After") != "" {
		t.Errorf("register: %s, Retry-After %q", a.body, a.header.Get("Retry-After"))
	}
	if _, ok := a.state()["symmetricKey"].(map[string]any); !ok {
		t.Errorf("no symmetricKey in %s", a.body)
	}
	again := s.want(202, request("PUT", registerPath("dev-1")+"?api-version=2025-07-01-preview", token, ""))
	if again.state()["substatus"] != "reprovisionedToInitialAssignment" {
		t.Errorf("again: %s", again.body)
	}
	again = s.want(202, request("PUT", registerPath("dev-1")+version+"&forceRegistration=true", token, ""))
	if again.state()["substatus"] != "initialAssignment" {
		t.Errorf("again, by an old client: %s", again.body)
	}
}

func TestFailedAndDisabledAreFinalOnPoll(t *testing.T) {
	s := newServer(t)
	token := s.enrollKey("dev-1")
	for name, c := range map[string]struct {
		arrange func()
		status  string
		code    any
	}{
		"no hub": {func() { s.store.hubs = nil }, "failed", float64(errs.CodeHubNotSpecified)},
		"the hub refuses": {func() {
			s.store.hubs = []provision.LinkedHub{{Host: "hub-1.example", Weight: 1, Allocation: true}}
			s.store.refusal = errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "Unauthorized access")
		}, "failed", float64(errs.CodeUnauthorizedAccess)},
		"disabled": {func() { s.store.entries["individual"]["dev-1"].Disabled = true }, "disabled", nil},
	} {
		c.arrange()
		accepted := s.want(202, request("PUT", registerPath("dev-1"), token, ""))
		if accepted.json["status"] != "assigning" {
			t.Errorf("%s: register says %s", name, accepted.body)
		}
		final := s.want(200, request("GET", pollPath(accepted, "dev-1"), token, ""))
		if final.json["status"] != c.status || final.state()["status"] != c.status || final.state()["errorCode"] != c.code ||
			final.state()["etag"] == nil || final.state()["assignedHub"] != nil {
			t.Errorf("%s: poll says %s", name, final.body)
		}
		if record := s.want(200, s.service("GET", "/registrations/dev-1", "")); record.json["status"] != c.status {
			t.Errorf("%s: the record says %s", name, record.body)
		}
		s.store.entries["individual"]["dev-1"].Disabled = false
	}
}

func TestDeviceOfGroupRegisters(t *testing.T) {
	s := newServer(t)
	key, text := key32(9)
	s.want(200, s.service("PUT", "/enrollmentGroups/Pumps",
		`{"enrollmentGroupId":"pumps","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"`+text+`"}}}`))
	group, err := device.NewSymmetricKey(key)
	if err != nil {
		t.Fatal(err)
	}
	own := symkey.DeriveDeviceKey(group, "pump-7")
	a := s.want(202, request("PUT", registerPath("pump-7"), s.deviceToken(own.Bytes(), "pump-7"), ""))
	if of, _ := a.state()["symmetricKey"].(map[string]any); of["enrollmentGroupId"] != "Pumps" {
		t.Errorf("register: %s", a.body)
	}
	s.want(401, request("PUT", registerPath("pump-7"), s.deviceToken(key, "pump-7"), "")) // the group's own key

	listed := s.want(200, s.service("POST", "/registrations/pumps/query", ""))
	if listed.header["x-ms-item-type"][0] != "DeviceRegistration" || !strings.Contains(listed.body, `"registrationId":"pump-7"`) {
		t.Errorf("query: %s", listed.body)
	}
	s.want(204, s.service("DELETE", "/registrations/pump-7", ""))
	if listed := s.want(200, s.service("POST", "/registrations/pumps/query", `{"query":"SELECT * FROM registrations"}`)); listed.body != "[]" {
		t.Errorf("query after delete: %s", listed.body)
	}
}

func TestDeviceRegistersWithCertificate(t *testing.T) {
	s := newServer(t)
	leaf := s.issue("dev-1", false, nil)
	s.want(200, s.service("PUT", "/enrollments/dev-1",
		`{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":`+quote(leaf.pem())+`}}}}}`))
	by := func(r *http.Request, chain ...*x509.Certificate) *http.Request {
		r.TLS = &tls.ConnectionState{PeerCertificates: chain}
		return r
	}
	a := s.want(202, by(request("PUT", registerPath("dev-1"), "", ""), leaf.cert))
	if of, ok := a.state()["x509"].(map[string]any); !ok || len(of) != 0 {
		t.Errorf("register: %s", a.body)
	}
	s.want(200, by(request("GET", pollPath(a, "dev-1"), "", ""), leaf.cert))
	s.want(401, request("GET", pollPath(a, "dev-1"), "", ""))
	s.want(401, by(request("PUT", registerPath("dev-1"), "", ""), s.issue("dev-1", false, nil).cert))

	ca := s.issue("Factory CA", true, nil)
	s.want(200, s.service("PUT", "/enrollmentGroups/factory",
		`{"attestation":{"type":"x509","x509":{"signingCertificates":{"primary":{"certificate":`+quote(ca.pem())+`}}}}}`))
	s.want(202, by(request("PUT", registerPath("dev-2"), "", ""), s.issue("dev-2", false, &ca).cert))
	s.want(401, by(request("PUT", registerPath("dev-3"), "", ""), s.issue("dev-2", false, &ca).cert))
}

// softTPM is the public keys of a TPM made in software, as base64 TPM2B_PUBLIC
// and as the service sees them.
type softTPM struct {
	ek, srk string
	keys    tpmid.Keys
}

func newSoftTPM(t *testing.T) softTPM {
	t.Helper()
	public := func(template tpm2.TPMTPublic) (string, *tpm.Public) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
		b := tpm2.Marshal(tpm2.New2B(template))
		p, err := tpm.ParsePublic(b)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(b), p
	}
	var s softTPM
	s.ek, s.keys.EndorsementKey = public(tpm2.RSAEKTemplate)
	s.srk, s.keys.StorageRootKey = public(tpm2.RSASRKTemplate)
	return s
}

// nonce is the key of the challenge that is open now.
func (s *server) nonce(id device.RegistrationID, keys tpmid.Keys) []byte {
	s.t.Helper()
	b, err := secret{}.Derive(tpmid.NonceInfo(scope, id, keys, tpmid.Windows(s.now, challengeWindow)[0]), 32)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func TestDeviceRegistersWithTPM(t *testing.T) {
	s := newServer(t)
	chip := newSoftTPM(t)
	s.want(200, s.service("PUT", "/enrollments/dev-1", `{"attestation":{"type":"tpm","tpm":{"endorsementKey":"`+chip.ek+`"}}}`))
	body := `{"registrationId":"dev-1","tpm":{"endorsementKey":"` + chip.ek + `","storageRootKey":"` + chip.srk + `"}}`

	challenge := s.want(401, request("PUT", registerPath("dev-1"), "", body))
	blob, _ := challenge.json["authenticationKey"].(string)
	want := `{"message":"Authorization required, resend request using supplied key","authenticationKey":"` + blob +
		`","unencryptedAuthenticationKey":null,"keyName":"registration"}`
	if blob == "" || challenge.body != want || challenge.header.Get("Location") != "" || challenge.header["x-ms-error-code"] != nil {
		t.Fatalf("challenge %s\nwant %s\nheader %v", challenge.body, want, challenge.header)
	}
	if _, err := base64.StdEncoding.DecodeString(blob); err != nil {
		t.Errorf("the blob: %v", err)
	}

	token := s.deviceToken(s.nonce("dev-1", chip.keys), "dev-1")
	for name, second := range map[string]string{"with its keys": body, "without its keys": `{"registrationId":"dev-1"}`} {
		a := s.want(202, request("PUT", registerPath("dev-1"), token, second))
		hubKey, _ := a.state()["tpm"].(map[string]any)
		if k, _ := hubKey["authenticationKey"].(string); k == "" || k == blob {
			t.Errorf("%s: %s", name, a.body)
		}
		s.want(200, request("GET", pollPath(a, "dev-1"), token, ""))
	}
	if record := s.want(200, s.service("GET", "/registrations/dev-1", "")); record.json["tpm"] != nil {
		t.Errorf("the record shows the hub key: %s", record.body)
	}

	// A token signed by another key is a reason for a new challenge.
	if again := s.want(401, request("PUT", registerPath("dev-1"), s.deviceToken(make([]byte, 32), "dev-1"), body)); again.json["authenticationKey"] == nil {
		t.Errorf("no new challenge: %s", again.body)
	}
	other := newSoftTPM(t)
	mismatch := s.want(400, request("PUT", registerPath("dev-1"), "", strings.ReplaceAll(body, chip.ek, other.ek)))
	if mismatch.json["message"] != "Endorsement key is invalid, or does not match the Enrollment." {
		t.Errorf("another TPM: %s", mismatch.body)
	}
}

// Clients spell requests in their own ways.
func TestDeviceRequestVariants(t *testing.T) {
	s := newServer(t)
	token := s.enrollKey("dev:1")
	for name, r := range map[string]*http.Request{
		"trailing slash":    request("PUT", "/0ne00111111/registrations/dev:1/register/", token, ""),
		"case":              request("PUT", "/0NE00111111/Registrations/DEV:1/REGISTER", token, ""),
		"percent-encoding":  request("PUT", "/%30ne00111111/registrations/dev%3A1/register", token, ""),
		"port in Host":      request("PUT", "/0ne00111111/registrations/dev:1/register", token, ""),
		"empty object":      request("PUT", "/0ne00111111/registrations/dev:1/register", token, "{}"),
		"white space":       request("PUT", "/0ne00111111/registrations/dev:1/register", token, " "),
		"another case":      request("PUT", "/0ne00111111/registrations/dev:1/register", token, `{"registrationId":"DEV:1"}`),
		"null members":      request("PUT", "/0ne00111111/registrations/dev:1/register", token, `{"tpm":null,"payload":null,"csr":null}`),
		"no content type":   request("PUT", "/0ne00111111/registrations/dev:1/register", token, "{}", "Content-Type", ""),
		"text payload":      request("PUT", "/0ne00111111/registrations/dev:1/register", token, `{"payload":"{\"a\":1}"}`),
		"lower-case scheme": request("PUT", "/0ne00111111/registrations/dev:1/register", "sharedaccesssignature"+strings.TrimPrefix(token, "SharedAccessSignature"), ""),
	} {
		if name == "port in Host" {
			r.Host = "dps.example:443"
		}
		if a := s.do(r); a.status != 202 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

func TestLocationIsEncoded(t *testing.T) {
	s := newServer(t)
	token := s.enrollKey("dev-1")
	a := s.want(202, request("PUT", "/0NE00111111/registrations/Dev%2D1/register", token, ""))
	if got := a.header.Get("Location"); got != "https://dps.example/0NE00111111/registrations/Dev-1/register" {
		t.Errorf("Location %q", got)
	}
}

func TestDeviceRefusals(t *testing.T) {
	s := newServer(t)
	token := s.enrollKey("dev-1")
	key, _ := key32(7)
	expired := s.now.Add(-time.Hour)
	accepted := s.want(202, request("PUT", registerPath("dev-1"), token, ""))
	for name, c := range map[string]struct {
		r    *http.Request
		code errs.Code
	}{
		"no credential":            {request("PUT", registerPath("dev-1"), "", ""), 401002},
		"bearer":                   {request("PUT", registerPath("dev-1"), "Bearer abc", ""), 401002},
		"malformed token":          {request("PUT", registerPath("dev-1"), "SharedAccessSignature sr=a", ""), 401002},
		"another device's token":   {request("PUT", registerPath("dev-1"), s.deviceToken(key, "dev-2"), ""), 401002},
		"another key":              {request("PUT", registerPath("dev-1"), s.deviceToken(key[:31], "dev-1"), ""), 401002},
		"expired":                  {request("PUT", registerPath("dev-1"), sign(key, "dev-1", expired), ""), 401002},
		"service token":            {request("PUT", registerPath("dev-1"), s.token, ""), 401002},
		"not enrolled":             {request("PUT", registerPath("dev-2"), s.deviceToken(key, "dev-2"), ""), 404201},
		"unknown scope":            {request("PUT", "/0neffffffff/registrations/dev-1/register", token, ""), 404000},
		"no scope":                 {request("PUT", "/scope/registrations/dev-1/register", token, ""), 404000},
		"bad ID":                   {request("PUT", registerPath("dev%201"), token, ""), 400000},
		"slash in ID":              {request("PUT", registerPath("dev%2F1"), token, ""), 400000},
		"long ID":                  {request("PUT", registerPath(strings.Repeat("a", 129)), token, ""), 400000},
		"long path":                {request("PUT", registerPath(strings.Repeat("a", 4096)), token, ""), 400000},
		"empty ID":                 {request("PUT", registerPath(""), token, ""), 400000},
		"no api-version":           {request("PUT", registerPath("dev-1")+"?a=b", token, ""), 400001},
		"bad api-version":          {request("PUT", registerPath("dev-1")+"?api-version=latest", token, ""), 400001},
		"other ID in body":         {request("PUT", registerPath("dev-1"), token, `{"registrationId":"dev-2"}`), 400000},
		"csr":                      {request("PUT", registerPath("dev-1"), token, `{"csr":"`+csr(t)+`"}`), 400000},
		"csr in lookup":            {request("POST", "/"+string(scope)+"/registrations/dev-1", token, `{"clientCertificateCsr":"`+csr(t)+`"}`), 400000},
		"malformed":                {request("PUT", registerPath("dev-1"), token, `{"registrationId":`), 400000},
		"an array":                 {request("PUT", registerPath("dev-1"), token, `[]`), 400000},
		"not UTF-8":                {request("PUT", registerPath("dev-1"), token, "{\"payload\":\"\xff\"}"), 400000},
		"given twice":              {request("PUT", registerPath("dev-1"), token, `{"registrationId":"dev-1","RegistrationID":"dev-1"}`), 400000},
		"depth bomb":               {request("PUT", registerPath("dev-1"), token, `{"payload":`+strings.Repeat("[", 40000)+strings.Repeat("]", 40000)+`}`), 400000},
		"oversize":                 {request("PUT", registerPath("dev-1"), token, `{"payload":"`+strings.Repeat("a", 96<<10)+`"}`), 413000},
		"xml":                      {request("PUT", registerPath("dev-1"), token, `<a/>`, "Content-Type", "application/xml"), 415000},
		"another method":           {request("POST", registerPath("dev-1"), token, ""), 405000},
		"get of a registration":    {request("GET", "/"+string(scope)+"/registrations/dev-1", token, ""), 405000},
		"no ID in path":            {request("PUT", "/"+string(scope)+"/registrations", token, ""), 405000},
		"unknown path":             {request("PUT", "/"+string(scope)+"/registrations/dev-1/enlist", token, ""), 404000},
		"root":                     {request("GET", "/", "", ""), 404000},
		"another operation":        {request("GET", "/"+string(scope)+"/registrations/dev-1/operations/5.x.y", token, ""), 404203},
		"stranger's poll":          {request("GET", pollPath(accepted, "dev-1"), s.deviceToken(key[:31], "dev-1"), ""), 401002},
		"lookup of never seen":     {request("POST", "/"+string(scope)+"/registrations/dev-9", s.enrollKey("dev-9"), ""), 404},
		"lookup by stranger":       {request("POST", "/"+string(scope)+"/registrations/dev-1", "", ""), 401002},
		"tpm keys for a key's ID":  {request("PUT", registerPath("dev-1"), "", `{"tpm":{"endorsementKey":"AAA="}}`), 401002},
		"tpm keys are not base64":  {request("PUT", registerPath("dev-1"), "", `{"tpm":{"endorsementKey":"%"}}`), 400000},
		"two Authorization header": {twoTokens(request("PUT", registerPath("dev-1"), token, "")), 401002},
	} {
		a := s.do(c.r)
		code, _ := a.json["errorCode"].(float64)
		if errs.Code(code) != c.code && !(c.code < 1000 && a.status == int(c.code)) {
			t.Errorf("%s: %d %s, want %d", name, a.status, a.body, c.code)
		}
	}
	if strings.Contains(s.log.String(), "sig=") || strings.Contains(s.log.String(), "level=ERROR") {
		t.Errorf("the log holds a token or an alarm:\n%s", s.log.String())
	}
}

func TestCSRMessageIsTheOneThatMakesClientsGoOn(t *testing.T) {
	s := newServer(t)
	a := s.want(400, request("PUT", registerPath("dev-1"), s.enrollKey("dev-1"), `{"csr":"`+csr(t)+`"}`))
	if a.json["message"] != "Device sent CSR but it is not configured in the service." {
		t.Errorf("message %q", a.json["message"])
	}
}

func sign(key []byte, id string, expiry time.Time) string {
	return sas.Sign(key, sas.DeviceResource(string(scope), id), expiry, "registration")
}

func twoTokens(r *http.Request) *http.Request {
	r.Header.Add("Authorization", r.Header.Get("Authorization"))
	return r
}

// csr is a certificate request as base64 DER.
func csr(t *testing.T) string {
	t.Helper()
	s := &server{t: t, now: time.Now()}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, s.issue("dev-1", false, nil).key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// A device in a loop is slowed, and neither other devices behind its address
// nor somebody who uses its name elsewhere.
func TestDevicesAreLimited(t *testing.T) {
	s := newServer(t)
	s.front.Devices = limit.Always(limit.New(limit.Rate{Events: 2, Period: 10 * time.Second}))
	s.Handler = New(s.front)
	token := s.enrollKey("dev-1")
	other := s.enrollKey("dev-2")
	s.want(202, request("PUT", registerPath("dev-1"), token, ""))
	s.want(202, request("PUT", registerPath("DEV-1"), token, ""))
	refused := s.want(429, request("PUT", registerPath("dev-1"), token, ""))
	if refused.json["errorCode"] != 429000.0 || refused.header.Get("Retry-After") != "5" {
		t.Errorf("%s, Retry-After %q", refused.body, refused.header.Get("Retry-After"))
	}
	s.want(202, request("PUT", registerPath("dev-2"), other, ""))
	elsewhere := request("PUT", registerPath("dev-1"), token, "")
	elsewhere.RemoteAddr = "198.51.100.9:4000"
	s.want(202, elsewhere)
	s.now = s.now.Add(5 * time.Second)
	s.want(202, request("PUT", registerPath("dev-1"), token, ""))
}
