package ekcert

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/tpm"
)

// Evidence is what a device shows of its endorsement key, read once for all the
// groups that judge it.
type Evidence struct {
	public      []byte // TPM2B_PUBLIC
	key         *tpm.Public
	keyFault    error
	certificate *Certificate // nil for none
	chainFault  error        // of what was shown as the certificate, or above it
}

// ReadEvidence reads what a device shows: its endorsement key (TPM2B_PUBLIC, TPM
// 2.0 Library Part 2 §12.2.5), the certificate of that as Parse takes it, and the
// chain above as ParseChain does. The last two may be empty. Faults become
// findings of the verdicts.
func ReadEvidence(ek, certificate, chain []byte) Evidence {
	e := Evidence{public: ek}
	if e.key, e.keyFault = tpm.ParsePublic(ek); e.keyFault == nil {
		e.keyFault = tpm.CheckEK(e.key)
	}
	if len(certificate) == 0 {
		return e
	}
	c, err := Parse(certificate)
	if err == nil {
		c.Chain, err = ParseChain(chain)
	}
	if err != nil {
		e.chainFault = err
		return e
	}
	e.certificate = c
	return e
}

// A Group is what a TPM group knows of the TPMs it admits. Its zero value admits
// none.
type Group struct {
	List   *List   // those of a reel; nil for none
	Policy *Policy // those with a certificate; nil for none
	// Trust says what of Policy comes from the trust store, for the findings; empty
	// when none does.
	Trust string
}

// Admit judges whether the group takes in the device that shows e and claims the
// registration ID id. known reports whether the endorsement key is one of the
// group's: then the group governs the device, and its verdict is final even
// where it refuses.
//
// A group does not say which of its TPMs is which device, so the key itself must:
// the registration ID is the one derived from it (tpm.RegistrationID). Were it
// free, any TPM of the reel could take the name of any device that has not
// registered yet, or of one that has, and with it that one's place at the hub.
//
// Acceptance proves nothing about the device yet: keys and certificates are
// public. What is sealed to the key, only its TPM can open.
func (g Group) Admit(e Evidence, id string, now time.Time) (known bool, v attest.Verdict) {
	if e.keyFault != nil {
		v.Refuse(errs.New(errs.Invalid, errs.CodeBadRequest, "Endorsement key is invalid."), "endorsement key", "%v", e.keyFault)
		return false, v
	}
	known = g.lists(e, &v)
	if !known {
		certified := g.certifies(e, now)
		v.Findings = append(v.Findings, certified.Findings...)
		known = certified.Accepted()
	}
	if !known {
		v.Refusal = attest.Unauthorized()
		return false, v
	}
	if own := tpm.RegistrationID(e.public); !strings.EqualFold(id, own) {
		v.Refuse(attest.Unauthorized(), "registration ID", "a device of a TPM group is named by its endorsement key: %s", own)
		return true, v
	}
	v.Saw("registration ID", "it is the one of the endorsement key")
	return true, v
}

// lists looks the key up. A list vouches for where a key came from, not for how
// it was made.
func (g Group) lists(e Evidence, v *attest.Verdict) bool {
	finding := func(ok bool, format string, args ...any) bool {
		v.Findings = append(v.Findings, attest.Finding{Check: "list", OK: ok, Detail: fmt.Sprintf(format, args...)})
		return ok
	}
	switch {
	case g.List == nil:
		return false
	case !g.List.Contains(e.public):
		return finding(false, "the endorsement key is not among the %d of the group", g.List.Len())
	case weakGenerator(e.key):
		return finding(false, "the endorsement key is listed, and was made by the weak RSA key generator of CVE-2017-15361: the private key can be computed from it")
	}
	return finding(true, "the endorsement key is one of the %d of the group", g.List.Len())
}

// certifies judges the certificate.
func (g Group) certifies(e Evidence, now time.Time) (v attest.Verdict) {
	if g.Policy == nil {
		v.Refusal = invalid()
		return v
	}
	if g.Trust != "" {
		v.Saw("trust store", "%s", g.Trust)
	}
	if e.chainFault != nil {
		v.Refuse(invalid(), "certificate", "%v", e.chainFault)
		return v
	}
	certified := Verify(e.certificate, e.key, *g.Policy, now)
	v.Findings, v.Refusal = append(v.Findings, certified.Findings...), certified.Refusal
	return v
}

// ParsePolicy reads the certificates and filters of a TPM group; nil if it has
// none. An error names the member, as the service API spells it below
// endorsementCertificates. Whether the policy can be meant is for Check to say.
func ParsePolicy(g attest.TPMGroup) (*Policy, error) {
	var p Policy
	for _, slot := range []struct {
		member string
		ders   [][]byte
		parsed *[]*x509.Certificate
	}{{"roots", g.Roots, &p.Roots}, {"intermediates", g.Intermediates, &p.Intermediates}, {"testRoots", g.TestRoots, &p.TestRoots}} {
		for i, der := range slot.ders {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, fmt.Errorf("%s[%d]: not an X.509 certificate", slot.member, i)
			}
			*slot.parsed = append(*slot.parsed, c)
		}
	}
	for i, name := range g.Manufacturers {
		m, err := ParseManufacturer(name)
		if err != nil {
			return nil, fmt.Errorf("manufacturers[%d]: %w", i, err)
		}
		p.Manufacturers = append(p.Manufacturers, m)
	}
	for i, model := range g.Models {
		if model == "" {
			return nil, fmt.Errorf("models[%d]: is empty", i)
		}
		p.Models = append(p.Models, model)
	}
	for i, r := range g.Firmware {
		rule, err := parseFirmwareRule(r)
		if err != nil {
			return nil, fmt.Errorf("firmware[%d].%w", i, err)
		}
		p.Firmware = append(p.Firmware, rule)
	}
	for i, vendor := range g.Vendors {
		if vendor == "" {
			return nil, fmt.Errorf("vendors[%d]: is empty", i)
		}
	}
	p.Trusted, p.TrustedTest, p.Vendors = g.Trusted, g.TrustedTest, g.Vendors
	if p.isZero() {
		return nil, nil
	}
	return &p, nil
}

func parseFirmwareRule(r attest.FirmwareRule) (FirmwareRule, error) {
	m, err := ParseManufacturer(r.Manufacturer)
	if err != nil {
		return FirmwareRule{}, fmt.Errorf("manufacturer: %w", err)
	}
	oldest, err := ParseFirmware(r.Oldest)
	if err != nil {
		return FirmwareRule{}, fmt.Errorf("oldest: %w", err)
	}
	return FirmwareRule{Manufacturer: m, Model: r.Model, Oldest: oldest}, nil
}

func (p *Policy) isZero() bool {
	return !p.Trusted && !p.TrustedTest &&
		len(p.Roots)+len(p.Intermediates)+len(p.TestRoots)+len(p.Manufacturers)+len(p.Models)+len(p.Firmware)+len(p.Vendors) == 0
}

// Stored returns l as a TPM group refers to it, with its keys to be stored.
func (l *List) Stored() *attest.EKList {
	keys := l.Marshal()
	return &attest.EKList{Digest: attest.Thumbprint(keys), Count: l.Len(), Keys: keys}
}

// ParseStored reads the keys of a TPM group's list and holds them against what
// the group says of it, so that no other list takes its place.
func ParseStored(of attest.EKList, keys []byte) (*List, error) {
	l, err := UnmarshalList(keys)
	if err != nil {
		return nil, err
	}
	if attest.Thumbprint(keys) != of.Digest || l.Len() != of.Count {
		return nil, errors.New("EK list: not the one that the group names")
	}
	return l, nil
}
