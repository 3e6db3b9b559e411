package dps

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

func TestEveryKindHasACode(t *testing.T) {
	for _, kind := range errs.Kinds() {
		code, ok := codes[kind]
		if !ok {
			t.Errorf("%v has no code", kind)
		}
		if status := code.Status(); status < 400 || status > 599 {
			t.Errorf("%v answers status %d", kind, status)
		}
	}
	if len(codes) != len(errs.Kinds()) {
		t.Errorf("%d codes for %d kinds", len(codes), len(errs.Kinds()))
	}
}

func TestError(t *testing.T) {
	secret := errors.New("the key is hunter2")
	now := time.Date(2022, 8, 31, 22, 2, 50, 516335200, time.UTC)
	for name, c := range map[string]struct {
		err     error
		code    int
		message string
	}{
		"unsorted":            {secret, 500000, "Internal error"},
		"internal with a say": {errs.New(errs.Internal, errs.CodeServerError, "disk sda1").WithCause(secret), 500000, "Internal error"},
		"its own code":        {errs.New(errs.NotFound, errs.CodeOperationNotFound, "Operation not found."), 404203, "Operation not found."},
		"the default":         {errs.New(errs.Busy, 0, "Slow down").WithCause(secret), 429000, "Slow down"},
		"wrapped":             {fmt.Errorf("registering: %w", attest.Unauthorized().WithCause(secret)), 401002, "Unauthorized"},
	} {
		got := Error(c.err, "id-1", now)
		if got.ErrorCode != c.code || got.Message != c.message || got.TrackingID != "id-1" {
			t.Errorf("%s: %+v", name, got)
		}
		if want := "2022-08-31T22:02:50.5163352Z"; got.TimestampUTC.String() != want {
			t.Errorf("%s: timestamp %s", name, got.TimestampUTC)
		}
	}
}

// record is an assigned registration.
func record(change func(*provision.Registration)) *provision.Registration {
	r := &provision.Registration{
		Scope: "0ne00111111", Key: "device-1", ID: "Device-1",
		Attestation: attest.TypeX509, Status: provision.Assigned, Substatus: provision.InitialAssignment,
		Hub: "contoso.example", DeviceID: "Device-1", OperationID: "op",
		ETag:    "69003552-0000-0300-0000-630fda8a0000",
		Created: time.Date(2022, 8, 31, 22, 2, 50, 516335200, time.UTC),
		Updated: time.Date(2022, 8, 31, 22, 2, 50, 737067600, time.UTC),
	}
	change(r)
	return r
}

func TestOperationBodies(t *testing.T) {
	const times = `"createdDateTimeUtc":"2022-08-31T22:02:50.5163352Z",`
	const rest = `"lastUpdatedDateTimeUtc":"2022-08-31T22:02:50.7370676Z",` +
		`"etag":"IjY5MDAzNTUyLTAwMDAtMDMwMC0wMDAwLTYzMGZkYThhMDAwMCI="`
	const home = `"assignedHub":"contoso.example","deviceId":"Device-1","status":"assigned",`
	for name, c := range map[string]struct {
		change func(*provision.Registration)
		state  string
	}{
		"assigning": {
			func(r *provision.Registration) {
				r.Status, r.Pending = provision.Assigning, &provision.Pending{LastError: "the hub is down"}
			},
			`{"registrationId":"Device-1","status":"assigning"}`,
		},
		"x509": {
			func(*provision.Registration) {},
			`{"x509":{},"registrationId":"Device-1",` + times + home + `"substatus":"initialAssignment",` + rest + `}`,
		},
		"symmetric key of a group": {
			func(r *provision.Registration) { r.Attestation, r.GroupID = attest.TypeSymmetricKey, "pumps" },
			`{"symmetricKey":{"enrollmentGroupId":"pumps"},"registrationId":"Device-1",` + times + home + `"substatus":"initialAssignment",` + rest + `}`,
		},
		"symmetric key of its own": {
			func(r *provision.Registration) { r.Attestation = attest.TypeSymmetricKey },
			`{"symmetricKey":{},"registrationId":"Device-1",` + times + home + `"substatus":"initialAssignment",` + rest + `}`,
		},
		"tpm": {
			func(r *provision.Registration) { r.Attestation, r.HubKeyBlob = attest.TypeTPM, []byte("blob") },
			`{"tpm":{"authenticationKey":"YmxvYg=="},"registrationId":"Device-1",` + times + home + `"substatus":"initialAssignment",` + rest + `}`,
		},
		"payload": {
			func(r *provision.Registration) { r.Payload = json.RawMessage(`{"a":"<b>"}`) },
			`{"x509":{},"registrationId":"Device-1",` + times + home + `"substatus":"initialAssignment",` + rest + `,"payload":{"a":"<b>"}}`,
		},
		"failed": {
			func(r *provision.Registration) {
				r.Status, r.ErrorCode, r.ErrorMessage = provision.Failed, errs.CodeCustomAllocation, "Custom allocation failed with status code: 500"
				r.HubKeyBlob = []byte("of before")
			},
			`{"registrationId":"Device-1",` + times + `"status":"failed","errorCode":400207,` +
				`"errorMessage":"Custom allocation failed with status code: 500",` + rest + `}`,
		},
		"disabled": {
			func(r *provision.Registration) { r.Status = provision.Disabled },
			`{"registrationId":"Device-1",` + times + `"status":"disabled",` + rest + `}`,
		},
	} {
		r := record(c.change)
		body, err := dpsjson.Encode(Operation(&provision.Operation{ID: "5.op", Registration: *r}, "2021-06-01"))
		want := `{"operationId":"5.op","status":"` + string(r.Status) + `","registrationState":` + c.state + `}`
		if err != nil || string(body) != want {
			t.Errorf("%s:\n got %s, %v\nwant %s", name, body, err, want)
		}
	}
}

// An operator sees the device's record, entity tag and times, and none of what
// belongs to the device alone.
func TestRecordIsTheDevicesWithoutItsKeys(t *testing.T) {
	r := record(func(r *provision.Registration) { r.Attestation, r.HubKeyBlob = attest.TypeTPM, []byte("blob") })
	device, operator := DeviceState(r, "2021-10-01"), Record(r, "2021-10-01")
	if operator.TPM != nil || device.TPM == nil {
		t.Errorf("operator %+v, device %+v", operator.TPM, device.TPM)
	}
	device.TPM = nil
	if fmt.Sprintf("%+v", operator) != fmt.Sprintf("%+v", device) {
		t.Errorf("operator sees %+v\n device sees %+v", operator, device)
	}
}

// Why a registration is still under way is the operator's to know.
func TestRecordOfARegistrationUnderWay(t *testing.T) {
	r := record(func(r *provision.Registration) {
		r.Status, r.Pending = provision.Assigning, &provision.Pending{LastError: "the hub is down"}
	})
	if s := Record(r, "2021-10-01"); s.ErrorMessage != "the hub is down" || s.ETag == "" || s.Status != "assigning" || s.AssignedHub != "" {
		t.Errorf("%+v", s)
	}
}

func TestSubstatusByAPIVersion(t *testing.T) {
	for version, want := range map[string]string{
		"2018-04-01":         "initialAssignment",
		"2019-03-31":         "initialAssignment",
		"2021-10-01":         "initialAssignment",
		"2021-10-01-preview": "initialAssignment",
		"2021-11-01-preview": "reprovisionedToInitialAssignment",
		"2026-04-01":         "reprovisionedToInitialAssignment",
	} {
		r := record(func(r *provision.Registration) { r.Substatus = provision.ReprovisionedToInitialAssignment })
		if got := Record(r, version).Substatus; got != want {
			t.Errorf("%s: %s, want %s", version, got, want)
		}
		r.Substatus = provision.DeviceDataReset
		if got := Record(r, version).Substatus; got != "deviceDataReset" {
			t.Errorf("%s: %s, want deviceDataReset", version, got)
		}
	}
}

func TestChallengeBody(t *testing.T) {
	body, err := dpsjson.Encode(Challenge(&provision.Challenge{Blob: []byte("blob"), KeyName: "registration"}))
	const want = `{"message":"Authorization required, resend request using supplied key",` +
		`"authenticationKey":"YmxvYg==","unencryptedAuthenticationKey":null,"keyName":"registration"}`
	if err != nil || string(body) != want {
		t.Errorf("got %s, %v\nwant %s", body, err, want)
	}
}
