package admin

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// Certificates keeps the CA certificates that enrollment groups may name. Every
// method checks the caller's right; each write is durable when it returns. Where
// there is no such certificate the error is of kind errs.NotFound. A match may be
// nil.
type Certificates interface {
	// CACertificates returns all of scope, ordered by name.
	CACertificates(ctx context.Context, caller access.Caller, scope device.IDScope) ([]provision.CACertificate, error)
	// CACertificate returns the one of a name.
	CACertificate(ctx context.Context, caller access.Caller, scope device.IDScope, name string) (*provision.CACertificate, error)
	// PutCACertificate keeps a new one (match nil) or replaces one.
	PutCACertificate(ctx context.Context, caller access.Caller, u enroll.Upload, match provision.Precondition) (*provision.CACertificate, error)
	// GenerateVerificationCode gives one a fresh code to prove its key with.
	GenerateVerificationCode(ctx context.Context, caller access.Caller, scope device.IDScope, name string, match provision.Precondition) (*provision.CACertificate, error)
	// VerifyCACertificate takes the proof (DER) that its key is the caller's.
	VerifyCACertificate(ctx context.Context, caller access.Caller, scope device.IDScope, name string, proof []byte, match provision.Precondition) (*provision.CACertificate, error)
	// DeleteCACertificate removes one and returns it.
	DeleteCACertificate(ctx context.Context, caller access.Caller, scope device.IDScope, name string, match provision.Precondition) (*provision.CACertificate, error)
}

func (f front) certificateRoutes() []rest.Route {
	const one = "/berth/v1/certificates/{name}"
	return []rest.Route{
		{Method: http.MethodGet, Pattern: "/berth/v1/certificates", Serve: f.operator(f.listCertificates)},
		{Method: http.MethodGet, Pattern: one, Serve: f.operator(f.certificate)},
		{Method: http.MethodPut, Pattern: one, Serve: f.operator(f.putCertificate)},
		{Method: http.MethodDelete, Pattern: one, Serve: f.operator(f.deleteCertificate)},
		{Method: http.MethodPost, Pattern: one + "/verificationCode", Serve: f.operator(f.verificationCode)},
		{Method: http.MethodPost, Pattern: one + "/verify", Serve: f.operator(f.verifyCertificate)},
	}
}

func (f front) listCertificates(w http.ResponseWriter, r call) error {
	kept, err := f.Certificates.CACertificates(r.Context(), r.caller, r.scope.ID)
	if err != nil {
		return err
	}
	bodies := make([]dpsjson.CACertificate, len(kept))
	for i, c := range kept {
		if bodies[i], err = certificateBody(&c); err != nil {
			return err
		}
	}
	return answer(w, bodies)
}

func (f front) certificate(w http.ResponseWriter, r call) error {
	c, err := f.Certificates.CACertificate(r.Context(), r.caller, r.scope.ID, r.PathValue("name"))
	return answerCertificate(w, c, err)
}

func (f front) putCertificate(w http.ResponseWriter, r call) error {
	u, err := readUpload(w, r)
	if err != nil {
		return err
	}
	c, err := f.Certificates.PutCACertificate(r.Context(), r.caller, enroll.Upload{
		Scope: r.scope.ID, Name: r.PathValue("name"), Certificate: u.Certificate, Verified: u.IsVerified,
	}, precondition(r))
	return answerCertificate(w, c, err)
}

// deleteCertificate answers with what was removed, so that the operator sees the
// groups that lose it.
func (f front) deleteCertificate(w http.ResponseWriter, r call) error {
	c, err := f.Certificates.DeleteCACertificate(r.Context(), r.caller, r.scope.ID, r.PathValue("name"), precondition(r))
	return answerCertificate(w, c, err)
}

func (f front) verificationCode(w http.ResponseWriter, r call) error {
	c, err := f.Certificates.GenerateVerificationCode(r.Context(), r.caller, r.scope.ID, r.PathValue("name"), precondition(r))
	return answerCertificate(w, c, err)
}

func (f front) verifyCertificate(w http.ResponseWriter, r call) error {
	u, err := readUpload(w, r)
	if err != nil {
		return err
	}
	if u.Certificate == nil {
		return invalid("certificate: is missing")
	}
	c, err := f.Certificates.VerifyCACertificate(r.Context(), r.caller, r.scope.ID, r.PathValue("name"), u.Certificate, precondition(r))
	return answerCertificate(w, c, err)
}

func readUpload(w http.ResponseWriter, r call) (u dpsjson.CACertificateUpload, err error) {
	if err := rest.RequireJSON(r.Request.Request); err != nil {
		return u, err
	}
	body, err := rest.ReadBody(w, r.Request.Request, dpsjson.MaxBody)
	if err != nil {
		return u, err
	}
	if u, err = dpsjson.DecodeCACertificateUpload(body); err != nil {
		return u, invalid("%s", err)
	}
	return u, nil
}

// precondition is what the caller's If-Match asks, nil where there is none.
func precondition(r call) provision.Precondition {
	ifMatch := r.Header.Get("If-Match")
	if ifMatch == "" {
		return nil
	}
	return func(token string) bool { return dpsjson.MatchETag(ifMatch, dpsjson.EncodeETag(token)) }
}

func answerCertificate(w http.ResponseWriter, c *provision.CACertificate, err error) error {
	if err != nil {
		return err
	}
	body, err := certificateBody(c)
	if err != nil {
		return err
	}
	return answer(w, body)
}

func certificateBody(c *provision.CACertificate) (dpsjson.CACertificate, error) {
	certificate, err := x509.ParseCertificate(c.Certificate)
	if err != nil {
		return dpsjson.CACertificate{}, fmt.Errorf("parsing the stored CA certificate %q: %w", c.Name, err)
	}
	info := dpsjson.CertificateInfo(certificate)
	return dpsjson.CACertificate{Name: c.Name, ETag: dpsjson.EncodeETag(c.ETag), Properties: dpsjson.CACertificateProperties{
		Certificate: c.Certificate, Subject: info.SubjectName, Expiry: dpsjson.Date(info.NotAfterUTC),
		Thumbprint: info.SHA1Thumbprint, SHA256Thumbprint: info.SHA256Thumbprint,
		IsVerified: c.Verified, VerificationCode: c.VerificationCode,
		Created: dpsjson.Date(c.Created), Updated: dpsjson.Date(c.Updated), EnrollmentGroups: c.Groups,
	}}, nil
}
