// Package dps says in the words of the DPS REST API what the provisioning
// service decided. All its wires (HTTPS, MQTT, AMQP) carry the same bodies and
// the same codes; they are made here and nowhere else, so that the wires agree.
package dps

import (
	"strings"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// codes has the number for each kind of error that came without one.
var codes = map[errs.Kind]errs.Code{
	errs.Internal:     errs.CodeInternal,
	errs.Invalid:      errs.CodeBadRequest,
	errs.Denied:       errs.CodeUnauthorizedAccess,
	errs.Forbidden:    errs.CodeForbidden,
	errs.NotFound:     errs.CodeEnrollmentNotFound,
	errs.NotAllowed:   errs.CodeMethodNotAllowed,
	errs.Conflict:     errs.CodeConflict,
	errs.Precondition: errs.CodePrecondition,
	errs.TooLarge:     errs.CodeTooLarge,
	errs.Unsupported:  errs.CodeUnsupportedMediaType,
	errs.Busy:         errs.CodeTooManyRequests,
	errs.Unavailable:  errs.CodeUnavailable,
}

// Code returns the number clients are told for err. Its Status is that of the
// answer on every wire that has one.
func Code(err error) errs.Code {
	public := errs.Public(err)
	if public.Code != 0 {
		return public.Code
	}
	return codes[public.Kind]
}

// Error returns the body for err: what a stranger may see of it.
func Error(err error, id errs.TrackingID, now time.Time) dpsjson.Error {
	return dpsjson.Error{
		ErrorCode:    int(Code(err)),
		TrackingID:   string(id),
		Message:      errs.Public(err).Message,
		TimestampUTC: dpsjson.Time(now),
	}
}

// Operation returns the body that answers a register request and every poll.
func Operation(o *provision.Operation, apiVersion string) dpsjson.OperationStatus {
	state := DeviceState(&o.Registration, apiVersion)
	return dpsjson.OperationStatus{OperationID: o.ID, Status: state.Status, RegistrationState: &state}
}

// DeviceState returns a registration as its device sees it: the record, and
// what belongs to the way the device proved itself.
func DeviceState(r *provision.Registration, apiVersion string) dpsjson.RegistrationState {
	if r.Status == provision.Assigning {
		return dpsjson.RegistrationState{RegistrationID: r.ID, Status: dpsjson.Status(r.Status)} // nothing is decided yet
	}
	state := Record(r, apiVersion)
	if r.Status != provision.Assigned {
		return state
	}
	switch r.Attestation {
	case attest.TypeTPM:
		if len(r.HubKeyBlob) > 0 {
			state.TPM = &dpsjson.TPMState{AuthenticationKey: r.HubKeyBlob}
		}
	case attest.TypeX509:
		// One client fails on a certificate description that lacks a member;
		// the original answers an empty object.
		state.X509 = &dpsjson.X509State{}
	case attest.TypeSymmetricKey:
		state.SymmetricKey = &dpsjson.SymmetricKeyState{EnrollmentGroupID: r.GroupID}
	}
	return state
}

// Record returns a registration as the service API shows it. Its entity tag
// and timestamps are those the device sees. Of one under way it tells, besides,
// what the last attempt failed with.
func Record(r *provision.Registration, apiVersion string) dpsjson.RegistrationState {
	state := dpsjson.RegistrationState{RegistrationID: r.ID, Status: dpsjson.Status(r.Status)}
	switch {
	case r.Status == provision.Unassigned:
		return state // there is no record
	case r.Pending != nil:
		state.ErrorMessage = r.Pending.LastError
	}
	state.CreatedDateTimeUTC = dpsjson.Time(r.Created)
	state.LastUpdatedDateTimeUTC = dpsjson.Time(r.Updated)
	if r.ETag != "" {
		state.ETag = dpsjson.EncodeETag(r.ETag)
	}
	switch r.Status {
	case provision.Assigned:
		state.AssignedHub = r.Hub
		state.DeviceID = string(r.DeviceID)
		state.Substatus = string(substatus(r.Substatus, apiVersion))
		state.Payload = r.Payload
	case provision.Failed:
		state.ErrorCode = int(r.ErrorCode)
		state.ErrorMessage = r.ErrorMessage
	}
	return state
}

// lastOld is the last api-version that does not tell a repeated registration
// from the first.
const lastOld = "2021-10-01"

func substatus(s provision.Substatus, apiVersion string) provision.Substatus {
	date := strings.TrimSuffix(apiVersion, "-preview")
	if s == provision.ReprovisionedToInitialAssignment && date <= lastOld {
		return provision.InitialAssignment
	}
	return s
}

// Challenge returns the body of the 401 that a TPM device answers by coming
// back with a signed token.
func Challenge(c *provision.Challenge) dpsjson.Challenge {
	body := dpsjson.NewChallenge(c.Blob)
	body.KeyName = c.KeyName
	return body
}
