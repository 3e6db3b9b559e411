package dpsjson

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/big"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDecodeDeviceRegistration(t *testing.T) {
	ek := []byte("\x01\x3A\x00\x01")
	csr := string(golden(t, "dev-1-request.pem"))
	der, err := parseDER([]byte(csr), "CERTIFICATE REQUEST")
	if err != nil {
		t.Fatal(err)
	}
	escaped := strings.ReplaceAll(csr, "\n", `\r\n`)
	for _, tt := range []struct {
		name, body string
		want       DeviceRegistration
	}{
		{"nothing", "", DeviceRegistration{}},
		{"white space", " \r\n\t", DeviceRegistration{}},
		{"empty object", "{}", DeviceRegistration{}},
		{"explicit nulls", `{"registrationId":null,"tpm":null,"payload":null,"csr":null}`, DeviceRegistration{}},
		{"unknown members", `{"forceRegistration":true,"x":{"y":[1,"]}",{}]},"":0,"n":-1.5e3}`, DeviceRegistration{}},
		{"an unknown member twice", `{"x":1,"X":2,"x":3}`, DeviceRegistration{}},
		{"an ID", `{"registrationId":"device-1"}`, DeviceRegistration{RegistrationID: "device-1"}},
		{"another case", `{"RegistrationID":"device-1"}`, DeviceRegistration{RegistrationID: "device-1"}},
		{"an escaped name", `{"registration\u0049d":"device\u002d1"}`, DeviceRegistration{RegistrationID: "device-1"}},
		{"a name folded by Unicode is another name", "{\"re\u0261istrationId\":\"x\",\"p\u0061yload\":1,\"tp\u1D0D\":2}", DeviceRegistration{Payload: []byte("1")}},
		{"a Kelvin sign is not a k", "{\"tpm\":{\"storageRoot\u212Aey\":\"ATo=\"}}", DeviceRegistration{TPM: &TPMKeys{}}},
		{"white space", "\n{ \"registrationId\" :\t\"device-1\" , \"payload\" : [ 1 , 2 ] }\r\n", DeviceRegistration{RegistrationID: "device-1", Payload: []byte("[1,2]")}},
		{"TPM keys", `{"tpm":{"endorsementKey":"AToAAQ==","storageRootKey":"AToAAQ=="}}`, DeviceRegistration{TPM: &TPMKeys{EndorsementKey: ek, StorageRootKey: ek}}},
		{"a TPM key", `{"TPM":{"EndorsementKey":"AToAAQ=="}}`, DeviceRegistration{TPM: &TPMKeys{EndorsementKey: ek}}},
		{"an object as payload", `{"payload":{"a":"<b>","A":1.0}}`, DeviceRegistration{Payload: []byte(`{"a":"<b>","A":1.0}`)}},
		{"a string as payload", `{"payload":"{\"a\":1}"}`, DeviceRegistration{Payload: []byte(`"{\"a\":1}"`)}},
		{"a payload with duplicates is the payload's affair", `{"payload":{"a":1,"a":2}}`, DeviceRegistration{Payload: []byte(`{"a":1,"a":2}`)}},
		{"a request as PEM", `{"csr":"` + escaped + `"}`, DeviceRegistration{CSR: der}},
		{"a request as DER", `{"csr":"` + base64.StdEncoding.EncodeToString(der) + `"}`, DeviceRegistration{CSR: der}},
		{"a request by its older name", `{"clientCertificateCsr":"` + base64.StdEncoding.EncodeToString([]byte(csr)) + `"}`, DeviceRegistration{CSR: der}},
		{"as deep as may be", `{"payload":` + strings.Repeat("[", MaxDepth-1) + strings.Repeat("]", MaxDepth-1) + `}`,
			DeviceRegistration{Payload: []byte(strings.Repeat("[", MaxDepth-1) + strings.Repeat("]", MaxDepth-1))}},
		{"brackets in strings are not deep", `{"payload":"` + strings.Repeat(`[\"`, 99) + `"}`, DeviceRegistration{Payload: []byte(`"` + strings.Repeat(`[\"`, 99) + `"`)}},
		{"as long as may be", `{"registrationId":"device-1"}` + strings.Repeat(" ", MaxBody-len(`{"registrationId":"device-1"}`)), DeviceRegistration{RegistrationID: "device-1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := DecodeDeviceRegistration([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("read %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestDecodeDeviceRegistrationRefuses(t *testing.T) {
	csr := strings.ReplaceAll(string(golden(t, "dev-1-request.pem")), "\n", `\n`)
	cert := strings.ReplaceAll(string(golden(t, "dev-1.pem")), "\n", `\n`)
	bomb := strings.Repeat(`{"tpm":`, 10000)
	for _, tt := range []struct{ name, body, err string }{
		{"a byte too long", `{"registrationId":"device-1"}` + strings.Repeat(" ", MaxBody+1-len(`{"registrationId":"device-1"}`)), "body: longer than 98304 bytes"},
		{"too much of nothing", strings.Repeat(" ", MaxBody+1), "body: longer than 98304 bytes"},
		{"not JSON", "registrationId=device-1", "body: not one JSON value; wrong at byte 1"},
		{"cut off", `{"registrationId":"dev`, "body: not one JSON value; wrong at byte 22"},
		{"trailing bytes", `{}x`, "body: not one JSON value; wrong at byte 3"},
		{"two values", `{}{}`, "body: not one JSON value; wrong at byte 3"},
		{"a trailing NUL", "{}\x00", "body: not one JSON value; wrong at byte 3"},
		{"a trailing comma", `{"tpm":{},}`, "body: not one JSON value; wrong at byte 11"},
		{"a comment", `{}//`, "body: not one JSON value; wrong at byte 3"},
		{"single quotes", `{'registrationId':'x'}`, "body: not one JSON value; wrong at byte 2"},
		{"a bare control character", "{\"registrationId\":\"a\nb\"}", "body: not one JSON value; wrong at byte 21"},
		{"a byte order mark", "\uFEFF{}", "body: not one JSON value; wrong at byte 1"},
		{"a no-break space", "\u00A0", "body: not one JSON value; wrong at byte 1"},
		{"not UTF-8", "{\"registrationId\":\"\xFF\"}", "body: not UTF-8"},
		{"UTF-16", "{\x00}\x00", "body: not one JSON value; wrong at byte 2"},
		{"an overlong encoding", "{\"registrationId\":\"\xC0\xAF\"}", "body: not UTF-8"},
		{"an array", `[]`, "body: not an object"},
		{"a string", `" "`, "body: not an object"},
		{"a number", `1`, "body: not an object"},
		{"null", `null`, "body: not an object"},
		{"a level too deep", `{"payload":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `}`, "body: nested deeper than 32"},
		{"a bomb of arrays", strings.Repeat("[", MaxBody), "body: not one JSON value; wrong at byte 10001"},
		{"a bomb of objects", bomb + "1" + strings.Repeat("}", 10000), "body: nested deeper than 32"},
		{"a hidden bomb", `{"x":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`, "body: nested deeper than 32"},
		{"an ID that is a number", `{"registrationId":1}`, "registrationId: not a string"},
		{"an ID that is an object", `{"registrationId":{"registrationId":"x"}}`, "registrationId: not a string"},
		{"an ID twice", `{"registrationId":"a","registrationId":"b"}`, "registrationId: given twice"},
		{"the same ID twice", `{"registrationId":"a","registrationId":"a"}`, "registrationId: given twice"},
		{"an ID in two cases", `{"registrationId":"a","RegistrationId":"b"}`, "registrationId: given twice"},
		{"an ID behind an escape", `{"registrationId":"a","registration\u0049d":"b"}`, "registrationId: given twice"},
		{"an ID after a null", `{"registrationId":null,"registrationId":"b"}`, "registrationId: given twice"},
		{"keys in two halves", `{"tpm":{"endorsementKey":"AToA"},"Tpm":{"storageRootKey":"AToA"}}`, "tpm: given twice"},
		{"two keys in one", `{"tpm":{"endorsementKey":"AToA","ENDORSEMENTKEY":"BToB"}}`, "tpm.endorsementKey: given twice"},
		{"two payloads", `{"payload":1,"payload":2}`, "payload: given twice"},
		{"a TPM that is a string", `{"tpm":"AToA"}`, "tpm: not an object"},
		{"a TPM that is an array", `{"tpm":[]}`, "tpm: not an object"},
		{"a key that is not base64", `{"tpm":{"endorsementKey":"AToA!"}}`, "tpm.endorsementKey: not base64"},
		{"a key in the URL alphabet", `{"tpm":{"endorsementKey":"_-_-"}}`, "tpm.endorsementKey: not base64"},
		{"a key without padding", `{"tpm":{"endorsementKey":"AToAAQ"}}`, "tpm.endorsementKey: not base64"},
		{"a key of numbers", `{"tpm":{"storageRootKey":[1,2]}}`, "tpm.storageRootKey: not a string"},
		{"a request that is not text", `{"csr":{}}`, "csr: not a string"},
		{"an empty request", `{"csr":""}`, "csr: not a PKCS #10 certificate request"},
		{"a request that is not base64", `{"csr":"!"}`, "csr: neither PEM nor base64"},
		{"a request that is not one", `{"csr":"AAAA"}`, "csr: not a PKCS #10 certificate request"},
		{"a certificate as request", `{"csr":"` + cert + `"}`, "csr: not a PEM CERTIFICATE REQUEST"},
		{"two requests", `{"csr":"` + csr + `","clientCertificateCsr":"` + csr + `"}`, "csr: given twice"},
		{"a request by its older name that is bad", `{"clientCertificateCsr":"!"}`, "csr: neither PEM nor base64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := DecodeDeviceRegistration([]byte(tt.body))
			if err == nil {
				t.Fatalf("was accepted as %+v", got)
			}
			if err.Error() != tt.err {
				t.Errorf("refused with %q, want %q", err, tt.err)
			}
			if !reflect.DeepEqual(got, DeviceRegistration{}) {
				t.Errorf("left %+v behind", got)
			}
		})
	}
}

func TestDecodeIndividualEnrollment(t *testing.T) {
	for _, tt := range []struct{ name, body, want string }{
		{"nulls for everything", `{"registrationId":"d","deviceId":null,"registrationState":null,"optionalDeviceInformation":null,
			"attestation":{"type":"symmetricKey","tpm":null,"x509":null,"symmetricKey":{"primaryKey":null,"secondaryKey":null}},
			"capabilities":null,"iotHubHostName":null,"initialTwin":{"tags":null,"properties":{"desired":null}},"etag":null,
			"provisioningStatus":null,"reprovisionPolicy":null,"createdDateTimeUtc":null,"lastUpdatedDateTimeUtc":null,
			"allocationPolicy":null,"iotHubs":null,"customAllocationDefinition":null,"credentialPolicyName":null}`,
			`{"registrationId":"d","attestation":{"type":"symmetricKey","symmetricKey":{}},"initialTwin":{"properties":{}}}`},
		{"enumerations in any case",
			`{"attestation":{"type":"SymmetricKey"},"provisioningStatus":"Disabled","allocationPolicy":"geolatency"}`,
			`{"attestation":{"type":"symmetricKey"},"provisioningStatus":"disabled","allocationPolicy":"geoLatency"}`},
		{"names in any case",
			`{"REGISTRATIONID":"d","Attestation":{"TYPE":"none"},"capabilities":{"IotEdge":true},"IOTHUBS":["h"],"eTag":"e"}`,
			`{"registrationId":"d","attestation":{"type":"none"},"capabilities":{"iotEdge":true},"etag":"e","iotHubs":["h"]}`},
		{"empty keys are no keys", `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"","secondaryKey":""}}}`,
			`{"attestation":{"type":"symmetricKey","symmetricKey":{}}}`},
		{"twins are kept to the byte",
			`{"initialTwin": {"tags": {"B": 1, "b": 1.0, "b": 1e2, "<": "\u0041"}, "properties": {"desired": {"version": null, "$x": [ ]}}}}`,
			`{"initialTwin":{"tags":{"B":1,"b":1.0,"b":1e2,"<":"\u0041"},"properties":{"desired":{"version":null,"$x":[]}}}}`},
		{"a certificate that stays as it is",
			`{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"info":{"subjectName":"CN=d","version":3}},"secondary":null}}}}`,
			`{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"info":{"subjectName":"CN=d","sha1Thumbprint":"","sha256Thumbprint":"","issuerName":"","notBeforeUtc":"0001-01-01T00:00:00Z","notAfterUtc":"0001-01-01T00:00:00Z","serialNumber":"","version":3}}}}}}`},
		{"times of other tongues", `{"createdDateTimeUtc":"2023-05-20T01:10:45.12345678+02:00","lastUpdatedDateTimeUtc":"2023-05-19T23:10:45.5"}`,
			`{"createdDateTimeUtc":"2023-05-19T23:10:45.1234567Z","lastUpdatedDateTimeUtc":"2023-05-19T23:10:45.5Z"}`},
		{"a time of .NET that is none", `{"createdDateTimeUtc":"0001-01-01T00:00:00"}`, `{}`},
		{"a state sent back", `{"registrationState":{"status":"failed","errorCode":400207,"issuedCertificateChain":["AA==","AQ=="]}}`,
			`{"registrationState":{"status":"failed","errorCode":400207,"issuedCertificateChain":["AA==","AQ=="]}}`},
		{"an empty list of hubs", `{"iotHubs":[]}`, `{}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, err := DecodeIndividualEnrollment([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := Encode(e); err != nil || string(got) != tt.want {
				t.Errorf("read\n%s, %v; want\n%s", got, err, tt.want)
			}
		})
	}
}

func TestDecodeIndividualEnrollmentRefuses(t *testing.T) {
	for _, tt := range []struct{ name, body, err string }{
		{"nothing", ``, "body: not one JSON value; wrong at byte 0"},
		{"null", `null`, "body: not an object"},
		{"too long", `{"tags":"` + strings.Repeat("x", MaxBody) + `"}`, "body: longer than 98304 bytes"},
		{"an unknown attestation", `{"attestation":{"type":"password"}}`, "attestation.type: not one of none, tpm, x509, symmetricKey"},
		{"an empty attestation type", `{"attestation":{"type":""}}`, "attestation.type: not one of none, tpm, x509, symmetricKey"},
		{"an attestation type that is a number", `{"attestation":{"type":2}}`, "attestation.type: not a string"},
		{"two attestations", `{"attestation":{"type":"tpm"},"Attestation":{"type":"none"}}`, "attestation: given twice"},
		{"two primary keys", `{"attestation":{"symmetricKey":{"primaryKey":"","PrimaryKey":""}}}`, "attestation.symmetricKey.primaryKey: given twice"},
		{"a key that is not base64", `{"attestation":{"symmetricKey":{"primaryKey":"my secret!"}}}`, "attestation.symmetricKey.primaryKey: is not base64"},
		{"a key of 15 bytes", `{"attestation":{"symmetricKey":{"secondaryKey":"AAAAAAAAAAAAAAAAAAAA"}}}`, "attestation.symmetricKey.secondaryKey: has 15 bytes; 16 to 64 are allowed"},
		{"a certificate that is not one", `{"attestation":{"x509":{"clientCertificates":{"primary":{"certificate":"AAAA"}}}}}`, "attestation.x509.clientCertificates.primary.certificate: not an X.509 certificate"},
		{"an unknown status", `{"provisioningStatus":"maybe"}`, "provisioningStatus: not one of enabled, disabled"},
		{"an unknown policy", `{"allocationPolicy":"random"}`, "allocationPolicy: not one of hashed, geoLatency, static, custom"},
		{"a Boolean in quotes", `{"capabilities":{"iotEdge":"true"}}`, "capabilities.iotEdge: not true or false"},
		{"a Boolean that is a number", `{"reprovisionPolicy":{"migrateDeviceData":1}}`, "reprovisionPolicy.migrateDeviceData: not true or false"},
		{"tags that are an array", `{"initialTwin":{"tags":[]}}`, "initialTwin.tags: not an object"},
		{"desired properties that are a string", `{"initialTwin":{"properties":{"desired":"{}"}}}`, "initialTwin.properties.desired: not an object"},
		{"information that is a number", `{"optionalDeviceInformation":1}`, "optionalDeviceInformation: not an object"},
		{"hubs that are a string", `{"iotHubs":"h"}`, "iotHubs: not an array"},
		{"a hub that is null", `{"iotHubs":["h",null]}`, "iotHubs[1]: null"},
		{"a hub that is an object", `{"iotHubs":[{}]}`, "iotHubs[0]: not a string"},
		{"a time that is none", `{"createdDateTimeUtc":"yesterday"}`, "createdDateTimeUtc: not an ISO 8601 time"},
		{"a time before all times", `{"createdDateTimeUtc":"0001-01-01T00:00:00+01:00"}`, "createdDateTimeUtc: not an ISO 8601 time"},
		{"a time after all times", `{"createdDateTimeUtc":"9999-12-31T23:59:59-01:00"}`, "createdDateTimeUtc: not an ISO 8601 time"},
		{"a code that is a fraction", `{"registrationState":{"errorCode":1.5}}`, "registrationState.errorCode: not an integer"},
		{"a code out of range", `{"registrationState":{"errorCode":99999999999999999999}}`, "registrationState.errorCode: not an integer"},
		{"a chain with a bad link", `{"registrationState":{"issuedCertificateChain":["AA==","?"]}}`, "registrationState.issuedCertificateChain[1]: not base64"},
		{"a certificate of no version", `{"attestation":{"x509":{"signingCertificates":{"secondary":{"info":{"version":"3"}}}}}}`, "attestation.x509.signingCertificates.secondary.info.version: not an integer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, err := DecodeIndividualEnrollment([]byte(tt.body))
			if err == nil {
				t.Fatalf("was accepted as %+v", e)
			}
			if err.Error() != tt.err {
				t.Errorf("refused with %q, want %q", err, tt.err)
			}
			if !reflect.DeepEqual(e, IndividualEnrollment{}) {
				t.Errorf("left %+v behind", e)
			}
		})
	}
}

func TestOtherBodiesAreRefused(t *testing.T) {
	group := func(b []byte) error { _, err := DecodeEnrollmentGroup(b); return err }
	bulk := func(b []byte) error { _, err := DecodeBulkEnrollmentOperation(b); return err }
	query := func(b []byte) error { _, err := DecodeQuerySpecification(b); return err }
	items := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("{},", n), ",") + "]" }
	for _, tt := range []struct {
		name   string
		decode func([]byte) error
		body   string
		err    string
	}{
		{"a group's ID that is a number", group, `{"enrollmentGroupId":7}`, "enrollmentGroupId: not a string"},
		{"a group's status", group, `{"provisioningStatus":"on"}`, "provisioningStatus: not one of enabled, disabled"},
		{"no group", group, ``, "body: not one JSON value; wrong at byte 0"},
		{"no mode", bulk, `{"enrollments":[]}`, "mode: missing"},
		{"an unknown mode", bulk, `{"mode":"upsert"}`, "mode: not one of create, update, updateIfMatchETag, delete"},
		{"eleven enrollments", bulk, `{"mode":"create","enrollments":` + items(11) + `}`, "enrollments: more than 10"},
		{"eleven groups", bulk, `{"mode":"create","enrollmentGroups":` + items(11) + `}`, "enrollmentGroups: more than 10"},
		{"a fault in the second item", bulk, `{"mode":"create","enrollments":[{},{"attestation":{"type":0}}]}`, "enrollments[1].attestation.type: not a string"},
		{"a null item", bulk, `{"mode":"create","enrollments":[null]}`, "enrollments[0]: null"},
		{"a bulk too long", bulk, strings.Repeat(" ", MaxBulkBody+1), "body: longer than 983040 bytes"},
		{"a query that is a list", query, `{"query":["SELECT *"]}`, "query: not a string"},
		{"a query too long", query, strings.Repeat(" ", MaxBody+1), "body: longer than 98304 bytes"},
	} {
		if err := tt.decode([]byte(tt.body)); err == nil || err.Error() != tt.err {
			t.Errorf("%s: refused with %v, want %q", tt.name, err, tt.err)
		}
	}
}

func TestBulkModesAndQueries(t *testing.T) {
	for body, want := range map[string]BulkMode{
		`{"mode":"create"}`:            BulkCreate,
		`{"mode":"updateIfMatchEtag"}`: BulkUpdateIfMatchETag,
		`{"mode":"DELETE","enrollmentGroups":[{"enrollmentGroupId":"g"},{},{},{},{},{},{},{},{},{}]}`: BulkDelete,
	} {
		if o, err := DecodeBulkEnrollmentOperation([]byte(body)); err != nil || o.Mode != want {
			t.Errorf("%s: mode %q, %v", body, o.Mode, err)
		}
	}
	for body, want := range map[string]string{
		``: "", "\n": "", `{}`: "", `{"query":null}`: "", `{"query":""}`: "", `{"Query":"select *"}`: "select *",
	} {
		if q, err := DecodeQuerySpecification([]byte(body)); err != nil || q.Query != want {
			t.Errorf("%q: query %q, %v", body, q.Query, err)
		}
	}
}

func TestValidateAttestation(t *testing.T) {
	for _, tt := range []struct{ attestation, err string }{
		{`{"type":"none"}`, ""},
		{`{"type":"tpm","tpm":{"endorsementKey":"AToA"}}`, ""},
		{`{"type":"symmetricKey"}`, ""},
		{`{"type":"symmetricKey","symmetricKey":{}}`, ""},
		{`{"type":"x509","x509":{"clientCertificates":{"primary":{}}}}`, ""},
		{`{"type":"x509","x509":{"signingCertificates":{"primary":{}},"clientCertificates":null}}`, ""},
		{`{"type":"x509","x509":{"caReferences":{"primary":"a"}}}`, ""},
		{`null`, "attestation: missing"},
		{`{}`, "attestation.type: missing"},
		{`{"tpm":{"endorsementKey":"AToA"}}`, "attestation.type: missing"},
		{`{"type":"tpm"}`, "attestation.tpm.endorsementKey: missing"},
		{`{"type":"tpm","tpm":{"storageRootKey":"ARoA"}}`, "attestation.tpm.endorsementKey: missing"},
		{`{"type":"tpm","tpm":{"endorsementKey":""}}`, "attestation.tpm.endorsementKey: missing"},
		{`{"type":"none","tpm":{"endorsementKey":"AToA"}}`, "attestation.tpm: not of this type of attestation"},
		{`{"type":"tpm","tpm":{"endorsementKey":"AToA"},"symmetricKey":{}}`, "attestation.symmetricKey: not of this type of attestation"},
		{`{"type":"symmetricKey","x509":{}}`, "attestation.x509: not of this type of attestation"},
		{`{"type":"x509"}`, "attestation.x509: needs exactly one of clientCertificates, signingCertificates, caReferences"},
		{`{"type":"x509","x509":{}}`, "attestation.x509: needs exactly one of clientCertificates, signingCertificates, caReferences"},
		{`{"type":"x509","x509":{"clientCertificates":{},"caReferences":{}}}`, "attestation.x509: needs exactly one of clientCertificates, signingCertificates, caReferences"},
		{`{"type":"x509","x509":{"clientCertificates":{"secondary":{}}}}`, "attestation.x509.clientCertificates.primary: missing"},
		{`{"type":"x509","x509":{"signingCertificates":{}}}`, "attestation.x509.signingCertificates.primary: missing"},
		{`{"type":"x509","x509":{"caReferences":{"secondary":"a"}}}`, "attestation.x509.caReferences.primary: missing"},
	} {
		e, err := DecodeIndividualEnrollment([]byte(`{"attestation":` + tt.attestation + `}`))
		if err != nil {
			t.Errorf("%s: %v", tt.attestation, err)
			continue
		}
		switch err := e.Attestation.Validate(); {
		case err == nil && tt.err != "":
			t.Errorf("%s is valid, want %q", tt.attestation, tt.err)
		case err != nil && err.Error() != tt.err:
			t.Errorf("%s: %q, want %q", tt.attestation, err, tt.err)
		}
	}
}

func TestParseCertificate(t *testing.T) {
	text := string(golden(t, "dev-1.pem")) + "\n"
	der := certificate(t).Raw
	body := base64.StdEncoding.EncodeToString(der)
	for name, s := range map[string]string{
		"PEM":                      text,
		"PEM with CRLF":            strings.ReplaceAll(text, "\n", "\r\n"),
		"PEM after OpenSSL's text": "Certificate:\n    Data:\n        Version: 3 (0x2)\n" + text,
		"PEM without a last line":  strings.TrimSpace(text),
		"base64 of PEM":            base64.StdEncoding.EncodeToString([]byte(text)),
		"base64 DER":               body,
		"base64 DER in lines":      body[:64] + "\r\n" + body[64:] + "\n",
	} {
		got, err := ParseCertificate(s)
		if err != nil || !bytes.Equal(got, der) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	for _, tt := range []struct{ name, text, err string }{
		{"nothing", "", "not an X.509 certificate"},
		{"too long", strings.Repeat("A", maxCertificate+4), "longer than 32768 bytes"},
		{"words", "dev-1", "neither PEM nor base64"},
		{"base64 without padding", strings.TrimRight(base64.StdEncoding.EncodeToString(append(der, 0, 0)), "="), "neither PEM nor base64"},
		{"a byte behind the DER", base64.StdEncoding.EncodeToString(append(bytes.Clone(der), 0)), "not an X.509 certificate"},
		{"DER cut short", base64.StdEncoding.EncodeToString(der[:len(der)-1]), "not an X.509 certificate"},
		{"two certificates", text + text, "more than one PEM block"},
		{"a chain in base64", base64.StdEncoding.EncodeToString([]byte(text + text)), "more than one PEM block"},
		{"a key behind it", text + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "more than one PEM block"},
		{"a broken block before it", "-----BEGIN CERTIFICATE-----\n" + text, "more than one PEM block"},
		{"a key instead", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a PEM CERTIFICATE"},
		{"a request instead", string(golden(t, "dev-1-request.pem")), "not a PEM CERTIFICATE"},
		{"text behind it", text + "and more", "text after the PEM block"},
		{"no end", strings.Split(text, "-----END")[0], "not PEM"},
		{"PEM of nothing", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "not an X.509 certificate"},
		{"PEM twice encoded", base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(text)))), "not an X.509 certificate"},
	} {
		if got, err := ParseCertificate(tt.text); err == nil || err.Error() != tt.err {
			t.Errorf("%s: %x, %v; want %q", tt.name, got, err, tt.err)
		}
	}
}

func TestCertificatesAreWrittenAsDER(t *testing.T) {
	der := certificate(t).Raw
	e := IndividualEnrollment{Attestation: &AttestationMechanism{Type: AttestationX509, X509: &X509Attestation{
		ClientCertificates: &X509Certificates{Primary: &X509Certificate{Certificate: der}}}}}
	b, err := Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeIndividualEnrollment(b)
	if err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("read %+v, %v from %s", got, err, b)
	}
	request, err := parseDER(golden(t, "dev-1-request.pem"), "CERTIFICATE REQUEST")
	if err != nil {
		t.Fatal(err)
	}
	b, err = Encode(DeviceRegistration{RegistrationID: "dev-1", CSR: request})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeDeviceRegistration(b); err != nil || !bytes.Equal(got.CSR, request) {
		t.Errorf("read %x, %v from %s", got.CSR, err, b)
	}
}

func TestSerialNumbersHaveWholeBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "00", 1: "01", 0xFF: "FF", 0x100: "0100", 0xABCDEF: "ABCDEF"} {
		if got := serialNumber(big.NewInt(n)); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	if got := distinguishedName([]byte("\x30\x01")); got != "" {
		t.Errorf("half a name is %q", got)
	}
}

func TestTimes(t *testing.T) {
	for nanos, want := range map[int]string{
		0:           "2022-08-31T22:02:50Z",
		500_000_000: "2022-08-31T22:02:50.5Z",
		516_335_299: "2022-08-31T22:02:50.5163352Z",
		516_330_000: "2022-08-31T22:02:50.51633Z",
		99:          "2022-08-31T22:02:50Z",
		100:         "2022-08-31T22:02:50.0000001Z",
	} {
		in := time.Date(2022, 9, 1, 0, 2, 50, nanos, time.FixedZone("", 2*60*60))
		if got := Time(in).String(); got != want {
			t.Errorf("%d ns: %s, want %s", nanos, got, want)
		}
	}
}

func TestETags(t *testing.T) {
	const token = "0a00b742-0000-0800-0000-646801f50000"
	if got := EncodeETag(token); got != entryTag {
		t.Errorf("encoded %s, want %s", got, entryTag)
	}
	for _, tt := range []struct {
		ifMatch, etag string
		want          bool
	}{
		{entryTag, entryTag, true},
		{`"` + entryTag + `"`, entryTag, true},
		{token, entryTag, true},
		{`"` + token + `"`, entryTag, true},
		{"*", entryTag, true},
		{"tag", "tag", true},
		{`"tag"`, "tag", true},
		{"", entryTag, false},
		{"", "", false},
		{`""`, "", false},
		{`""`, entryTag, false},
		{`"`, EncodeETag(""), false},
		{`""`, EncodeETag(""), false},
		{`"*"`, entryTag, false},
		{stateTag, entryTag, false},
		{strings.ToLower(entryTag), entryTag, false},
		{strings.ToUpper(token), entryTag, false},
		{token[1:], entryTag, false},
		{`"` + token, entryTag, false},
		{token + `"`, entryTag, false},
		{`""` + token + `""`, entryTag, false},
		{`"` + entryTag, entryTag, false},
		{`W/"` + token + `"`, entryTag, false},
		{entryTag + ", " + stateTag, entryTag, false},
	} {
		if got := MatchETag(tt.ifMatch, tt.etag); got != tt.want {
			t.Errorf("If-Match: %s against %s: %v, want %v", tt.ifMatch, tt.etag, got, tt.want)
		}
	}
}

func TestNoVerbShowsAKey(t *testing.T) {
	e, err := DecodeIndividualEnrollment(golden(t, "individual-enrollment.json"))
	if err != nil {
		t.Fatal(err)
	}
	k := e.Attestation.SymmetricKey.SecondaryKey
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		out := fmt.Sprintf(verb, *e.Attestation.SymmetricKey) + fmt.Sprintf(verb, struct{ k Key }{k})
		for _, secret := range []string{k.Base64(), "ffffffff", "FFFFFFFF", "255 255", "0xff, 0xff"} {
			if strings.Contains(out, secret) {
				t.Errorf("%s shows the key: %s", verb, out)
			}
		}
	}
}

// everyDecoder gives one body to all that read bodies.
func everyDecoder(b []byte) {
	DecodeDeviceRegistration(b)
	DecodeIndividualEnrollment(b)
	DecodeEnrollmentGroup(b)
	DecodeBulkEnrollmentOperation(b)
	DecodeQuerySpecification(b)
	ParseCertificate(string(b))
	MatchETag(string(b), string(b))
}

func TestDamagedBodiesDoNoHarm(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 1))
	var seeds [][]byte
	for _, file := range []string{"individual-enrollment.json", "enrollment-group.json", "bulk.json", "poll-assigned-tpm.json", "dev-1.pem"} {
		seeds = append(seeds, golden(t, file))
	}
	const alphabet = "{}[]\",:\\ \x00\xFFnulltrue0-1e9.AToA"
	for range 1000 {
		b := bytes.Clone(seeds[rng.IntN(len(seeds))])
		for range 1 + rng.IntN(8) {
			i := rng.IntN(len(b))
			switch rng.IntN(3) {
			case 0:
				b[i] = alphabet[rng.IntN(len(alphabet))]
			case 1:
				b = append(b[:i:i], b[rng.IntN(len(b)):]...)
			case 2:
				b = append(b[:i:i], append([]byte{alphabet[rng.IntN(len(alphabet))]}, b[i:]...)...)
			}
			if len(b) == 0 {
				break
			}
		}
		everyDecoder(b)
	}
}

func FuzzDecodeDeviceRegistration(f *testing.F) {
	f.Add([]byte(`{"registrationId":"device-1","tpm":{"endorsementKey":"AToA","storageRootKey":"ARoA"},"payload":{"a":[1,"\u0041"]}}`))
	f.Add([]byte(" "))
	f.Add([]byte(`{"csr":"AAAA","CSR":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeDeviceRegistration(b)
		if err != nil {
			return
		}
		stable(t, r, func(b []byte) (any, error) { return DecodeDeviceRegistration(b) })
	})
}

func FuzzDecodeIndividualEnrollment(f *testing.F) {
	f.Add(golden(f, "individual-enrollment.json"))
	f.Add(golden(f, "enrollment-minimal.json"))
	f.Add([]byte(`{"attestation":{}}`))
	f.Add([]byte(`{"registrationState":{"payload":[],"issuedCertificateChain":["AA=="]},"createdDateTimeUtc":"2023-05-20T01:10:45+02:00"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		everyDecoder(b)
		e, err := DecodeIndividualEnrollment(b)
		if err != nil {
			return
		}
		stable(t, e, func(b []byte) (any, error) { return DecodeIndividualEnrollment(b) })
	})
}

// stable checks that an accepted body, written and read again, says the same.
func stable(t *testing.T, body any, decode func([]byte) (any, error)) {
	once, err := Encode(body)
	if err != nil {
		t.Fatal(err)
	}
	if len(once) > MaxBody {
		return // a short body can grow: a control character is one byte, or six where it is written as \u0000
	}
	again, err := decode(once)
	if err != nil {
		t.Fatalf("refused what it read: %s: %v", once, err)
	}
	if twice, err := Encode(again); err != nil || !bytes.Equal(twice, once) {
		t.Errorf("read\n%s, then\n%s, %v", once, twice, err)
	}
}

func FuzzParseCertificate(f *testing.F) {
	text := golden(f, "dev-1.pem")
	f.Add(string(text))
	f.Add(base64.StdEncoding.EncodeToString(text))
	f.Add(base64.StdEncoding.EncodeToString(certificate(f).Raw))
	f.Fuzz(func(t *testing.T, s string) {
		der, err := ParseCertificate(s)
		if err != nil {
			return
		}
		written, _ := Certificate(der).MarshalText()
		if again, err := ParseCertificate(string(written)); err != nil || !bytes.Equal(again, der) {
			t.Errorf("read %x, then %x, %v", der, again, err)
		}
	})
}

func BenchmarkDecodeDeviceRegistration(b *testing.B) {
	keys := base64.StdEncoding.EncodeToString(make([]byte, 316))
	for name, body := range map[string]string{
		"key": `{"registrationId":"device-1"}`,
		"TPM": `{"registrationId":"device-1","tpm":{"endorsementKey":"` + keys + `","storageRootKey":"` + keys + `"}}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeDeviceRegistration([]byte(body)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncodeAssigned(b *testing.B) {
	now := Time(time.Unix(1700000000, 516335200))
	body := OperationStatus{OperationID: operation, Status: Assigned, RegistrationState: &RegistrationState{
		SymmetricKey: &SymmetricKeyState{}, RegistrationID: "device-1", CreatedDateTimeUTC: now, AssignedHub: "hub.example",
		DeviceID: "device-1", Status: Assigned, Substatus: "initialAssignment", LastUpdatedDateTimeUTC: now, ETag: stateTag}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Encode(body); err != nil {
			b.Fatal(err)
		}
	}
}
