package admin

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/provision"
)

const (
	trustPath  = "/berth/v1/trust"
	removePath = trustPath + "/remove"
)

// vendorRoot makes a root of a TPM vendor.
func vendorRoot(t *testing.T, name string) []byte {
	t.Helper()
	root, err := pki.NewRoot(name, time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return root.Certificate.Raw
}

// offered is the body of an import.
func offered(members string, ders ...[]byte) string {
	var certificates []string
	for _, der := range ders {
		certificates = append(certificates, `{"certificate":"`+base64.StdEncoding.EncodeToString(der)+`","vendor":"Silicon","file":"Silicon/RootCA/a.cer"}`)
	}
	return `{"source":"a bundle",` + members + `"certificates":[` + strings.Join(certificates, ",") + `]}`
}

// told decodes the answer of a call that must succeed.
func told[T any](s *server, method, path, body string) (v T) {
	s.Helper()
	status, answer := s.send(method, path, body, token(s.owner))
	if err := json.Unmarshal([]byte(answer), &v); status != 200 || err != nil {
		s.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	return v
}

// What is imported is there, is told with where it came from, and goes again.
func TestTrustStore(t *testing.T) {
	s := start(t)
	a, b, bench := vendorRoot(t, "A"), vendorRoot(t, "B"), vendorRoot(t, "swtpm-localca-rootca")
	empty := told[trustJSON](s, "GET", trustPath, "")
	if empty.Version != 0 || empty.Anchors == nil || len(empty.Anchors) != 0 {
		t.Errorf("%+v", empty)
	}
	if versions := told[[]ekcert.TrustVersion](s, "GET", trustPath+"/versions", ""); versions == nil || len(versions) != 0 {
		t.Errorf("%+v", versions)
	}

	dry := told[provision.TrustReport](s, "POST", trustPath, offered(`"dryRun":true,`, a, b))
	if !dry.DryRun || !dry.Changed || dry.Version != 0 || len(dry.Certificates) != 2 {
		t.Errorf("%+v", dry)
	}
	done := told[provision.TrustReport](s, "POST", trustPath, offered("", a, b, bench))
	if done.Version != 1 || done.Certificates[0].Result != ekcert.TrustAdded || done.Certificates[2].Result != ekcert.TrustRefused || done.Digest != dry.Digest {
		t.Errorf("%+v", done)
	}
	if again := told[provision.TrustReport](s, "POST", trustPath, offered("", b, a)); again.Changed || again.Version != 1 || again.Digest != dry.Digest {
		t.Errorf("%+v", again)
	}
	tests := told[provision.TrustReport](s, "POST", trustPath, offered(`"test":true,`, bench))
	if tests.Version != 2 || !tests.Certificates[0].Test {
		t.Errorf("%+v", tests)
	}
	now := told[trustJSON](s, "GET", trustPath, "")
	i := slices.IndexFunc(now.Anchors, func(x ekcert.TrustAnchor) bool { return x.Thumbprint == attest.Thumbprint(a) })
	if now.Version != 2 || len(now.Anchors) != 3 || i < 0 || string(now.Anchors[i].Certificate) != string(a) || now.Anchors[i].Vendor != "Silicon" ||
		now.Anchors[i].File != "Silicon/RootCA/a.cer" || !now.Anchors[i].Root || now.Anchors[i].Added != 1 {
		t.Errorf("%+v", now)
	}

	group := &enroll.Entry{Scope: scope, Kind: enroll.Group, ID: "Machines", Attestation: attest.Mechanism{Type: attest.TypeTPM, TPMGroup: &attest.TPMGroup{Trusted: true}}}
	if _, err := s.enroller.Put(t.Context(), access.Caller{Rights: access.AllProvisioning}, group, nil); err != nil {
		t.Fatal(err)
	}
	print := strings.ToLower(attest.Thumbprint(a))
	for _, dryRun := range []bool{true, false} {
		body, _ := json.Marshal(map[string]any{"thumbprints": []string{print}, "dryRun": dryRun, "source": "a wins"})
		gone := told[provision.TrustReport](s, "POST", removePath, string(body))
		if len(gone.Groups) != 1 || gone.Groups[0].ID != "Machines" || !slices.Equal(gone.Groups[0].Loses, []string{attest.Thumbprint(a)}) ||
			gone.Certificates[0].Result != ekcert.TrustRemoved || gone.DryRun != dryRun {
			t.Errorf("%+v", gone)
		}
	}
	versions := told[[]ekcert.TrustVersion](s, "GET", trustPath+"/versions", "")
	if len(versions) != 3 || versions[0].Removed != 1 || versions[0].Source != "a wins" || versions[2].Policy != s.owner.Name || versions[2].Added != 2 {
		t.Errorf("%+v", versions)
	}
}

func TestTrustThatIsRefused(t *testing.T) {
	s := start(t)
	a := vendorRoot(t, "A")
	weak := s.policy("weak", access.AllProvisioning&^access.ServiceConfig)
	for _, path := range []string{trustPath, removePath} {
		s.refuses("POST", path, offered("", a), "", 401, errs.Denied)
		s.refuses("POST", path, offered("", a), token(weak), 401, errs.Denied)
		for _, body := range []string{"", "{", "[]", "{} {}", `{"certificates":[]}`, `{"thumbprints":[]}`, `{"force":true}`} {
			s.refuses("POST", path, body, token(s.owner), 400, errs.Invalid)
		}
	}
	for _, path := range []string{trustPath, trustPath + "/versions"} {
		s.refuses("GET", path, "", "", 401, errs.Denied)
		s.refuses("GET", path, "", token(weak), 401, errs.Denied)
	}
	s.refuses("DELETE", trustPath, "", token(s.owner), 405, errs.NotAllowed)
	s.refuses("POST", trustPath, offered(`"policy":"me",`, a), token(s.owner), 400, errs.Invalid)
	s.refuses("POST", trustPath, `{"certificates":[{"certificate":"%","vendor":"a"}]}`, token(s.owner), 400, errs.Invalid)
	s.refuses("POST", trustPath, `{"source":"\u001b[2J","certificates":[{"certificate":"AA==","vendor":"a"}]}`, token(s.owner), 400, errs.Invalid)
	s.refuses("POST", removePath, `{"thumbprints":["`+attest.Thumbprint(a)+`"]}`, token(s.owner), 400, errs.Invalid)
	if now := told[trustJSON](s, "GET", trustPath, ""); now.Version != 0 {
		t.Errorf("%+v", now)
	}
}

// A body over the limit is refused before it is read where it says its length,
// and cut off where it does not.
func TestImportsHaveALimit(t *testing.T) {
	s := start(t)
	for name, length := range map[string]int64{"said": maxImport + 1, "not said": -1} {
		r := httptest.NewRequest("POST", trustPath, io.LimitReader(comments{}, maxImport+1))
		r.ContentLength = length
		r.Host = host
		r.Header.Set("Authorization", token(s.owner))
		r.Header.Set("Content-Type", "application/json")
		answer := httptest.NewRecorder()
		s.Server.Config.Handler.ServeHTTP(answer, r)
		if answer.Code != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d %s", name, answer.Code, answer.Body)
		}
	}
}

// The bundles that vendors' certificates come in fit into one call.
func TestALargeBundleIsImported(t *testing.T) {
	s := start(t)
	root, err := pki.NewRoot("Vendor", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var ders [][]byte
	for range 2000 {
		lot, err := root.NewIntermediate("Lot", time.Now(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		ders = append(ders, lot.Certificate.Raw)
	}
	began := time.Now()
	report := told[provision.TrustReport](s, "POST", trustPath, offered("", ders...))
	t.Logf("%d certificates in %v", len(ders), time.Since(began))
	if n := len(report.Certificates); n != len(ders) || report.Version != 1 || time.Since(began) > 30*time.Second {
		t.Errorf("%d certificates after %v", n, time.Since(began))
	}
}
