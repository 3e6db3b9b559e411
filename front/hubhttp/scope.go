package hubhttp

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
)

// edgeHubPath is where the module $edgeHub of an IoT Edge device asks about who
// connects to it.
const edgeHubPath = "/devices/{id}/modules/$edgeHub/"

// maxScopeRequest is the longest question that is read, in bytes.
const maxScopeRequest = 16 << 10

// A scopeJSON answers such a question. Its reader insists on all members.
type scopeJSON struct {
	Devices          []scopeDeviceJSON `json:"devices"`
	Modules          []scopeModuleJSON `json:"modules"`
	ContinuationLink *string           `json:"continuationLink"`
}

type scopeDeviceJSON struct {
	DeviceID       device.ID          `json:"deviceId"`
	GenerationID   string             `json:"generationId"`
	Status         string             `json:"status"`
	Authentication authenticationJSON `json:"authentication"`
	Capabilities   capabilitiesJSON   `json:"capabilities"`
	DeviceScope    string             `json:"deviceScope,omitempty"`
	ParentScopes   []string           `json:"parentScopes"`
}

type scopeModuleJSON struct {
	ModuleID       device.ID          `json:"moduleId"`
	DeviceID       device.ID          `json:"deviceId"`
	GenerationID   string             `json:"generationId"`
	ManagedBy      string             `json:"managedBy"`
	Authentication authenticationJSON `json:"authentication"`
}

func encodeScope(s *hub.Scope) scopeJSON {
	out := scopeJSON{Devices: []scopeDeviceJSON{}, Modules: []scopeModuleJSON{}}
	for _, d := range s.Devices {
		out.Devices = append(out.Devices, scopeDeviceJSON{
			d.ID, d.GenerationID, d.Status(), encodeAuthentication(d), capabilitiesJSON{d.IoTEdge}, d.DeviceScope(), d.ParentScopes(),
		})
	}
	for _, m := range s.Modules {
		out.Modules = append(out.Modules, scopeModuleJSON{m.Module, m.ID, m.GenerationID, m.ManagedBy, encodeAuthentication(m)})
	}
	if s.Next != "" {
		out.ContinuationLink = orNull(base64.RawURLEncoding.EncodeToString([]byte(s.Next)))
	}
	return out
}

// continuation reads where a list goes on. A made-up place gives nothing away: it is
// in the same list.
func continuation(link string) (after device.ID, err error) {
	if link == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(link)
	if err != nil {
		return "", invalid("the continuation is not one that was given")
	}
	if after, err = device.ParseID(string(b)); err != nil {
		return "", invalid("the continuation is not one that was given")
	}
	return after, nil
}

// gateway wraps an operation of an IoT Edge device that asks about who connects to it.
func (a api) gateway(serve func(r *rest.Request, body []byte, by hub.Gateway, id device.ID) (*hub.Scope, error)) func(http.ResponseWriter, *rest.Request) error {
	return func(w http.ResponseWriter, r *rest.Request) error {
		to, err := a.target(r)
		if err != nil {
			return err
		}
		credential, err := credentialOf(r)
		if err != nil {
			return err
		}
		by, err := a.Service.AuthenticateGateway(r.Context(), to.hub, to.id, credential, approach(r))
		if err != nil {
			return err
		}
		body, err := rest.ReadBody(w, r.Request, maxScopeRequest)
		if err != nil {
			return err
		}
		found, err := serve(r, body, by, to.id)
		if err != nil {
			return err
		}
		return answerJSON(w, encodeScope(found))
	}
}

// listScope lists who is in the scope of the device that asks.
func (a api) listScope(r *rest.Request, _ []byte, by hub.Gateway, id device.ID) (*hub.Scope, error) {
	query := r.URL.Query()
	limit := hub.MaxInScope
	if text := query.Get("deviceCount"); text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil || n == 0 {
			return nil, invalid("deviceCount must be a positive number")
		}
		limit = int(n)
	}
	after, err := continuation(query.Get("continuationToken"))
	if err != nil {
		return nil, err
	}
	return a.Service.InScope(r.Context(), by, id, after, limit)
}

// getInScope answers one device, or one module of it.
func (a api) getInScope(r *rest.Request, _ []byte, by hub.Gateway, _ device.ID) (*hub.Scope, error) {
	query := r.URL.Query()
	return a.Service.OnBehalfOf(r.Context(), by, device.ID(query.Get("targetDeviceId")), device.ID(query.Get("targetModuleId")))
}

// listTargetScope lists who is in the scope of a device that is the first of a chain
// which ends in the one that asks.
func (a api) listTargetScope(r *rest.Request, body []byte, by hub.Gateway, id device.ID) (*hub.Scope, error) {
	var sent struct {
		PageSize         int
		ContinuationLink string
		AuthChain        string
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		return nil, badScopeRequest(err)
	}
	if sent.PageSize < 0 {
		return nil, invalid("pageSize must be a positive number")
	}
	if sent.PageSize == 0 {
		sent.PageSize = hub.MaxInScope
	}
	target, err := targetOf(sent.AuthChain, id)
	if err != nil {
		return nil, err
	}
	after, err := continuation(sent.ContinuationLink)
	if err != nil {
		return nil, err
	}
	return a.Service.InScope(r.Context(), by, target, after, sent.PageSize)
}

// getOnBehalfOf answers one device, or one module of it, below the device that asks.
func (a api) getOnBehalfOf(r *rest.Request, body []byte, by hub.Gateway, id device.ID) (*hub.Scope, error) {
	var sent struct {
		TargetDeviceID device.ID
		TargetModuleID device.ID
		AuthChain      string
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		return nil, badScopeRequest(err)
	}
	if _, err := targetOf(sent.AuthChain, id); err != nil {
		return nil, err
	}
	return a.Service.OnBehalfOf(r.Context(), by, sent.TargetDeviceID, sent.TargetModuleID)
}

// targetOf returns the device that a chain begins with, "{target};…;{actor}", each a
// device or "{device}/{module}". It has to end with the actor, who asks.
func targetOf(chain string, actor device.ID) (device.ID, error) {
	links := strings.Split(strings.TrimSuffix(chain, ";"), ";")
	first, _, _ := strings.Cut(links[0], "/")
	last, _, _ := strings.Cut(links[len(links)-1], "/")
	if device.ID(last) != actor {
		return "", errs.New(errs.Invalid, errs.CodeInvalidDeviceScope, "authChain does not end with the device that asks")
	}
	return device.ID(first), nil
}

func badScopeRequest(cause error) error {
	return errs.New(errs.Invalid, errs.CodeFormatError, "The body is not a question about a device scope in JSON").WithCause(cause)
}
