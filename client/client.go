// Package client holds what the Go SDK's packages share: the credentials a
// device proves itself with, the errors a service answers and the settings of
// an HTTPS connection.
//
// The SDK speaks the wire protocols of the Azure IoT Hub Device Provisioning
// Service (DPS) and of IoT Hub, so it works against those as well as against
// Berth. A device starts with package provisioning and goes on with package
// hub; programs of operators use service and admin.
package client

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/sas"
)

// A SecurityModule is what the SDK asks of a TPM 2.0; package hsm/tpm2 has one.
// The keys never leave it.
type SecurityModule interface {
	// EndorsementKey returns the public area of the endorsement key as
	// TPM2B_PUBLIC (TPM 2.0 Library Part 2 §12.2.5).
	EndorsementKey(ctx context.Context) ([]byte, error)
	// StorageRootKey returns that of the storage root key.
	StorageRootKey(ctx context.Context) ([]byte, error)
	// Activate takes in the identity key that a service wrapped for this TPM,
	// in place of the one before.
	Activate(ctx context.Context, blob []byte) error
	// MAC returns the HMAC-SHA256 of msg under the identity key.
	MAC(ctx context.Context, msg []byte) ([]byte, error)
}

// A CertifiedModule is a SecurityModule that may hold the vendor's certificate of
// its endorsement key, which enrollment groups for TPMs go by. [TPM] asks for it by
// assertion.
type CertifiedModule interface {
	SecurityModule
	// EndorsementCertificate returns the certificate (DER) and the CA
	// certificates that stand above it, DER behind DER, or none. If there is no
	// certificate the error is of kind errs.NotFound.
	EndorsementCertificate(ctx context.Context) (certificate, chain []byte, err error)
}

// A Credential is what a device proves itself with, first to the provisioning
// service and then to its hub. [SymmetricKey], [X509] and [TPM] make one; the
// zero value proves nothing. No format verb shows the key in it.
type Credential struct {
	kind        attest.Type
	mac         func(ctx context.Context, msg []byte) ([]byte, error) // nil for X509
	certificate *tls.Certificate
	module      SecurityModule
}

// SymmetricKey is the credential of a device that shares a key with the
// service. provisioning.DeriveDeviceKey makes the key of one device out of an
// enrollment group's.
func SymmetricKey(key device.SymmetricKey) Credential {
	if key.IsZero() {
		return Credential{}
	}
	mac := func(_ context.Context, msg []byte) ([]byte, error) {
		h := hmac.New(sha256.New, key.Bytes())
		h.Write(msg)
		return h.Sum(nil), nil
	}
	return Credential{kind: attest.TypeSymmetricKey, mac: mac}
}

// X509 is the credential of a device with a certificate: the chain to present,
// leaf first, and in PrivateKey any crypto.Signer for the leaf's key, which may
// well be in a token.
func X509(certificate tls.Certificate) Credential {
	return Credential{kind: attest.TypeX509, certificate: &certificate}
}

// TPM is the credential of a device with a TPM 2.0. The identity key that
// signs is the one activated last: the hub's, once the device is registered.
func TPM(module SecurityModule) Credential {
	if module == nil {
		return Credential{}
	}
	return Credential{kind: attest.TypeTPM, mac: module.MAC, module: module}
}

// Kind returns the attestation mechanism that c is for, or "" for none.
func (c Credential) Kind() attest.Type { return c.kind }

// Check reports why c cannot prove anything, or nil.
func (c Credential) Check() error {
	switch {
	case c.kind == "":
		return errors.New("there is no credential, or it has no key")
	case c.certificate == nil:
		return nil
	case len(c.certificate.Certificate) == 0:
		return errors.New("the X.509 credential has no certificate")
	}
	leaf, err := c.Leaf()
	if err != nil {
		return err
	}
	signer, ok := c.certificate.PrivateKey.(crypto.Signer)
	if !ok {
		return errors.New("the X.509 credential has no private key that signs")
	}
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(signer.Public()) {
		return errors.New("the private key is not the certificate's")
	}
	return nil
}

// Leaf returns the device's own certificate, or nil if c signs tokens.
func (c Credential) Leaf() (*x509.Certificate, error) {
	switch {
	case c.certificate == nil || len(c.certificate.Certificate) == 0:
		return nil, nil
	case c.certificate.Leaf != nil:
		return c.certificate.Leaf, nil
	}
	leaf, err := x509.ParseCertificate(c.certificate.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("reading the device's certificate: %w", err)
	}
	return leaf, nil
}

// Certificate returns the client certificate to present in TLS handshakes, or
// nil if c signs tokens instead.
func (c Credential) Certificate() *tls.Certificate { return c.certificate }

// SecurityModule returns the TPM of a credential made by [TPM], or nil.
func (c Credential) SecurityModule() SecurityModule { return c.module }

// Token signs a Shared Access Signature for resource, good until expiry.
// keyName is the policy it claims, "registration" for a provisioning service
// and empty for a hub. The token is a secret until it expires.
func (c Credential) Token(ctx context.Context, resource, keyName string, expiry time.Time) (string, error) {
	if c.mac == nil {
		return "", errors.New("this credential does not sign tokens")
	}
	return sas.SignWith(func(msg []byte) ([]byte, error) { return c.mac(ctx, msg) }, resource, expiry, keyName)
}

// Format writes the kind of the credential for every verb.
func (c Credential) Format(f fmt.State, _ rune) {
	io.WriteString(f, "["+string(c.kind)+" credential]")
}
