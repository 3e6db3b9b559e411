package provision

import (
	"context"
	"fmt"
	"slices"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/x509id"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

// A CACertificate is a CA certificate that the service keeps, and the IDs of the
// enrollment groups that name it.
type CACertificate struct {
	enroll.CACertificate
	Groups []string
}

// CACertificates returns the CA certificates of scope, ordered by name.
func (e *Enroller) CACertificates(ctx context.Context, caller access.Caller, scope device.IDScope) ([]CACertificate, error) {
	if err := caller.Require(access.ServiceConfig); err != nil {
		return nil, err
	}
	kept, err := e.Store.CACertificates(ctx, scope)
	if err != nil {
		return nil, fmt.Errorf("listing the CA certificates: %w", err)
	}
	all := make([]CACertificate, len(kept))
	for i, c := range kept {
		described, err := e.describe(ctx, scope, c)
		if err != nil {
			return nil, err
		}
		all[i] = *described
	}
	return all, nil
}

// CACertificate returns the CA certificate of a name, or an error of kind
// errs.NotFound.
func (e *Enroller) CACertificate(ctx context.Context, caller access.Caller, scope device.IDScope, name string) (*CACertificate, error) {
	if err := caller.Require(access.ServiceConfig); err != nil {
		return nil, err
	}
	c, err := e.Store.CACertificate(ctx, scope, name)
	if err != nil {
		return nil, err
	}
	return e.describe(ctx, scope, c)
}

// PutCACertificate keeps a CA certificate (match nil) or replaces one whose entity
// tag match accepts. Groups that name one which is not verified any more admit
// nobody through it. The errors are those of enroll.UploadCACertificate.
func (e *Enroller) PutCACertificate(ctx context.Context, caller access.Caller, u enroll.Upload, match Precondition) (*CACertificate, error) {
	if err := caller.Require(access.ServiceConfig); err != nil {
		return nil, err
	}
	kept, err := e.Store.CACertificates(ctx, u.Scope)
	if err != nil {
		return nil, fmt.Errorf("counting the CA certificates: %w", err)
	}
	isThere := slices.ContainsFunc(kept, func(c *enroll.CACertificate) bool { return c.Key() == enroll.CertificateKey(u.Name) })
	if len(kept) >= enroll.MaxCACertificates && !isThere {
		return nil, errs.New(errs.Invalid, errs.CodeBadRequest, "name: there are %d CA certificates already; %d are allowed", len(kept), enroll.MaxCACertificates)
	}
	return e.changeCACertificate(ctx, u.Scope, u.Name, func(old *enroll.CACertificate) (*enroll.CACertificate, error) {
		return enroll.UploadCACertificate(old, u, match, e.Now(), e.Random)
	})
}

// GenerateVerificationCode gives a CA certificate a fresh code to prove its key
// with. match may be nil.
func (e *Enroller) GenerateVerificationCode(ctx context.Context, caller access.Caller, scope device.IDScope, name string, match Precondition) (*CACertificate, error) {
	if err := caller.Require(access.ServiceConfig); err != nil {
		return nil, err
	}
	return e.changeCACertificate(ctx, scope, name, func(old *enroll.CACertificate) (*enroll.CACertificate, error) {
		return enroll.GenerateVerificationCode(old, match, e.Now(), e.Random)
	})
}

// VerifyCACertificate takes the proof (DER) that the CA's key is in the hands of
// who uploaded its certificate. match may be nil. The errors are those of
// enroll.VerifyCACertificate.
func (e *Enroller) VerifyCACertificate(ctx context.Context, caller access.Caller, scope device.IDScope, name string, proof []byte, match Precondition) (*CACertificate, error) {
	if err := caller.Require(access.ServiceConfig); err != nil {
		return nil, err
	}
	return e.changeCACertificate(ctx, scope, name, func(old *enroll.CACertificate) (*enroll.CACertificate, error) {
		return enroll.VerifyCACertificate(old, proof, match, e.Now(), e.Random)
	})
}

// DeleteCACertificate removes a CA certificate if match (which may be nil) accepts
// its entity tag, and returns it. The groups that name it stay, and admit nobody
// through it any more: that is how a CA is revoked.
func (e *Enroller) DeleteCACertificate(ctx context.Context, caller access.Caller, scope device.IDScope, name string, match Precondition) (*CACertificate, error) {
	if err := caller.Require(access.ServiceConfig); err != nil {
		return nil, err
	}
	var removed enroll.CACertificate
	err := e.Store.ChangeCACertificate(ctx, scope, name, func(old *enroll.CACertificate) (*enroll.CACertificate, error) {
		if err := enroll.RemoveCACertificate(old, match); err != nil {
			return nil, err
		}
		removed = *old
		return nil, nil
	})
	if err != nil {
		return nil, err
	}
	return e.describe(ctx, scope, &removed)
}

func (e *Enroller) changeCACertificate(ctx context.Context, scope device.IDScope, name string, change func(*enroll.CACertificate) (*enroll.CACertificate, error)) (*CACertificate, error) {
	var written *enroll.CACertificate
	err := e.Store.ChangeCACertificate(ctx, scope, name, func(old *enroll.CACertificate) (_ *enroll.CACertificate, err error) {
		written, err = change(old)
		return written, err
	})
	if err != nil {
		return nil, err
	}
	return e.describe(ctx, scope, written)
}

// describe says which groups name c.
func (e *Enroller) describe(ctx context.Context, scope device.IDScope, c *enroll.CACertificate) (*CACertificate, error) {
	groups, err := e.Store.Groups(ctx, scope, attest.TypeX509)
	if err != nil {
		return nil, fmt.Errorf("reading the enrollment groups: %w", err)
	}
	described := &CACertificate{CACertificate: *c}
	for _, g := range groups {
		if slices.ContainsFunc(references(g), func(r reference) bool { return r.key() == c.Key() }) {
			described.Groups = append(described.Groups, g.ID)
		}
	}
	return described, nil
}

// A reference is the name of a CA certificate in an enrollment group.
type reference struct{ member, name string }

func (r reference) key() string { return enroll.CertificateKey(r.name) }

// references returns the CA certificates that e, which may be nil, names.
func references(e *enroll.Entry) []reference {
	if e == nil || e.Attestation.X509 == nil || e.Attestation.X509.Use != attest.CAReferences {
		return nil
	}
	named := []reference{{"attestation.x509.caReferences.primary", e.Attestation.X509.PrimaryReference}}
	if second := e.Attestation.X509.SecondaryReference; second != "" {
		named = append(named, reference{"attestation.x509.caReferences.secondary", second})
	}
	return named
}

// unfitReferences returns what stands against the CA certificates that next names,
// by their keys.
func (e *Enroller) unfitReferences(ctx context.Context, next *enroll.Entry) (map[string]error, error) {
	unfit := make(map[string]error)
	for _, r := range references(next) {
		c, err := e.Store.CACertificate(ctx, next.Scope, r.name)
		switch {
		case errs.KindOf(err) == errs.NotFound:
			unfit[r.key()] = errs.New(errs.Invalid, errs.CodeBadRequest, "%s: there is no CA certificate %q", r.member, r.name)
		case err != nil:
			return nil, fmt.Errorf("reading the CA certificate %q: %w", r.name, err)
		case !c.Verified:
			unfit[r.key()] = errs.New(errs.Invalid, errs.CodeBadRequest, "%s: the CA certificate %q is not verified; prove that its key is yours first", r.member, c.Name)
		}
	}
	return unfit, nil
}

// checkReferences refuses a group that begins to name a CA certificate which is
// not fit to be named. One that names it already can be changed in other ways:
// disabled, for one.
func checkReferences(old, next *enroll.Entry, unfit map[string]error) error {
	for _, r := range references(next) {
		before := slices.ContainsFunc(references(old), func(b reference) bool { return b.key() == r.key() })
		if err := unfit[r.key()]; err != nil && !before {
			return err
		}
	}
	return nil
}

// authorities are what X.509 groups go by.
type authorities struct {
	trusted []x509id.Authority
	owners  []*enroll.Entry   // of the trusted, one each
	broken  []brokenReference // what admits nobody
}

// A brokenReference is the name of a CA certificate that is not there, or is not
// verified.
type brokenReference struct {
	group *enroll.Entry
	name  string
	kept  bool // so it is not verified
}

func (b brokenReference) finding() attest.Finding {
	f := attest.Finding{Check: "CA reference", Detail: fmt.Sprintf("the CA certificate %q that it names is not there any more", b.name)}
	if b.kept {
		f.Detail = fmt.Sprintf("the CA certificate %q that it names is not verified", b.name)
	}
	return f
}

// authoritiesOf resolves what groups go by at this moment: their own certificates, and
// those that the service keeps for them.
func (r *Registrar) authoritiesOf(ctx context.Context, scope device.IDScope, groups []*enroll.Entry) (a authorities, err error) {
	var kept map[string]*enroll.CACertificate // read once a group names one
	for _, g := range groups {
		ders := [][]byte{g.Attestation.X509.Primary, g.Attestation.X509.Secondary}
		for _, ref := range references(g) {
			if kept == nil {
				if kept, err = r.caCertificates(ctx, scope); err != nil {
					return authorities{}, err
				}
			}
			c := kept[ref.key()]
			if c == nil || !c.Verified {
				a.broken = append(a.broken, brokenReference{g, ref.name, c != nil})
				continue
			}
			ders = append(ders, c.Certificate)
		}
		for _, der := range ders {
			if cert := r.certificates.parse(der); cert != nil {
				a.trusted, a.owners = append(a.trusted, x509id.Authority{Group: g.ID, Certificate: cert}), append(a.owners, g)
			}
		}
	}
	return a, nil
}

func (r *Registrar) caCertificates(ctx context.Context, scope device.IDScope) (map[string]*enroll.CACertificate, error) {
	all, err := r.Enrollments.CACertificates(ctx, scope)
	if err != nil {
		return nil, fmt.Errorf("reading the CA certificates: %w", err)
	}
	kept := make(map[string]*enroll.CACertificate, len(all))
	for _, c := range all {
		kept[c.Key()] = c
	}
	return kept, nil
}

// findings says why g, none of whose CAs signed, did not admit a device.
func (a *authorities) findings(g *enroll.Entry) []attest.Finding {
	var found []attest.Finding
	for _, b := range a.broken {
		if b.group == g {
			found = append(found, b.finding())
		}
	}
	if slices.Contains(a.owners, g) {
		found = append(found, attest.Finding{Check: "authority", Detail: "its CA did not sign the presented chain"})
	}
	return found
}
