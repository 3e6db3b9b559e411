package admin

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/wire/dpsjson"
)

const certificatePath = "/berth/v1/certificates/Plant"

func newCA(t *testing.T) *pki.Issuer {
	t.Helper()
	ca, err := pki.NewRoot("Plant CA", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// upload is the body that a client sends.
func upload(der []byte, members string) string {
	return `{"certificate":"` + base64.StdEncoding.EncodeToString(der) + `"` + members + `}`
}

// prove is the body of a proof with a code.
func prove(t *testing.T, ca *pki.Issuer, code string) string {
	t.Helper()
	leaf, err := ca.IssueDevice(code, time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return upload(leaf.Certificate.Raw, "")
}

// matching sends a call with an If-Match header.
func (s *server) matching(method, path, body, ifMatch string) (int, string) {
	s.Helper()
	r, err := http.NewRequestWithContext(s.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	r.Host = host
	r.Header.Set("Authorization", token(s.owner))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("If-Match", ifMatch)
	answer, err := s.Client().Do(r)
	if err != nil {
		s.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		s.Fatal(err)
	}
	return answer.StatusCode, string(b)
}

// certificate sends a call that is answered with a CA certificate.
func (s *server) certificate(method, path, body string) (c dpsjson.CACertificate) {
	s.Helper()
	status, answer := s.send(method, path, body, token(s.owner))
	if err := json.Unmarshal([]byte(answer), &c); status != 200 || err != nil {
		s.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	return c
}

func TestACACertificateLivesAndDies(t *testing.T) {
	s, ca := start(t), newCA(t)
	if _, list := s.send("GET", "/berth/v1/certificates", "", token(s.owner)); list != "[]" {
		t.Errorf("before: %s", list)
	}
	made := s.certificate("PUT", certificatePath, `{"properties":{"certificate":`+quoted(pki.EncodeCertificates(ca.Certificate))+`}}`)
	p := made.Properties
	if made.Name != "Plant" || made.ETag == "" || p.Subject != "CN=Plant CA" || p.IsVerified || p.VerificationCode != "" ||
		!slices.Equal(p.Certificate, ca.Certificate.Raw) || p.Thumbprint != attest.ThumbprintSHA1(ca.Certificate.Raw) ||
		p.SHA256Thumbprint != attest.Thumbprint(ca.Certificate.Raw) || !time.Time(p.Expiry).Equal(ca.Certificate.NotAfter) || p.EnrollmentGroups != nil {
		t.Errorf("%+v", made)
	}
	coded := s.certificate("POST", certificatePath+"/verificationCode", "")
	proved := s.certificate("POST", "/BERTH/v1/certificates/plant/VERIFY", prove(t, ca, coded.Properties.VerificationCode))
	if !proved.Properties.IsVerified || proved.Properties.VerificationCode != "" || proved.Name != "Plant" {
		t.Errorf("%+v", proved)
	}
	group := &enroll.Entry{Scope: scope, Kind: enroll.Group, ID: "pumps", Attestation: attest.Mechanism{
		Type: attest.TypeX509, X509: &attest.X509{Use: attest.CAReferences, PrimaryReference: "plant"}}}
	if _, err := s.enroller.Put(t.Context(), access.Caller{Rights: access.AllProvisioning}, group, nil); err != nil {
		t.Fatal(err)
	}
	if c := s.certificate("GET", certificatePath, ""); !slices.Equal(c.Properties.EnrollmentGroups, []string{"pumps"}) {
		t.Errorf("%+v", c)
	}
	var list []dpsjson.CACertificate
	if _, answer := s.send("GET", "/berth/v1/certificates", "", token(s.owner)); json.Unmarshal([]byte(answer), &list) != nil || len(list) != 1 || list[0].ETag != proved.ETag {
		t.Errorf("%+v", list)
	}
	if gone := s.certificate("DELETE", certificatePath, ""); !slices.Equal(gone.Properties.EnrollmentGroups, []string{"pumps"}) {
		t.Errorf("%+v", gone)
	}
	s.refuses("GET", certificatePath, "", token(s.owner), 404, errs.NotFound)

	back := s.certificate("PUT", certificatePath, upload(ca.Certificate.Raw, `,"isVerified":true`))
	if !back.Properties.IsVerified {
		t.Errorf("%+v", back)
	}
}

func quoted(text []byte) string {
	b, _ := json.Marshal(string(text))
	return string(b)
}

func TestCACertificatesThatAreRefused(t *testing.T) {
	s, ca := start(t), newCA(t)
	leaf, err := ca.IssueDevice("pump-7", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := upload(ca.Certificate.Raw, "")
	s.certificate("PUT", certificatePath, good)
	weak := s.policy("weak", access.AllProvisioning&^access.ServiceConfig)
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/berth/v1/certificates", ""}, {"GET", certificatePath, ""}, {"PUT", certificatePath, good}, {"DELETE", certificatePath, ""},
		{"POST", certificatePath + "/verificationCode", ""}, {"POST", certificatePath + "/verify", good},
	} {
		s.refuses(c.method, c.path, c.body, "", 401, errs.Denied)
		s.refuses(c.method, c.path, c.body, token(weak), 401, errs.Denied)
	}
	s.refuses("PUT", certificatePath, good, token(s.owner), 409, errs.Conflict)
	s.refuses("POST", certificatePath, good, token(s.owner), 405, errs.NotAllowed)
	for _, path := range []string{"/berth/v1/certificates/other/verificationCode", "/berth/v1/certificates/other/verify"} {
		s.refuses("POST", path, good, token(s.owner), 404, errs.NotFound)
	}
	s.refuses("DELETE", "/berth/v1/certificates/other", "", token(s.owner), 404, errs.NotFound)
	s.refuses("PUT", "/berth/v1/certificates/a%20b", good, token(s.owner), 400, errs.Invalid)
	s.refuses("PUT", "/berth/v1/certificates/"+strings.Repeat("a", 257), good, token(s.owner), 400, errs.Invalid)
	for _, body := range []string{"", "{}", "[]", `{"certificate":"junk"}`, `{"certificate":null}`, upload(leaf.Certificate.Raw, ""), upload(ca.Certificate.Raw, `,"isVerified":1`)} {
		s.refuses("PUT", "/berth/v1/certificates/other", body, token(s.owner), 400, errs.Invalid)
	}
	s.refuses("PUT", "/berth/v1/certificates/other", `{"certificate":"`+strings.Repeat("A", dpsjson.MaxBody)+`"}`, token(s.owner), 413, errs.TooLarge)

	s.refuses("POST", certificatePath+"/verify", good, token(s.owner), 400, errs.Invalid) // no code yet
	code := s.certificate("POST", certificatePath+"/verificationCode", "").Properties.VerificationCode
	for _, body := range []string{"", "{}", good, upload(leaf.Certificate.Raw, ""), prove(t, newCA(t), code), prove(t, ca, strings.ToLower(code))} {
		s.refuses("POST", certificatePath+"/verify", body, token(s.owner), 400, errs.Invalid)
	}
	if c := s.certificate("GET", certificatePath, ""); c.Properties.IsVerified || c.Properties.VerificationCode != code {
		t.Errorf("a refused proof did something: %+v", c)
	}
}

func TestCACertificatesAreGuardedByTheEntityTag(t *testing.T) {
	s, ca := start(t), newCA(t)
	body := upload(ca.Certificate.Raw, "")
	if status, answer := s.matching("PUT", certificatePath, body, "*"); status != 404 {
		t.Errorf("replacing nothing: %d %s", status, answer)
	}
	old := s.certificate("PUT", certificatePath, body).ETag
	coded := s.certificate("POST", certificatePath+"/verificationCode", "")
	proof := prove(t, ca, coded.Properties.VerificationCode)
	for _, c := range []struct{ method, path, body string }{
		{"PUT", certificatePath, body}, {"DELETE", certificatePath, ""},
		{"POST", certificatePath + "/verificationCode", ""}, {"POST", certificatePath + "/verify", proof},
	} {
		if status, answer := s.matching(c.method, c.path, c.body, old); status != 412 {
			t.Errorf("%s %s with an old tag: %d %s", c.method, c.path, status, answer)
		}
	}
	if status, answer := s.matching("POST", certificatePath+"/verify", proof, `"`+coded.ETag+`"`); status != 200 {
		t.Errorf("with the current tag: %d %s", status, answer)
	}
	other := newCA(t)
	status, answer := s.matching("PUT", certificatePath, upload(other.Certificate.Raw, ""), "*")
	var replaced dpsjson.CACertificate
	if err := json.Unmarshal([]byte(answer), &replaced); status != 200 || err != nil || replaced.Properties.IsVerified {
		t.Errorf("replaced: %d %s", status, answer)
	}
}
