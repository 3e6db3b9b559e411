package hubhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

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
	Capabilities              capabilitiesJSON `json:"capabilities"`
	DeviceScope               string           `json:"deviceScope,omitempty"`
	ParentScopes              []string         `json:"parentScopes"`
}

type propertiesJSON struct {
	Desired  json.RawMessage `json:"desired"`
	Reported json.RawMessage `json:"reported"`
}

func encodeTwin(d *hub.Identity, t *hub.Twin, now presence) (twinJSON, error) {
	desired, err := section(t.Desired, t.DesiredVersion, t.DesiredUpdated, &t.DesiredVersion)
	if err != nil {
		return twinJSON{}, fmt.Errorf("desired properties: %w", err)
	}
	reported, err := section(t.Reported, t.ReportedVersion, t.ReportedUpdated, nil)
	if err != nil {
		return twinJSON{}, fmt.Errorf("reported properties: %w", err)
	}
	return twinJSON{
		DeviceID: d.ID, ETag: t.ETag(), DeviceETag: d.ETag,
		Status: status(d), StatusReason: orNull(d.StatusReason), StatusUpdateTime: timeJSON(d.StatusUpdated),
		ConnectionState: now.connectionState(), LastActivityTime: timeJSON(now.LastActivity), CloudToDeviceMessageCount: now.waiting,
		AuthenticationType: string(d.Auth.Type), X509Thumbprint: encodeThumbprint(d),
		Version: t.Version, Tags: t.Tags, Properties: propertiesJSON{desired, reported},
		Capabilities: capabilitiesJSON{d.IoTEdge}, DeviceScope: deviceScope(d), ParentScopes: []string{},
	}, nil
}

// section returns a section's properties followed by its $metadata and
// $version.
func section(properties json.RawMessage, version int64, updated time.Time, perNode *int64) (json.RawMessage, error) {
	var tree map[string]any
	if err := json.Unmarshal(properties, &tree); err != nil {
		return nil, err
	}
	if tree == nil {
		return nil, errors.New("not an object")
	}
	metadata, err := json.Marshal(mirror(tree, timeJSON(updated), perNode))
	if err != nil {
		return nil, err
	}
	out := bytes.TrimRight(properties, " \t\r\n")
	out = append([]byte(nil), out[:len(out)-1]...) // all but the closing brace
	if len(tree) > 0 {
		out = append(out, ',')
	}
	return fmt.Appendf(out, `"$metadata":%s,"$version":%d}`, metadata, version), nil
}

// mirror returns the metadata of a property: when it was last written and, of
// a desired one, in which version. An object's members are mirrored in turn;
// an array is one value. The hub keeps these for a section as a whole.
func mirror(property any, updated string, version *int64) map[string]any {
	node := map[string]any{"$lastUpdated": updated}
	if version != nil {
		node["$lastUpdatedVersion"] = *version
	}
	members, _ := property.(map[string]any)
	for name, member := range members {
		node[name] = mirror(member, updated, version)
	}
	return node
}

func (a api) getTwin(w http.ResponseWriter, r *rest.Request, caller access.Caller, to target) error {
	d, t, err := a.Service.Twin(r.Context(), caller, hub.Place{Hub: to.hub.Name, ID: to.id})
	if err != nil {
		return err
	}
	return a.answerTwin(w, r, d, t)
}

func (a api) answerTwin(w http.ResponseWriter, r *rest.Request, d *hub.Identity, t *hub.Twin) error {
	now, err := a.presence(r, d.Place)
	if err != nil {
		return err
	}
	document, err := encodeTwin(d, t, now)
	if err != nil {
		return fmt.Errorf("encoding the twin of %q at %s: %w", d.ID, d.Hub, err)
	}
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
	d, t, err := write(r.Context(), caller, hub.Place{Hub: to.hub.Name, ID: to.id}, change, ifMatch(r))
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
