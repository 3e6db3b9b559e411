package dpshttp

import (
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/front/internal/dps"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/limit"
	"github.com/berth-iot/berth/provision"
)

func (f front) deviceRoutes() []rest.Route {
	return []rest.Route{
		{Method: "PUT", Pattern: "/{idScope}/registrations/{id}/register", Serve: f.register},
		{Method: "GET", Pattern: "/{idScope}/registrations/{id}/operations/{operationId}", Serve: f.poll},
		{Method: "POST", Pattern: "/{idScope}/registrations/{id}", Serve: f.lookup},
		{Pattern: "/{idScope}/registrations"},
	}
}

// register always answers 202, even when the outcome is final: strict clients
// take nothing else.
func (f front) register(w http.ResponseWriter, r *rest.Request) error {
	request, err := f.deviceRequestWithBody(w, r)
	if err != nil {
		return err
	}
	outcome, err := f.Registrar.Register(r.Context(), request)
	if err != nil {
		return err
	}
	if outcome.Challenge == nil {
		w.Header().Set("Location", f.PublicURL+"/"+url.PathEscape(request.Scope)+
			"/registrations/"+url.PathEscape(request.ID)+"/register")
	}
	return answerOutcome(w, outcome, request.APIVersion, http.StatusAccepted)
}

// poll ignores the body: one client sends {} with its GET.
func (f front) poll(w http.ResponseWriter, r *rest.Request) error {
	request, err := f.deviceRequest(r)
	if err != nil {
		return err
	}
	outcome, err := f.Registrar.OperationStatus(r.Context(), request, r.PathValue("operationId"))
	if err != nil {
		return err
	}
	return answerOutcome(w, outcome, request.APIVersion, http.StatusOK)
}

func (f front) lookup(w http.ResponseWriter, r *rest.Request) error {
	request, err := f.deviceRequestWithBody(w, r)
	if err != nil {
		return err
	}
	registration, err := f.Registrar.Lookup(r.Context(), request)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, dps.DeviceState(&registration, request.APIVersion))
}

// answerOutcome answers with the given status when the outcome is final.
func answerOutcome(w http.ResponseWriter, o provision.Outcome, apiVersion string, final int) error {
	if o.Challenge != nil {
		return answer(w, http.StatusUnauthorized, dps.Challenge(o.Challenge))
	}
	status := final
	if o.Operation.RetryAfter > 0 {
		rest.SetRetryAfter(w.Header(), o.Operation.RetryAfter)
		status = http.StatusAccepted
	}
	return answer(w, status, dps.Operation(o.Operation, apiVersion))
}

// deviceRequest counts a device's request and reads everything of it but the
// body.
func (f front) deviceRequest(r *rest.Request) (provision.Request, error) {
	caller := limit.Address(r.RemoteAddr) + " " + strings.ToLower(r.PathValue("idScope")+" "+r.PathValue("id"))
	if wait := f.Devices.Take(strings.ToLower(r.PathValue("idScope")), caller, f.Now()); wait > 0 {
		return provision.Request{}, rest.TooManyRequests(wait)
	}
	version, err := rest.APIVersion(r.Request)
	if err != nil {
		return provision.Request{}, err
	}
	token, err := rest.Token(r.Request)
	if err != nil {
		return provision.Request{}, err
	}
	request := provision.Request{
		Scope:      r.PathValue("idScope"),
		ID:         r.PathValue("id"),
		Credential: attest.Credential{Token: token},
		APIVersion: version,
		TrackingID: r.TrackingID,
		Wire:       "https",
		Remote:     r.RemoteAddr,
	}
	if r.TLS != nil {
		request.Credential.Chain = r.TLS.PeerCertificates
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		request.Remote = host
	}
	return request, nil
}

func (f front) deviceRequestWithBody(w http.ResponseWriter, r *rest.Request) (provision.Request, error) {
	request, err := f.deviceRequest(r)
	if err != nil {
		return provision.Request{}, err
	}
	b, err := readJSON(w, r)
	if err != nil {
		return provision.Request{}, err
	}
	err = dps.ReadBody(&request, b)
	return request, err
}
