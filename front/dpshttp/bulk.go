package dpshttp

import (
	"net/http"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/enroll/serviceapi"
	"github.com/berth-iot/berth/front/internal/dps"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// bulk does one thing to several enrollments. Each item succeeds or fails on its
// own, and the answer is 200 in any case: what went wrong stands in it by item.
func (f front) bulk(kind enroll.Kind) func(http.ResponseWriter, serviceCall) error {
	return func(w http.ResponseWriter, call serviceCall) error {
		// Asked here too, so that a caller without the right hears so once.
		if err := call.caller.Require(access.EnrollmentWrite); err != nil {
			return err
		}
		if err := rest.RequireJSON(call.Request.Request); err != nil {
			return err
		}
		b, err := rest.ReadBody(w, call.Request.Request, dpsjson.MaxBulkBody)
		if err != nil {
			return err
		}
		operation, err := dpsjson.DecodeBulkEnrollmentOperation(b)
		if err != nil {
			return invalid(err.Error())
		}
		items := operation.Enrollments
		if kind == enroll.Group {
			items = nil
			for _, g := range operation.EnrollmentGroups {
				items = append(items, g.AsIndividual())
			}
		}
		if len(items) == 0 {
			return invalid(bulkMember(kind) + ": has no item")
		}
		var failures []dpsjson.BulkEnrollmentOperationError
		for _, item := range items {
			if err := f.bulkItem(w, call, kind, operation.Mode, item); err != nil {
				failures = append(failures, f.bulkFailure(call, kind, item.RegistrationID, err))
			}
		}
		return answer(w, http.StatusOK, dpsjson.NewBulkResult(failures))
	}
}

// bulkItem treats one item. An update without an entity tag is taken for a
// creation, as the original does: what exists is a conflict.
func (f front) bulkItem(w http.ResponseWriter, call serviceCall, kind enroll.Kind, mode dpsjson.BulkMode, item dpsjson.IndividualEnrollment) error {
	if mode == dpsjson.BulkDelete {
		return f.Enroller.Delete(call.Context(), call.caller, call.scope, kind, item.RegistrationID, nil)
	}
	var match provision.Precondition
	switch {
	case mode == dpsjson.BulkUpdateIfMatchETag && item.ETag == "":
		return invalid("etag: is missing")
	case mode != dpsjson.BulkCreate && item.ETag != "":
		match = matching(item.ETag)
	}
	entry, err := serviceapi.Entry(call.scope, kind, item)
	if err != nil {
		return invalid(err.Error())
	}
	if entry, err = f.Enroller.Put(call.Context(), call.caller, entry, match); err == nil {
		f.warnOfSharedKey(w, call, entry)
	}
	return err
}

func (f front) bulkFailure(call serviceCall, kind enroll.Kind, id string, err error) dpsjson.BulkEnrollmentOperationError {
	public := dps.Error(err, call.TrackingID, f.Now())
	failure := dpsjson.BulkEnrollmentOperationError{ErrorCode: public.ErrorCode, ErrorStatus: public.Message}
	if kind == enroll.Group {
		failure.EnrollmentGroupID = id
	} else {
		failure.RegistrationID = id
	}
	return failure
}

// bulkMember is the member that holds the items.
func bulkMember(kind enroll.Kind) string {
	if kind == enroll.Group {
		return "enrollmentGroups"
	}
	return "enrollments"
}
