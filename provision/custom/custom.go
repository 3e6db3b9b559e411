// Package custom holds the contract of allocation policy custom: the JSON
// document that a webhook or an expression decides by, and what may be answered.
package custom

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/enroll/serviceapi"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// Request returns the document that asks q: the enrollment as the service API
// shows it, without symmetric keys, what is known of the device, and the hubs.
func Request(q provision.Question) ([]byte, error) {
	body, err := serviceapi.Individual(q.Entry, serviceapi.HideKeys)
	if err != nil {
		return nil, err
	}
	device, err := runtimeContext(q)
	if err != nil {
		return nil, err
	}
	r := dpsjson.AllocationRequest{DeviceRuntimeContext: device, LinkedHubs: append([]string{}, q.Linked...)}
	if q.Entry.Kind == enroll.Group {
		group := body.AsGroup()
		r.EnrollmentGroup = &group
	} else {
		r.IndividualEnrollment = &body
	}
	return dpsjson.Encode(r)
}

func runtimeContext(q provision.Question) (dpsjson.DeviceRuntimeContext, error) {
	d := dpsjson.DeviceRuntimeContext{
		RegistrationID:        q.ID,
		CurrentIoTHubHostName: q.Current.Hub,
		CurrentDeviceID:       string(q.Current.DeviceID),
		Payload:               q.Payload,
	}
	switch q.Entry.Attestation.Type {
	case attest.TypeSymmetricKey:
		d.SymmetricKey = &struct{}{}
	case attest.TypeTPM:
		d.TPM = &dpsjson.TPMKeys{}
		if q.TPM != nil {
			d.TPM.EndorsementKey, d.TPM.StorageRootKey = q.TPM.EndorsementKey, q.TPM.StorageRootKey
		}
	case attest.TypeX509:
		d.X509 = &dpsjson.X509Attestation{ClientCertificates: &dpsjson.X509Certificates{}}
		if len(q.Certificate) == 0 {
			break
		}
		leaf, err := x509.ParseCertificate(q.Certificate)
		if err != nil {
			return d, fmt.Errorf("parsing the device's certificate: %w", err)
		}
		info := dpsjson.CertificateInfo(leaf)
		d.X509.ClientCertificates.Primary = &dpsjson.X509Certificate{Certificate: leaf.Raw, Info: &info}
	}
	return d, nil
}

// Choice reads an answer, which must name one of linked; the choice has its
// spelling there. Errors are of kind errs.Invalid and say to the device no more
// than that its allocation failed.
func Choice(answer []byte, linked []string) (*provision.Choice, error) {
	a, err := dpsjson.DecodeAllocationAnswer(answer)
	if err != nil {
		return nil, Failed(err)
	}
	choice := &provision.Choice{Payload: json.RawMessage(a.Payload)}
	if t := a.InitialTwin; t != nil {
		choice.Twin = &enroll.InitialTwin{Tags: json.RawMessage(t.Tags)}
		if t.Properties != nil {
			choice.Twin.Desired = json.RawMessage(t.Properties.Desired)
		}
	}
	if err := enroll.CheckTwin(choice.Twin); err != nil {
		return nil, Failed(err)
	}
	for _, host := range linked {
		if strings.EqualFold(host, a.IoTHubHostName) {
			choice.Hub = host
			return choice, nil
		}
	}
	refusal := errs.New(errs.Invalid, errs.CodeHubNotSpecified, "Custom allocation failed: it named no linked hub.")
	if a.IoTHubHostName == "" {
		return nil, refusal.WithCause(errors.New("the answer has no iotHubHostName"))
	}
	return nil, refusal.WithCause(fmt.Errorf("iotHubHostName %.260q is none of the %d linked hubs", a.IoTHubHostName, len(linked)))
}

// Failed returns the error of a custom allocation that did not answer as it must.
// The device does not see why.
func Failed(cause error) error {
	return errs.New(errs.Invalid, errs.CodeCustomAllocation, "Custom allocation failed.").WithCause(cause)
}
