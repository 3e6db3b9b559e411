package hubhttp

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
)

// maxDevice is the longest identity that is read, in bytes.
const maxDevice = 64 << 10

// deviceJSON is an identity as the registry answers it.
type deviceJSON struct {
	DeviceID                   device.ID          `json:"deviceId"`
	GenerationID               string             `json:"generationId"`
	ETag                       string             `json:"etag"`
	ConnectionState            string             `json:"connectionState"`
	Status                     string             `json:"status"`
	StatusReason               *string            `json:"statusReason"`
	ConnectionStateUpdatedTime string             `json:"connectionStateUpdatedTime"`
	StatusUpdatedTime          string             `json:"statusUpdatedTime"`
	LastActivityTime           string             `json:"lastActivityTime"`
	CloudToDeviceMessageCount  int                `json:"cloudToDeviceMessageCount"`
	Authentication             authenticationJSON `json:"authentication"`
	Capabilities               capabilitiesJSON   `json:"capabilities"`
	DeviceScope                string             `json:"deviceScope,omitempty"`
	ParentScopes               []string           `json:"parentScopes"`
}

// authenticationJSON has type last: a client that sets its own members in the
// order of the document works the type out again from each of the others.
type authenticationJSON struct {
	SymmetricKey   symmetricKeyJSON `json:"symmetricKey"`
	X509Thumbprint thumbprintJSON   `json:"x509Thumbprint"`
	Type           string           `json:"type"`
}

type symmetricKeyJSON struct {
	PrimaryKey   *string `json:"primaryKey"`
	SecondaryKey *string `json:"secondaryKey"`
}

type thumbprintJSON struct {
	PrimaryThumbprint   *string `json:"primaryThumbprint"`
	SecondaryThumbprint *string `json:"secondaryThumbprint"`
}

type capabilitiesJSON struct {
	IoTEdge bool `json:"iotEdge"`
}

func encodeDevice(d *hub.Identity, now hub.About) deviceJSON {
	return deviceJSON{
		DeviceID: d.ID, GenerationID: d.GenerationID, ETag: d.ETag,
		ConnectionState: now.ConnectionState(), Status: d.Status(), StatusReason: orNull(d.StatusReason),
		ConnectionStateUpdatedTime: hub.FormatTime(now.Updated), StatusUpdatedTime: hub.FormatTime(d.StatusUpdated), LastActivityTime: hub.FormatTime(now.LastActivity),
		CloudToDeviceMessageCount: now.Waiting,
		Authentication:            encodeAuthentication(d),
		Capabilities:              capabilitiesJSON{d.IoTEdge},
		DeviceScope:               d.DeviceScope(),
		ParentScopes:              d.ParentScopes(),
	}
}

func encodeAuthentication(d *hub.Identity) authenticationJSON {
	return authenticationJSON{
		SymmetricKey:   symmetricKeyJSON{orNull(d.Auth.Keys.Primary.Base64()), orNull(d.Auth.Keys.Secondary.Base64())},
		X509Thumbprint: encodeThumbprint(d),
		Type:           string(d.Auth.Type),
	}
}

func encodeThumbprint(d *hub.Identity) thumbprintJSON {
	return thumbprintJSON{orNull(d.Auth.PrimaryThumbprint), orNull(d.Auth.SecondaryThumbprint)}
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// decodeDevice reads what an operator may say about the device id. Clients send
// back whole identities: what is the registry's own is ignored, and so are
// members nobody knows. Names and enumerated values are read without case.
func decodeDevice(body []byte, id device.ID) (hub.DeviceSpec, error) {
	var sent struct {
		DeviceID       *device.ID         `json:"deviceId"`
		Status         string             `json:"status"`
		StatusReason   string             `json:"statusReason"`
		Authentication authenticationJSON `json:"authentication"`
		Capabilities   struct {
			IoTEdge *bool `json:"iotEdge"`
		} `json:"capabilities"`
		DeviceScope  *string  `json:"deviceScope"`
		ParentScopes []string `json:"parentScopes"`
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		return hub.DeviceSpec{}, errs.New(errs.Invalid, errs.CodeFormatError, "The body is not a device identity in JSON").WithCause(err)
	}
	if sent.DeviceID != nil && *sent.DeviceID != id {
		return hub.DeviceSpec{}, invalid("deviceId in the body is not the device ID of the path")
	}
	spec := hub.DeviceSpec{
		StatusReason: sent.StatusReason, IoTEdge: sent.Capabilities.IoTEdge, DeviceScope: sent.DeviceScope, ParentScopes: sent.ParentScopes,
	}
	var err error
	if spec.Disabled, err = decodeStatus(sent.Status); err != nil {
		return hub.DeviceSpec{}, err
	}
	spec.Auth, err = decodeAuthentication(sent.Authentication)
	return spec, err
}

// decodeStatus reads a status; without one a device is enabled.
func decodeStatus(status string) (disabled bool, err error) {
	switch strings.ToLower(status) {
	case "", "enabled":
		return false, nil
	case "disabled":
		return true, nil
	}
	return false, invalid("status must be enabled or disabled")
}

func decodeAuthentication(sent authenticationJSON) (hub.Authentication, error) {
	auth := hub.Authentication{
		Type:                hub.AuthenticationType(sent.Type),
		PrimaryThumbprint:   orEmpty(sent.X509Thumbprint.PrimaryThumbprint),
		SecondaryThumbprint: orEmpty(sent.X509Thumbprint.SecondaryThumbprint),
	}
	for _, known := range []hub.AuthenticationType{hub.AuthSAS, hub.AuthSelfSigned, hub.AuthCertificateAuthority, hub.AuthNone} {
		if strings.EqualFold(sent.Type, string(known)) {
			auth.Type = known
		}
	}
	if sent.Type == "" {
		auth.Type = hub.AuthSAS
		if auth.PrimaryThumbprint != "" || auth.SecondaryThumbprint != "" {
			auth.Type = hub.AuthSelfSigned
		}
	}
	for _, k := range []struct {
		name string
		sent *string
		key  *device.SymmetricKey
	}{
		{"primaryKey", sent.SymmetricKey.PrimaryKey, &auth.Keys.Primary},
		{"secondaryKey", sent.SymmetricKey.SecondaryKey, &auth.Keys.Secondary},
	} {
		text := orEmpty(k.sent)
		if text == "" {
			continue
		}
		var err error
		if *k.key, err = device.ParseSymmetricKey(text); err != nil {
			return hub.Authentication{}, invalid("%s %v", k.name, err)
		}
	}
	return auth, nil
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (a api) getDevice(w http.ResponseWriter, r *rest.Request, caller access.Caller, to target) error {
	d, err := a.Service.Identity(r.Context(), caller, to.place())
	if err != nil {
		return err
	}
	return a.answerDevice(w, r, d)
}

func (a api) putDevice(w http.ResponseWriter, r *rest.Request, caller access.Caller, to target) error {
	if err := rest.RequireJSON(r.Request); err != nil {
		return err
	}
	body, err := rest.ReadBody(w, r.Request, maxDevice)
	if err != nil {
		return err
	}
	spec, err := decodeDevice(body, to.id)
	if err != nil {
		return err
	}
	d, err := a.Service.PutDevice(r.Context(), caller, to.place(), spec, ifMatch(r))
	if err != nil {
		return err
	}
	return a.answerDevice(w, r, d)
}

func (a api) deleteDevice(w http.ResponseWriter, r *rest.Request, caller access.Caller, to target) error {
	if err := a.Service.Delete(r.Context(), caller, to.place(), ifMatch(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// listDevices answers identities, the first ones up to top.
func (a api) listDevices(w http.ResponseWriter, r *rest.Request, caller access.Caller, host string) error {
	limit := hub.MaxDevices
	if top := r.URL.Query().Get("top"); top != "" {
		n, err := strconv.ParseUint(top, 10, 31)
		if err != nil || n == 0 {
			return invalid("top must be a number from 1 to %d", hub.MaxDevices)
		}
		limit = int(n)
	}
	ds, err := a.Service.Devices(r.Context(), caller, host, limit)
	if err != nil {
		return err
	}
	var present func(hub.Place) hub.About
	if len(ds) > 0 {
		if present, err = a.aboutAll(r, host, ds[0].ID, ds[len(ds)-1].ID); err != nil {
			return err
		}
	}
	list := make([]deviceJSON, len(ds))
	for i, d := range ds {
		list[i] = encodeDevice(d, present(d.Place))
	}
	return answerJSON(w, list)
}

func (a api) statistics(w http.ResponseWriter, r *rest.Request, caller access.Caller, host string) error {
	counted, err := a.Service.Statistics(r.Context(), caller, host)
	if err != nil {
		return err
	}
	return answerJSON(w, struct {
		Total    int `json:"totalDeviceCount"`
		Enabled  int `json:"enabledDeviceCount"`
		Disabled int `json:"disabledDeviceCount"`
	}{counted.Total, counted.Total - counted.Disabled, counted.Disabled})
}

// serviceStatistics counts the devices that are connected, to whichever server.
func (a api) serviceStatistics(w http.ResponseWriter, r *rest.Request, caller access.Caller, host string) error {
	connected, err := a.Service.ServiceStatistics(r.Context(), caller, host)
	if err != nil {
		return err
	}
	return answerJSON(w, struct {
		Connected int `json:"connectedDeviceCount"`
	}{connected})
}

func (a api) answerDevice(w http.ResponseWriter, r *rest.Request, d *hub.Identity) error {
	now, err := a.about(r, d.Place)
	if err != nil {
		return err
	}
	return answer(w, d.ETag, encodeDevice(d, now))
}

// answer sends a document with its entity tag, which some clients take from the
// header and some from the body.
func answer(w http.ResponseWriter, etag string, document any) error {
	w.Header().Set("ETag", `"`+etag+`"`)
	return answerJSON(w, document)
}

func answerJSON(w http.ResponseWriter, document any) error {
	body, err := json.Marshal(document)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	rest.WriteJSON(w, http.StatusOK, body)
	return nil
}
