package dpshttp

import (
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/enroll/serviceapi"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// CheckEnrollment reports why the service would not create an enrollment of the
// given kind from body, a group coming with its ID as the registration ID, or nil.
// What only the service knows, such as what exists already, is left to it.
func CheckEnrollment(kind enroll.Kind, body dpsjson.IndividualEnrollment) error {
	entry, err := serviceapi.Entry("", kind, body)
	if err != nil {
		return err
	}
	return enroll.Validate(entry)
}
