package enroll

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/tpm"
)

// Limits of an initial twin, those of the hub it will be written to.
const (
	maxTags    = 8 << 10
	maxDesired = 32 << 10
	maxInfo    = 32 << 10 // of optionalDeviceInformation
)

// Validate checks e on its own. The error is of kind errs.Invalid and names the
// member, spelled as in the service API, and the rule.
func Validate(e *Entry) error {
	for _, check := range []func(*Entry) error{validateID, validateAttestation, validateTwin, validateAllocation} {
		if err := check(e); err != nil {
			return err
		}
	}
	return nil
}

func validateID(e *Entry) error {
	name := "registrationId"
	if e.Kind == Group {
		name = "enrollmentGroupId"
	}
	if _, err := device.ParseRegistrationID(e.ID); err != nil {
		return invalid(name, "%v", err)
	}
	if e.DeviceID != "" {
		if e.Kind == Group {
			return invalid("deviceId", "is for individual enrollments; the devices of a group are named by their registration IDs")
		}
		if _, err := device.ParseID(string(e.DeviceID)); err != nil {
			return invalid("deviceId", "%v", err)
		}
	}
	return validateObject("optionalDeviceInformation", e.OptionalDeviceInformation, maxInfo)
}

func validateAttestation(e *Entry) error {
	switch a := e.Attestation; a.Type {
	case attest.TypeSymmetricKey:
		return nil // missing keys are generated, present ones were measured when they were read
	case attest.TypeTPM:
		if e.Kind == Group {
			return validateTPMGroup(a)
		}
		return validateTPM(a)
	case attest.TypeX509:
		return validateX509(e.Kind, a.X509)
	case "":
		return invalid("attestation.type", "is missing; tpm, x509 and symmetricKey are known")
	default:
		return invalid("attestation.type", "is %q; tpm, x509 and symmetricKey are known", a.Type)
	}
}

func validateTPM(a attest.Mechanism) error {
	t := a.TPM
	switch {
	case a.TPMGroup != nil:
		return invalid("attestation.tpm", "of an individual enrollment has an endorsementKey; endorsementCertificates and endorsementKeyList are for groups")
	case t == nil || len(t.EndorsementKey) == 0:
		return invalid("attestation.tpm.endorsementKey", "is missing")
	}
	ek, err := tpm.ParsePublic(t.EndorsementKey)
	if err == nil {
		err = tpm.CheckEK(ek)
	}
	if err != nil {
		return invalid("attestation.tpm.endorsementKey", "%v", err)
	}
	if len(t.StorageRootKey) == 0 {
		return nil
	}
	srk, err := tpm.ParsePublic(t.StorageRootKey)
	if err == nil {
		err = tpm.CheckSRK(srk)
	}
	if err != nil {
		return invalid("attestation.tpm.storageRootKey", "%v", err)
	}
	return nil
}

// validateTPMGroup takes a list without keys: it admits nobody until they are
// uploaded.
func validateTPMGroup(a attest.Mechanism) error {
	g := a.TPMGroup
	switch {
	case a.TPM != nil:
		return invalid("attestation.tpm.endorsementKey", "is for individual enrollments; a group has endorsementCertificates or an endorsementKeyList")
	case g == nil:
		return invalid("attestation.tpm", "of an enrollment group must have endorsementCertificates or an endorsementKeyList")
	}
	const member = "attestation.tpm.endorsementCertificates"
	policy, err := ekcert.ParsePolicy(*g)
	if err != nil {
		return errs.New(errs.Invalid, errs.CodeBadRequest, "%s.%v", member, err) // which names the member below
	}
	if policy == nil {
		if g.List == nil {
			return invalid("attestation.tpm", "of an enrollment group must have endorsementCertificates or an endorsementKeyList")
		}
		return nil
	}
	if err := policy.Check(); err != nil {
		return invalid(member, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

func validateX509(kind Kind, a *attest.X509) error {
	switch {
	case a == nil || a.Use == "":
		return invalid("attestation.x509", "must have one of clientCertificates, signingCertificates and caReferences")
	case kind == Individual && a.Use != attest.ClientCertificates:
		return invalid("attestation.x509", "of an individual enrollment must have clientCertificates")
	case a.Use == attest.CAReferences:
		return validateReferences(a)
	case kind == Group && a.Use != attest.SigningCertificates:
		return invalid("attestation.x509", "of an enrollment group must have signingCertificates or caReferences")
	case a.Primary == nil:
		return invalid("attestation.x509."+string(a.Use)+".primary", "is missing")
	}
	for slot, der := range map[string][]byte{"primary": a.Primary, "secondary": a.Secondary} {
		if len(der) == 0 {
			continue
		}
		name := "attestation.x509." + string(a.Use) + "." + slot
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return invalid(name, "is not an X.509 certificate")
		}
		if kind == Group && !(c.BasicConstraintsValid && c.IsCA) {
			return invalid(name, "%q is not a CA certificate: its basic constraints do not say CA:TRUE", c.Subject)
		}
		if kind == Individual && c.Subject.CommonName == "" {
			return invalid(name, "has no common name; it must be the registration ID")
		}
	}
	return nil
}

// validateReferences checks the names. Whether there are such CA certificates is
// for who keeps them to say.
func validateReferences(a *attest.X509) error {
	const member = "attestation.x509.caReferences"
	if err := CheckCertificateName(a.PrimaryReference); err != nil {
		return invalid(member+".primary", "%v", err)
	}
	if a.SecondaryReference == "" {
		return nil
	}
	if err := CheckCertificateName(a.SecondaryReference); err != nil {
		return invalid(member+".secondary", "%v", err)
	}
	return nil
}

func validateTwin(e *Entry) error { return CheckTwin(e.InitialTwin) }

// CheckTwin checks what a twin is to start with, which may be nil. The error is
// of kind errs.Invalid and names the member, as in the service API.
func CheckTwin(t *InitialTwin) error {
	if t == nil {
		return nil
	}
	if err := validateObject("initialTwin.tags", t.Tags, maxTags); err != nil {
		return err
	}
	return validateObject("initialTwin.properties.desired", t.Desired, maxDesired)
}

// isHost accepts what can stand between https:// and a path: a host name or
// address and perhaps a port.
func isHost(s string) bool {
	u, err := url.Parse("https://" + s)
	return err == nil && u.Host == s && u.Hostname() != "" && len(s) <= 255 && !strings.ContainsAny(s, "/?#@ ")
}

func validateObject(name string, v json.RawMessage, limit int) error {
	switch {
	case len(v) == 0:
		return nil
	case len(v) > limit:
		return invalid(name, "has %d bytes; %d are allowed", len(v), limit)
	case !json.Valid(v) || bytes.TrimLeft(v, " \t\r\n")[0] != '{':
		return invalid(name, "is not a JSON object")
	}
	return nil
}

func invalid(field, format string, args ...any) *errs.Error {
	return errs.New(errs.Invalid, errs.CodeBadRequest, "%s: %s", field, fmt.Sprintf(format, args...))
}
