package hubhttp

import (
	"encoding/json"
	"net/http"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
)

// A moduleJSON is the identity of a module as the registry answers it. A module has
// no status of its own, and no queue.
type moduleJSON struct {
	ModuleID                   device.ID          `json:"moduleId"`
	ManagedBy                  string             `json:"managedBy"`
	DeviceID                   device.ID          `json:"deviceId"`
	GenerationID               string             `json:"generationId"`
	ETag                       string             `json:"etag"`
	ConnectionState            string             `json:"connectionState"`
	ConnectionStateUpdatedTime string             `json:"connectionStateUpdatedTime"`
	LastActivityTime           string             `json:"lastActivityTime"`
	CloudToDeviceMessageCount  int                `json:"cloudToDeviceMessageCount"`
	Authentication             authenticationJSON `json:"authentication"`
}

func encodeModule(m *hub.Identity, now hub.About) moduleJSON {
	return moduleJSON{
		ModuleID: m.Module, ManagedBy: m.ManagedBy, DeviceID: m.ID, GenerationID: m.GenerationID, ETag: m.ETag,
		ConnectionState: now.ConnectionState(), ConnectionStateUpdatedTime: hub.FormatTime(now.Updated), LastActivityTime: hub.FormatTime(now.LastActivity),
		Authentication: encodeAuthentication(m),
	}
}

// decodeModule reads what may be said about a module, as decodeDevice does.
func decodeModule(body []byte, of target) (hub.ModuleSpec, error) {
	var sent struct {
		DeviceID       *device.ID         `json:"deviceId"`
		ModuleID       *device.ID         `json:"moduleId"`
		ManagedBy      string             `json:"managedBy"`
		Authentication authenticationJSON `json:"authentication"`
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		return hub.ModuleSpec{}, errs.New(errs.Invalid, errs.CodeFormatError, "The body is not a module identity in JSON").WithCause(err)
	}
	if sent.DeviceID != nil && *sent.DeviceID != of.id {
		return hub.ModuleSpec{}, invalid("deviceId in the body is not the device ID of the path")
	}
	if sent.ModuleID != nil && *sent.ModuleID != of.module {
		return hub.ModuleSpec{}, invalid("moduleId in the body is not the module ID of the path")
	}
	auth, err := decodeAuthentication(sent.Authentication)
	return hub.ModuleSpec{ManagedBy: sent.ManagedBy, Auth: auth}, err
}

func (a api) listModules(w http.ResponseWriter, r *rest.Request, by hub.Actor, to target) error {
	modules, err := a.Service.Modules(r.Context(), by, to.place())
	if err != nil {
		return err
	}
	present, err := a.aboutAll(r, to.hub.Name, to.id, to.id)
	if err != nil {
		return err
	}
	list := make([]moduleJSON, len(modules))
	for i, m := range modules {
		list[i] = encodeModule(m, present(m.Place))
	}
	return answerJSON(w, list)
}

func (a api) getModule(w http.ResponseWriter, r *rest.Request, by hub.Actor, to target) error {
	m, err := a.Service.Module(r.Context(), by, to.place())
	if err != nil {
		return err
	}
	return a.answerModule(w, r, m)
}

func (a api) putModule(w http.ResponseWriter, r *rest.Request, by hub.Actor, to target) error {
	if err := rest.RequireJSON(r.Request); err != nil {
		return err
	}
	body, err := rest.ReadBody(w, r.Request, maxDevice)
	if err != nil {
		return err
	}
	spec, err := decodeModule(body, to)
	if err != nil {
		return err
	}
	m, err := a.Service.PutModule(r.Context(), by, to.place(), spec, ifMatch(r))
	if err != nil {
		return err
	}
	return a.answerModule(w, r, m)
}

func (a api) deleteModule(w http.ResponseWriter, r *rest.Request, by hub.Actor, to target) error {
	if err := a.Service.DeleteModule(r.Context(), by, to.place(), ifMatch(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a api) answerModule(w http.ResponseWriter, r *rest.Request, m *hub.Identity) error {
	now, err := a.about(r, m.Place)
	if err != nil {
		return err
	}
	return answer(w, m.ETag, encodeModule(m, now))
}
