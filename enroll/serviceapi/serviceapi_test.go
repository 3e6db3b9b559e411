package serviceapi

import (
	"errors"
	"testing"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// What the rules of today refuse is still translated whole: the rules say why.
func TestConversionLosesNothing(t *testing.T) {
	const body = `{"enrollmentGroupId":"g","attestation":{"type":"x509","x509":{"caReferences":{"primary":"ca-1","secondary":"ca-2"}}},` +
		`"capabilities":{"iotEdge":false},"etag":"IiI=","provisioningStatus":"enabled","allocationPolicy":"custom",` +
		`"customAllocationDefinition":{"webhookUrl":"https://f.example/","apiVersion":"2021-10-01"}}`
	decoded, err := Decode(enroll.Group, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	entry, err := Entry("0ne00000001", enroll.Group, decoded)
	if err != nil {
		t.Fatal(err)
	}
	shape, err := Body(entry, HideKeys)
	if err != nil {
		t.Fatal(err)
	}
	got, err := dpsjson.Encode(shape)
	if err != nil || string(got) != body {
		t.Errorf(" got %s, %v\nwant %s", got, err, body)
	}
}

func TestDamagedStoredCertificateIsOurFault(t *testing.T) {
	for _, x := range []attest.X509{
		{Use: attest.ClientCertificates, Primary: []byte("junk")},
		{Use: attest.SigningCertificates, Secondary: []byte("junk")},
	} {
		_, err := Body(&enroll.Entry{ID: "dev-1", Attestation: attest.Mechanism{Type: attest.TypeX509, X509: &x}}, HideKeys)
		if err == nil || errs.KindOf(err) != errs.Internal || errors.Unwrap(err) == nil {
			t.Errorf("%s: %v", x.Use, err)
		}
	}
}
