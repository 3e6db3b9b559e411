package hubhttp

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
)

// maxTwin is the longest twin that is read, in bytes. Clients send back whole
// documents, whose metadata is longer than the properties.
const maxTwin = 512 << 10

// twinJSON is a twin as the service API answers it. Where it repeats the
// identity it has other names: statusUpdateTime, and a flat authenticationType.
type twinJSON struct {
	DeviceID                  device.ID        `json:"deviceId"`
	ModuleID                  device.ID        `json:"moduleId,omitempty"`
	ETag                      string           `json:"etag"`
	DeviceETag                string           `json:"deviceEtag"`
	Status                    string           `json:"status"`
	StatusReason              *string          `json:"statusReason"`
	StatusUpdateTime          string           `json:"statusUpdateTime"`
	ConnectionState           string           `json:"connectionState"`
	LastActivityTime          string           `json:"lastActivityTime"`
	CloudToDeviceMessageCount int              `json:"cloudToDeviceMessageCount"`
	AuthenticationType        string           `json:"authenticationType"`
	X509Thumbprint            thumbprintJSON   `json:"x509Thumbprint"`
	ModelID                   string           `json:"modelId"`
	Version                   int64            `json:"version"`
	Tags                      json.RawMessage  `json:"tags"`
	Properties                propertiesJSON   `json:"properties"`
	Configurations            json.RawMessage  `json:"configurations,omitempty"`
	Capabilities              capabilitiesJSON `json:"capabilities"`
	DeviceScope               string           `json:"deviceScope,omitempty"`
	ParentScopes              []string         `json:"parentScopes"`
}

type propertiesJSON struct {
	Desired  json.RawMessage `json:"desired"`
	Reported json.RawMessage `json:"reported"`
}

func encodeTwin(d *hub.Identity, t *hub.Twin, now hub.About) twinJSON {
	return twinJSON{
		DeviceID: d.ID, ModuleID: d.Module, ETag: t.ETag(), DeviceETag: d.ETag,
		Status: d.Status(), StatusReason: orNull(d.StatusReason), StatusUpdateTime: hub.FormatTime(d.StatusUpdated),
		ConnectionState: now.ConnectionState(), LastActivityTime: hub.FormatTime(now.LastActivity), CloudToDeviceMessageCount: now.Waiting,
		AuthenticationType: string(d.Auth.Type), X509Thumbprint: encodeThumbprint(d),
		Version: t.Version, ModelID: t.ModelID, Tags: t.Tags, Properties: propertiesJSON{t.DesiredDocument(), t.ReportedDocument()}, Configurations: t.Configurations,
		Capabilities: capabilitiesJSON{d.IoTEdge}, DeviceScope: d.DeviceScope(), ParentScopes: d.ParentScopes(),
	}
}

func (a api) getTwin(w http.ResponseWriter, r *rest.Request, caller access.Caller, to target) error {
	d, t, err := a.Service.Twin(r.Context(), caller, to.place())
	if err != nil {
		return err
	}
	return a.answerTwin(w, r, d, t)
}

func (a api) answerTwin(w http.ResponseWriter, r *rest.Request, d *hub.Identity, t *hub.Twin) error {
	now, err := a.about(r, d.Place)
	if err != nil {
		return err
	}
	document := encodeTwin(d, t, now)
	return answer(w, document.ETag, document)
}

func (a api) patchTwin(w http.ResponseWriter, r *rest.Request, caller access.Caller, to target) error {
	return a.writeTwin(w, r, caller, to, a.Service.PatchTwin)
}

func (a api) putTwin(w http.ResponseWriter, r *rest.Request, caller access.Caller, to target) error {
	return a.writeTwin(w, r, caller, to, a.Service.ReplaceTwin)
}

func (a api) writeTwin(w http.ResponseWriter, r *rest.Request, caller access.Caller, to target,
	write func(context.Context, access.Caller, hub.Place, hub.TwinChange, hub.Precondition) (*hub.Identity, *hub.Twin, error)) error {
	if err := rest.RequireJSON(r.Request); err != nil {
		return err
	}
	body, err := rest.ReadBody(w, r.Request, maxTwin)
	if err != nil {
		return err
	}
	change, err := decodeTwinChange(body)
	if err != nil {
		return err
	}
	d, t, err := write(r.Context(), caller, to.place(), change, ifMatch(r))
	if err != nil {
		return err
	}
	return a.answerTwin(w, r, d, t)
}

// decodeTwinChange reads what an operator may write into a twin. The reported
// properties are the device's and all else is the registry's: both are ignored,
// for clients send back whole documents. Names are read without case.
func decodeTwinChange(body []byte) (hub.TwinChange, error) {
	var sent struct {
		Tags       json.RawMessage `json:"tags"`
		Properties struct {
			Desired json.RawMessage `json:"desired"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		return hub.TwinChange{}, errs.New(errs.Invalid, errs.CodeFormatError, "The body is not a twin in JSON").WithCause(err)
	}
	return hub.TwinChange{Tags: sent.Tags, Desired: sent.Properties.Desired}, nil
}
