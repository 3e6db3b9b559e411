package cli

import (
	"strings"
	"testing"

	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// What one service has and the other does not is left out, with the reason.
func TestWhatCannotMove(t *testing.T) {
	const byKey = `"attestation":{"type":"symmetricKey"}`
	for _, c := range []struct {
		name, body string
		in, out    string // reasons; "" means that it moves
	}{
		{"nothing special", byKey, "", ""},
		{"a linked hub", byKey + `,"iotHubs":["HUB.example.com"]`, "", ""},
		{"a hub that is not linked", byKey + `,"iotHubs":["hub.example.com","contoso.azure-devices.net"]`, "--map-hub contoso.azure-devices.net=HOST", ""},
		{"a pin to one", byKey + `,"iotHubHostName":"contoso.azure-devices.net"`, "not linked here", ""},
		{"custom allocation", byKey + `,"allocationPolicy":"custom","customAllocationDefinition":{"webhookUrl":"https://f.example.com","apiVersion":"2021-10-01"}`, "", ""},
		{"an expression", byKey + `,"allocationPolicy":"custom","customAllocationDefinition":{"expression":"linkedHubs[0]"}`, "", "Azure has no expressions"},
		{"the nearest hub", byKey + `,"allocationPolicy":"geoLatency"`, "", ""},
		{"a reference to a CA", `"attestation":{"type":"x509","x509":{"caReferences":{"primary":"plant"}}}`, "", ""},
		{"a reference to a CA that is not here", `"attestation":{"type":"x509","x509":{"caReferences":{"primary":"plant","secondary":"ca"}}}`, "berth ca prove ca", ""},
		{"a certificate by its fingerprint",
			`"attestation":{"type":"x509","x509":{"signingCertificates":{"primary":{"info":{"sha256Thumbprint":"AB12"}}}}}`,
			"the certificate with SHA-256 AB12", "the certificate with SHA-256 AB12"},
		{"a reel", `"attestation":{"type":"tpm","tpm":{"endorsementKeyList":{"count":3}}}`, "its list of endorsement keys", "Azure has no groups of TPMs"},
		{"an empty reel", `"attestation":{"type":"tpm","tpm":{"endorsementKeyList":{"count":0}}}`, "", "Azure has no groups of TPMs"},
	} {
		g, err := dpsjson.DecodeEnrollmentGroup([]byte(`{"enrollmentGroupId":"g",` + c.body + `}`))
		if err != nil {
			t.Fatal(err)
		}
		for out, want := range map[bool]string{false: c.in, true: c.out} {
			err := (&migration{out: out}).fit(enroll.Group, place{[]string{"hub.example.com"}, []string{"Plant"}})(g.AsIndividual())
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s, out %v: %v, want %q", c.name, out, err, want)
			}
		}
	}
}
