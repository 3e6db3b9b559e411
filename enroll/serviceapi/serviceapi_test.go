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
	for _, custom := range []string{`"webhookUrl":"https://f.example/?code=x","apiVersion":"2021-10-01"`, `"expression":"linkedHubs[0]"`} {
		losesNothing(t, custom)
	}
}

func losesNothing(t *testing.T, custom string) {
	t.Helper()
	body := `{"enrollmentGroupId":"g","attestation":{"type":"x509","x509":{"caReferences":{"primary":"ca-1","secondary":"ca-2"}}},` +
		`"capabilities":{"iotEdge":false},"etag":"IiI=","provisioningStatus":"enabled","allocationPolicy":"custom",` +
		`"customAllocationDefinition":{` + custom + `}}`
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

// Clients write every member that they know, set or not.
func TestEmptyDefinitionIsNone(t *testing.T) {
	const body = `{"registrationId":"dev-1","attestation":{"type":"symmetricKey"},"allocationPolicy":"hashed",` +
		`"customAllocationDefinition":{"webhookUrl":null,"apiVersion":null}}`
	decoded, err := Decode(enroll.Individual, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if entry, err := Entry("0ne00000001", enroll.Individual, decoded); err != nil || entry.Custom != nil {
		t.Errorf("%+v, %v", entry.Custom, err)
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
