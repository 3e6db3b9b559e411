package cli

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// newKeySize is the size in bytes of the keys made here to replace others, that
// of those the service makes.
const newKeySize = 64

// An attestation is what the command line says about how devices prove
// themselves.
type attestation struct {
	key                      bool
	primaryKey, secondaryKey string // files
	x509, secondaryX509      string // files
	ca, secondaryCA          string // names of CA certificates of the service
	tpm                      string // base64 or @file
	storageRootKey           string // base64 or @file
	group                    tpmGroup
	kind                     enroll.Kind

	// given reports whether a flag is on the command line, be it as nothing.
	given func(flag string) bool
}

func (a *attestation) flags(c *cobra.Command) {
	f := c.Flags()
	a.given = f.Changed
	certificate, key := "the device's own certificate", "the device signs tokens with a symmetric key"
	if a.kind == enroll.Group {
		certificate, key = "a CA of the devices' chains", "the devices' symmetric keys are derived from the group's"
	}
	f.BoolVar(&a.key, "key", false, key+"; the keys are generated unless files are named")
	f.StringVar(&a.primaryKey, "primary-key-file", "", "`file` with the primary key in base64; - is standard input")
	f.StringVar(&a.secondaryKey, "secondary-key-file", "", "`file` with the secondary key in base64")
	f.StringVar(&a.x509, "x509", "", "PEM `file` with "+certificate)
	f.StringVar(&a.secondaryX509, "secondary-x509", "", "PEM `file` with another one, good as well: for rolling certificates; '' for none")
	if a.kind == enroll.Individual {
		f.StringVar(&a.tpm, "tpm", "", "endorsement `key` of the device's TPM: TPM2B_PUBLIC in base64, or @FILE")
		f.StringVar(&a.storageRootKey, "storage-root-key", "", "also pin the TPM's storage root `key`, which changes when the TPM is cleared; base64 or @FILE")
	} else {
		f.StringVar(&a.ca, "ca-reference", "", "`name` of a CA certificate of the service, a CA of the devices' chains (see berth ca)")
		f.StringVar(&a.secondaryCA, "secondary-ca-reference", "", "`name` of another one, good as well: for rolling CAs; '' for none")
		a.group.flags(c)
	}
}

// mechanism returns what the flags ask for, and "" when they ask for nothing.
func (a *attestation) mechanism() (dpsjson.AttestationType, error) {
	var asked []dpsjson.AttestationType
	if a.key || a.primaryKey != "" || a.secondaryKey != "" {
		asked = append(asked, dpsjson.AttestationSymmetricKey)
	}
	if a.x509 != "" || a.given("secondary-x509") {
		asked = append(asked, dpsjson.AttestationX509)
	}
	if a.ca != "" || a.given("secondary-ca-reference") {
		asked = append(asked, dpsjson.AttestationX509)
	}
	if a.tpm != "" || a.group.asked() {
		asked = append(asked, dpsjson.AttestationTPM)
	}
	switch {
	case len(asked) > 1:
		return "", usageError{fmt.Errorf("--key, --x509%s are different ways to prove who one is: choose one", a.orTPM())}
	case a.storageRootKey != "" && a.tpm == "":
		return "", usageError{errors.New("--storage-root-key goes with --tpm")}
	case len(asked) == 0:
		return "", nil
	}
	return asked[0], nil
}

// orTPM ends the list of flags that are ways to prove who one is.
func (a *attestation) orTPM() string {
	if a.kind == enroll.Individual {
		return " and --tpm"
	}
	return ", --ca-reference, --tpm-roots, --trust-store and --tpm-list"
}

// apply makes e's attestation what the flags ask for. What they leave open
// stays as it is; old is true where there is something to stay.
func (t *terminal) apply(a attestation, e *dpsjson.IndividualEnrollment, old bool) error {
	mechanism, err := a.mechanism()
	if err != nil {
		return err
	}
	switch mechanism {
	case dpsjson.AttestationSymmetricKey:
		return t.applyKeys(a, e, old)
	case dpsjson.AttestationX509:
		if a.ca != "" || a.given("secondary-ca-reference") {
			return applyReferences(a, e)
		}
		return t.applyCertificates(a, e)
	case dpsjson.AttestationTPM:
		if a.kind == enroll.Group {
			return t.applyTPMGroup(a.group, e)
		}
		return t.applyTPM(a, e)
	}
	if !old {
		return usageError{fmt.Errorf("how do its devices prove who they are? Name one of --key, --x509%s", a.orTPM())}
	}
	return nil
}

// applyKeys takes the keys in the files. The service fills a slot left empty
// with the key that is stored there, or a fresh one.
func (t *terminal) applyKeys(a attestation, e *dpsjson.IndividualEnrollment, old bool) error {
	var keys dpsjson.SymmetricKeys
	for _, slot := range []struct {
		flag, file string
		key        *dpsjson.Key
	}{{"--primary-key-file", a.primaryKey, &keys.PrimaryKey}, {"--secondary-key-file", a.secondaryKey, &keys.SecondaryKey}} {
		var err error
		switch {
		case slot.file != "":
			slot.key.SymmetricKey, err = t.readKey(slot.flag, slot.file)
		case old && a.primaryKey == "" && a.secondaryKey == "":
			slot.key.SymmetricKey, err = device.GenerateSymmetricKey(rand.Reader, newKeySize)
		}
		if err != nil {
			return err
		}
	}
	e.Attestation = &dpsjson.AttestationMechanism{Type: dpsjson.AttestationSymmetricKey, SymmetricKey: &keys}
	return nil
}

func (t *terminal) applyCertificates(a attestation, e *dpsjson.IndividualEnrollment) error {
	pair := certificatesOf(e.Attestation)
	if pair == nil {
		pair = &dpsjson.X509Certificates{}
	}
	if a.given("secondary-x509") {
		pair.Secondary = nil
	}
	for _, slot := range []struct {
		flag, file  string
		certificate **dpsjson.X509Certificate
	}{{"--x509", a.x509, &pair.Primary}, {"--secondary-x509", a.secondaryX509, &pair.Secondary}} {
		if slot.file == "" {
			continue
		}
		chain, err := t.readCertificates(slot.flag, slot.file)
		if err != nil {
			return err
		}
		if a.kind == enroll.Group && len(chain) > 1 {
			return fmt.Errorf("%s: %s has %d certificates; a group trusts one CA, and a second one with --secondary-x509", slot.flag, slot.file, len(chain))
		}
		*slot.certificate = &dpsjson.X509Certificate{Certificate: chain[0].Raw}
	}
	if pair.Primary == nil {
		return usageError{errors.New("--secondary-x509 goes with --x509")}
	}
	attestation := &dpsjson.X509Attestation{ClientCertificates: pair}
	if a.kind == enroll.Group {
		attestation = &dpsjson.X509Attestation{SigningCertificates: pair}
	}
	e.Attestation = &dpsjson.AttestationMechanism{Type: dpsjson.AttestationX509, X509: attestation}
	return nil
}

func applyReferences(a attestation, e *dpsjson.IndividualEnrollment) error {
	var named dpsjson.X509CAReferences
	if m := e.Attestation; m != nil && m.X509 != nil && m.X509.CAReferences != nil {
		named = *m.X509.CAReferences
	}
	named.Primary = cmp.Or(a.ca, named.Primary)
	if a.given("secondary-ca-reference") {
		named.Secondary = a.secondaryCA
	}
	if named.Primary == "" {
		return usageError{errors.New("--secondary-ca-reference goes with --ca-reference")}
	}
	e.Attestation = &dpsjson.AttestationMechanism{Type: dpsjson.AttestationX509, X509: &dpsjson.X509Attestation{CAReferences: &named}}
	return nil
}

// certificatesOf returns the certificates of a mechanism, or nil.
func certificatesOf(m *dpsjson.AttestationMechanism) *dpsjson.X509Certificates {
	switch {
	case m == nil || m.X509 == nil:
		return nil
	case m.X509.ClientCertificates != nil:
		return m.X509.ClientCertificates
	}
	return m.X509.SigningCertificates
}

func (t *terminal) applyTPM(a attestation, e *dpsjson.IndividualEnrollment) error {
	var keys dpsjson.TPMAttestation
	var err error
	if keys.EndorsementKey, err = t.readPublic("--tpm", a.tpm); err != nil {
		return err
	}
	if a.storageRootKey != "" {
		if keys.StorageRootKey, err = t.readPublic("--storage-root-key", a.storageRootKey); err != nil {
			return err
		}
	}
	e.Attestation = &dpsjson.AttestationMechanism{Type: dpsjson.AttestationTPM, TPM: &keys}
	return nil
}

// readPublic reads the public half of a TPM key, which is no secret.
func (t *terminal) readPublic(flag, text string) ([]byte, error) {
	if file, ok := strings.CutPrefix(text, "@"); ok {
		b, err := t.read(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		text = string(b)
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("%s: is not base64; it takes the key's TPM2B_PUBLIC in base64, or @FILE", flag)
	}
	return b, nil
}
