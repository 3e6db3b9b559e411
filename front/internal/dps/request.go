package dps

import (
	"strings"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// ReadBody puts what the body of a device's call says into the request. The body
// may be empty; the error may be read by its sender.
func ReadBody(r *provision.Request, b []byte) error {
	body, err := dpsjson.DecodeDeviceRegistration(b)
	switch {
	case err != nil:
		return errs.New(errs.Invalid, errs.CodeBadRequest, "%s", err.Error())
	case body.RegistrationID != "" && !strings.EqualFold(body.RegistrationID, r.ID):
		return errs.New(errs.Invalid, errs.CodeBadRequest, "registrationId: not the one in the path")
	case body.CSR != nil:
		// One client knows this sentence, and then registers without a CSR.
		return errs.New(errs.Invalid, errs.CodeBadRequest, "Device sent CSR but it is not configured in the service.")
	}
	if body.TPM != nil {
		r.Credential.TPM = &attest.TPM{EndorsementKey: body.TPM.EndorsementKey, StorageRootKey: body.TPM.StorageRootKey}
	}
	r.Credential.EKCertificate, r.Credential.EKChain = body.ShownCertificate()
	r.Payload = body.Payload
	return nil
}
