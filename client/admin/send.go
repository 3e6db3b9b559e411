package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// A MessageToDevice is a cloud-to-device message. The zero value of each member
// leaves it out.
type MessageToDevice struct {
	Body            []byte            `json:"bodyBase64,omitempty"`
	Properties      map[string]string `json:"properties,omitempty"` // the application's own
	MessageID       string            `json:"messageId,omitempty"`  // at most 128 characters
	CorrelationID   string            `json:"correlationId,omitempty"`
	UserID          string            `json:"userId,omitempty"`
	ContentType     string            `json:"contentType,omitempty"`
	ContentEncoding string            `json:"contentEncoding,omitempty"`
	Ack             string            `json:"ack,omitempty"` // "none", "positive", "negative" or "full"
	// Expiry is when the message is given up, at most 48 hours from now; the zero
	// time means in an hour.
	Expiry time.Time `json:"expiry,omitzero"`
}

// Send puts a message into the queue of a device of a hub of these servers, where
// it waits for the device, and returns its message-id. It is sent once: with an
// error that is not a refusal it may be in the queue.
func (c *Client) Send(ctx context.Context, host, deviceID string, m MessageToDevice) (messageID string, err error) {
	path, err := hubPath(host)
	if err == nil && deviceID == "" {
		err = errors.New("the device ID is empty")
	}
	var body []byte
	if err == nil {
		body, err = json.Marshal(m)
	}
	var sent struct{ MessageID string }
	if err == nil {
		err = c.once(ctx, http.MethodPost, path+"/devices/"+url.PathEscape(deviceID)+"/messages", body, &sent)
	}
	if err != nil {
		return "", fmt.Errorf("sending to %s: %w", deviceID, err)
	}
	return sent.MessageID, nil
}
