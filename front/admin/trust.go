package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/provision"
)

// Trust keeps the trust stores of scopes. It checks the caller's right, and what
// it changed is durable when it returns.
type Trust interface {
	// TrustAnchors returns what counts now.
	TrustAnchors(ctx context.Context, caller access.Caller, scope device.IDScope) (*ekcert.Trust, error)
	// TrustVersions returns every change, newest first.
	TrustVersions(ctx context.Context, caller access.Caller, scope device.IDScope) ([]ekcert.TrustVersion, error)
	// ImportTrust takes in what is fit of an offer, or says what it would.
	ImportTrust(ctx context.Context, caller access.Caller, scope device.IDScope, offer ekcert.Offer, dryRun bool) (*provision.TrustReport, error)
	// RemoveTrust takes certificates away, or says who would lose them.
	RemoveTrust(ctx context.Context, caller access.Caller, scope device.IDScope, thumbprints []string, source string, dryRun bool) (*provision.TrustReport, error)
}

const (
	// maxImport is the longest import that is read, in bytes: some four thousand
	// certificates in base64.
	maxImport = 8 << 20
	// importTimeout is how long its sender may take.
	importTimeout = 2 * time.Minute
	// maxRemoval is the longest list of thumbprints that is read, in bytes: that of
	// a full trust store.
	maxRemoval = 1 << 20
)

func (f front) trustRoutes() []rest.Route {
	return []rest.Route{
		{Method: http.MethodGet, Pattern: "/berth/v1/trust", Serve: f.operator(f.trust)},
		{Method: http.MethodGet, Pattern: "/berth/v1/trust/versions", Serve: f.operator(f.trustVersions)},
		{Method: http.MethodPost, Pattern: "/berth/v1/trust", Serve: f.operator(f.importTrust)},
		{Method: http.MethodPost, Pattern: "/berth/v1/trust/remove", Serve: f.operator(f.removeTrust)},
	}
}

// trustJSON is a trust store as it is.
type trustJSON struct {
	ekcert.Trust
	Digest string `json:"digest"` // of the anchors; see ekcert.DigestOf
}

func (f front) trust(w http.ResponseWriter, c call) error {
	now, err := f.Trust.TrustAnchors(c.Context(), c.caller, c.scope.ID)
	if err != nil {
		return err
	}
	body := trustJSON{*now, ekcert.DigestOf(now.Anchors)}
	if body.Anchors == nil {
		body.Anchors = []ekcert.TrustAnchor{}
	}
	return answer(w, body)
}

func (f front) trustVersions(w http.ResponseWriter, c call) error {
	versions, err := f.Trust.TrustVersions(c.Context(), c.caller, c.scope.ID)
	if err != nil {
		return err
	}
	if versions == nil {
		versions = []ekcert.TrustVersion{}
	}
	return answer(w, versions)
}

// importJSON is an offer as an operator sends it.
type importJSON struct {
	Source       string `json:"source"`
	Test         bool   `json:"test"`
	DryRun       bool   `json:"dryRun"`
	Certificates []struct {
		Certificate []byte `json:"certificate"` // DER
		Root        bool   `json:"root"`
		Vendor      string `json:"vendor"`
		File        string `json:"file"`
	} `json:"certificates"`
}

func (f front) importTrust(w http.ResponseWriter, c call) error {
	var sent importJSON
	connection := http.NewResponseController(w)
	connection.SetReadDeadline(f.Now().Add(importTimeout)) // where it cannot be set the server's own holds
	connection.SetWriteDeadline(f.Now().Add(2 * importTimeout))
	if err := readStrict(w, c, maxImport, &sent); err != nil {
		return err
	}
	if len(sent.Certificates) == 0 {
		return invalid("certificates: there is none")
	}
	offer := ekcert.Offer{Source: sent.Source, Test: sent.Test}
	for _, s := range sent.Certificates {
		offer.Anchors = append(offer.Anchors, ekcert.TrustAnchor{Certificate: s.Certificate, Root: s.Root, Vendor: s.Vendor, File: s.File})
	}
	report, err := f.Trust.ImportTrust(c.Context(), c.caller, c.scope.ID, offer, sent.DryRun)
	if err != nil {
		return err
	}
	return answer(w, report)
}

func (f front) removeTrust(w http.ResponseWriter, c call) error {
	var sent struct {
		Thumbprints []string `json:"thumbprints"`
		Source      string   `json:"source"` // why, for the history
		DryRun      bool     `json:"dryRun"`
	}
	if err := readStrict(w, c, maxRemoval, &sent); err != nil {
		return err
	}
	if len(sent.Thumbprints) == 0 {
		return invalid("thumbprints: there is none")
	}
	report, err := f.Trust.RemoveTrust(c.Context(), c.caller, c.scope.ID, sent.Thumbprints, sent.Source, sent.DryRun)
	if err != nil {
		return err
	}
	return answer(w, report)
}

// readStrict reads a JSON object with no member that v does not have.
func readStrict(w http.ResponseWriter, c call, limit int64, v any) error {
	if err := rest.RequireJSON(c.Request.Request); err != nil {
		return err
	}
	if c.ContentLength > limit {
		w.Header().Set("Connection", "close") // rather than read the rest of it
		return errs.New(errs.TooLarge, 0, "The body is longer than %d bytes", limit)
	}
	body, err := rest.ReadBody(w, c.Request.Request, limit)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err = d.Decode(v); err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("there is more after the object")
		}
	}
	if err != nil {
		return invalid("The body is not what is described: %v", err)
	}
	return nil
}
