package dpshttp

import (
	"net/http"
	"strings"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/enroll/serviceapi"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/dps"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/front/internal/tenant"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

func (f front) serviceRoutes() []rest.Route {
	routes := f.enrollmentRoutes("/enrollments", enroll.Individual)
	routes = append(routes, f.enrollmentRoutes("/enrollmentGroups", enroll.Group)...)
	return append(routes,
		f.operation("GET", "/registrations/{id}", f.getRegistration),
		f.operation("DELETE", "/registrations/{id}", f.deleteRegistration),
		f.operation("POST", "/registrations/{id}/query", f.queryRegistrations),
		rest.Route{Pattern: "/registrations"},
	)
}

func (f front) enrollmentRoutes(path string, kind enroll.Kind) []rest.Route {
	return []rest.Route{
		f.operation("POST", path+"/query", f.queryEnrollments(kind)),
		f.operation("PUT", path+"/{id}", f.putEnrollment(kind)),
		f.operation("GET", path+"/{id}", f.getEnrollment(kind)),
		f.operation("DELETE", path+"/{id}", f.deleteEnrollment(kind)),
		f.operation("POST", path+"/{id}/attestationmechanism", f.attestationMechanism(kind)),
		f.operation("POST", path, f.bulk(kind)),
	}
}

// A serviceCall is one call of the service API by someone who proved to hold the
// key of a policy of the scope that the call is for. Whether the policy has the
// right is the Enroller's to say.
type serviceCall struct {
	*rest.Request
	scope      device.IDScope
	caller     access.Caller
	apiVersion string
	id         string // of the path
}

func (f front) operation(method, pattern string, serve func(http.ResponseWriter, serviceCall) error) rest.Route {
	return rest.Route{Method: method, Pattern: pattern, Serve: func(w http.ResponseWriter, r *rest.Request) error {
		scope, caller, err := tenant.Authenticate(r, f.Scopes, f.Policies, f.Now())
		if err != nil {
			return err
		}
		version, err := rest.APIVersion(r.Request)
		if err != nil {
			return err
		}
		return serve(w, serviceCall{r, scope.ID, caller, version, r.PathValue("id")})
	}}
}

func (f front) putEnrollment(kind enroll.Kind) func(http.ResponseWriter, serviceCall) error {
	return func(w http.ResponseWriter, call serviceCall) error {
		b, err := readJSON(w, call.Request)
		if err != nil {
			return err
		}
		body, err := serviceapi.Decode(kind, b)
		if err != nil {
			return invalid(err.Error())
		}
		if body.RegistrationID != "" && !strings.EqualFold(body.RegistrationID, call.id) {
			return invalid(idMember(kind) + ": not the one in the path")
		}
		body.RegistrationID = call.id
		entry, err := serviceapi.Entry(call.scope, kind, body)
		if err != nil {
			return invalid(err.Error())
		}
		entry, err = f.Enroller.Put(call.Context(), call.caller, entry, precondition(call.Request, body.ETag))
		if err != nil {
			return err
		}
		f.warnOfSharedKey(w, call, entry)
		return answerEntry(w, entry, serviceapi.ShowKeys)
	}
}

func answerEntry(w http.ResponseWriter, e *enroll.Entry, keys serviceapi.Visibility) error {
	body, err := serviceapi.Body(e, keys)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, body)
}

// idMember is the member that holds an enrollment's ID.
func idMember(kind enroll.Kind) string {
	if kind == enroll.Group {
		return "enrollmentGroupId"
	}
	return "registrationId"
}

// warnOfSharedKey says in a Warning header (RFC 7234 §5.5) who else has the key of
// an enrollment. The enrollment is written: whether that can be found out or not,
// it is answered.
func (f front) warnOfSharedKey(w http.ResponseWriter, call serviceCall, entry *enroll.Entry) {
	others, err := f.Enroller.SharedWith(call.Context(), call.caller, entry)
	if err != nil {
		f.Logger.Warn("looking for shared keys", "error", err, "tracking_id", string(call.TrackingID))
	}
	if len(others) > 0 {
		w.Header().Add("Warning", `299 - "The symmetric key of `+entry.ID+` is also that of `+strings.Join(others, ", ")+`: whoever opens one of these devices can speak for the others"`)
	}
}

func (f front) getEnrollment(kind enroll.Kind) func(http.ResponseWriter, serviceCall) error {
	return func(w http.ResponseWriter, call serviceCall) error {
		entry, err := f.Enroller.Entry(call.Context(), call.caller, call.scope, kind, call.id)
		if err != nil {
			return err
		}
		if kind == enroll.Group {
			return answerEntry(w, entry, serviceapi.HideKeys)
		}
		body, err := serviceapi.Individual(entry, serviceapi.HideKeys)
		if err != nil {
			return err
		}
		if body.RegistrationState, err = f.registrationState(call, entry.ID); err != nil {
			return err
		}
		return answer(w, http.StatusOK, body)
	}
}

// registrationState is the member of an individual enrollment that says what
// became of it. A caller who may not read registration records does without.
func (f front) registrationState(call serviceCall, id string) (*dpsjson.RegistrationState, error) {
	if call.caller.Require(access.RegistrationStatusRead) != nil {
		return nil, nil
	}
	record, err := f.Enroller.Registration(call.Context(), call.caller, call.scope, id)
	switch {
	case errs.KindOf(err) == errs.NotFound:
		record = &provision.Registration{ID: id, Status: provision.Unassigned}
	case err != nil:
		return nil, err
	}
	state := dps.Record(record, call.apiVersion)
	return &state, nil
}

func (f front) deleteEnrollment(kind enroll.Kind) func(http.ResponseWriter, serviceCall) error {
	return func(w http.ResponseWriter, call serviceCall) error {
		err := f.Enroller.Delete(call.Context(), call.caller, call.scope, kind, call.id, precondition(call.Request, ""))
		if err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}

func (f front) attestationMechanism(kind enroll.Kind) func(http.ResponseWriter, serviceCall) error {
	return func(w http.ResponseWriter, call serviceCall) error {
		mechanism, err := f.Enroller.AttestationMechanism(call.Context(), call.caller, call.scope, kind, call.id)
		if err != nil {
			return err
		}
		body, err := serviceapi.Attestation(mechanism, serviceapi.ShowKeys)
		if err != nil {
			return err
		}
		return answer(w, http.StatusOK, body)
	}
}

func (f front) getRegistration(w http.ResponseWriter, call serviceCall) error {
	record, err := f.Enroller.Registration(call.Context(), call.caller, call.scope, call.id)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, dps.Record(record, call.apiVersion))
}

func (f front) deleteRegistration(w http.ResponseWriter, call serviceCall) error {
	err := f.Enroller.DeleteRegistration(call.Context(), call.caller, call.scope, call.id, precondition(call.Request, ""))
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// precondition reads If-Match. Clients take its value from the etag member of
// what they read before, and some send only that: bodyETag stands in for a
// missing header.
func precondition(r *rest.Request, bodyETag string) provision.Precondition {
	ifMatch := r.Header.Get("If-Match")
	if ifMatch == "" {
		ifMatch = bodyETag
	}
	if ifMatch == "" {
		return nil
	}
	return matching(ifMatch)
}

// matching accepts the entity tag that ifMatch names in one of its spellings.
func matching(ifMatch string) provision.Precondition {
	return func(token string) bool { return dpsjson.MatchETag(ifMatch, dpsjson.EncodeETag(token)) }
}
