package hubhttp

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
)

// maxBulk is the longest bulk operation that is read, in bytes: as many identities
// with twins as it may have.
const maxBulk = hub.MaxBulk * (maxDevice + 32<<10)

// A bulkErrorJSON is what was wrong with an entry. The code is a number: one client
// reads nothing else.
type bulkErrorJSON struct {
	DeviceID    device.ID      `json:"deviceId"`
	ModuleID    *string        `json:"moduleId"`
	ErrorCode   errs.Code      `json:"errorCode"`
	ErrorStatus string         `json:"errorStatus"`
	Operation   hub.ImportMode `json:"operation"`
}

// postDevices does a bulk operation. The answer is the same whether all of it could
// be done or not, but for its status.
func (a api) postDevices(w http.ResponseWriter, r *rest.Request, caller access.Caller, host string) error {
	if err := rest.RequireJSON(r.Request); err != nil {
		return err
	}
	body, err := rest.ReadBody(w, r.Request, maxBulk)
	if err != nil {
		return err
	}
	entries, err := decodeBulk(body)
	if err != nil {
		return err
	}
	failed, err := a.Service.Bulk(r.Context(), caller, host, entries)
	if err != nil {
		return err
	}
	list := make([]bulkErrorJSON, len(failed))
	for i, f := range failed {
		code, status := publicError(f.Err)
		list[i] = bulkErrorJSON{f.ID, orNull(string(f.Module)), code, status, f.Mode}
	}
	answer, err := json.Marshal(struct {
		IsSuccessful bool            `json:"isSuccessful"`
		Errors       []bulkErrorJSON `json:"errors"`
		Warnings     []struct{}      `json:"warnings"`
	}{len(list) == 0, list, []struct{}{}})
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	status := http.StatusOK
	if len(list) > 0 {
		status = http.StatusBadRequest
	}
	rest.WriteJSON(w, status, answer)
	return nil
}

// publicError is what a caller is told of an error: never more than its public part.
func publicError(err error) (errs.Code, string) {
	e := errs.Public(err)
	if e.Code == 0 {
		return codes[e.Kind], e.Message
	}
	return e.Code, e.Message
}

// decodeBulk reads the entries of a bulk operation. What is wrong with one of them is
// for its own error. Names and enumerated values are read without case.
func decodeBulk(body []byte) ([]hub.BulkEntry, error) {
	var sent []bulkEntryJSON
	if err := json.Unmarshal(body, &sent); err != nil || sent == nil {
		return nil, errs.New(errs.Invalid, errs.CodeFormatError, "The body is not a JSON array of devices").WithCause(err)
	}
	if len(sent) > hub.MaxBulk {
		return nil, errs.New(errs.TooLarge, errs.CodeTooManyDevices, "There are %d entries; %d are allowed", len(sent), hub.MaxBulk)
	}
	entries := make([]hub.BulkEntry, len(sent))
	for i, one := range sent {
		entry, err := one.entry()
		entry.Unreadable = err
		entries[i] = entry
	}
	return entries, nil
}

// A bulkEntryJSON is an entry as clients write it: an identity and its twin in one.
type bulkEntryJSON struct {
	ID             device.ID          `json:"id"`
	ModuleID       device.ID          `json:"moduleId"`
	ETag           string             `json:"eTag"`
	ImportMode     json.RawMessage    `json:"importMode"`
	Status         string             `json:"status"`
	StatusReason   string             `json:"statusReason"`
	Authentication authenticationJSON `json:"authentication"`
	ManagedBy      string             `json:"managedBy"`
	TwinETag       string             `json:"twinETag"`
	Tags           json.RawMessage    `json:"tags"`
	Properties     struct {
		Desired json.RawMessage `json:"desired"`
	} `json:"properties"`
	Capabilities struct {
		IoTEdge *bool `json:"iotEdge"`
	} `json:"capabilities"`
	DeviceScope  *string  `json:"deviceScope"`
	ParentScopes []string `json:"parentScopes"`
}

// entry returns what sent asks for, as far as that can be read.
func (sent bulkEntryJSON) entry() (hub.BulkEntry, error) {
	e := hub.BulkEntry{
		ID: sent.ID, Module: sent.ModuleID, ETag: unquoted(sent.ETag), TwinETag: unquoted(sent.TwinETag), ManagedBy: sent.ManagedBy,
		Device: hub.DeviceSpec{
			StatusReason: sent.StatusReason, IoTEdge: sent.Capabilities.IoTEdge, DeviceScope: sent.DeviceScope, ParentScopes: sent.ParentScopes,
		},
		Twin: hub.TwinChange{Tags: said(sent.Tags), Desired: said(sent.Properties.Desired)},
	}
	var err error
	if e.Mode, err = decodeImportMode(sent.ImportMode); err != nil {
		return e, err
	}
	if _, err := device.ParseID(string(e.ID)); err != nil {
		return e, invalid("The device ID %v", err)
	}
	if e.Module != "" {
		if _, err := device.ParseID(string(e.Module)); err != nil {
			return e, invalid("The module ID %v", err)
		}
	}
	if e.Device.Disabled, err = decodeStatus(sent.Status); err != nil {
		return e, err
	}
	e.Device.Auth, err = decodeAuthentication(sent.Authentication)
	return e, err
}

// decodeImportMode reads a mode by its name, or by its number as some clients write
// it. None is the first.
func decodeImportMode(text json.RawMessage) (hub.ImportMode, error) {
	modes := hub.ImportModes()
	if said(text) == nil {
		return modes[0], nil
	}
	var number int
	if err := json.Unmarshal(text, &number); err == nil {
		if number < 0 || number >= len(modes) {
			return "", invalid("importMode %d is not known", number)
		}
		return modes[number], nil
	}
	var name string
	if err := json.Unmarshal(text, &name); err != nil {
		return "", invalid("importMode is neither a name nor a number")
	}
	for _, known := range modes {
		if strings.EqualFold(name, string(known)) {
			return known, nil
		}
	}
	return "", invalid("importMode %q is not known", name)
}

// said returns nil for the JSON value null: in an entry it says nothing.
func said(text json.RawMessage) json.RawMessage {
	if string(text) == "null" {
		return nil
	}
	return text
}

// postRegenerateKeys makes new keys for devices and modules.
func (a api) postRegenerateKeys(w http.ResponseWriter, r *rest.Request, caller access.Caller, host string) error {
	if err := rest.RequireJSON(r.Request); err != nil {
		return err
	}
	body, err := rest.ReadBody(w, r.Request, maxDevice)
	if err != nil {
		return err
	}
	policyKey, which, places, err := decodeRegenerateKeys(body, host)
	if err != nil {
		return err
	}
	results, err := a.Service.RegenerateKeys(r.Context(), caller, which, places)
	if err != nil {
		return err
	}
	type named struct {
		ID       device.ID `json:"id"`
		ModuleID *string   `json:"moduleId"`
	}
	type rotated struct {
		named
		PrimaryKey   string `json:"primaryKey"`
		SecondaryKey string `json:"secondaryKey"`
	}
	type failed struct {
		named
		ErrorCode   errs.Code `json:"errorCode"`
		ErrorStatus string    `json:"errorStatus"`
	}
	answer := struct {
		PolicyKey   string    `json:"policyKey"`
		RotatedKeys []rotated `json:"rotatedKeys"`
		Errors      []failed  `json:"errors"`
	}{policyKey, []rotated{}, []failed{}}
	for _, result := range results {
		of := named{result.At.ID, orNull(string(result.At.Module))}
		if result.Err != nil {
			code, status := publicError(result.Err)
			answer.Errors = append(answer.Errors, failed{of, code, status})
			continue
		}
		keys := result.Identity.Auth.Keys
		answer.RotatedKeys = append(answer.RotatedKeys, rotated{of, keys.Primary.Base64(), keys.Secondary.Base64()})
	}
	return answerJSON(w, answer)
}

// decodeRegenerateKeys reads which keys of whom are to be new.
func decodeRegenerateKeys(body []byte, host string) (policyKey string, which hub.KeyChoice, places []hub.Place, err error) {
	var sent struct {
		PolicyKey string `json:"policyKey"`
		Devices   []struct {
			ID       device.ID `json:"id"`
			ModuleID device.ID `json:"moduleId"`
		} `json:"devices"`
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		return "", which, nil, errs.New(errs.Invalid, errs.CodeFormatError, "The body does not name keys and devices in JSON").WithCause(err)
	}
	switch strings.ToLower(sent.PolicyKey) {
	case "primary":
		which = hub.KeyChoice{Primary: true}
	case "secondary":
		which = hub.KeyChoice{Secondary: true}
	case "both":
		which = hub.KeyChoice{Primary: true, Secondary: true}
	default:
		return "", which, nil, invalid("policyKey must be primary, secondary or both")
	}
	for _, d := range sent.Devices {
		if _, err := device.ParseID(string(d.ID)); err != nil {
			return "", which, nil, invalid("The device ID %v", err)
		}
		if _, err := device.ParseID(string(d.ModuleID)); err != nil && d.ModuleID != "" {
			return "", which, nil, invalid("The module ID %v", err)
		}
		places = append(places, hub.Place{Hub: host, ID: d.ID, Module: d.ModuleID})
	}
	return strings.ToLower(sent.PolicyKey), which, places, nil
}
