package hubjson

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/berth-iot/berth/device"
)

// MaxBulk is how many entries a bulk operation on the registry has at most.
const MaxBulk = 100

// An ImportMode says what a bulk entry does to an identity or a twin.
type ImportMode string

// The modes that a hub documents for the call, and those that Berth also takes in it.
const (
	ImportCreate                ImportMode = "create"
	ImportUpdate                ImportMode = "update"
	ImportUpdateIfMatchETag     ImportMode = "updateIfMatchETag"
	ImportDelete                ImportMode = "delete"
	ImportDeleteIfMatchETag     ImportMode = "deleteIfMatchETag"
	ImportUpdateTwin            ImportMode = "updateTwin"
	ImportUpdateTwinIfMatchETag ImportMode = "updateTwinIfMatchETag"

	ImportCreateOrUpdate            ImportMode = "createOrUpdate"
	ImportCreateOrUpdateIfMatchETag ImportMode = "createOrUpdateIfMatchETag"
)

// An Import is one entry of a bulk operation: the identity of a device, or of a module
// where ModuleID is not empty, and what its twin has.
type Import struct {
	ID             device.ID         `json:"id"`
	ModuleID       device.ID         `json:"moduleId,omitempty"`
	ImportMode     ImportMode        `json:"importMode"`
	ETag           string            `json:"eTag,omitempty"`
	Status         Status            `json:"status,omitempty"` // a hub wants it where a device is made
	StatusReason   string            `json:"statusReason,omitempty"`
	Authentication *Authentication   `json:"authentication,omitempty"`
	ManagedBy      string            `json:"managedBy,omitempty"`
	TwinETag       string            `json:"twinETag,omitempty"`
	Tags           json.RawMessage   `json:"tags,omitempty"`
	Properties     *ImportProperties `json:"properties,omitempty"`
	Capabilities   *Capabilities     `json:"capabilities,omitempty"`
	DeviceScope    string            `json:"deviceScope,omitempty"`
	ParentScopes   []string          `json:"parentScopes,omitempty"`
}

// ImportProperties are what an entry says of a twin's properties: a JSON object.
type ImportProperties struct {
	Desired json.RawMessage `json:"desired,omitempty"`
}

// A BulkResult is what came of a bulk operation.
type BulkResult struct {
	IsSuccessful bool        `json:"isSuccessful"`
	Errors       []BulkError `json:"errors"`
}

// A BulkError is why nothing came of an entry.
type BulkError struct {
	DeviceID    device.ID `json:"deviceId"`
	ModuleID    device.ID `json:"moduleId"`
	ErrorCode   BulkCode  `json:"errorCode"`
	ErrorStatus string    `json:"errorStatus"`
}

// A BulkCode is the number of an error, or its name where that is all a hub says.
type BulkCode struct {
	Number int
	Name   string
}

// UnmarshalJSON reads a number, or text with a number or a name in it.
func (c *BulkCode) UnmarshalJSON(b []byte) error {
	if err := json.Unmarshal(b, &c.Number); err == nil {
		return nil
	}
	if err := json.Unmarshal(b, &c.Name); err != nil {
		return fmt.Errorf("an error code is neither a number nor a name: %w", err)
	}
	if n, err := strconv.Atoi(c.Name); err == nil {
		c.Number, c.Name = n, ""
	}
	return nil
}
