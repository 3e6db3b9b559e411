// Package hubjson holds JSON bodies of the IoT Hub service REST API as its
// clients see them: identities, twins and statistics. Names of members are read
// without case, as the service does.
package hubjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-iot/berth/device"
)

// A Status says whether a device may connect.
type Status string

// The two statuses.
const (
	Enabled  Status = "enabled"
	Disabled Status = "disabled"
)

// An AuthenticationType says how a device proves itself to the hub.
type AuthenticationType string

// The authentication types.
const (
	SAS                  AuthenticationType = "sas"
	SelfSigned           AuthenticationType = "selfSigned"
	CertificateAuthority AuthenticationType = "certificateAuthority"
	None                 AuthenticationType = "none"
)

// A Key is a symmetric key on its way to or from a hub, in a body as base64 and
// null when there is none. Unlike the device.SymmetricKey in it, it can be
// serialised; like it, fmt does not show it.
type Key struct{ device.SymmetricKey }

// MarshalJSON returns the key in base64, or null.
func (k Key) MarshalJSON() ([]byte, error) {
	if k.IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(k.Base64())
}

// UnmarshalText reads the base64 of 16 to 64 bytes; nothing is no key.
func (k *Key) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*k = Key{}
		return nil
	}
	var err error
	k.SymmetricKey, err = device.ParseSymmetricKey(string(text))
	return err
}

// SymmetricKeys are the keys of a device that signs tokens. A hub generates
// those that it is not given.
type SymmetricKeys struct {
	PrimaryKey   Key `json:"primaryKey"`
	SecondaryKey Key `json:"secondaryKey"`
}

// Thumbprints are those of a device's certificates: 40 (SHA-1) or 64 (SHA-256)
// hexadecimal digits, or empty.
type Thumbprints struct {
	PrimaryThumbprint   string `json:"primaryThumbprint,omitempty"`
	SecondaryThumbprint string `json:"secondaryThumbprint,omitempty"`
}

// An Authentication is how one device proves itself.
type Authentication struct {
	SymmetricKey   *SymmetricKeys     `json:"symmetricKey,omitempty"`
	X509Thumbprint *Thumbprints       `json:"x509Thumbprint,omitempty"`
	Type           AuthenticationType `json:"type,omitempty"`
}

// Capabilities say what a device can do.
type Capabilities struct {
	IoTEdge bool `json:"iotEdge"`
}

// A Device is an entry of the identity registry. The hub sets GenerationID,
// ETag, ConnectionState and what is in Other; it ignores them in what it is
// sent.
type Device struct {
	DeviceID        device.ID      `json:"deviceId"`
	GenerationID    string         `json:"generationId,omitempty"`
	ETag            string         `json:"etag,omitempty"`
	ConnectionState string         `json:"connectionState,omitempty"`
	Status          Status         `json:"status,omitempty"`
	StatusReason    string         `json:"statusReason,omitempty"`
	Authentication  Authentication `json:"authentication"`
	Capabilities    Capabilities   `json:"capabilities"`
	DeviceScope     string         `json:"deviceScope,omitempty"`
	ParentScopes    []string       `json:"parentScopes,omitempty"`
	// Other has the members that are not named above. They are sent back: a
	// write replaces the whole identity.
	Other map[string]json.RawMessage `json:"-"`
}

var deviceMembers = []string{
	"deviceId", "generationId", "etag", "connectionState", "status", "statusReason", "authentication", "capabilities",
	"deviceScope", "parentScopes",
}

// UnmarshalJSON reads an identity and keeps all of its members.
func (d *Device) UnmarshalJSON(b []byte) error {
	type plain Device
	var named plain
	if err := json.Unmarshal(b, &named); err != nil {
		return err
	}
	if err := json.Unmarshal(b, &named.Other); err != nil {
		return err
	}
	for name := range named.Other {
		if slices.ContainsFunc(deviceMembers, func(known string) bool { return strings.EqualFold(name, known) }) {
			delete(named.Other, name)
		}
	}
	*d = Device(named)
	return nil
}

// MarshalJSON writes the identity with all of its members.
func (d Device) MarshalJSON() ([]byte, error) {
	type plain Device
	named, err := json.Marshal(plain(d))
	if err != nil || len(d.Other) == 0 {
		return named, err
	}
	other, err := json.Marshal(d.Other)
	if err != nil {
		return nil, err
	}
	return slices.Concat(named[:len(named)-1], []byte{','}, other[1:]), nil
}

// A Twin is a device's document at the hub. Tags and both properties are JSON
// objects; the properties have the hub's $metadata and $version among their
// members, which [Properties.Split] takes out.
type Twin struct {
	DeviceID           device.ID          `json:"deviceId"`
	ETag               string             `json:"etag"`
	DeviceETag         string             `json:"deviceEtag"`
	Status             Status             `json:"status"`
	StatusReason       string             `json:"statusReason"`
	ConnectionState    string             `json:"connectionState"`
	AuthenticationType AuthenticationType `json:"authenticationType"`
	Version            int64              `json:"version"`
	Tags               json.RawMessage    `json:"tags"`
	Properties         struct {
		Desired  Properties `json:"desired"`
		Reported Properties `json:"reported"`
	} `json:"properties"`
	Capabilities Capabilities `json:"capabilities"`
}

// Properties are desired or reported properties as a hub answers them.
type Properties json.RawMessage

// UnmarshalJSON keeps the text.
func (p *Properties) UnmarshalJSON(b []byte) error { return (*json.RawMessage)(p).UnmarshalJSON(b) }

// Split returns the properties without what the hub keeps among them, and their
// version. No text and null are an empty object.
func (p Properties) Split() (properties json.RawMessage, version int64, err error) {
	if len(p) == 0 || string(p) == "null" {
		return json.RawMessage("{}"), 0, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(p, &members); err != nil || members == nil {
		return nil, 0, errors.New("the properties are not a JSON object")
	}
	if text, ok := members["$version"]; ok {
		if err := json.Unmarshal(text, &version); err != nil {
			return nil, 0, fmt.Errorf("$version: %w", err)
		}
	}
	delete(members, "$version")
	delete(members, "$metadata")
	properties, err = json.Marshal(members)
	return properties, version, err
}

// A TwinChange is what an operator writes into a twin: JSON objects, or nil
// where nothing is said.
type TwinChange struct{ Tags, Desired json.RawMessage }

// MarshalJSON writes the change as the part of a twin that it is.
func (c TwinChange) MarshalJSON() ([]byte, error) {
	type properties struct {
		Desired json.RawMessage `json:"desired"`
	}
	out := struct {
		Tags       json.RawMessage `json:"tags,omitempty"`
		Properties *properties     `json:"properties,omitempty"`
	}{Tags: c.Tags}
	if c.Desired != nil {
		out.Properties = &properties{c.Desired}
	}
	return json.Marshal(out)
}

// A Method is a call of one of a device's direct methods.
type Method struct {
	Name    string          `json:"methodName"`
	Payload json.RawMessage `json:"payload,omitempty"` // any JSON value
	// ResponseTimeout is how many seconds the device has to answer, 5 to 300; zero
	// means 30.
	ResponseTimeout int `json:"responseTimeoutInSeconds,omitempty"`
	// ConnectTimeout is how many seconds to wait for a device that is not connected,
	// up to 300.
	ConnectTimeout int `json:"connectTimeoutInSeconds,omitempty"`
}

// A MethodResult is what the device answered.
type MethodResult struct {
	Status  int             `json:"status"` // the device's own
	Payload json.RawMessage `json:"payload"`
}

// Statistics count a hub's devices.
type Statistics struct {
	Total    int64 `json:"totalDeviceCount"`
	Enabled  int64 `json:"enabledDeviceCount"`
	Disabled int64 `json:"disabledDeviceCount"`
}
