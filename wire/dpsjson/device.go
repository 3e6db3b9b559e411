package dpsjson

import "encoding/json"

// A DeviceRegistration is what a device sends to register, and to look its registration up.
type DeviceRegistration struct {
	RegistrationID string             `json:"registrationId,omitempty"` // optional; must then equal the one the request names
	TPM            *TPMKeys           `json:"tpm,omitempty"`
	Payload        json.RawMessage    `json:"payload,omitempty"` // any JSON value, for the custom allocation webhook
	CSR            CertificateRequest `json:"csr,omitempty" also:"clientCertificateCsr"`
}

// TPMKeys are the public halves of a TPM's endorsement key and storage root key, each a TPM2B_PUBLIC (TPM 2.0 Library
// Part 2 §12.2.5). What follows them is an extension, for groups of TPMs.
type TPMKeys struct {
	EndorsementKey []byte `json:"endorsementKey,omitempty"`
	StorageRootKey []byte `json:"storageRootKey,omitempty"`
	// EndorsementCertificate is the certificate of the endorsement key, as NV memory holds it (DER).
	EndorsementCertificate []byte `json:"endorsementCertificate,omitempty"`
	// EndorsementCertificateChain is what stands above it, DER behind DER in any order.
	EndorsementCertificateChain []byte `json:"endorsementCertificateChain,omitempty"`
}

// ShownCertificate returns the certificate of the endorsement key and its chain: those of TPM, or, for clients that
// cannot write there, of the members with the same names in a payload that is an object. A payload is its owner's to
// design: what is not base64 there is not ours, and is passed over.
func (r DeviceRegistration) ShownCertificate() (certificate, chain []byte) {
	if r.TPM != nil && len(r.TPM.EndorsementCertificate) > 0 {
		return r.TPM.EndorsementCertificate, r.TPM.EndorsementCertificateChain
	}
	if len(r.Payload) == 0 || r.Payload[0] != '{' {
		return nil, nil
	}
	var p struct {
		EndorsementCertificate, EndorsementCertificateChain json.RawMessage
	}
	if json.Unmarshal(r.Payload, &p) != nil {
		return nil, nil
	}
	if json.Unmarshal(p.EndorsementCertificate, &certificate) != nil {
		return nil, nil
	}
	if json.Unmarshal(p.EndorsementCertificateChain, &chain) != nil {
		chain = nil
	}
	return certificate, chain
}

// DecodeDeviceRegistration reads the body of a register request. A device that proves itself by key or certificate
// may send none: nothing, white space and {} are the same.
func DecodeDeviceRegistration(b []byte) (DeviceRegistration, error) {
	var r DeviceRegistration
	if len(b) <= MaxBody && isBlank(b) {
		return r, nil
	}
	if err := decode(b, MaxBody, &r); err != nil {
		return DeviceRegistration{}, err
	}
	return r, nil
}

// A Status says where a registration stands.
type Status string

// The registration statuses.
const (
	Unassigned Status = "unassigned"
	Assigning  Status = "assigning"
	Assigned   Status = "assigned"
	Failed     Status = "failed"
	Disabled   Status = "disabled"
)

// An OperationStatus answers a register request and every poll of its operation. RegistrationState is nil until there
// is something to say.
type OperationStatus struct {
	OperationID       string             `json:"operationId"`
	Status            Status             `json:"status"`
	RegistrationState *RegistrationState `json:"registrationState,omitempty"`
}

// A RegistrationState is the record of a device's registration, for the device itself or, without the first three
// members, in the service API.
type RegistrationState struct {
	X509                   *X509State         `json:"x509,omitempty"`
	TPM                    *TPMState          `json:"tpm,omitempty"`
	SymmetricKey           *SymmetricKeyState `json:"symmetricKey,omitempty"`
	RegistrationID         string             `json:"registrationId,omitempty"`
	CreatedDateTimeUTC     Time               `json:"createdDateTimeUtc,omitzero"`
	AssignedHub            string             `json:"assignedHub,omitempty"` // host name
	DeviceID               string             `json:"deviceId,omitempty"`
	Status                 Status             `json:"status,omitempty"`
	Substatus              string             `json:"substatus,omitempty"`
	ErrorCode              int                `json:"errorCode,omitempty"`
	ErrorMessage           string             `json:"errorMessage,omitempty"`
	LastUpdatedDateTimeUTC Time               `json:"lastUpdatedDateTimeUtc,omitzero"`
	ETag                   string             `json:"etag,omitempty"` // see EncodeETag
	Payload                json.RawMessage    `json:"payload,omitempty"`
	IssuedCertificateChain [][]byte           `json:"issuedCertificateChain,omitempty"` // DER, leaf first
}

// An X509State says how a device proved itself by certificate. The service answers an empty object.
type X509State struct {
	CertificateInfo        *X509CertificateInfo `json:"certificateInfo,omitempty"`
	EnrollmentGroupID      string               `json:"enrollmentGroupId,omitempty"`
	SigningCertificateInfo *X509CertificateInfo `json:"signingCertificateInfo,omitempty"`
}

// A TPMState carries the hub key of a TPM device, as an activation blob that only its TPM can open.
type TPMState struct {
	AuthenticationKey []byte `json:"authenticationKey"`
}

// A SymmetricKeyState names the enrollment group whose key a device's key was derived from.
type SymmetricKeyState struct {
	EnrollmentGroupID string `json:"enrollmentGroupId,omitempty"`
}

// A Challenge is the body of the 401 that answers a TPM device's first register request. It has these four members and
// no other: clients tell it from other answers by them.
type Challenge struct {
	Message                      string  `json:"message"`
	AuthenticationKey            []byte  `json:"authenticationKey"`            // an activation blob
	UnencryptedAuthenticationKey *string `json:"unencryptedAuthenticationKey"` // always null
	KeyName                      string  `json:"keyName"`                      // the skn of the token to sign with the key
}

// NewChallenge returns the challenge with the given activation blob.
func NewChallenge(blob []byte) Challenge {
	return Challenge{
		Message:           "Authorization required, resend request using supplied key",
		AuthenticationKey: blob,
		KeyName:           "registration",
	}
}

// An Error is the body of every other refusal, on both APIs.
type Error struct {
	ErrorCode    int               `json:"errorCode"` // the HTTP status times a thousand plus a subcode
	TrackingID   string            `json:"trackingId"`
	Message      string            `json:"message"`
	TimestampUTC Time              `json:"timestampUtc"`
	Info         map[string]string `json:"info,omitempty"`
}
