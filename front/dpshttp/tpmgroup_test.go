package dpshttp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/tpm"
)

// A TPM group is written with certificates and keys, and answered with what
// describes them; what was answered can be written back.
func TestTPMGroupsAreDescribedNotShown(t *testing.T) {
	s := newServer(t)
	root, issuer, bench := s.issue("Vendor Root", true, nil), s.issue("Vendor CA 1", true, nil), s.issue("swtpm-localca-rootca", true, nil)
	chip, other := newSoftTPM(t), newSoftTPM(t)
	certificate := func(h holder) string { return `{"certificate":` + quote(h.pem()) + `}` }
	created := s.want(200, s.service("PUT", "/enrollmentGroups/reel", `{"attestation":{"type":"tpm","tpm":{"endorsementCertificates":{`+
		`"roots":[`+certificate(root)+`],"intermediates":[`+certificate(issuer)+`],"testRoots":[`+certificate(bench)+`],`+
		`"manufacturers":["IFX"],"models":["SLB9670"],"firmware":[{"manufacturer":"IFX","oldest":"id:00070055"}]},`+
		`"endorsementKeyList":{"keys":["`+chip.ek+`","`+tpm.RegistrationID([]byte("another"))+`"]}}}}`))
	for name, a := range map[string]answered{
		"put": created, "get": s.want(200, s.service("GET", "/enrollmentGroups/reel", "")),
		"mechanism": s.want(200, s.service("POST", "/enrollmentGroups/reel/attestationmechanism", "")),
		"query":     s.want(200, s.service("POST", "/enrollmentGroups/query", `{"query":"*"}`)),
	} {
		for _, want := range []string{
			`"roots":[{"info":{"subjectName":"CN=Vendor Root"`, `"intermediates":[{"info":{"subjectName":"CN=Vendor CA 1"`,
			`"testRoots":[{"info":{"subjectName":"CN=swtpm-localca-rootca"`, `"manufacturers":["IFX"],"models":["SLB9670"],` +
				`"firmware":[{"manufacturer":"IFX","oldest":"id:00070055"}]}`, `"endorsementKeyList":{"count":2,"sha256":"`,
		} {
			if !strings.Contains(a.body, want) {
				t.Errorf("%s: no %s in %s", name, want, a.body)
			}
		}
		if strings.Contains(a.body, `"certificate"`) || strings.Contains(a.body, `"keys"`) || strings.Contains(a.body, chip.ek) {
			t.Errorf("%s: %s", name, a.body)
		}
	}

	kept := s.want(200, s.service("PUT", "/enrollmentGroups/reel", created.body))
	if fmt.Sprint(kept.attestation()) != fmt.Sprint(created.attestation()) {
		t.Errorf("written back: %s", kept.body)
	}
	// The list alone, and another one.
	listed := s.want(200, s.service("PUT", "/enrollmentGroups/reel", `{"attestation":{"type":"tpm","tpm":{"endorsementKeyList":{}}}}`, "If-Match", "*"))
	if strings.Contains(listed.body, "endorsementCertificates") || !strings.Contains(listed.body, `"count":2`) {
		t.Errorf("the list alone: %s", listed.body)
	}
	id := tpm.RegistrationID(chip.keys.EndorsementKey.Marshal())
	body := `{"registrationId":"` + id + `","tpm":{"endorsementKey":"` + chip.ek + `","storageRootKey":"` + chip.srk + `"}}`
	s.want(401, request("PUT", registerPath(id), "", body))
	token := s.deviceToken(s.nonce("", chip.keys), id)
	if a := s.want(401, request("PUT", registerPath(id), token, body)); a.json["authenticationKey"] == nil {
		t.Errorf("a token of another challenge: %s", a.body)
	}
	s.want(200, s.service("PUT", "/enrollmentGroups/reel", `{"attestation":{"type":"tpm","tpm":{"endorsementKeyList":{"keys":["`+other.ek+`"]}}}}`, "If-Match", "*"))
	if a := s.want(401, request("PUT", registerPath(id), "", body)); a.json["authenticationKey"] != nil {
		t.Errorf("it is on the list no more: %s", a.body)
	}

	for body, want := range map[string]string{
		`{"endorsementKey":"` + chip.ek + `"}`:                                       "attestation.tpm.endorsementKey: is for individual enrollments",
		`{"endorsementKeyList":{"keys":["` + chip.ek + `","pump-7"]}}`:               "attestation.tpm.endorsementKeyList.keys: EK list: line 2: ",
		`{"endorsementKeyList":{"keys":["` + chip.ek + `","` + chip.ek + `"]}}`:      "attestation.tpm.endorsementKeyList.keys: EK list: line 2: the same key as in line 1",
		`{"endorsementCertificates":{"roots":[` + certificate(bench) + `]}}`:         `attestation.tpm.endorsementCertificates: "CN=swtpm-localca-rootca" is the CA of a software TPM`,
		`{"endorsementCertificates":{"manufacturers":["IFX"]}}`:                      "attestation.tpm.endorsementCertificates: no root is pinned",
		`{"endorsementCertificates":{"vendors":["IFX"]}}`:                            "attestation.tpm.endorsementCertificates: no root is pinned, and the trust store does not count; vendors are those of the trust store",
		`{"endorsementCertificates":{"trustStore":true,"vendors":[""]}}`:             "attestation.tpm.endorsementCertificates.vendors[0]: is empty",
		`{"endorsementCertificates":{"roots":[{"info":{"sha256Thumbprint":"00"}}]}}`: "attestation.tpm.endorsementCertificates.roots[0]: needs a certificate",
	} {
		a := s.want(400, s.service("PUT", "/enrollmentGroups/bad", `{"attestation":{"type":"tpm","tpm":`+body+`}}`))
		if message, _ := a.json["message"].(string); !strings.HasPrefix(message, want) {
			t.Errorf("%.80s: %s, want %s", body, message, want)
		}
	}
	a := s.want(400, s.service("PUT", "/enrollments/dev-1", `{"attestation":{"type":"tpm","tpm":{"endorsementKeyList":{"keys":["`+chip.ek+`"]}}}}`))
	if message, _ := a.json["message"].(string); !strings.HasPrefix(message, "attestation.tpm: of an individual enrollment has an endorsementKey") {
		t.Errorf("an individual enrollment: %s", a.body)
	}
}

// A group may go by the trust store alone, and what was answered of it can be
// written back.
func TestTPMGroupsReferToTheTrustStore(t *testing.T) {
	s := newServer(t)
	for i, certificates := range []string{
		`{"trustStore":true}`, `{"testTrustStore":true}`, `{"trustStore":true,"testTrustStore":true,"vendors":["Infineon","Intel"]}`,
		`{"manufacturers":["IFX"],"trustStore":true}`,
	} {
		path, want := fmt.Sprint("/enrollmentGroups/reel-", i), `"tpm":{"endorsementCertificates":`+certificates+`}`
		created := s.want(200, s.service("PUT", path, `{"attestation":{"type":"tpm",`+want+`}}`))
		kept := s.want(200, s.service("PUT", path, created.body))
		for name, body := range map[string]string{"put": created.body, "put back": kept.body, "get": s.want(200, s.service("GET", path, "")).body} {
			if !strings.Contains(body, want) {
				t.Errorf("%s: no %s in %s", name, want, body)
			}
		}
	}
	neither := s.want(400, s.service("PUT", "/enrollmentGroups/reel", `{"attestation":{"type":"tpm","tpm":{"endorsementCertificates":{"trustStore":false}}}}`))
	if !strings.Contains(neither.body, "must have endorsementCertificates") {
		t.Error(neither.body)
	}
}

// A device of a TPM group registers and polls as any device with a TPM does.
func TestDeviceOfATPMGroupRegisters(t *testing.T) {
	s := newServer(t)
	chip := newSoftTPM(t)
	s.want(200, s.service("PUT", "/enrollmentGroups/reel", `{"attestation":{"type":"tpm","tpm":{"endorsementKeyList":{"keys":["`+chip.ek+`"]}}}}`))
	id := tpm.RegistrationID(chip.keys.EndorsementKey.Marshal())
	body := `{"registrationId":"` + id + `","tpm":{"endorsementKey":"` + chip.ek + `","storageRootKey":"` + chip.srk + `"}}`
	first := s.want(401, request("PUT", registerPath(id), "", body))
	if first.json["authenticationKey"] == nil {
		t.Fatalf("no challenge: %s", first.body)
	}
	token := s.deviceToken(s.nonce(device.RegistrationID(id), chip.keys), id)
	for name, second := range map[string]string{"with its keys": body, "without its keys": `{"registrationId":"` + id + `"}`} {
		a := s.want(202, request("PUT", registerPath(id), token, second))
		if a.state()["tpm"] == nil {
			t.Errorf("%s: %s", name, a.body)
		}
		s.want(200, request("GET", pollPath(a, id), token, ""))
	}
	if a := s.want(401, request("PUT", registerPath("pump-7"), "", strings.ReplaceAll(body, id, "pump-7"))); a.json["authenticationKey"] != nil {
		t.Errorf("under another name: %s", a.body)
	}
}
