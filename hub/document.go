package hub

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/berth-iot/berth/hub/query"
	"github.com/berth-iot/berth/hub/twin"
)

// How the status of a device is spelled.
const (
	statusEnabled  = "enabled"
	statusDisabled = "disabled"
)

// Status is how the status of a device is spelled: "enabled" or "disabled". A
// module's is "enabled".
func (d *Identity) Status() string {
	if d.Disabled {
		return statusDisabled
	}
	return statusEnabled
}

// FormatTime writes a time as documents have it and as .NET does, in ticks of 100
// nanoseconds. The zero time is 0001-01-01T00:00:00Z.
func FormatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.9999999Z") }

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

// property looks into a section, and at what the hub makes of it.
func (d queriedTwin) property(at query.Path) query.Value {
	s, ok := d.Twin.section(at[0].Name)
	switch {
	case !ok:
		return query.Value{}
	case len(at) == 1:
		return query.Find(s.document(), nil, false)
	case at[1].Name == "$version":
		return query.Find(strconv.AppendInt(nil, s.written.Version, 10), at[2:], false)
	case at[1].Name == "$metadata":
		return query.Find(s.document(), at[1:], false)
	}
	return query.Find(s.text, at[1:], false)
}

// A twinSection is one of the two sections of properties.
type twinSection struct {
	of      twin.Section
	text    json.RawMessage
	known   json.RawMessage // of each property, or nil
	written twin.Stamp
}

func (t *Twin) desired() twinSection {
	return twinSection{twin.Desired, t.Desired, t.DesiredMetadata, twin.Stamp{Updated: t.DesiredUpdated, Version: t.DesiredVersion}}
}

func (t *Twin) reported() twinSection {
	return twinSection{twin.Reported, t.Reported, t.ReportedMetadata, twin.Stamp{Updated: t.ReportedUpdated, Version: t.ReportedVersion}}
}

func (t *Twin) section(name string) (twinSection, bool) {
	switch name {
	case "desired":
		return t.desired(), true
	case "reported":
		return t.reported(), true
	}
	return twinSection{}, false
}

// document is the section with what the hub makes of it.
func (s twinSection) document() json.RawMessage { return s.of.Document(s.text, s.known, s.written) }

// DesiredDocument returns the desired properties with $metadata and $version, as
// the service API has them.
func (t *Twin) DesiredDocument() json.RawMessage { return t.desired().document() }

// ReportedDocument returns the reported properties with $metadata and $version, as
// the service API has them.
func (t *Twin) ReportedDocument() json.RawMessage { return t.reported().document() }

// structure looks into what is more than one value.
func (d queriedTwin) structure(at query.Path) (query.Value, bool) {
	var whole any
	switch at[0].Name {
	case "properties":
		whole = map[string]json.RawMessage{"desired": d.Twin.DesiredDocument(), "reported": d.Twin.ReportedDocument()}
	case "configurations":
		return query.Find(d.Twin.Configurations, at[1:], false), true
	case "capabilities":
		whole = map[string]bool{"iotEdge": d.Identity.IoTEdge}
	case "x509Thumbprint":
		auth := d.Identity.Auth
		whole = map[string]*string{"primaryThumbprint": orNil(auth.PrimaryThumbprint), "secondaryThumbprint": orNil(auth.SecondaryThumbprint)}
	case "parentScopes":
		whole = d.Identity.ParentScopes()
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
		return query.TextValue(d.Identity.Status())
	case "statusReason":
		return textOr(d.Identity.StatusReason, query.NullValue())
	case "statusUpdateTime":
		return query.TextValue(FormatTime(d.Identity.StatusUpdated))
	case "connectionState":
		return query.TextValue(d.About.ConnectionState())
	case "connectionStateUpdatedTime":
		return query.TextValue(FormatTime(d.About.Updated))
	case "lastActivityTime":
		return query.TextValue(FormatTime(d.About.LastActivity))
	case "cloudToDeviceMessageCount":
		return query.NumberValue(float64(d.About.Waiting))
	case "authenticationType":
		return query.TextValue(string(d.Identity.Auth.Type))
	case "modelId":
		return query.TextValue(d.Twin.ModelID)
	case "version":
		return query.NumberValue(float64(d.Twin.Version))
	case "deviceScope":
		return textOr(d.Identity.DeviceScope(), query.Value{})
	}
	return query.Value{}
}

func textOr(s string, otherwise query.Value) query.Value {
	if s == "" {
		return otherwise
	}
	return query.TextValue(s)
}
