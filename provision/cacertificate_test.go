package provision_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/provision"
)

// byReference is a group that goes by CA certificates of the service.
func byReference(id, primary, secondary string) *enroll.Entry {
	return &enroll.Entry{Scope: scope, Kind: enroll.Group, ID: id, Attestation: attest.Mechanism{
		Type: attest.TypeX509, X509: &attest.X509{Use: attest.CAReferences, PrimaryReference: primary, SecondaryReference: secondary}}}
}

func (s *service) root(name string) *pki.Issuer {
	s.t.Helper()
	root, err := pki.NewRoot(name, s.clock(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	return root
}

func (s *service) leaf(ca *pki.Issuer, id string) attest.Credential {
	s.t.Helper()
	leaf, err := ca.IssueDevice(id, s.clock(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	return shown(leaf)
}

func anyTag(string) bool { return true }

// keep uploads a CA certificate, over one that may be there.
func (s *service) keep(name string, ca *pki.Issuer, verified bool) *provision.CACertificate {
	s.t.Helper()
	u := enroll.Upload{Scope: scope, Name: name, Certificate: ca.Certificate.Raw, Verified: &verified}
	c, err := s.enroller.PutCACertificate(s.t.Context(), operator, u, nil)
	if errs.KindOf(err) == errs.Conflict {
		c, err = s.enroller.PutCACertificate(s.t.Context(), operator, u, anyTag)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// prove proves to have the key of a CA whose certificate is kept.
func (s *service) prove(name string, ca *pki.Issuer) {
	s.t.Helper()
	c, err := s.enroller.GenerateVerificationCode(s.t.Context(), operator, scope, name, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	proof := s.leaf(ca, c.VerificationCode).Chain[0]
	if _, err := s.enroller.VerifyCACertificate(s.t.Context(), operator, scope, name, proof.Raw, nil); err != nil {
		s.t.Fatal(err)
	}
}

func TestGroupsGoByCACertificatesOfTheService(t *testing.T) {
	s := newService(t)
	root, second := s.root("Plant CA"), s.root("Second CA")
	s.keep("Plant", root, false)
	s.prove("plant", root)
	s.keep("second", second, true)
	s.enroll(byReference("pumps", "plant", "SECOND"))

	for id, ca := range map[string]*pki.Issuer{"pump-1": root, "pump-2": second} {
		r := s.register(id, s.leaf(ca, id))
		if r.Status != provision.Assigned || r.GroupID != "pumps" {
			t.Errorf("%s: %+v", id, r)
		}
		if d := s.decisions(id)[0]; !d.Accepted || !d.Considered[0].Decided || d.Considered[0].ID != "pumps" || d.Fix != "" {
			t.Errorf("%s: %+v", id, d)
		}
	}
	s.refused(errs.CodeUnauthorizedAccess, "pump-3", s.leaf(s.root("Plant CA"), "pump-3"))
	s.refused(errs.CodeUnauthorizedAccess, "pump-3", s.leaf(root, "pump-4"))

	all, err := s.enroller.CACertificates(t.Context(), operator, scope)
	if err != nil || len(all) != 2 || all[0].Name != "Plant" || !slices.Equal(all[0].Groups, []string{"pumps"}) || !slices.Equal(all[1].Groups, []string{"pumps"}) {
		t.Errorf("%+v, %v", all, err)
	}
}

// The nearest CA decides, whether a group brings its certificate or names it.
func TestTheNearestCADecidesAlsoByReference(t *testing.T) {
	s := newService(t)
	root := s.root("Plant CA")
	line, err := root.NewIntermediate("Line CA", s.clock(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.keep("line", line, true)
	s.enroll(byCA("plant", root.Certificate))
	lines := byReference("lines", "line", "")
	lines.Disabled = true
	s.enroll(lines)
	if _, err := s.registrar.Register(t.Context(), request("pump-1", s.leaf(line, "pump-1"))); err != nil {
		t.Fatal(err)
	}
	if d := s.decisions("pump-1")[0]; d.Result != provision.ResultDisabled || s.device(hub1, "pump-1") != nil {
		t.Errorf("the disabled group of the nearer CA let go: %+v", d)
	}
	if r := s.register("pump-2", s.leaf(root, "pump-2")); r.GroupID != "plant" {
		t.Errorf("%+v", r)
	}
}

// What a group names is looked up when a device comes, not when the group is made.
func TestACACertificateThatIsGoneAdmitsNobody(t *testing.T) {
	no := false
	for name, c := range map[string]struct {
		revoke func(*service, *pki.Issuer)
		detail string
	}{
		"deleted": {func(s *service, _ *pki.Issuer) {
			gone, err := s.enroller.DeleteCACertificate(t.Context(), operator, scope, "plant", nil)
			if err != nil || gone.Name != "plant" || !slices.Equal(gone.Groups, []string{"pumps"}) {
				t.Fatalf("%+v, %v", gone, err)
			}
		}, `the CA certificate "Plant" that it names is not there any more`},
		"replaced": {func(s *service, _ *pki.Issuer) {
			u := enroll.Upload{Scope: scope, Name: "plant", Certificate: s.root("Plant CA").Certificate.Raw}
			if c, err := s.enroller.PutCACertificate(t.Context(), operator, u, anyTag); err != nil || c.Verified || !slices.Equal(c.Groups, []string{"pumps"}) {
				t.Fatalf("%+v, %v", c, err)
			}
		}, `the CA certificate "Plant" that it names is not verified`},
		"not verified any more": {func(s *service, ca *pki.Issuer) {
			u := enroll.Upload{Scope: scope, Name: "plant", Certificate: ca.Certificate.Raw, Verified: &no}
			if c, err := s.enroller.PutCACertificate(t.Context(), operator, u, anyTag); err != nil || c.Verified {
				t.Fatalf("%+v, %v", c, err)
			}
		}, `the CA certificate "Plant" that it names is not verified`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			root := s.root("Plant CA")
			s.keep("plant", root, true)
			put := s.enroll(byReference("pumps", "Plant", ""))
			known := s.leaf(root, "pump-1")
			s.register("pump-1", known)

			c.revoke(s, root)
			s.refused(errs.CodeUnauthorizedAccess, "pump-1", known)
			s.refused(errs.CodeUnauthorizedAccess, "pump-2", s.leaf(root, "pump-2"))
			d := s.decisions("pump-2")[0]
			if i := slices.IndexFunc(d.Considered, func(c provision.Considered) bool { return c.ID == "pumps" }); i < 0 ||
				!slices.Contains(d.Considered[i].Findings, attest.Finding{Check: "CA reference", Detail: c.detail}) {
				t.Errorf("explained by %+v", d.Considered)
			}
			if !strings.Contains(d.Fix, "\nberth ca prove Plant --key CA.key --certificate CA.pem\n") {
				t.Errorf("fix: %s", d.Fix)
			}

			// The group can be changed, but no other may begin to name it.
			put.Disabled = true
			if _, err := s.enroller.Put(t.Context(), operator, put, anyTag); err != nil {
				t.Errorf("disabling the group: %v", err)
			}
			if _, err := s.enroller.Put(t.Context(), operator, byReference("others", "plant", ""), nil); errs.KindOf(err) != errs.Invalid {
				t.Errorf("another group: %v", err)
			}

			put.Disabled = false
			s.enroll(put)
			s.keep("plant", root, false)
			s.prove("plant", root)
			s.register("pump-1", known)
		})
	}
}

func TestReferencesThatAreRefused(t *testing.T) {
	s := newService(t)
	root := s.root("Plant CA")
	s.keep("Proved", root, true)
	s.keep("Plant", root, false)
	const member = "attestation.x509.caReferences."
	for _, c := range []struct {
		name  string
		entry *enroll.Entry
		want  string
	}{
		{"not there", byReference("g", "other", ""), member + `primary: there is no CA certificate "other"`},
		{"second not there", byReference("g", "proved", "other"), member + `secondary: there is no CA certificate "other"`},
		{"not verified", byReference("g", "plant", ""), member + `primary: the CA certificate "Plant" is not verified`},
		{"second not verified", byReference("g", "proved", "PLANT"), member + `secondary: the CA certificate "Plant" is not verified`},
		{"no name", byReference("g", "", "proved"), member + "primary: is empty"},
	} {
		if _, err := s.enroller.Put(t.Context(), operator, c.entry, nil); errs.KindOf(err) != errs.Invalid || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	// Of another scope it is not there.
	const other = device.IDScope("0ne00222222")
	if err := s.store.PutScope(t.Context(), provision.Scope{ID: other}); err != nil {
		t.Fatal(err)
	}
	e := byReference("g", "proved", "")
	e.Scope = other
	if _, err := s.enroller.Put(t.Context(), operator, e, nil); errs.KindOf(err) != errs.Invalid {
		t.Errorf("of another scope: %v", err)
	}
	// A group that named nothing begins to.
	put := s.enroll(byCA("g", root.Certificate))
	next := byReference("g", "plant", "")
	if _, err := s.enroller.Put(t.Context(), operator, next, func(tag string) bool { return tag == put.ETag }); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a group that begins to name it: %v", err)
	}
	if kept, err := s.enroller.Entry(t.Context(), operator, scope, enroll.Group, "g"); err != nil || kept.ETag != put.ETag {
		t.Errorf("the refused change was written: %+v, %v", kept, err)
	}
	if _, err := s.enroller.Put(t.Context(), operator, next, func(string) bool { return false }); errs.KindOf(err) != errs.Precondition {
		t.Errorf("with an old tag: %v", err)
	}
}

func TestProofsThatAreRefused(t *testing.T) {
	s := newService(t)
	root, stranger := s.root("Plant CA"), s.root("Plant CA")
	s.keep("plant", root, false)
	verify := func(proof []byte) error {
		_, err := s.enroller.VerifyCACertificate(t.Context(), operator, scope, "plant", proof, nil)
		return err
	}
	first, err := s.enroller.GenerateVerificationCode(t.Context(), operator, scope, "plant", nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.enroller.GenerateVerificationCode(t.Context(), operator, scope, "plant", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, proof := range map[string][]byte{
		"with the code before": s.leaf(root, first.VerificationCode).Chain[0].Raw,
		"of a stranger":        s.leaf(stranger, second.VerificationCode).Chain[0].Raw,
		"the CA itself":        root.Certificate.Raw,
		"junk":                 []byte("proof"),
		"nothing":              nil,
	} {
		if err := verify(proof); errs.KindOf(err) != errs.Invalid || !strings.HasPrefix(err.Error(), "certificate: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := s.leaf(root, second.VerificationCode).Chain[0]
	s.pass(good.NotAfter.Sub(s.clock()) + time.Hour)
	if err := verify(good.Raw); errs.KindOf(err) != errs.Invalid {
		t.Errorf("expired: %v", err)
	}
	if c, err := s.enroller.CACertificate(t.Context(), operator, scope, "plant"); err != nil || c.Verified || c.ETag != second.ETag {
		t.Errorf("a refused proof did something: %+v, %v", c, err)
	}
	for name, err := range map[string]error{
		"code":   errorOf(s.enroller.GenerateVerificationCode(t.Context(), operator, scope, "none", nil)),
		"proof":  errorOf(s.enroller.VerifyCACertificate(t.Context(), operator, scope, "none", good.Raw, nil)),
		"read":   errorOf(s.enroller.CACertificate(t.Context(), operator, scope, "none")),
		"delete": errorOf(s.enroller.DeleteCACertificate(t.Context(), operator, scope, "none", nil)),
	} {
		if errs.KindOf(err) != errs.NotFound {
			t.Errorf("%s of what is not there: %v", name, err)
		}
	}
}

func errorOf(_ *provision.CACertificate, err error) error { return err }

func TestCACertificatesAreLimited(t *testing.T) {
	s := newService(t)
	root := s.root("Plant CA")
	for i := range enroll.MaxCACertificates {
		s.keep(fmt.Sprint("ca-", i), root, true)
	}
	u := enroll.Upload{Scope: scope, Name: "one-more", Certificate: root.Certificate.Raw}
	if _, err := s.enroller.PutCACertificate(t.Context(), operator, u, nil); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "25 are allowed") {
		t.Errorf("one more: %v", err)
	}
	s.keep("ca-0", root, false)
}

// The service's certificates are the operators' who may configure it.
func TestCACertificatesAskForServiceConfig(t *testing.T) {
	s := newService(t)
	u := enroll.Upload{Scope: scope, Name: "plant", Certificate: s.root("Plant CA").Certificate.Raw}
	for name, call := range map[string]func(access.Caller) error{
		"CACertificates": func(c access.Caller) error { _, err := s.enroller.CACertificates(t.Context(), c, scope); return err },
		"CACertificate": func(c access.Caller) error {
			return errorOf(s.enroller.CACertificate(t.Context(), c, scope, "plant"))
		},
		"PutCACertificate": func(c access.Caller) error { return errorOf(s.enroller.PutCACertificate(t.Context(), c, u, nil)) },
		"GenerateVerificationCode": func(c access.Caller) error {
			return errorOf(s.enroller.GenerateVerificationCode(t.Context(), c, scope, "plant", nil))
		},
		"VerifyCACertificate": func(c access.Caller) error {
			return errorOf(s.enroller.VerifyCACertificate(t.Context(), c, scope, "plant", nil, nil))
		},
		"DeleteCACertificate": func(c access.Caller) error {
			return errorOf(s.enroller.DeleteCACertificate(t.Context(), c, scope, "plant", nil))
		},
	} {
		without := access.Caller{Policy: "lacking", Rights: access.AllProvisioning &^ access.ServiceConfig}
		if err := call(without); errs.KindOf(err) != errs.Denied {
			t.Errorf("%s without ServiceConfig: %v", name, err)
		}
		if err := call(access.Caller{Policy: "exact", Rights: access.ServiceConfig}); errs.KindOf(err) == errs.Denied {
			t.Errorf("%s with ServiceConfig: %v", name, err)
		}
	}
}

// Groups that bring their certificates do not depend on those of the service.
func TestCACertificatesAreReadForWhoNamesThem(t *testing.T) {
	broken := errors.New("disk on fire")
	s := newService(t, func(c *provision.Config) { c.Enrollments = noCACertificates{c.Enrollments, broken} })
	root := s.root("Plant CA")
	s.enroll(byCA("pumps", root.Certificate))
	s.register("pump-1", s.leaf(root, "pump-1"))
	s.keep("plant", root, true)
	s.enroll(byReference("others", "plant", ""))
	if _, err := s.registrar.Register(t.Context(), request("pump-2", s.leaf(root, "pump-2"))); !errors.Is(err, broken) {
		t.Errorf("the CA certificates could not be read: %v", err)
	}
}

type noCACertificates struct {
	provision.EnrollmentReader
	err error
}

func (n noCACertificates) CACertificates(context.Context, device.IDScope) ([]*enroll.CACertificate, error) {
	return nil, n.err
}

// A CA certificate that has expired since it was uploaded admits nobody.
func TestACACertificateExpires(t *testing.T) {
	s := newService(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Brief CA"},
		NotBefore: s.clock(), NotAfter: s.clock().Add(time.Hour), BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca := &pki.Issuer{Certificate: certificate, Key: key}
	s.keep("brief", ca, true)
	s.enroll(byReference("pumps", "brief", ""))
	s.register("pump-1", s.leaf(ca, "pump-1"))
	s.pass(2 * time.Hour)
	s.refused(errs.CodeUnauthorizedAccess, "pump-1", s.leaf(ca, "pump-1"))
}
