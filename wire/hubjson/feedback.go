package hubjson

import "github.com/berth-iot/berth/device"

// A Feedback says how a message to a device ended.
type Feedback struct {
	OriginalMessageID  string    `json:"originalMessageId"`
	EnqueuedTimeUTC    string    `json:"enqueuedTimeUtc"` // when the outcome was known; RFC 3339
	StatusCode         string    `json:"statusCode"`      // Success, Expired, DeliveryCountExceeded, Rejected or Purged
	Description        string    `json:"description"`
	DeviceID           device.ID `json:"deviceId"`
	DeviceGenerationID string    `json:"deviceGenerationId"`
}
