package hubhttp

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
)

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

func encodeTwin(d *hub.Device, t *hub.Twin) (twinJSON, error) {
	desired, err := section(t.Desired, t.DesiredVersion, t.DesiredUpdated, &t.DesiredVersion)
	if err != nil {
		return twinJSON{}, fmt.Errorf("desired properties: %w", err)
	}
	reported, err := section(t.Reported, t.ReportedVersion, t.ReportedUpdated, nil)
	if err != nil {
		return twinJSON{}, fmt.Errorf("reported properties: %w", err)
	}
	return twinJSON{
		DeviceID: d.ID, ETag: twinETag(t), DeviceETag: d.ETag,
		Status: status(d), StatusReason: orNull(d.StatusReason), StatusUpdateTime: timeJSON(d.StatusUpdated),
		ConnectionState: "Disconnected", LastActivityTime: timeJSON(time.Time{}),
		AuthenticationType: string(d.Auth.Type), X509Thumbprint: encodeThumbprint(d),
		Version: t.Version, Tags: t.Tags, Properties: propertiesJSON{desired, reported},
		Capabilities: capabilitiesJSON{d.IoTEdge}, DeviceScope: deviceScope(d), ParentScopes: []string{},
	}, nil
}

// twinETag is the base64 of a big-endian counter that is one in a fresh twin,
// whose version is two.
func twinETag(t *hub.Twin) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(t.Version-1)))
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
	d, t, err := a.Service.Twin(r.Context(), caller, to.hub.Name, to.id)
	if err != nil {
		return err
	}
	document, err := encodeTwin(d, t)
	if err != nil {
		return fmt.Errorf("encoding the twin of %q at %s: %w", to.id, to.hub.Name, err)
	}
	return answer(w, document.ETag, document)
}
