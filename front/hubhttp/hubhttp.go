// Package hubhttp is the HTTPS wire of the hub: the IoT Hub service REST API, which
// has identities, twins and queries over them, methods, messages to devices and
// configurations; the part of the device REST API that takes telemetry and gives out
// messages to the device; and what modules and IoT Edge ask of a hub.
package hubhttp

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/limit"
)

// Hubs knows the hubs of this process.
type Hubs interface {
	// Hub returns the hub that goes by a name, in lower case and without the
	// port, and false when none does.
	Hub(name string) (hub.Host, bool)
}

// Config is what the handler is made of. All members are required.
type Config struct {
	Service *hub.Service
	Hubs    Hubs

	// Addresses bounds the calls of one address; nil for no bound.
	Addresses limit.By
	// Observe is told of every request; nil for nobody.
	Observe func(method, route string, status int, took time.Duration)

	Logger *slog.Logger
	Random io.Reader // for tracking IDs
	Now    func() time.Time
}

// New returns the handler of every hub that c.Hubs knows; the Host header says
// which one is meant. Client certificates are judged here, so TLS should
// request them and verify nothing.
func New(c Config) http.Handler {
	a := api{c}
	return rest.Edge{
		Routes:    a.routes(),
		Refuse:    a.refuse,
		Addresses: c.Addresses,
		Observe:   c.Observe,
		Logger:    c.Logger,
		Random:    c.Random,
		Now:       c.Now,
	}.Handler()
}

// routes are the operations, whose order matters where several patterns match.
func (a api) routes() []rest.Route {
	return []rest.Route{
		{Method: http.MethodGet, Pattern: "/devices", Serve: a.ofHub("/devices", a.listDevices)},
		{Method: http.MethodPost, Pattern: "/devices", Serve: a.ofHub("/devices", a.postDevices)},
		{Method: http.MethodPost, Pattern: "/devices/keys/regenerate", Serve: a.ofHub("/devices", a.postRegenerateKeys)},
		{Method: http.MethodGet, Pattern: "/statistics/service", Serve: a.ofHub("/statistics/service", a.serviceStatistics)},
		{Method: http.MethodGet, Pattern: "/statistics/devices", Serve: a.ofHub("/statistics/devices", a.statistics)},
		{Method: http.MethodGet, Pattern: "/devices/{id}", Serve: a.operator("/devices/", a.getDevice)},
		{Method: http.MethodPut, Pattern: "/devices/{id}", Serve: a.operator("/devices/", a.putDevice)},
		{Method: http.MethodDelete, Pattern: "/devices/{id}", Serve: a.operator("/devices/", a.deleteDevice)},

		{Method: http.MethodGet, Pattern: "/devices/{id}/modules", Serve: a.actor(a.listModules)},
		{Method: http.MethodGet, Pattern: "/devices/{id}/modules/{module}", Serve: a.actor(a.getModule)},
		{Method: http.MethodPut, Pattern: "/devices/{id}/modules/{module}", Serve: a.actor(a.putModule)},
		{Method: http.MethodDelete, Pattern: "/devices/{id}/modules/{module}", Serve: a.actor(a.deleteModule)},

		{Method: http.MethodGet, Pattern: edgeHubPath + "devicesAndModulesInDeviceScope", Serve: a.gateway(a.listScope)},
		{Method: http.MethodGet, Pattern: edgeHubPath + "deviceAndModuleInDeviceScope", Serve: a.gateway(a.getInScope)},
		{Method: http.MethodPost, Pattern: edgeHubPath + "devicesAndModulesInTargetDeviceScope", Serve: a.gateway(a.listTargetScope)},
		{Method: http.MethodPost, Pattern: edgeHubPath + "getDeviceAndModuleOnBehalfOf", Serve: a.gateway(a.getOnBehalfOf)},

		{Method: http.MethodPost, Pattern: queryPath, Serve: a.ofHub(queryPath, a.postQuery)},
		{Method: http.MethodGet, Pattern: "/twins/{id}", Serve: a.operator("/twins/", a.getTwin)},
		{Method: http.MethodPatch, Pattern: "/twins/{id}", Serve: a.operator("/twins/", a.patchTwin)},
		{Method: http.MethodPut, Pattern: "/twins/{id}", Serve: a.operator("/twins/", a.putTwin)},
		{Method: http.MethodPost, Pattern: "/twins/{id}/methods", Serve: a.operator("/twins/", a.postMethod)},
		{Method: http.MethodGet, Pattern: "/twins/{id}/modules/{module}", Serve: a.operator("/twins/", a.getTwin)},
		{Method: http.MethodPatch, Pattern: "/twins/{id}/modules/{module}", Serve: a.operator("/twins/", a.patchTwin)},
		{Method: http.MethodPut, Pattern: "/twins/{id}/modules/{module}", Serve: a.operator("/twins/", a.putTwin)},
		{Method: http.MethodPost, Pattern: "/twins/{id}/modules/{module}/methods", Serve: a.operator("/twins/", a.postMethod)},

		{Method: http.MethodGet, Pattern: "/configurations", Serve: a.ofHub(configurationsPath, a.listConfigurations)},
		{Method: http.MethodPost, Pattern: "/configurations/testQueries", Serve: a.ofHub(configurationsPath, a.testQueries)},
		{Method: http.MethodGet, Pattern: "/configurations/{configuration}", Serve: a.ofHub(configurationsPath, a.getConfiguration)},
		{Method: http.MethodPut, Pattern: "/configurations/{configuration}", Serve: a.ofHub(configurationsPath, a.putConfiguration)},
		{Method: http.MethodDelete, Pattern: "/configurations/{configuration}", Serve: a.ofHub(configurationsPath, a.deleteConfiguration)},
		{Method: http.MethodPost, Pattern: "/devices/{id}/applyConfigurationContent", Serve: a.operator("/devices/", a.applyContent)},

		{Method: http.MethodDelete, Pattern: "/devices/{id}/modules/{module}/commands", Serve: a.operator("/devices/", a.deleteCommands)},
		{Method: http.MethodPost, Pattern: "/devices/{id}/messages/events", Serve: a.postEvents},
		{Method: http.MethodPost, Pattern: "/devices/{id}/modules/{module}/messages/events", Serve: a.postEvents},
		{Method: http.MethodGet, Pattern: "/devices/{id}/messages/devicebound", Serve: a.getCloudMessage},
		{Method: http.MethodDelete, Pattern: "/devices/{id}/messages/devicebound/{lock}", Serve: a.deleteCloudMessage},
		{Method: http.MethodPost, Pattern: "/devices/{id}/messages/devicebound/{lock}/abandon", Serve: a.abandonCloudMessage},
		{Method: http.MethodDelete, Pattern: "/devices/{id}/commands", Serve: a.operator("/devices/", a.deleteCommands)},
		{Method: http.MethodGet, Pattern: "/messages/serviceBound/feedback", Serve: a.ofHub(feedbackPath, a.getFeedback)},
		{Method: http.MethodDelete, Pattern: "/messages/serviceBound/feedback/{lock}", Serve: a.feedbackSettler(hub.Completed)},
		{Method: http.MethodPost, Pattern: "/messages/serviceBound/feedback/{lock}/abandon", Serve: a.feedbackSettler(hub.Abandoned)},
	}
}

type api struct{ Config }

// A target is the device or the module that a request is about.
type target struct {
	hub    hub.Host
	id     device.ID
	module device.ID // empty for the device itself
}

func (t target) place() hub.Place { return hub.Place{Hub: t.hub.Name, ID: t.id, Module: t.module} }

// resource is what a token has to be for, under "/devices/" or "/twins/".
func (t target) resource(under string) string {
	if t.module == "" {
		return under + string(t.id)
	}
	return under + string(t.id) + "/modules/" + string(t.module)
}

func (a api) target(r *rest.Request) (target, error) {
	h, err := a.host(r)
	if err != nil {
		return target{}, err
	}
	id, err := device.ParseID(r.PathValue("id"))
	if err != nil {
		return target{}, invalid("The device ID %v", err)
	}
	to := target{hub: h, id: id}
	if module := r.PathValue("module"); module != "" {
		if to.module, err = device.ParseID(module); err != nil {
			return target{}, invalid("The module ID %v", err)
		}
	}
	return to, nil
}

// host finds the hub that a request is about. It also checks the api-version,
// which every operation needs.
func (a api) host(r *rest.Request) (hub.Host, error) {
	if _, err := rest.APIVersion(r.Request); err != nil {
		return hub.Host{}, err
	}
	h, ok := a.Hubs.Hub(rest.Host(r.Request))
	if !ok {
		return hub.Host{}, errs.New(errs.Denied, errs.CodeHubNotFound, "There is no IoT hub of this name")
	}
	return h, nil
}

// operator wraps an operation of the service API: it finds out who calls about
// which device. under is the resource the device is named under.
func (a api) operator(under string, serve func(http.ResponseWriter, *rest.Request, access.Caller, target) error) func(http.ResponseWriter, *rest.Request) error {
	return func(w http.ResponseWriter, r *rest.Request) error {
		to, err := a.target(r)
		if err != nil {
			return err
		}
		caller, err := a.caller(r, to.hub, to.resource(under))
		if err != nil {
			return err
		}
		return serve(w, r, caller, to)
	}
}

// ofHub is operator for an operation about a hub as a whole.
func (a api) ofHub(resource string, serve func(w http.ResponseWriter, r *rest.Request, caller access.Caller, hub string) error) func(http.ResponseWriter, *rest.Request) error {
	return func(w http.ResponseWriter, r *rest.Request) error {
		h, err := a.host(r)
		if err != nil {
			return err
		}
		caller, err := a.caller(r, h, resource)
		if err != nil {
			return err
		}
		return serve(w, r, caller, h.Name)
	}
}

// caller finds out who calls for a resource of the hub.
func (a api) caller(r *rest.Request, h hub.Host, resource string) (access.Caller, error) {
	token, err := rest.Token(r.Request)
	if err != nil {
		return access.Caller{}, err
	}
	if token == nil {
		return access.Caller{}, errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "Unauthorized: there is no SAS token in the Authorization header")
	}
	return a.Service.AuthenticateCaller(r.Context(), h, resource, *token)
}

// actor wraps an operation on modules, which operators may use and the device that
// they are of. The token of a policy has the policy's name, and that of a device
// none; a device can also come with its certificate alone.
func (a api) actor(serve func(http.ResponseWriter, *rest.Request, hub.Actor, target) error) func(http.ResponseWriter, *rest.Request) error {
	return func(w http.ResponseWriter, r *rest.Request) error {
		to, err := a.target(r)
		if err != nil {
			return err
		}
		credential, err := credentialOf(r)
		if err != nil {
			return err
		}
		var by hub.Actor
		if credential.Token != nil && credential.Token.KeyName != "" {
			caller, err := a.Service.AuthenticateCaller(r.Context(), to.hub, to.resource("/devices/"), *credential.Token)
			if err != nil {
				return err
			}
			by = hub.Operator(caller)
		} else if by, err = a.Service.AuthenticateOwner(r.Context(), to.hub, to.id, credential, approach(r)); err != nil {
			return err
		}
		return serve(w, r, by, to)
	}
}

// sender lets a device in, by its token or by the certificate of its TLS
// connection. under is what it asks for, behind its own resource.
func (a api) sender(r *rest.Request, under string) (hub.Sender, error) {
	to, err := a.target(r)
	if err != nil {
		return hub.Sender{}, err
	}
	credential, err := credentialOf(r)
	if err != nil {
		return hub.Sender{}, err
	}
	by := approach(r)
	by.Under = under
	return a.Service.Authenticate(r.Context(), to.hub, to.id, to.module, credential, by)
}

// approach says how a request came.
func approach(r *rest.Request) hub.Approach {
	return hub.Approach{Wire: "https", Remote: r.RemoteAddr, TrackingID: r.TrackingID}
}

// credentialOf returns what a device showed.
func credentialOf(r *rest.Request) (c attest.Credential, err error) {
	if c.Token, err = rest.Token(r.Request); err != nil {
		return c, err
	}
	if r.TLS != nil {
		c.Chain = r.TLS.PeerCertificates
	}
	return c, nil
}

// ifMatch reads the If-Match header. Clients send entity tags and the star both
// bare and quoted.
func ifMatch(r *rest.Request) hub.Precondition {
	value := strings.TrimSpace(r.Header.Get("If-Match"))
	if value == "" {
		return nil
	}
	value = unquoted(value)
	return func(etag string) bool { return value == "*" || value == etag }
}

// unquoted returns an entity tag without the quotes that it may have.
func unquoted(etag string) string {
	if len(etag) > 1 && strings.HasPrefix(etag, `"`) && strings.HasSuffix(etag, `"`) {
		return etag[1 : len(etag)-1]
	}
	return etag
}

func invalid(format string, args ...any) *errs.Error {
	return errs.New(errs.Invalid, errs.CodeArgumentInvalid, format, args...)
}
