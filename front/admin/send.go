package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

// maxSend is the longest message to a device that is read, in bytes: JSON can
// spell a byte in six.
const maxSend = 6 * hub.MaxCloudMessageSize

// An Outbox sends messages to devices.
type Outbox interface {
	// Send puts a message into the queue of a device of a hub of these servers,
	// and returns its message-id. It checks the caller's right.
	Send(ctx context.Context, caller access.Caller, hub string, id device.ID, m hub.CloudMessage) (messageID string, err error)
}

// sendJSON is a message to a device. The body is text or in base64.
type sendJSON struct {
	Body            string            `json:"body"`
	BodyBase64      []byte            `json:"bodyBase64"`
	Properties      map[string]string `json:"properties"`
	MessageID       string            `json:"messageId"`
	CorrelationID   string            `json:"correlationId"`
	UserID          string            `json:"userId"`
	ContentType     string            `json:"contentType"`
	ContentEncoding string            `json:"contentEncoding"`
	Ack             hub.Ack           `json:"ack"`
	Expiry          time.Time         `json:"expiry"`
}

// send puts a message into a device's queue.
func (f front) send(w http.ResponseWriter, r call) error {
	linked, err := f.ours(r)
	if err != nil {
		return err
	}
	id, err := device.ParseID(r.PathValue("id"))
	if err != nil {
		return invalid("The device ID %v", err)
	}
	var sent sendJSON
	if err := readStrict(w, r, maxSend, &sent); err != nil {
		return err
	}
	body := []byte(sent.Body)
	if sent.BodyBase64 != nil {
		if sent.Body != "" {
			return invalid("a message has a body or a bodyBase64, and not both")
		}
		body = sent.BodyBase64
	}
	// The rights of a hub come with ServiceConfig of its scope.
	caller := access.Caller{Policy: r.caller.Policy, Rights: access.ServiceConnect}
	messageID, err := f.Outbox.Send(r.Context(), caller, hub.HostName(linked.Host), id, hub.CloudMessage{
		Ack: sent.Ack, Expiry: sent.Expiry, Properties: sent.Properties, Body: body,
		System: map[string]string{
			"message-id": sent.MessageID, "correlation-id": sent.CorrelationID, "user-id": sent.UserID,
			"content-type": sent.ContentType, "content-encoding": sent.ContentEncoding,
		},
	})
	if err != nil {
		return err
	}
	return answer(w, map[string]string{"messageId": messageID})
}
