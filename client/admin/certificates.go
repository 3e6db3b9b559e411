package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// CACertificates returns the CA certificates that enrollment groups may name,
// ordered by name.
func (c *Client) CACertificates(ctx context.Context) ([]dpsjson.CACertificate, error) {
	var kept []dpsjson.CACertificate
	if err := c.call(ctx, http.MethodGet, "certificates", nil, &kept); err != nil {
		return nil, fmt.Errorf("listing the CA certificates: %w", err)
	}
	return kept, nil
}

// CACertificate returns the CA certificate of a name, which is compared without
// case.
func (c *Client) CACertificate(ctx context.Context, name string) (*dpsjson.CACertificate, error) {
	return c.certificate(ctx, "reading", rest.Request{Method: http.MethodGet, Repeatable: true}, name, "", nil)
}

// PutCACertificate keeps a CA certificate, DER, under a name that is new (etag
// empty) or has the given entity tag, * for any. verified true skips the proof
// that its key is at hand, false takes one back, and nil keeps what was proved
// about the same certificate.
func (c *Client) PutCACertificate(ctx context.Context, name string, certificate []byte, verified *bool, etag string) (*dpsjson.CACertificate, error) {
	body := &dpsjson.CACertificateUpload{Certificate: certificate, IsVerified: verified}
	return c.certificate(ctx, "uploading", rest.Request{Method: http.MethodPut, Header: match(etag)}, name, "", body)
}

// GenerateVerificationCode asks for a proof that the CA's key is at hand, provided
// that its certificate has the given entity tag, or in any case if that is empty.
// The answer has the code; the proof is a certificate that the CA signs, whose
// subject has the code as its one common name. A new code voids the one before.
func (c *Client) GenerateVerificationCode(ctx context.Context, name, etag string) (*dpsjson.CACertificate, error) {
	return c.certificate(ctx, "asking for a verification code of", rest.Request{Method: http.MethodPost, Header: match(etag)}, name, "/verificationCode", nil)
}

// VerifyCACertificate proves it with a certificate, DER. The entity tag is as in
// GenerateVerificationCode.
func (c *Client) VerifyCACertificate(ctx context.Context, name string, proof []byte, etag string) (*dpsjson.CACertificate, error) {
	body := &dpsjson.CACertificateUpload{Certificate: proof}
	return c.certificate(ctx, "verifying", rest.Request{Method: http.MethodPost, Header: match(etag)}, name, "/verify", body)
}

// DeleteCACertificate removes a CA certificate and returns it with the groups that
// lose it: they admit nobody through it any more. The entity tag is as in
// GenerateVerificationCode.
func (c *Client) DeleteCACertificate(ctx context.Context, name, etag string) (*dpsjson.CACertificate, error) {
	return c.certificate(ctx, "removing", rest.Request{Method: http.MethodDelete, Header: match(etag)}, name, "", nil)
}

func match(etag string) http.Header {
	if etag == "" {
		return nil
	}
	return http.Header{"If-Match": {etag}}
}

// certificate makes a call about one CA certificate, which the server answers with.
func (c *Client) certificate(ctx context.Context, doing string, r rest.Request, name, operation string, body *dpsjson.CACertificateUpload) (*dpsjson.CACertificate, error) {
	if name == "" {
		return nil, errors.New(doing + " a CA certificate: the name is empty")
	}
	if body != nil {
		var err error
		if r.Body, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	r.Path, r.Authorize, r.MaxAnswer = "/berth/v1/certificates/"+url.PathEscape(name)+operation, c.authorize, maxAnswer
	answer, err := c.rest.Do(ctx, r)
	var kept dpsjson.CACertificate
	if err == nil {
		err = answer.JSON(&kept)
	}
	if err != nil {
		return nil, fmt.Errorf("%s the CA certificate %s: %w", doing, name, err)
	}
	return &kept, nil
}
