package provision_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm/tpm2/swtpm"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/tpm"
)

// A maker makes TPMs and certifies them.
type maker struct {
	t            *testing.T
	ca           swtpm.CA
	root, issuer []byte // DER, once there is a chip
}

func newMaker(t *testing.T) *maker {
	t.Helper()
	ca, err := swtpm.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &maker{t: t, ca: ca}
}

// A certified chip has what its maker says of it.
type certifiedChip struct {
	*chip
	id          string // the name of its endorsement key
	certificate []byte
}

func (m *maker) chip() *certifiedChip {
	m.t.Helper()
	dir := m.t.TempDir()
	if err := m.ca.Manufacture(m.t.Context(), dir); err != nil {
		m.t.Fatal(err)
	}
	c := openChip(m.t, dir)
	certificate, _, err := c.EndorsementCertificate(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	m.root, m.issuer = readPEM(m.t, m.ca.Root()), readPEM(m.t, m.ca.Issuer())
	return &certifiedChip{c, tpm.RegistrationID(c.keys.EndorsementKey), certificate}
}

func readPEM(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("%s is no PEM file", file)
	}
	return block.Bytes
}

// shows is what a chip presents before it is challenged.
func (c *certifiedChip) shows() attest.Credential {
	return attest.Credential{TPM: &c.keys, EKCertificate: c.certificate}
}

// proves answers a challenge, with what the chip shows.
func (s *service) proves(c *certifiedChip, id string, challenge *provision.Challenge) attest.Credential {
	s.t.Helper()
	c.activate(challenge.Blob)
	credential := c.shows()
	credential.Token = s.signedBy(c.chip, id)
	return credential
}

func ofTPMs(id string, g attest.TPMGroup) *enroll.Entry {
	return &enroll.Entry{Kind: enroll.Group, ID: id, Attestation: attest.Mechanism{Type: attest.TypeTPM, TPMGroup: &g}}
}

// reel is a list of the endorsement keys of chips.
func reel(t *testing.T, chips ...*certifiedChip) *ekcert.List {
	t.Helper()
	var lines []string
	for _, c := range chips {
		lines = append(lines, base64.StdEncoding.EncodeToString(c.keys.EndorsementKey))
	}
	l, err := ekcert.ParseList(strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// today is when the certificates of this test's chips are valid.
func today(t *testing.T) *service {
	s := newService(t)
	s.pass(time.Until(s.clock()) * -1)
	return s
}

// A device that nobody named comes in by its vendor's certificate or its place on
// a reel, and only with its own TPM, under its own name.
func TestTPMGroups(t *testing.T) {
	ours, foreign := newMaker(t), newMaker(t)
	a, b, stranger := ours.chip(), ours.chip(), foreign.chip()
	bench := attest.TPMGroup{TestRoots: [][]byte{ours.root}, Intermediates: [][]byte{ours.issuer}}
	with := func(change func(*attest.TPMGroup)) attest.TPMGroup {
		g := bench
		change(&g)
		return g
	}
	list := func(chips ...*certifiedChip) attest.TPMGroup {
		return attest.TPMGroup{List: reel(t, chips...).Stored()}
	}
	vendor, err := pki.NewRoot("Vendor", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	chained := a.shows()
	chained.EKChain = slices.Concat(ours.issuer, ours.root)
	uncertified, swapped, cut := a.shows(), a.shows(), a.shows()
	uncertified.EKCertificate = nil
	swapped.EKCertificate = b.certificate
	cut.EKCertificate = a.certificate[:len(a.certificate)-1]

	for _, c := range []struct {
		name    string
		group   attest.TPMGroup
		shown   attest.Credential
		id      string    // a's name if empty
		refused errs.Code // zero for a challenge
		check   string    // what speaks against it
	}{
		{"by certificate", bench, a.shows(), "", 0, ""},
		{"in capitals", bench, a.shows(), strings.ToUpper(a.id), 0, ""},
		{"with the chain it shows itself", with(func(g *attest.TPMGroup) { g.Intermediates = nil }), chained, "", 0, ""},
		{"of the manufacturer", with(func(g *attest.TPMGroup) { g.Manufacturers, g.Models = []string{"id:00001014"}, []string{"swtpm"} }), a.shows(), "", 0, ""},
		{"by list", list(a), a.shows(), "", 0, ""},
		{"by list, without a certificate", list(b, a), uncertified, "", 0, ""},
		{"by list, with another's certificate", list(a), swapped, "", 0, ""},
		{"by list, the certificate being foreign", attest.TPMGroup{Roots: [][]byte{vendor.Certificate.Raw}, List: reel(t, a).Stored()}, a.shows(), "", 0, ""},
		{"by certificate, not on the list", with(func(g *attest.TPMGroup) { g.List = reel(t, b).Stored() }), a.shows(), "", 0, ""},

		{"not on the list", list(b), a.shows(), "", errs.CodeUnauthorizedAccess, "list"},
		{"a list nobody has filled", attest.TPMGroup{List: &attest.EKList{}}, a.shows(), "", errs.CodeUnauthorizedAccess, "list"},
		{"foreign CA", bench, stranger.shows(), stranger.id, errs.CodeUnauthorizedAccess, "chain"},
		{"no intermediate", with(func(g *attest.TPMGroup) { g.Intermediates = nil }), a.shows(), "", errs.CodeUnauthorizedAccess, "chain"},
		{"vendors' roots alone", attest.TPMGroup{Roots: [][]byte{vendor.Certificate.Raw}}, chained, "", errs.CodeUnauthorizedAccess, "chain"},
		{"the issuer of software TPMs among vendors'", with(func(g *attest.TPMGroup) { g.TestRoots, g.Roots = nil, [][]byte{vendor.Certificate.Raw} }), a.shows(), "", errs.CodeUnauthorizedAccess, "chain"},
		{"the certificate of another TPM", bench, swapped, "", errs.CodeUnauthorizedAccess, "endorsement key"},
		{"no certificate", bench, uncertified, "", errs.CodeUnauthorizedAccess, "certificate"},
		{"half a certificate", bench, cut, "", errs.CodeUnauthorizedAccess, "certificate"},
		{"another manufacturer", with(func(g *attest.TPMGroup) { g.Manufacturers = []string{"INTC"} }), a.shows(), "", errs.CodeUnauthorizedAccess, "manufacturer"},
		{"another model", with(func(g *attest.TPMGroup) { g.Models = []string{"SLB9670"} }), a.shows(), "", errs.CodeUnauthorizedAccess, "model"},
		{"old firmware", with(func(g *attest.TPMGroup) {
			g.Firmware = []attest.FirmwareRule{{Manufacturer: "id:00001014", Oldest: "id:99999999"}}
		}), a.shows(), "", errs.CodeUnauthorizedAccess, "firmware"},
		{"a free name", bench, a.shows(), "pump-7", errs.CodeUnauthorizedAccess, "registration ID"},
		{"the name of another TPM of the group", bench, a.shows(), b.id, errs.CodeUnauthorizedAccess, "registration ID"},
		{"the name of another TPM of the list", list(a, b), a.shows(), b.id, errs.CodeUnauthorizedAccess, "registration ID"},
		{"a software SRK", bench, attest.Credential{TPM: &attest.TPM{EndorsementKey: a.keys.EndorsementKey, StorageRootKey: softwareSRK(t, a)}, EKCertificate: a.certificate},
			"", errs.CodeBadRequest, "storage root key"},
		{"no SRK", bench, attest.Credential{TPM: &attest.TPM{EndorsementKey: a.keys.EndorsementKey}, EKCertificate: a.certificate}, "", errs.CodeBadRequest, "storage root key"},
		{"an SRK as EK", bench, attest.Credential{TPM: &attest.TPM{EndorsementKey: a.keys.StorageRootKey, StorageRootKey: a.keys.StorageRootKey}},
			tpm.RegistrationID(a.keys.StorageRootKey), errs.CodeBadRequest, "endorsement key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := today(t)
			s.enroll(ofTPMs("reel", c.group))
			id := c.id
			if id == "" {
				id = a.id
			}
			if c.refused != 0 {
				s.refused(c.refused, id, c.shown)
				d := s.decisions(id)[0]
				if d.Fix == "" || len(d.Considered) != 1 || !slices.ContainsFunc(d.Considered[0].Findings, func(f attest.Finding) bool { return !f.OK && f.Check == c.check }) {
					t.Errorf("%s does not speak against it, or there is no way out: %+v", c.check, d)
				}
				return
			}
			credential := s.proves(a, id, s.challenged(id, c.shown))
			credential.EKCertificate, credential.EKChain = c.shown.EKCertificate, c.shown.EKChain
			r := s.register(id, credential)
			if r.Status != provision.Assigned || r.GroupID != "reel" || !strings.EqualFold(string(r.DeviceID), a.id) || r.ID != id {
				t.Fatalf("%+v", r)
			}
			a.activate(r.HubKeyBlob)
			if !a.holds(s.device(hub1, id).Auth.Keys.Primary) {
				t.Error("the TPM holds another key than the hub")
			}
		})
	}
}

// softwareSRK is a key whose private part a thief knows.
func softwareSRK(t *testing.T, c *certifiedChip) []byte {
	t.Helper()
	public, err := tpm.ParsePublic(c.keys.StorageRootKey)
	if err != nil {
		t.Fatal(err)
	}
	fake := *public
	fake.Attributes &^= tpm.FixedTPM
	return fake.Marshal()
}

// What a device of a TPM group does after its first call.
func TestTPMGroupStories(t *testing.T) {
	plant := newMaker(t)
	a, b := plant.chip(), plant.chip()
	bench := attest.TPMGroup{TestRoots: [][]byte{plant.root}, Intermediates: [][]byte{plant.issuer}}
	alone := func(s *service) attest.Credential { return attest.Credential{Token: s.signedBy(a.chip, a.id)} }

	t.Run("swtpm's root is none of a vendor", func(t *testing.T) {
		e := ofTPMs("reel", attest.TPMGroup{Roots: bench.TestRoots})
		e.Scope = scope
		_, err := today(t).enroller.Put(t.Context(), operator, e, nil)
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "the CA of a software TPM: a test root") {
			t.Errorf("pinned with %v", err)
		}
	})
	t.Run("the answer may leave the keys out", func(t *testing.T) {
		s := today(t)
		s.enroll(ofTPMs("reel", bench))
		a.activate(s.challenged(a.id, a.shows()).Blob)
		if r := s.register(a.id, alone(s)); r.GroupID != "reel" || r.Status != provision.Assigned {
			t.Errorf("%+v", r)
		}
	})
	t.Run("not after the group changed", func(t *testing.T) {
		s := today(t)
		s.enroll(ofTPMs("reel", bench))
		challenge := s.challenged(a.id, a.shows())
		s.enroll(ofTPMs("reel", attest.TPMGroup{List: reel(t, b).Stored()}))
		a.activate(challenge.Blob)
		s.refused(errs.CodeUnauthorizedAccess, a.id, alone(s))
	})
	t.Run("another's challenge is no use", func(t *testing.T) {
		s := today(t)
		s.enroll(ofTPMs("reel", bench))
		challenge := s.challenged(a.id, a.shows())
		if err := b.Activate(t.Context(), challenge.Blob); errs.KindOf(err) != errs.Denied {
			t.Errorf("the other TPM opened it: %v", err)
		}
		b.activate(s.challenged(b.id, b.shows()).Blob)
		posing := a.shows() // with public keys that b read somewhere
		posing.Token = s.signedBy(b.chip, a.id)
		if out, err := s.registrar.Register(t.Context(), request(a.id, posing)); err != nil || out.Challenge == nil {
			t.Errorf("b came in as a: %+v, %v", out, err)
		}
	})
	t.Run("a poll goes by the record, also after a restart", func(t *testing.T) {
		s := today(t)
		s.enroll(ofTPMs("reel", bench))
		r := s.register(a.id, s.proves(a, a.id, s.challenged(a.id, a.shows())))
		config := s.registrar.Config
		s.registrar = provision.NewRegistrar(config)
		for name, credential := range map[string]attest.Credential{
			"without keys": alone(s), "with another's keys": {Token: s.signedBy(a.chip, a.id), TPM: &b.keys},
		} {
			polled, err := s.registrar.OperationStatus(t.Context(), request(a.id, credential), r.OperationID)
			if err != nil || polled.Operation.Registration.Hub != hub1 {
				t.Errorf("polling %s: %+v, %v", name, polled, err)
			}
			if _, err := s.registrar.Lookup(t.Context(), request(a.id, credential)); err != nil {
				t.Errorf("looking up %s: %v", name, err)
			}
		}
		b.activate(s.challenged(b.id, b.shows()).Blob)
		s.refusedPoll(errs.CodeUnauthorizedAccess, a.id, attest.Credential{Token: s.signedBy(b.chip, a.id)}, r.OperationID)
		s.refusedPoll(errs.CodeUnauthorizedAccess, a.id, attest.Credential{TPM: &a.keys}, r.OperationID)
		if err := s.enroller.Delete(t.Context(), operator, scope, enroll.Group, "reel", nil); err != nil {
			t.Fatal(err)
		}
		if _, err := s.registrar.OperationStatus(t.Context(), request(a.id, alone(s)), r.OperationID); err == nil {
			t.Error("polled without a group")
		}
	})
	t.Run("a disabled group decides", func(t *testing.T) {
		s := today(t)
		shut := ofTPMs("a-reel", bench)
		shut.Disabled = true
		s.enroll(shut)
		s.enroll(ofTPMs("b-reel", bench))
		out, err := s.registrar.Register(t.Context(), request(a.id, s.proves(a, a.id, s.challenged(a.id, a.shows()))))
		if err != nil || out.Operation.Registration.Status != provision.Assigning {
			t.Fatalf("%+v, %v", out, err)
		}
		if r := s.record(a.id); r.Status != provision.Disabled || r.GroupID != "a-reel" || s.device(hub1, a.id) != nil {
			t.Errorf("%+v", r)
		}
	})
	t.Run("the first that knows the key decides", func(t *testing.T) {
		s := today(t)
		s.enroll(ofTPMs("c-reel", bench))
		s.enroll(ofTPMs("b-reel", attest.TPMGroup{List: reel(t, a).Stored()}))
		s.enroll(ofTPMs("a-reel", attest.TPMGroup{List: reel(t, b).Stored()}))
		if r := s.register(a.id, s.proves(a, a.id, s.challenged(a.id, a.shows()))); r.GroupID != "b-reel" {
			t.Errorf("%+v", r)
		}
		considered := s.decisions(a.id)[0].Considered
		if len(considered) != 2 || considered[0].Decided || considered[0].ID != "a-reel" || !considered[1].Decided {
			t.Errorf("considered %+v", considered)
		}
	})
	t.Run("an individual enrollment hides the groups", func(t *testing.T) {
		s := today(t)
		s.enroll(ofTPMs("reel", bench))
		s.enroll(byTPM(a.id, b.keys))
		s.refused(errs.CodeBadRequest, a.id, a.shows())
		s.enroll(byTPM("pump-7", a.keys)) // under a name that no group would take
		if r := s.register("pump-7", s.proves(a, "pump-7", s.challenged("pump-7", a.shows()))); r.GroupID != "" || r.EndorsementKey != nil {
			t.Errorf("%+v", r)
		}
	})
	t.Run("a device moves from its group to an enrollment of its own, and back", func(t *testing.T) {
		s := today(t)
		s.enroll(ofTPMs("reel", bench))
		s.register(a.id, s.proves(a, a.id, s.challenged(a.id, a.shows())))
		s.enroll(byTPM(a.id, a.keys))
		r := s.register(a.id, s.proves(a, a.id, s.challenged(a.id, a.shows())))
		if r.GroupID != "" || r.EndorsementKey != nil || r.Substatus != provision.ReprovisionedToInitialAssignment {
			t.Errorf("by its own: %+v", r)
		}
		if err := s.enroller.Delete(t.Context(), operator, scope, enroll.Individual, a.id, nil); err != nil {
			t.Fatal(err)
		}
		if r := s.register(a.id, s.proves(a, a.id, s.challenged(a.id, a.shows()))); r.GroupID != "reel" || r.EndorsementKey == nil {
			t.Errorf("by its group: %+v", r)
		}
	})
	t.Run("a list is replaced while devices come", func(t *testing.T) {
		s := today(t)
		s.enroll(ofTPMs("reel", attest.TPMGroup{List: &attest.EKList{}}))
		s.refused(errs.CodeUnauthorizedAccess, a.id, a.shows())
		g, err := s.enroller.PutEndorsementKeys(t.Context(), operator, scope, "REEL", reel(t, a), nil)
		if err != nil || g.Attestation.TPMGroup.List.Count != 1 {
			t.Fatalf("%+v, %v", g, err)
		}
		s.challenged(a.id, a.shows())
		stale := func(string) bool { return false }
		if _, err := s.enroller.PutEndorsementKeys(t.Context(), operator, scope, "reel", reel(t, b), stale); errs.KindOf(err) != errs.Precondition {
			t.Errorf("with an old tag: %v", err)
		}
		if _, err := s.enroller.PutEndorsementKeys(t.Context(), operator, scope, "reel", reel(t, b), nil); err != nil {
			t.Fatal(err)
		}
		s.refused(errs.CodeUnauthorizedAccess, a.id, a.shows())
		s.challenged(b.id, b.shows())
		s.enroll(ofTPMs("reel", attest.TPMGroup{List: &attest.EKList{}})) // as who changes something else
		s.challenged(b.id, b.shows())
		if _, err := s.enroller.PutEndorsementKeys(t.Context(), operator, scope, "reels", reel(t, b), nil); errs.Public(err).Code != errs.CodeEnrollmentNotFound {
			t.Errorf("no such group: %v", err)
		}
		s.enroll(byKey(enroll.Group, "keys", key(1), key(2)))
		if _, err := s.enroller.PutEndorsementKeys(t.Context(), operator, scope, "keys", reel(t, b), nil); errs.KindOf(err) != errs.Invalid {
			t.Errorf("a group of keys: %v", err)
		}
	})
}

// A list that the database holds under a group that names another one is not
// taken for it.
func TestTPMGroupWithAnotherList(t *testing.T) {
	plant := newMaker(t)
	a := plant.chip()
	s := newService(t, func(c *provision.Config) { c.Enrollments = otherList{c.Enrollments, reel(t, a).Marshal()} })
	s.enroll(ofTPMs("reel", attest.TPMGroup{List: reel(t, a, plant.chip()).Stored()}))
	_, err := s.registrar.Register(t.Context(), request(a.id, a.shows()))
	if errs.KindOf(err) != errs.Unavailable {
		t.Errorf("error %v", err)
	}
}

type otherList struct {
	provision.EnrollmentReader
	keys []byte
}

func (o otherList) EndorsementKeys(context.Context, device.IDScope, device.RegistrationID) ([]byte, error) {
	return o.keys, nil
}
