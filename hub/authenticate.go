package hub

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/x509id"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// An Attempt is someone claiming to be a device or a module.
type Attempt struct {
	Host     Host
	At       Place           // who they claim to be
	Under    string          // what of theirs they ask for, from a slash on, as in "/messages/events"; empty for all of it
	Identity *Identity       // what is registered there, nil when there is nothing
	Device   *Identity       // the device: Identity itself, or that of the module's device
	Policies []access.Policy // of the hub
	// Authorities are the CA certificates whose keys the hub's owner proved to have.
	Authorities []x509id.Authority
	Credential  attest.Credential
	Now         time.Time
}

// Authorities knows the CA certificates that vouch for devices of hubs.
type Authorities interface {
	// Authorities returns those that are registered for a hub and verified: that
	// the key is its owner's was proven. They may have expired.
	Authorities(ctx context.Context, hub string) ([]x509id.Authority, error)
}

// skew is how far a device's clock may be behind ours.
const skew = 5 * time.Minute

// AuthenticateDevice judges an attempt. A device or a module proves itself by a
// SAS token made with one of its keys, by a certificate with one of its
// thumbprints, or by one with its name that an authority of the hub vouches for, as
// it was registered; a token made with the key of a hub policy that has DeviceConnect
// speaks for any of them, and alone for those that have no credential. A disabled
// device is refused after that, and its modules are.
//
// What a stranger is told depends only on what they presented, until they
// proved to hold a key: the same words refuse an unknown device and a known one
// with another credential. The findings say which it was.
func AuthenticateDevice(a Attempt) attest.Verdict {
	var v attest.Verdict
	switch {
	case a.Credential.Token == nil && len(a.Credential.Chain) == 0:
		v.Refuse(denied(errs.CodeUnauthorizedAccess, "neither a SAS token nor a client certificate was presented"),
			"credential", "nothing was presented")
	case a.byPolicy():
		a.judgePolicyToken(&v)
	case a.byCertificate():
		a.judgeCertificate(&v)
	default:
		a.judgeDeviceToken(&v)
	}
	if v.Accepted() {
		a.judgeStatus(&v)
	}
	return v
}

// byPolicy: a token with a key name was made by the policy of that name.
func (a Attempt) byPolicy() bool {
	return a.Credential.Token != nil && a.Credential.Token.KeyName != ""
}

// byCertificate: where both were presented, the kind of device decides.
func (a Attempt) byCertificate() bool {
	return a.Credential.Token == nil || len(a.Credential.Chain) > 0 && a.Identity != nil && a.Identity.Auth.byCertificate()
}

// byCertificate: what certificates prove.
func (a Authentication) byCertificate() bool {
	return a.Type == AuthSelfSigned || a.Type == AuthCertificateAuthority
}

func (a Attempt) judgePolicyToken(v *attest.Verdict) {
	caller, err := access.Authenticate(a.Policies, *a.Credential.Token, a.covered, a.Now)
	if err != nil {
		v.Refuse(errs.Public(err), "policy token", "%v", errors.Unwrap(err))
		return
	}
	if err := caller.Require(access.HubDeviceConnect); err != nil {
		v.Refuse(denied(errs.CodeUnauthorizedAccess, "policy %q lacks DeviceConnect", caller.Policy),
			"rights", "%v", errors.Unwrap(err))
		return
	}
	v.Saw("policy token", "made with a key of policy %q, which has DeviceConnect", caller.Policy)
}

func (a Attempt) judgeDeviceToken(v *attest.Verdict) {
	token := *a.Credential.Token
	refusal := denied(errs.CodeUnauthorizedAccess, "the token was not made with a key of this device")
	switch {
	case a.Identity == nil:
		v.Refuse(refusal, "device", "there is no device %q at %s", a.At, a.Host.Name)
		return
	case a.Identity.Auth.Type != AuthSAS:
		v.Refuse(refusal, "authentication type", "a SAS token was presented, the device's type is %s", a.Identity.Auth.Type)
		return
	case token.SignedBy(a.Identity.Auth.Keys.Primary.Bytes()):
		v.Saw("signature", "made with the primary key")
	case token.SignedBy(a.Identity.Auth.Keys.Secondary.Bytes()):
		v.Saw("signature", "made with the secondary key")
	default:
		v.Refuse(refusal, "signature", "made with neither key of the device")
		return
	}
	if !a.covered(token.Resource) {
		v.Refuse(denied(errs.CodeUnauthorizedAccess, "the token is for another resource"),
			"audience", "the token is for %q, not for device %q at %s", token.Resource, a.At, a.Host.Name)
		return
	}
	v.Saw("audience", "the token is for %q", token.Resource)
	expiry := token.Expiry.UTC().Format(time.RFC3339)
	if token.Expired(a.Now, skew) {
		v.Refuse(denied(errs.CodeUnauthorizedAccess, "the token expired at %s", expiry),
			"expiry", "the token expired at %s, it is %s", expiry, a.Now.UTC().Format(time.RFC3339))
		return
	}
	v.Saw("expiry", "the token expires at %s", expiry)
}

// judgeCertificate judges what was presented at the TLS handshake, which proved
// possession of the leaf's key.
func (a Attempt) judgeCertificate(v *attest.Verdict) {
	if len(a.Credential.Chain) == 0 {
		v.Refuse(denied(errs.CodeDeviceUnauthorized, "no client certificate was presented"), "certificate", "none was presented")
		return
	}
	leaf := a.Credential.Chain[0].Raw
	refusal := denied(errs.CodeDeviceUnauthorized,
		"the client certificate with SHA-1 thumbprint %s and SHA-256 thumbprint %s is not registered for this device",
		attest.ThumbprintSHA1(leaf), attest.Thumbprint(leaf))
	switch {
	case a.Identity == nil:
		v.Refuse(refusal, "device", "there is no device %q at %s", a.At, a.Host.Name)
	case a.Identity.Auth.Type == AuthSelfSigned:
		a.judgeThumbprint(v, leaf, refusal)
	case a.Identity.Auth.Type == AuthCertificateAuthority:
		a.judgeChain(v, refusal)
	default:
		v.Refuse(refusal, "authentication type", "a certificate was presented, the device's type is %s", a.Identity.Auth.Type)
	}
}

// judgeThumbprint compares thumbprints: the certificate itself was pinned, so who
// issued it and until when do not matter. A SHA-1 thumbprint is as good as one can
// be that the operator wrote down: to pass for it takes a second preimage, which a
// collision does not give.
func (a Attempt) judgeThumbprint(v *attest.Verdict, leaf []byte, refusal *errs.Error) {
	sha1, sha256 := attest.ThumbprintSHA1(leaf), attest.Thumbprint(leaf)
	auth := a.Identity.Auth
	for _, want := range []string{auth.PrimaryThumbprint, auth.SecondaryThumbprint} {
		if strings.EqualFold(want, sha256) || strings.EqualFold(want, sha1) {
			v.Saw("thumbprint", "the certificate has the registered thumbprint %s", want)
			return
		}
	}
	v.Refuse(refusal, "thumbprint", "presented: SHA-1 %s, SHA-256 %s; registered: primary %s, secondary %s",
		sha1, sha256, auth.PrimaryThumbprint, auth.SecondaryThumbprint)
}

// judgeChain has an authority of the hub vouch for the certificate (RFC 5280 path
// validation), whose common name has to be the ID, a module's behind its device's
// and a slash. IDs of a hub differ by case, and so do common names here.
func (a Attempt) judgeChain(v *attest.Verdict, refusal *errs.Error) {
	name := a.At.String()
	_, judged := x509id.VerifyGroup(a.Authorities, a.Credential.Chain, name, a.Now)
	for _, spoken := range []bool{true, false} { // what speaks against the device comes last
		for _, f := range judged.Findings {
			if f.OK == spoken {
				v.Findings = append(v.Findings, f)
			}
		}
	}
	if !judged.Accepted() {
		v.Refusal = refusal
		return
	}
	if common := a.Credential.Chain[0].Subject.CommonName; common != name {
		v.Refuse(refusal, "common name", "the leaf's common name is %q, and the ID is %q: they differ by case", common, name)
	}
}

func (a Attempt) judgeStatus(v *attest.Verdict) {
	switch {
	case a.Identity == nil || a.Device == nil:
		v.Refuse(notFound(a.At), "device", "there is no device %q at %s", a.At, a.Host.Name)
	case a.Device.Disabled:
		v.Refuse(errs.New(errs.Forbidden, errs.CodeDeviceDisabled, "The device is disabled"),
			"status", "the device is disabled: %q", a.Device.StatusReason)
	default:
		v.Saw("status", "the device is enabled")
	}
}

// covered reports whether a token for resource is good for what is asked for. Behind
// the device some samples write the api-version of a request.
func (a Attempt) covered(resource string) bool {
	if i := strings.LastIndex(resource, "/api-version="); i >= 0 && a.Host.covers(resource, a.path()+resource[i:]) {
		return true
	}
	return a.Host.covers(resource, a.path()+a.Under)
}

// path is what a token has to be for, behind the hub's name.
func (a Attempt) path() string {
	path := "/devices/" + string(a.At.ID)
	if a.At.Module != "" {
		path += "/modules/" + string(a.At.Module)
	}
	return path
}

func denied(code errs.Code, format string, args ...any) *errs.Error {
	return errs.New(errs.Denied, code, "Unauthorized: "+format, args...)
}

// A Sender is a device that proved itself, or a program that may speak for it.
type Sender struct {
	Place
	GenerationID string
	// Method is how it proved itself, in the JSON form of the message property
	// iothub-connection-auth-method.
	Method string
	// ModelID is the DTDL model that it says it follows, or empty.
	ModelID string

	activity *activity // nil where nobody is to know of it
}

// Authenticate lets a device in, or one of its modules where module is not empty,
// or says why not: the error's cause is the decision's last finding, and all of it is
// among the [Service.Refusals].
func (s *Service) Authenticate(ctx context.Context, h Host, id, module device.ID, credential attest.Credential, by Approach) (Sender, error) {
	a, err := s.attempt(ctx, h, Place{Hub: h.Name, ID: id, Module: module}, credential)
	if err != nil {
		return Sender{}, err
	}
	a.Under = by.Under
	v := AuthenticateDevice(a)
	if !v.Accepted() {
		return Sender{}, s.refuse(a, by, v)
	}
	return Sender{Place: a.At, GenerationID: a.Identity.GenerationID, Method: a.method(), activity: new(activity)}, nil
}

// refuse remembers a refusal and returns it.
func (s *Service) refuse(a Attempt, by Approach, v attest.Verdict) error {
	s.refusals.add(a.refused(by, v))
	last := v.Findings[len(v.Findings)-1]
	return v.Refusal.WithCause(fmt.Errorf("%s: %s", last.Check, last.Detail))
}

// attempt reads what an attempt to be at a place is judged by.
func (s *Service) attempt(ctx context.Context, h Host, at Place, credential attest.Credential) (Attempt, error) {
	d, err := s.identityAt(ctx, at)
	if err != nil && errs.KindOf(err) != errs.NotFound {
		return Attempt{}, err
	}
	of := d
	if d != nil && at.Module != "" {
		if of, err = s.identityAt(ctx, at.Device()); err != nil && errs.KindOf(err) != errs.NotFound {
			return Attempt{}, err
		}
	}
	a := Attempt{Host: h, At: at, Identity: d, Device: of, Credential: credential, Now: s.now()}
	if a.byPolicy() {
		if a.Policies, err = s.policies.Policies(ctx, access.HubOwner(h.Name)); err != nil {
			return Attempt{}, fmt.Errorf("reading the policies of %s: %w", h.Name, err)
		}
	}
	if d != nil && d.Auth.Type == AuthCertificateAuthority && len(credential.Chain) > 0 && s.authorities != nil {
		if a.Authorities, err = s.authorities.Authorities(ctx, h.Name); err != nil {
			return Attempt{}, fmt.Errorf("reading the CA certificates of %s: %w", h.Name, err)
		}
	}
	return a, nil
}

func (a Attempt) method() string {
	scope, kind := "device", "sas"
	if a.At.Module != "" {
		scope = "module"
	}
	switch {
	case a.byPolicy():
		scope = "hub"
	case a.byCertificate():
		kind = "x509"
	}
	return `{"scope":"` + scope + `","type":"` + kind + `","issuer":"iothub","acceptingIpFilterRule":null}`
}
