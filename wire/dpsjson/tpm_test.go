package dpsjson

import (
	"strings"
	"testing"
)

// A device shows its certificate beside its keys or, through an SDK that has no
// word for it, in its payload. What is in a payload for others is theirs.
func TestShownCertificate(t *testing.T) {
	for _, c := range []struct{ name, body, certificate, chain string }{
		{"beside the keys", `{"tpm":{"endorsementKey":"AToA","endorsementCertificate":"Y2VydA==","endorsementCertificateChain":"Y2hhaW4="}}`, "cert", "chain"},
		{"in the payload", `{"tpm":{"endorsementKey":"AToA"},"payload":{"endorsementCertificate":"Y2VydA==","endorsementCertificateChain":"Y2hhaW4=","site":1}}`, "cert", "chain"},
		{"in the payload of a call without keys", `{"payload":{"endorsementCertificate":"Y2VydA=="}}`, "cert", ""},
		{"both", `{"tpm":{"endorsementCertificate":"Y2VydA=="},"payload":{"endorsementCertificate":"b3RoZXI=","endorsementCertificateChain":"b3RoZXI="}}`, "cert", ""},
		{"an odd chain", `{"payload":{"endorsementCertificate":"Y2VydA==","endorsementCertificateChain":7}}`, "cert", ""},
		{"none", `{"tpm":{"endorsementKey":"AToA"}}`, "", ""},
		{"a payload that is a string", `{"payload":"{\"endorsementCertificate\":\"Y2VydA==\"}"}`, "", ""},
		{"a payload that is an array", `{"payload":[{"endorsementCertificate":"Y2VydA=="}]}`, "", ""},
		{"a payload with another idea of it", `{"payload":{"endorsementCertificate":{"of":"somebody"}}}`, "", ""},
		{"a payload with text", `{"payload":{"endorsementCertificate":"in the drawer"}}`, "", ""},
		{"a null", `{"payload":{"endorsementCertificate":null}}`, "", ""},
	} {
		r, err := DecodeDeviceRegistration([]byte(c.body))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		certificate, chain := r.ShownCertificate()
		if string(certificate) != c.certificate || string(chain) != c.chain {
			t.Errorf("%s: %q and %q", c.name, certificate, chain)
		}
	}
	if _, err := DecodeDeviceRegistration([]byte(`{"tpm":{"endorsementCertificate":"-----BEGIN"}}`)); err == nil || err.Error() != "tpm.endorsementCertificate: not base64" {
		t.Errorf("beside the keys it must be base64: %v", err)
	}
}

func TestTPMAttestationsThatAreRefused(t *testing.T) {
	digest := strings.Repeat("AB", 32)
	for _, c := range []struct{ tpm, want string }{
		{`{"endorsementKey":"AToA"}`, ""},
		{`{"endorsementKeyList":{}}`, ""},
		{`{"endorsementKeyList":{"keys":["a"],"count":7,"sha256":"x"}}`, ""},
		{`{"endorsementCertificates":{"roots":[{"info":{"sha256Thumbprint":"` + digest + `"}}]}}`, ""},
		{`{"endorsementCertificates":{"trustStore":true,"vendors":["Infineon"]}}`, ""},
		{`{"endorsementCertificates":{"trustStore":"yes"}}`, "attestation.tpm.endorsementCertificates.trustStore: not true or false"},
		{`{"endorsementCertificates":{"vendors":"Infineon"}}`, "attestation.tpm.endorsementCertificates.vendors: not an array"},
		{`{}`, "attestation.tpm.endorsementKey: missing"},
		{`{"endorsementCertificates":null,"endorsementKeyList":null}`, "attestation.tpm.endorsementKey: missing"},
		{`{"endorsementKey":"AToA","endorsementKeyList":{}}`, "attestation.tpm: the key of one TPM does not go with"},
		{`{"storageRootKey":"AToA","endorsementCertificates":{}}`, "attestation.tpm: the key of one TPM does not go with"},
		{`{"endorsementCertificates":{"roots":[{}]}}`, "attestation.tpm.endorsementCertificates.roots[0]: needs a certificate"},
		{`{"endorsementCertificates":{"testRoots":[{"info":{"sha256Thumbprint":"` + digest + `"}},{"info":{}}]}}`, "attestation.tpm.endorsementCertificates.testRoots[1]: needs a certificate"},
		{`{"endorsementCertificates":{"intermediates":[{"info":{"sha256Thumbprint":"` + digest[1:] + `"}}]}}`, "attestation.tpm.endorsementCertificates.intermediates[0]: needs a certificate"},
		{`{"endorsementCertificates":{"roots":[{"certificate":"AToA"}]}}`, "attestation.tpm.endorsementCertificates.roots[0].certificate: not an X.509 certificate"},
		{`{"endorsementCertificates":{"roots":["x"]}}`, "attestation.tpm.endorsementCertificates.roots[0]: not an object"},
		{`{"endorsementCertificates":{"roots":[null]}}`, "attestation.tpm.endorsementCertificates.roots[0]: null"},
		{`{"endorsementCertificates":{"firmware":[{"oldest":7}]}}`, "attestation.tpm.endorsementCertificates.firmware[0].oldest: not a string"},
		{`{"endorsementKeyList":{"keys":"a"}}`, "attestation.tpm.endorsementKeyList.keys: not an array"},
		{`{"endorsementKeyList":{"keys":[],"keys":[]}}`, "attestation.tpm.endorsementKeyList.keys: given twice"},
	} {
		g, err := DecodeEnrollmentGroup([]byte(`{"attestation":{"type":"tpm","tpm":` + c.tpm + `}}`))
		if err == nil {
			err = g.Attestation.Validate()
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.tpm, err, c.want)
		}
	}
}
