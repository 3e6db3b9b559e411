package provision_test

import (
	"crypto/rand"
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

// of returns certificates as an operator offers them.
func of(vendor string, ders ...[]byte) (anchors []ekcert.TrustAnchor) {
	for _, der := range ders {
		anchors = append(anchors, ekcert.TrustAnchor{Certificate: der, Vendor: vendor})
	}
	return anchors
}

// trusts imports certificates, all of which the trust store must take.
func (s *service) trusts(offer ekcert.Offer) *provision.TrustReport {
	s.t.Helper()
	report, err := s.enroller.ImportTrust(s.t.Context(), operator, scope, offer, false)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range report.Certificates {
		if c.Result == ekcert.TrustRefused {
			s.t.Fatalf("%s: %s", c.Subject, c.Reason)
		}
	}
	return report
}

// removes takes certificates out of the trust store again.
func (s *service) removes(ders ...[]byte) *provision.TrustReport {
	s.t.Helper()
	report, err := s.enroller.RemoveTrust(s.t.Context(), operator, scope, prints(ders...), "a test", false)
	if err != nil {
		s.t.Fatal(err)
	}
	return report
}

func prints(ders ...[]byte) (thumbprints []string) {
	for _, der := range ders {
		thumbprints = append(thumbprints, attest.Thumbprint(der))
	}
	return thumbprints
}

// A TPM whose maker is in the trust store comes in through a group that refers
// to the store, as long as it is in there.
func TestTrustStoreAdmits(t *testing.T) {
	plant := newMaker(t)
	a := plant.chip()
	bench := ekcert.Offer{Source: "the bench", Test: true, Anchors: of("bench", plant.root, plant.issuer)}
	trusting := attest.TPMGroup{Trusted: true, TrustedTest: true}
	story := func(t *testing.T) *service {
		s := today(t)
		s.enroll(ofTPMs("reel", trusting))
		return s
	}

	t.Run("and lets go", func(t *testing.T) {
		s := story(t)
		s.refused(errs.CodeUnauthorizedAccess, a.id, a.shows())
		if d := s.decisions(a.id)[0]; !saw(d, "trust store", true) || !saw(d, "chain", false) || !strings.Contains(d.Fix, "berth trust import FILE --vendor NAME") {
			t.Errorf("%+v", d)
		}
		s.trusts(bench)
		r := s.register(a.id, s.proves(a, a.id, s.challenged(a.id, a.shows())))
		if r.GroupID != "reel" || r.Status != provision.Assigned {
			t.Fatalf("%+v", r)
		}
		report := s.removes(plant.root)
		if len(report.Groups) != 1 || report.Groups[0].ID != "reel" || report.Groups[0].Devices != 1 {
			t.Errorf("%+v", report.Groups)
		}
		s.refused(errs.CodeUnauthorizedAccess, a.id, a.shows())
		if d := s.decisions(a.id)[0]; !saw(d, "chain", false) || !strings.Contains(d.Fix, "berth trust history") {
			t.Errorf("%+v", d)
		}
	})
	t.Run("a challenge from before a removal is no use after it", func(t *testing.T) {
		s := story(t)
		s.trusts(bench)
		a.activate(s.challenged(a.id, a.shows()).Blob)
		s.removes(plant.root)
		s.refused(errs.CodeUnauthorizedAccess, a.id, attest.Credential{Token: s.signedBy(a.chip, a.id)})
		whole := a.shows()
		whole.Token = s.signedBy(a.chip, a.id)
		s.refused(errs.CodeUnauthorizedAccess, a.id, whole)
	})
	t.Run("a challenge outlives what changes elsewhere", func(t *testing.T) {
		s := story(t)
		s.trusts(bench)
		s.enroll(ofTPMs("a-own", attest.TPMGroup{TestRoots: [][]byte{plant.root}, Intermediates: [][]byte{plant.issuer}}))
		a.activate(s.challenged(a.id, a.shows()).Blob)
		s.removes(plant.root) // does not count for the group that knows the key
		if r := s.register(a.id, attest.Credential{Token: s.signedBy(a.chip, a.id)}); r.GroupID != "a-own" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("not for a group of vendors alone", func(t *testing.T) {
		s := today(t)
		s.enroll(ofTPMs("reel", attest.TPMGroup{Trusted: true}))
		s.trusts(bench)
		s.refused(errs.CodeUnauthorizedAccess, a.id, a.shows())
	})
	t.Run("not for a group that does not refer to it", func(t *testing.T) {
		s := today(t)
		s.enroll(ofTPMs("reel", attest.TPMGroup{List: reel(t, plant.chip()).Stored()}))
		s.trusts(bench)
		s.refused(errs.CodeUnauthorizedAccess, a.id, a.shows())
		if d := s.decisions(a.id)[0]; strings.Contains(d.Fix, "berth trust") {
			t.Errorf("%s", d.Fix)
		}
	})
	t.Run("of the vendors that the group names", func(t *testing.T) {
		s := today(t)
		s.enroll(ofTPMs("reel", attest.TPMGroup{TrustedTest: true, Vendors: []string{"Others"}}))
		s.trusts(bench)
		s.refused(errs.CodeUnauthorizedAccess, a.id, a.shows())
		s.enroll(ofTPMs("reel", attest.TPMGroup{TrustedTest: true, Vendors: []string{"BENCH"}}))
		s.challenged(a.id, a.shows())
	})
	t.Run("through the group's filters", func(t *testing.T) {
		s := today(t)
		s.enroll(ofTPMs("reel", attest.TPMGroup{TrustedTest: true, Models: []string{"SLB9670"}}))
		s.trusts(bench)
		s.refused(errs.CodeUnauthorizedAccess, a.id, a.shows())
		if d := s.decisions(a.id)[0]; !saw(d, "model", false) || !saw(d, "chain", true) {
			t.Errorf("%+v", d)
		}
	})
	t.Run("as a vendor's it is refused", func(t *testing.T) {
		s := today(t)
		offer := bench
		offer.Test = false
		report, err := s.enroller.ImportTrust(t.Context(), operator, scope, offer, false)
		if err != nil || report.Changed || report.Version != 0 || report.Certificates[0].Result != ekcert.TrustRefused {
			t.Errorf("%+v, %v", report, err)
		}
	})
}

func saw(d provision.Decision, check string, ok bool) bool {
	return slices.ContainsFunc(d.Considered, func(c provision.Considered) bool {
		return slices.ContainsFunc(c.Findings, func(f attest.Finding) bool { return f.Check == check && f.OK == ok })
	})
}

// An import is a version with where it came from, a second one of the same is
// none, and a dry run changes nothing.
func TestTrustVersions(t *testing.T) {
	s := today(t)
	a, b := vendorRoot(t, "A"), vendorRoot(t, "B")
	first := ekcert.Offer{Source: "bundle 1", Anchors: of("Silicon", a, b)}
	dry, err := s.enroller.ImportTrust(t.Context(), operator, scope, first, true)
	if err != nil || !dry.DryRun || !dry.Changed || dry.Version != 0 || len(dry.Certificates) != 2 || dry.Certificates[0].Result != ekcert.TrustAdded {
		t.Fatalf("%+v, %v", dry, err)
	}
	if done := s.trusts(first); done.Version != 1 || !done.Changed || done.DryRun || done.Digest != dry.Digest {
		t.Errorf("%+v", done)
	}
	if again := s.trusts(first); again.Version != 1 || again.Changed || again.Certificates[0].Result != ekcert.TrustPresent || again.Digest != dry.Digest {
		t.Errorf("%+v", again)
	}
	s.removes(a)
	if _, err := s.enroller.RemoveTrust(t.Context(), operator, scope, prints(a), "", false); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("removed twice with %v", err)
	}
	now, err := s.enroller.TrustAnchors(t.Context(), operator, scope)
	if err != nil || now.Version != 2 || len(now.Anchors) != 1 || now.Anchors[0].Thumbprint != attest.Thumbprint(b) || now.Anchors[0].Added != 1 {
		t.Errorf("%+v, %v", now, err)
	}
	versions, err := s.enroller.TrustVersions(t.Context(), operator, scope)
	if err != nil || len(versions) != 2 {
		t.Fatalf("%+v, %v", versions, err)
	}
	want := ekcert.TrustVersion{Version: 1, Time: s.clock().UTC(), Policy: operator.Policy, Source: "bundle 1", Digest: dry.Digest, Added: 2}
	if got := versions[1]; !got.Time.Equal(want.Time) || got.Policy != want.Policy || got.Source != want.Source || got.Digest != want.Digest || got.Added != 2 || got.Removed != 0 {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := versions[0]; got.Version != 2 || got.Removed != 1 || got.Added != 0 || got.Source != "a test" {
		t.Errorf("%+v", got)
	}
}

func vendorRoot(t *testing.T, name string) []byte {
	t.Helper()
	root, err := pki.NewRoot(name, time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return root.Certificate.Raw
}

// Before a root goes, the groups that go by it are named: who loses it, and who
// has it pinned besides.
func TestRemovalNamesTheGroups(t *testing.T) {
	s := today(t)
	a, b := vendorRoot(t, "A"), vendorRoot(t, "B")
	s.trusts(ekcert.Offer{Anchors: append(of("One", a), of("Two", b)...)})
	s.enroll(ofTPMs("loses", attest.TPMGroup{Trusted: true}))
	s.enroll(ofTPMs("pins-a", attest.TPMGroup{Trusted: true, Roots: [][]byte{a}}))
	s.enroll(ofTPMs("other-vendor", attest.TPMGroup{Trusted: true, Vendors: []string{"two"}}))
	s.enroll(ofTPMs("own-roots", attest.TPMGroup{Roots: [][]byte{a}}))
	s.enroll(ofTPMs("benches", attest.TPMGroup{TrustedTest: true}))
	s.enroll(ofTPMs("listed", attest.TPMGroup{List: &attest.EKList{}}))
	s.enroll(byKey(enroll.Group, "keys", key(1), key(2)))

	dry, err := s.enroller.RemoveTrust(t.Context(), operator, scope, prints(a, b), "", true)
	if err != nil || !dry.DryRun || dry.Version != 1 {
		t.Fatalf("%+v, %v", dry, err)
	}
	var got []string
	for _, g := range dry.Groups {
		line := g.ID + " loses"
		for _, print := range g.Loses {
			line += map[string]string{prints(a)[0]: " A", prints(b)[0]: " B"}[print]
		}
		if line += " keeps"; g.Keeps != nil {
			line += map[string]string{prints(a)[0]: " A", prints(b)[0]: " B"}[g.Keeps[0]]
		}
		got = append(got, line)
	}
	if want := []string{"loses loses A B keeps", "other-vendor loses B keeps", "pins-a loses B keeps A"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if now, err := s.enroller.TrustAnchors(t.Context(), operator, scope); err != nil || len(now.Anchors) != 2 {
		t.Errorf("a dry run left %+v, %v", now, err)
	}
}

func TestTrustTakesARight(t *testing.T) {
	s := today(t)
	weak := access.Caller{Policy: "weak", Rights: access.AllProvisioning &^ access.ServiceConfig}
	_, read := s.enroller.TrustAnchors(t.Context(), weak, scope)
	_, history := s.enroller.TrustVersions(t.Context(), weak, scope)
	_, add := s.enroller.ImportTrust(t.Context(), weak, scope, ekcert.Offer{}, true)
	_, remove := s.enroller.RemoveTrust(t.Context(), weak, scope, nil, "", true)
	for name, err := range map[string]error{"reading": read, "history": history, "importing": add, "removing": remove} {
		if errs.KindOf(err) != errs.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
}
