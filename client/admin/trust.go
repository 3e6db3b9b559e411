package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/provision"
)

// maxTrust bounds answers about a trust store in bytes: a full one has ten
// thousand certificates.
const maxTrust = 64 << 20

// Trust is the trust store of TPM vendors' CA certificates, and the digest of
// what is in it (see [ekcert.DigestOf]).
type Trust struct {
	ekcert.Trust
	Digest string `json:"digest"`
}

// Trust returns the trust store.
func (c *Client) Trust(ctx context.Context) (*Trust, error) {
	var now Trust
	if err := c.trust(ctx, http.MethodGet, "", nil, &now); err != nil {
		return nil, fmt.Errorf("reading the trust store: %w", err)
	}
	return &now, nil
}

// TrustVersions returns every change of the trust store, newest first.
func (c *Client) TrustVersions(ctx context.Context) ([]ekcert.TrustVersion, error) {
	var versions []ekcert.TrustVersion
	if err := c.trust(ctx, http.MethodGet, "/versions", nil, &versions); err != nil {
		return nil, fmt.Errorf("reading the history of the trust store: %w", err)
	}
	return versions, nil
}

// ImportTrust takes what is fit of an offer into the trust store, at most 8 MiB in
// base64, and returns what became of each certificate. dryRun changes nothing.
func (c *Client) ImportTrust(ctx context.Context, offer ekcert.Offer, dryRun bool) (*provision.TrustReport, error) {
	type certificate struct {
		Certificate []byte `json:"certificate"`
		Root        bool   `json:"root"`
		Vendor      string `json:"vendor"`
		File        string `json:"file"`
	}
	var certificates []certificate
	for _, a := range offer.Anchors {
		certificates = append(certificates, certificate{a.Certificate, a.Root, a.Vendor, a.File})
	}
	var report provision.TrustReport
	err := c.trust(ctx, http.MethodPost, "", map[string]any{
		"source": offer.Source, "test": offer.Test, "dryRun": dryRun, "certificates": certificates,
	}, &report)
	if err != nil {
		return nil, fmt.Errorf("importing into the trust store: %w", err)
	}
	return &report, nil
}

// RemoveTrust takes certificates out of the trust store, named by their SHA-256
// thumbprints, and returns which groups went by them. source says why, for the
// history. dryRun changes nothing.
func (c *Client) RemoveTrust(ctx context.Context, thumbprints []string, source string, dryRun bool) (*provision.TrustReport, error) {
	var report provision.TrustReport
	err := c.trust(ctx, http.MethodPost, "/remove", map[string]any{"thumbprints": thumbprints, "source": source, "dryRun": dryRun}, &report)
	if err != nil {
		return nil, fmt.Errorf("removing from the trust store: %w", err)
	}
	return &report, nil
}

// trust makes a call. An import can be repeated: what is there already changes
// nothing. A removal is not, since its second answer would be that there is
// nothing to remove.
func (c *Client) trust(ctx context.Context, method, path string, body, v any) error {
	var encoded []byte
	if body != nil {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			return err
		}
	}
	answer, err := c.rest.Do(ctx, rest.Request{
		Method: method, Path: "/berth/v1/trust" + path, Body: encoded, Authorize: c.authorize, Repeatable: path != "/remove", MaxAnswer: maxTrust,
	})
	if err != nil {
		return err
	}
	return answer.JSON(v)
}
