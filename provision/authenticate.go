package provision

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"sync"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/symkey"
	"github.com/berth-iot/berth/attest/tpmid"
	"github.com/berth-iot/berth/attest/x509id"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/tpm"
)

// hubURIBound is the longest text a blob may carry beside its key (TPM 2.0
// limits the buffer it is decrypted in, and clients on AMQP the blob).
const hubURIBound = 174

// An admission is a device that proved who it is.
type admission struct {
	entry *enroll.Entry
	// What the hub is to know it by: one of keys and thumbprint, or for a TPM
	// a key yet to be made.
	keys       attest.SymmetricKeys
	thumbprint string
	tpm        *tpmid.Keys
	held       tpmKeys // tpm as it was presented
}

// A claimant is a device that says who it is and has proved nothing yet.
type claimant struct {
	Request
	scope *Scope
	key   device.RegistrationID
}

func (c claimant) line() line          { return line{c.scope.ID, c.key} }
func (c claimant) claim() attest.Claim { return attest.Claim{Scope: c.scope.ID, ID: c.ID} }

// authenticate finds what governs the device and holds its credential against
// it. held are the TPM keys that challenges may have been made for.
// The errors are what the device is told. With an error comes an admission only
// when a challenge could still prove the device.
func (r *Registrar) authenticate(ctx context.Context, c claimant, held []tpmKeys, d *Decision) (*admission, error) {
	entry, err := r.Enrollments.Entry(ctx, c.scope.ID, enroll.Individual, c.key)
	switch {
	case err == nil:
		return r.authenticateIndividual(c, entry, held, d)
	case errs.KindOf(err) != errs.NotFound:
		return nil, fmt.Errorf("reading the enrollment: %w", err)
	}
	if c.Credential.TPM != nil || heldByGroup(held) {
		groups, err := r.Enrollments.Groups(ctx, c.scope.ID, attest.TypeTPM)
		if err != nil {
			return nil, fmt.Errorf("reading the enrollment groups: %w", err)
		}
		if len(groups) > 0 {
			return r.authenticateByTPMGroup(ctx, c, groups, held, d)
		}
	}
	switch {
	case len(c.Credential.Chain) > 0 && c.Credential.Token == nil:
		return r.authenticateByCA(ctx, c, d)
	case c.Credential.Token != nil:
		return r.authenticateByGroupKey(ctx, c, d)
	}
	d.Fix = fixUnknown(c)
	return nil, enroll.NotFound()
}

// authenticateIndividual: an individual enrollment hides every group, and a
// disabled one blocks its ID.
func (r *Registrar) authenticateIndividual(c claimant, e *enroll.Entry, held []tpmKeys, d *Decision) (*admission, error) {
	a := &admission{entry: e}
	var v attest.Verdict
	switch e.Attestation.Type {
	case attest.TypeSymmetricKey:
		a.keys = *e.Attestation.SymmetricKey
		v = symkey.Verify(a.keys, c.Credential.Token, c.claim(), r.Now())
	case attest.TypeX509:
		x := e.Attestation.X509
		if v = x509id.VerifyIndividual(x.Primary, x.Secondary, c.Credential.Chain, c.ID, r.Now()); v.Accepted() {
			a.thumbprint = attest.Thumbprint(c.Credential.Chain[0].Raw)
		}
	case attest.TypeTPM:
		var err error
		if v, err = r.verifyTPM(c, a, held); err != nil {
			return nil, err
		}
	}
	d.consider(e, true, v.Findings)
	if v.Accepted() {
		return a, nil
	}
	d.Fix = fixRefused(c, e, v)
	if a.tpm != nil && v.Refusal.Kind == errs.Denied {
		return a, v.Refusal
	}
	return nil, v.Refusal
}

func (r *Registrar) authenticateByCA(ctx context.Context, c claimant, d *Decision) (*admission, error) {
	groups, err := r.Enrollments.Groups(ctx, c.scope.ID, attest.TypeX509)
	if err != nil {
		return nil, fmt.Errorf("reading the enrollment groups: %w", err)
	}
	a, err := r.authoritiesOf(ctx, c.scope.ID, groups)
	if err != nil {
		return nil, err
	}
	i, v := x509id.VerifyGroup(a.trusted, c.Credential.Chain, c.ID, r.Now())
	if i < 0 {
		for _, g := range groups {
			d.consider(g, false, a.findings(g))
		}
		d.Considered = append(d.Considered, Considered{Kind: enroll.Group, Findings: v.Findings})
		d.Fix = fixNoAuthority(c, a.broken)
		return nil, v.Refusal
	}
	owner := a.owners[i]
	d.consider(owner, true, v.Findings)
	if !v.Accepted() {
		d.Fix = fixRefused(c, owner, v)
		return nil, v.Refusal
	}
	return &admission{entry: owner, thumbprint: attest.Thumbprint(c.Credential.Chain[0].Raw)}, nil
}

// authenticateByGroupKey tries every symmetric key group, since a device does
// not name its group.
func (r *Registrar) authenticateByGroupKey(ctx context.Context, c claimant, d *Decision) (*admission, error) {
	groups, err := r.Enrollments.Groups(ctx, c.scope.ID, attest.TypeSymmetricKey)
	if err != nil {
		return nil, fmt.Errorf("reading the enrollment groups: %w", err)
	}
	for _, g := range groups {
		keys, v := symkey.VerifyDerived(*g.Attestation.SymmetricKey, c.Credential.Token, c.claim(), r.Now())
		decided := !keys.Primary.IsZero()
		d.consider(g, decided, v.Findings)
		switch {
		case v.Accepted():
			return &admission{entry: g, keys: keys}, nil
		case decided: // signed with this group's key, so no other group speaks for it
			d.Fix = fixRefused(c, g, v)
			return nil, v.Refusal
		}
	}
	d.Fix = fixUnknown(c, groups...)
	if len(groups) == 0 {
		return nil, enroll.NotFound()
	}
	return nil, attest.Unauthorized()
}

// verifyTPM holds the token against the nonce keys of every storage root key in
// question. When only the token is at fault, the refusal is of kind Denied and
// a.tpm holds the keys to challenge.
func (r *Registrar) verifyTPM(c claimant, a *admission, held []tpmKeys) (attest.Verdict, error) {
	var v attest.Verdict
	if c.Credential.TPM == nil && len(held) == 0 {
		v.Refuse(attest.Unauthorized(), "TPM keys", "the call holds no TPM keys, and no challenge is open for this device")
		return v, nil
	}
	for _, k := range held {
		k = tpmKeys{srk: k.srk} // the enrollment says which endorsement key
		presented := attest.TPM{EndorsementKey: a.entry.Attestation.TPM.EndorsementKey, StorageRootKey: k.srk}
		if c.Credential.TPM != nil {
			presented.EndorsementKey = c.Credential.TPM.EndorsementKey
		}
		keys, verdict := tpmid.VerifyKeys(*a.entry.Attestation.TPM, presented)
		if !verdict.Accepted() {
			return verdict, nil
		}
		if a.tpm == nil {
			a.tpm, a.held = &keys, k
		}
		var err error
		if v, err = r.verifyToken(c, keys); err != nil {
			return v, err
		}
		v.Findings = append(verdict.Findings, v.Findings...)
		if v.Accepted() {
			a.tpm, a.held = &keys, k
			return v, nil
		}
	}
	return v, nil
}

// verifyToken holds the token against the challenges that are still good. A call
// without one, such as every device's first, has no key derived.
func (r *Registrar) verifyToken(c claimant, keys tpmid.Keys) (attest.Verdict, error) {
	var nonces []device.SymmetricKey
	if c.Credential.Token != nil {
		for _, window := range tpmid.Windows(r.Now(), r.ChallengeWindow) {
			nonce, err := r.nonceKey(c, keys, window)
			if err != nil {
				return attest.Verdict{}, err
			}
			nonces = append(nonces, nonce)
		}
	}
	return tpmid.VerifyToken(nonces, c.Credential.Token, c.claim(), r.Now()), nil
}

// nonceKey derives the key of a challenge. It is derived, not kept: the first
// call of a stranger writes nothing, and any server with the same key can judge
// the second.
func (r *Registrar) nonceKey(c claimant, keys tpmid.Keys, window int64) (device.SymmetricKey, error) {
	b, err := r.Secrets.Derive(tpmid.NonceInfo(c.scope.ID, c.key, keys, window), 32)
	if err != nil {
		return device.SymmetricKey{}, fmt.Errorf("deriving a nonce key: %w", err)
	}
	nonce, err := device.NewSymmetricKey(b)
	if err != nil {
		return device.SymmetricKey{}, fmt.Errorf("deriving a nonce key: %w", err)
	}
	return nonce, nil
}

// challenge seals the current nonce key to the device's TPM.
func (r *Registrar) challenge(c claimant, a *admission) (*Challenge, error) {
	nonce, err := r.nonceKey(c, *a.tpm, tpmid.Windows(r.Now(), r.ChallengeWindow)[0])
	if err != nil {
		return nil, err
	}
	blob, err := tpm.Activation(r.Random, a.tpm.EndorsementKey, a.tpm.StorageRootKey, nonce.Bytes(), sealedText(string(c.scope.ID)+"/registrations/"+string(c.key)))
	if err != nil {
		return nil, fmt.Errorf("sealing a challenge: %w", err)
	}
	r.challenged.remember(c.line(), a.held, r.Now(), 2*r.ChallengeWindow)
	return &Challenge{Blob: blob, KeyName: tpmid.KeyName}, nil
}

// sealedText bounds what a blob says about its key's use; clients log it or
// ignore it.
func sealedText(s string) string { return s[:min(len(s), hubURIBound)] }

// certificates keeps parsed CA certificates, of which a service has few and
// every registration through a group needs all.
type certificates struct {
	mu     sync.Mutex // guards parsed
	parsed map[string]*x509.Certificate
}

const maxCertificates = 1024

func (c *certificates) parse(der []byte) *x509.Certificate {
	if len(der) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if cert := c.parsed[string(der)]; cert != nil {
		return cert
	}
	cert, err := x509.ParseCertificate(bytes.Clone(der))
	if err != nil {
		return nil // it was checked when it was enrolled
	}
	if c.parsed == nil || len(c.parsed) >= maxCertificates {
		c.parsed = make(map[string]*x509.Certificate)
	}
	c.parsed[string(der)] = cert
	return cert
}
