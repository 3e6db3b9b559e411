package dpsjson

import (
	"encoding/json"
	"fmt"
)

// MaxAllocationAnswer bounds the answer of a custom allocation, in bytes.
const MaxAllocationAnswer = 64 << 10

// An AllocationRequest asks a custom allocation for a hub. One of the enrollments is set.
type AllocationRequest struct {
	EnrollmentGroup      *EnrollmentGroup      `json:"enrollmentGroup,omitempty"`
	IndividualEnrollment *IndividualEnrollment `json:"individualEnrollment,omitempty"`
	DeviceRuntimeContext DeviceRuntimeContext  `json:"deviceRuntimeContext"`
	LinkedHubs           []string              `json:"linkedHubs"` // host names
}

// A DeviceRuntimeContext is what an [AllocationRequest] says of the device. It has the member that the device's
// attestation mechanism is called by, and no key in it.
type DeviceRuntimeContext struct {
	RegistrationID        string           `json:"registrationId"`
	CurrentIoTHubHostName string           `json:"currentIotHubHostName,omitempty"`
	CurrentDeviceID       string           `json:"currentDeviceId,omitempty"`
	SymmetricKey          *struct{}        `json:"symmetricKey,omitempty"`
	X509                  *X509Attestation `json:"x509,omitempty"` // the certificate that was presented, whole and described
	TPM                   *TPMKeys         `json:"tpm,omitempty"`
	Payload               json.RawMessage  `json:"payload,omitempty"` // any JSON value, from the device
}

// An AllocationAnswer is what a custom allocation answers.
type AllocationAnswer struct {
	IoTHubHostName string          `json:"iotHubHostName"`
	InitialTwin    *InitialTwin    `json:"initialTwin,omitempty"` // instead of the enrollment's
	Payload        json.RawMessage `json:"payload,omitempty"`     // any JSON value, for the device
}

// DecodeAllocationAnswer reads an answer of at most [MaxAllocationAnswer] bytes. That it names a hub is for the caller
// to check.
func DecodeAllocationAnswer(b []byte) (AllocationAnswer, error) {
	var a AllocationAnswer
	if err := decode(b, MaxAllocationAnswer, &a); err != nil {
		return AllocationAnswer{}, fmt.Errorf("reading the answer: %w", err)
	}
	return a, nil
}
