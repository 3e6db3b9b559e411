package dpsjson

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"reflect"
	"testing"
	"time"
)

// golden returns a body as it goes over the wire; the files end in a line feed that the wire does not have.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(b, []byte("\n"))
}

func at(t testing.TB, s string) Time {
	t.Helper()
	got, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return Time(got)
}

func key(t testing.TB, fill byte) Key {
	t.Helper()
	var k Key
	text, _ := json.Marshal(bytes.Repeat([]byte{fill}, 16))
	if err := k.UnmarshalText(bytes.Trim(text, `"`)); err != nil {
		t.Fatal(err)
	}
	return k
}

const (
	operation = "5.316aac5bdc130deb.b1e02da8-c3a0-4ff2-a121-7ea7a6b7f550"
	stateTag  = "IjY5MDAzNTUyLTAwMDAtMDMwMC0wMDAwLTYzMGZkYThhMDAwMCI="
	entryTag  = "IjBhMDBiNzQyLTAwMDAtMDgwMC0wMDAwLTY0NjgwMWY1MDAwMCI="
)

func TestBodiesAreAsTheServiceWritesThem(t *testing.T) {
	created, updated := at(t, "2022-08-31T22:02:50.5163352Z"), at(t, "2022-08-31T22:02:50.7370676Z")
	info := CertificateInfo(certificate(t))
	for file, body := range map[string]any{
		"register-accepted.json": OperationStatus{OperationID: operation, Status: Assigning},
		"poll-assigning.json": OperationStatus{OperationID: operation, Status: Assigning,
			RegistrationState: &RegistrationState{RegistrationID: "device-1", Status: Assigning}},
		"poll-assigned-x509.json": OperationStatus{OperationID: operation, Status: Assigned, RegistrationState: &RegistrationState{
			X509: &X509State{}, RegistrationID: "device-1", CreatedDateTimeUTC: created, AssignedHub: "contoso.azure-devices.net",
			DeviceID: "device-1", Status: Assigned, Substatus: "initialAssignment", LastUpdatedDateTimeUTC: updated, ETag: stateTag}},
		"poll-assigned-tpm.json": OperationStatus{OperationID: operation, Status: Assigned, RegistrationState: &RegistrationState{
			TPM: &TPMState{AuthenticationKey: []byte("\x00\x46\x00\x20")}, RegistrationID: "device-1", CreatedDateTimeUTC: at(t, "2022-08-31T22:02:50.51Z"),
			AssignedHub: "contoso.azure-devices.net", DeviceID: "device-1", Status: Assigned, Substatus: "initialAssignment",
			LastUpdatedDateTimeUTC: at(t, "2022-08-31T22:02:51Z"), ETag: stateTag, Payload: []byte(`{"site":"<A&B>","n":1.0}`)}},
		"poll-failed.json": OperationStatus{OperationID: operation, Status: Failed, RegistrationState: &RegistrationState{
			SymmetricKey: &SymmetricKeyState{EnrollmentGroupID: "line-7"}, RegistrationID: "device-1", CreatedDateTimeUTC: created, Status: Failed,
			ErrorCode: 400207, ErrorMessage: "Custom allocation failed with status code: 500", LastUpdatedDateTimeUTC: updated, ETag: stateTag}},
		"challenge.json": NewChallenge([]byte("\x00\x46\x00\x20")),
		"error.json": Error{ErrorCode: 401002, TrackingID: "dd82c8ca-1572-4bf0-952a-a480082760cd", Message: "Unauthorized",
			TimestampUTC: at(t, "2020-11-16T15:20:06.2855197Z")},
		"registration.json": RegistrationState{RegistrationID: "device-1", CreatedDateTimeUTC: created, AssignedHub: "contoso.azure-devices.net",
			DeviceID: "device-1", Status: Assigned, Substatus: "initialAssignment", LastUpdatedDateTimeUTC: updated, ETag: stateTag},
		"individual-enrollment.json": IndividualEnrollment{
			RegistrationID:            "dev-1",
			DeviceID:                  "hub-name-1",
			RegistrationState:         &RegistrationState{RegistrationID: "dev-1", Status: Unassigned},
			OptionalDeviceInformation: Object(`{"additionalProperties":{"hello":"world"}}`),
			Attestation: &AttestationMechanism{Type: AttestationSymmetricKey,
				SymmetricKey: &SymmetricKeys{PrimaryKey: key(t, 0), SecondaryKey: key(t, 0xFF)}},
			Capabilities:   &Capabilities{},
			IoTHubHostName: "contoso.azure-devices.net",
			InitialTwin: &InitialTwin{Tags: Object(`{}`),
				Properties: &InitialTwinProperties{Desired: Object(`{"key":"value"}`)}},
			ETag:                       entryTag,
			ProvisioningStatus:         ProvisioningEnabled,
			ReprovisionPolicy:          &ReprovisionPolicy{UpdateHubAssignment: true, MigrateDeviceData: true},
			CreatedDateTimeUTC:         at(t, "2023-05-19T23:10:45.1256254Z"),
			LastUpdatedDateTimeUTC:     at(t, "2023-05-19T23:10:45.1256254Z"),
			AllocationPolicy:           AllocationHashed,
			IoTHubs:                    []string{"contoso.azure-devices.net"},
			CustomAllocationDefinition: &CustomAllocationDefinition{WebhookURL: "https://allocate.example/hub?a=1&b=2", APIVersion: "2019-03-31"},
			CredentialPolicyName:       "default",
		},
		"enrollment-group.json": EnrollmentGroup{
			EnrollmentGroupID: "line-7",
			Attestation: &AttestationMechanism{Type: AttestationX509,
				X509: &X509Attestation{SigningCertificates: &X509Certificates{Primary: &X509Certificate{Info: &info}}}},
			Capabilities:           &Capabilities{IoTEdge: true},
			ETag:                   entryTag,
			ProvisioningStatus:     ProvisioningDisabled,
			CreatedDateTimeUTC:     at(t, "2023-05-19T23:10:45Z"),
			LastUpdatedDateTimeUTC: at(t, "2023-05-19T23:10:45.12Z"),
			AllocationPolicy:       AllocationGeoLatency,
		},
		"enrollment-minimal.json": IndividualEnrollment{RegistrationID: "dev-1",
			Attestation: &AttestationMechanism{Type: AttestationTPM, TPM: &TPMAttestation{EndorsementKey: []byte("\x01\x3A\x00\x01\x00\x0B")}}},
		"group-ca-references.json": EnrollmentGroup{EnrollmentGroupID: "line-7", Attestation: &AttestationMechanism{Type: AttestationX509,
			X509: &X509Attestation{CAReferences: &X509CAReferences{Primary: "ca-name", Secondary: "ca-name-2"}}}},
		"group-tpm.json": EnrollmentGroup{EnrollmentGroupID: "reel-1", Attestation: &AttestationMechanism{Type: AttestationTPM, TPM: &TPMAttestation{
			EndorsementCertificates: &EKCertificates{
				Roots: []X509Certificate{{Info: &info}}, TestRoots: []X509Certificate{{Info: &info}},
				Manufacturers: []string{"INTC", "id:49465800"}, Models: []string{"SLB9670"},
				Firmware:   []FirmwareRule{{Manufacturer: "IFX", Model: "SLB9670", Oldest: "id:00070055"}, {Manufacturer: "INTC", Oldest: "id:02"}},
				TrustStore: true, TestTrustStore: true, Vendors: []string{"Infineon", "Intel"},
			},
			EndorsementKeyList: &EKList{Count: 100_000, SHA256: info.SHA256Thumbprint},
		}}},
		"ca-certificate.json": CACertificate{Name: "Plant", ETag: entryTag, Properties: CACertificateProperties{
			Certificate: certificate(t).Raw, Subject: info.SubjectName, Expiry: Date(info.NotAfterUTC), Thumbprint: info.SHA1Thumbprint,
			SHA256Thumbprint: info.SHA256Thumbprint, VerificationCode: "0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF",
			Created: Date(at(t, "2023-05-19T23:10:45Z")), Updated: Date(at(t, "2023-05-20T23:10:45Z")), EnrollmentGroups: []string{"line-7"}}},
		"bulk.json": BulkEnrollmentOperation{Mode: BulkUpdateIfMatchETag, Enrollments: []IndividualEnrollment{
			{RegistrationID: "dev-1", Attestation: &AttestationMechanism{Type: AttestationSymmetricKey}},
			{RegistrationID: "dev-2", Attestation: &AttestationMechanism{Type: AttestationSymmetricKey}}}},
		"bulk-success.json": NewBulkResult(nil),
		"bulk-failure.json": NewBulkResult([]BulkEnrollmentOperationError{
			{RegistrationID: "dev-1", ErrorCode: 409201, ErrorStatus: "Enrollment already exists."}}),
	} {
		t.Run(file, func(t *testing.T) {
			want := golden(t, file)
			got, err := Encode(body)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("wrote\n%s, want\n%s", got, want)
			}
			read := reflect.New(reflect.TypeOf(body))
			if err := json.Unmarshal(want, read.Interface()); err != nil {
				t.Fatalf("a client cannot read it: %v", err)
			}
			if got, err := Encode(read.Elem().Interface()); err != nil || !bytes.Equal(got, want) {
				t.Errorf("a client reads\n%s, %v", got, err)
			}
		})
	}
}

func TestDecodersReadWhatEncodeWrites(t *testing.T) {
	for file, decode := range map[string]func([]byte) (any, error){
		"individual-enrollment.json": func(b []byte) (any, error) { return DecodeIndividualEnrollment(b) },
		"enrollment-minimal.json":    func(b []byte) (any, error) { return DecodeIndividualEnrollment(b) },
		"enrollment-group.json":      func(b []byte) (any, error) { return DecodeEnrollmentGroup(b) },
		"group-ca-references.json":   func(b []byte) (any, error) { return DecodeEnrollmentGroup(b) },
		"group-tpm.json":             func(b []byte) (any, error) { return DecodeEnrollmentGroup(b) },
		"bulk.json":                  func(b []byte) (any, error) { return DecodeBulkEnrollmentOperation(b) },
	} {
		want := golden(t, file)
		var indented bytes.Buffer
		if err := json.Indent(&indented, want, "\r\n", "\t "); err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{want, indented.Bytes(), bytes.ReplaceAll(want, []byte(`"r`), []byte(`"\u0072`))} {
			body, err := decode(b)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			if got, err := Encode(body); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: read\n%s, %v; want\n%s", file, got, err, want)
			}
		}
	}
}

// certificate is one that OpenSSL made; what OpenSSL says about it stands in enrollment-group.json.
func certificate(t testing.TB) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(golden(t, "dev-1.pem"))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
