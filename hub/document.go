package hub

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"

	"github.com/berth-iot/berth/hub/query"
)

// How the status of a device is spelled.
const (
	statusEnabled  = "enabled"
	statusDisabled = "disabled"
)

// A queriedTwin is what queries see of a twin: the document that the service API
// has, of which it makes no more than is looked at.
type queriedTwin struct{ Found }

// Lookup implements query.Document.
func (d queriedTwin) Lookup(at query.Path) query.Value {
	if at[0].Name == "tags" {
		return query.Find(d.Twin.Tags, at[1:], false)
	}
	if at[0].Name == "properties" && len(at) > 1 {
		return d.property(at[1:])
	}
	if v, ok := d.structure(at); ok || len(at) > 1 {
		return v
	}
	return d.member(at[0].Name)
}

// property looks into a section, at what the hub makes of it, too.
func (d queriedTwin) property(at query.Path) query.Value {
	section := d.Twin.section(at[0].Name)
	if len(at) == 1 {
		if section.text == nil {
			return query.Value{}
		}
		return query.Find(section.document(), nil, false)
	}
	switch at[1].Name {
	case "$version":
		return query.Find(strconv.AppendInt(nil, section.version, 10), at[2:], false)
	case "$metadata":
		return query.Find(section.metadata, at[2:], false)
	}
	return query.Find(section.text, at[1:], false)
}

// A twinSection is one of the two sections of properties.
type twinSection struct {
	text, metadata json.RawMessage
	version        int64
}

func (t *Twin) section(name string) twinSection {
	switch name {
	case "desired":
		return twinSection{t.Desired, t.DesiredMetadata, t.DesiredVersion}
	case "reported":
		return twinSection{t.Reported, t.ReportedMetadata, t.ReportedVersion}
	}
	return twinSection{}
}

// document is the section with its version, and with its metadata where the
// properties have their own.
func (s twinSection) document() json.RawMessage {
	text := bytes.TrimSuffix(bytes.TrimSpace(s.text), []byte("}"))
	document := append([]byte(nil), text...)
	if len(text) > 1 {
		document = append(document, ',')
	}
	if s.metadata != nil {
		document = append(append(append(document, `"$metadata":`...), s.metadata...), ',')
	}
	return append(strconv.AppendInt(append(document, `"$version":`...), s.version, 10), '}')
}

// structure looks into what is more than one value.
func (d queriedTwin) structure(at query.Path) (query.Value, bool) {
	var whole any
	switch at[0].Name {
	case "properties":
		whole = map[string]json.RawMessage{"desired": d.Twin.section("desired").document(), "reported": d.Twin.section("reported").document()}
	case "configurations":
		return query.Find(d.Twin.Configurations, at[1:], false), true
	case "capabilities":
		whole = map[string]bool{"iotEdge": d.Identity.IoTEdge}
	case "x509Thumbprint":
		auth := d.Identity.Auth
		whole = map[string]*string{"primaryThumbprint": orNil(auth.PrimaryThumbprint), "secondaryThumbprint": orNil(auth.SecondaryThumbprint)}
	case "parentScopes":
		scopes := []string{}
		if d.Identity.ParentScope != "" {
			scopes = append(scopes, d.Identity.ParentScope)
		}
		whole = scopes
	default:
		return query.Value{}, false
	}
	text, err := json.Marshal(whole)
	if err != nil {
		return query.Value{}, true // what is kept is JSON
	}
	return query.Find(text, at[1:], false), true
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// member returns what the registry says in one word.
func (d queriedTwin) member(name string) query.Value {
	switch name {
	case "deviceId":
		return query.TextValue(string(d.Identity.ID))
	case "moduleId":
		return textOr(string(d.Identity.Module), query.Value{})
	case "etag":
		return query.TextValue(d.Twin.ETag())
	case "deviceEtag":
		return query.TextValue(d.Identity.ETag)
	case "status":
		if d.Identity.Disabled {
			return query.TextValue(statusDisabled)
		}
		return query.TextValue(statusEnabled)
	case "statusReason":
		return textOr(d.Identity.StatusReason, query.NullValue())
	case "statusUpdateTime":
		return timeValue(d.Identity.StatusUpdated)
	case "connectionState":
		if d.About.Connected {
			return query.TextValue("Connected")
		}
		return query.TextValue("Disconnected")
	case "lastActivityTime":
		return timeValue(d.About.LastActivity)
	case "cloudToDeviceMessageCount":
		return query.NumberValue(float64(d.About.Waiting))
	case "authenticationType":
		return query.TextValue(string(d.Identity.Auth.Type))
	case "modelId":
		return query.TextValue(d.Twin.ModelID)
	case "version":
		return query.NumberValue(float64(d.Twin.Version))
	case "deviceScope":
		return textOr(d.scope(), query.Value{})
	}
	return query.Value{}
}

func (d queriedTwin) scope() string {
	if !d.Identity.IoTEdge {
		return d.Identity.ParentScope
	}
	return "ms-azure-iot-edge://" + string(d.Identity.ID) + "-" + d.Identity.GenerationID
}

func textOr(s string, otherwise query.Value) query.Value {
	if s == "" {
		return otherwise
	}
	return query.TextValue(s)
}

// timeValue is a time as documents have it.
func timeValue(t time.Time) query.Value {
	return query.TextValue(t.UTC().Format("2006-01-02T15:04:05.9999999Z"))
}
