package hubhttp

import (
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/http"
	"strings"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
)

// batchType is the media type of several messages in one request.
const batchType = "application/vnd.microsoft.iothub.json"

// maxBatch is the longest batch that is read, in bytes: the messages count by
// what they hold, and base64 and JSON take their share.
const maxBatch = 2 * hub.MaxMessageSize

// appPrefix marks an application property.
const appPrefix = "iothub-app-"

// systemProperties are the system properties that a device may set, by the
// names of their headers.
var systemProperties = map[string]string{
	"iothub-to":                "to",
	"iothub-messageid":         "message-id",
	"iothub-correlationid":     "correlation-id",
	"iothub-userid":            "user-id",
	"iothub-expiry":            "absolute-expiry-time",
	"iothub-ack":               "ack",
	"iothub-contenttype":       "content-type",
	"iothub-contentencoding":   "content-encoding",
	"iothub-creation-time-utc": "creation-time-utc",
	"iothub-interface-id":      "interface-id",
	"dt-subject":               "dt-subject",
}

func (a api) postEvents(w http.ResponseWriter, r *rest.Request) error {
	from, err := a.sender(r, "/messages/events")
	if err != nil {
		return err
	}
	messages, err := readMessages(w, r)
	if err != nil {
		return err
	}
	if err := a.Service.Ingest(r.Context(), from, messages); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// readMessages reads one message, whose properties are headers, or a batch.
func readMessages(w http.ResponseWriter, r *rest.Request) ([]hub.Message, error) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && media == batchType {
		body, err := rest.ReadBody(w, r.Request, maxBatch)
		if err != nil {
			return nil, err
		}
		return decodeBatch(body)
	}
	body, err := rest.ReadBody(w, r.Request, hub.MaxMessageSize)
	if err != nil {
		return nil, err
	}
	m := newMessage(body)
	for name, values := range r.Header {
		// A header's name has no case; the property's is lower.
		setProperty(&m, strings.ToLower(name), strings.Join(values, ", "))
	}
	return []hub.Message{m}, nil
}

func decodeBatch(body []byte) ([]hub.Message, error) {
	var sent []struct {
		Body          string
		Base64Encoded *bool // one client leaves it out, and encodes
		Properties    map[string]string
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		return nil, errs.New(errs.Invalid, errs.CodeFormatError, "The body is not a batch of messages in JSON").WithCause(err)
	}
	messages := make([]hub.Message, len(sent))
	for i, s := range sent {
		payload := []byte(s.Body)
		if s.Base64Encoded == nil || *s.Base64Encoded {
			var err error
			if payload, err = base64.StdEncoding.DecodeString(s.Body); err != nil {
				return nil, invalid("the body of message %d of the batch is not base64", i+1)
			}
		}
		messages[i] = newMessage(payload)
		for name, value := range s.Properties {
			setProperty(&messages[i], name, value)
		}
	}
	return messages, nil
}

func newMessage(body []byte) hub.Message {
	return hub.Message{System: make(map[string]string), Properties: make(map[string]string), Body: body}
}

// setProperty keeps a property of m that a device may set, by its name on this
// wire, and ignores every other name.
func setProperty(m *hub.Message, name, value string) {
	if len(name) > len(appPrefix) && strings.EqualFold(name[:len(appPrefix)], appPrefix) {
		m.Properties[name[len(appPrefix):]] = value
		return
	}
	if system, ok := systemProperties[strings.ToLower(name)]; ok {
		m.System[system] = value
	}
}
