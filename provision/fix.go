package provision

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/enroll"
)

// A fix tells the operator what would change the outcome. It is made here, where
// the reasons are, so that every reader of a decision has it: lines of text, in
// which a command stands on a line of its own and can be copied as it is, but
// for the names of files.

// fixUnknown is about a device that nothing governs; tried are the symmetric key
// groups that it could have come through.
func fixUnknown(c claimant, tried ...*enroll.Entry) string {
	create := fmt.Sprintf("berth enrollment create %s", c.key)
	switch {
	case len(c.Credential.Chain) > 0 && c.Credential.Token == nil:
		return lines("enroll the device's own certificate, or a CA of its chain:",
			create+" --x509 LEAF.pem", "berth group create NAME --x509 CA.pem")
	case c.Credential.TPM != nil:
		return lines("enroll the TPM that was presented, if it is yours:", enrollTPM(c))
	case len(tried) == 1:
		return lines("enroll the device, or derive its key from that of its group:",
			create+" --key", "berth group show "+tried[0].ID+" --keys")
	case len(tried) > 1:
		return lines("enroll the device, or derive its key from that of its group:",
			create+" --key", "berth group show NAME --keys")
	}
	return lines("enroll the device:", create+" --key")
}

// maxBroken is how many CA certificates a fix names: more say no more.
const maxBroken = 3

// fixNoAuthority is about a device below no CA that a group goes by; broken are
// those that a group names in vain.
func fixNoAuthority(c claimant, broken []brokenReference) string {
	var fix []string
	named := make(map[string]bool)
	for _, b := range broken {
		key := enroll.CertificateKey(b.name)
		if named[key] || len(named) == maxBroken {
			continue
		}
		named[key] = true
		fix = append(fix, fmt.Sprintf("if the device is of the group %s, and the CA %s is to be trusted, prove that you have its key:", b.group.ID, b.name),
			fmt.Sprintf("berth ca prove %s --key CA.key --certificate CA.pem", b.name))
	}
	if fix == nil {
		return fixUnknown(c)
	}
	return lines(append(fix, "otherwise "+fixUnknown(c))...)
}

// fixUnknownTPM is about a device whose TPM no group knows; trusting says that the
// trust store counts for one of them.
func fixUnknownTPM(c claimant, trusting bool) string {
	steps := []string{"enroll the TPM that was presented, if it is yours, or put it on its group's list:",
		enrollTPM(c), "berth group update NAME --tpm-list FILE"}
	if trusting && len(c.Credential.EKCertificate) > 0 {
		steps = append(steps, "or look whether the trust store has the root of the TPM's vendor, and import it if you trust the vendor:",
			"berth trust history", "berth trust import FILE --vendor NAME")
	}
	return lines(steps...)
}

func enrollTPM(c claimant) string {
	return fmt.Sprintf("berth enrollment create %s --tpm %s", c.key, encode(c.Credential.TPM.EndorsementKey))
}

// fixRefused names the step that would make the first failed check pass.
func fixRefused(c claimant, e *enroll.Entry, v attest.Verdict) string {
	command := "berth enrollment"
	if e.Kind == enroll.Group {
		command = "berth group"
	}
	for _, f := range v.Findings {
		if f.OK {
			continue
		}
		switch f.Check {
		case "expiry":
			return "set the device's clock, and let it make a new token"
		case "validity":
			return "give the device a certificate that is valid now, and check its clock"
		case "signature", "key name", "audience":
			return lines("compare the device's key, ID scope and registration ID with:", command+" show "+e.ID+" --keys")
		case "thumbprint":
			return lines("if the device has a new certificate, enroll that:", command+" update "+e.ID+" --x509 LEAF.pem")
		case "registration ID":
			return lines("let the device register under the name of its endorsement key, or enroll it under the name it has:", enrollTPM(c))
		case "endorsement key":
			if c.Credential.TPM == nil {
				return lines("compare the endorsement key with:", command+" show "+e.ID)
			}
			return lines("if its TPM was replaced, enroll the one that was presented:",
				command+" update "+e.ID+" --tpm "+encode(c.Credential.TPM.EndorsementKey))
		case "storage root key":
			return "let the TPM make its storage root key from the standard template, at handle 0x81000001"
		case "common name", "name constraints", "path", "basic constraints", "extended key usage":
			return "give the device a certificate whose common name is its registration ID, from a CA that may issue it"
		case "challenge", "token", "TPM keys", "certificate":
			return lines(fmt.Sprintf("the device must present what its enrollment expects, %s:", e.Attestation.Type), command+" show "+e.ID)
		}
	}
	return ""
}

func lines(s ...string) string { return strings.Join(s, "\n") }

func fixDisabled(e *enroll.Entry) string {
	if e.Kind == enroll.Group {
		return "berth group update " + e.ID + " --enable"
	}
	return "berth enrollment update " + e.ID + " --enable"
}

// fixUnlinkedHome is about a device that is to stay at a hub that is not linked.
func fixUnlinkedHome(e *enroll.Entry, host string) string {
	command := "berth enrollment update "
	if e.Kind == enroll.Group {
		command = "berth group update "
	}
	return lines("link the hub again, or let the device move:", "berth hub link "+host, command+e.ID+" --reprovision migrate")
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
