package hubhttp

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
)

const (
	feedbackPath = "/messages/serviceBound/feedback"
	feedbackType = "application/vnd.microsoft.iothub.feedback.json"

	// deviceBound is where a device's messages are, behind its own resource.
	deviceBound = "/messages/devicebound"

	// headerLock is the header in which a device says for how many seconds it
	// locks a message.
	headerLock = "IotHub-MessageLockTimeout"
)

// messageHeaders are the headers of a message's system properties, by the names of
// the properties. Clients look for just these spellings.
var messageHeaders = map[string]string{
	"message-id":       "iothub-messageid",
	"correlation-id":   "iothub-correlationid",
	"user-id":          "iothub-userid",
	"to":               "iothub-to",
	"content-type":     "ContentType",
	"content-encoding": "ContentEncoding",
}

// getCloudMessage gives the device its next message under a lock, whose token is
// the entity tag.
func (a api) getCloudMessage(w http.ResponseWriter, r *rest.Request) error {
	from, err := a.sender(r, deviceBound)
	if err != nil {
		return err
	}
	lock := hub.UsualMessageLock
	if text := r.Header.Get(headerLock); text != "" {
		seconds, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return invalid("%s is not a number of seconds", headerLock)
		}
		lock = time.Duration(seconds) * time.Second
	}
	m, err := a.Service.Lock(r.Context(), from, lock)
	if err != nil {
		return err
	}
	if m == nil {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	setMessageHeaders(w.Header(), m)
	_, err = w.Write(m.Body)
	return err
}

func setMessageHeaders(h http.Header, m *hub.CloudMessage) {
	for name, value := range m.Properties {
		rest.SetHeader(h, appPrefix+name, value)
	}
	for property, name := range messageHeaders {
		if value, ok := m.System[property]; ok {
			rest.SetHeader(h, name, value)
		}
	}
	rest.SetHeader(h, "iothub-ack", string(m.Ack))
	rest.SetHeader(h, "iothub-sequencenumber", strconv.FormatUint(m.Sequence, 10))
	rest.SetHeader(h, "iothub-deliverycount", strconv.Itoa(m.Deliveries))
	rest.SetHeader(h, "iothub-enqueuedtime", hub.FormatTime(m.Enqueued))
	rest.SetHeader(h, "iothub-expiry", hub.FormatTime(m.Expiry))
	h.Set("ETag", `"`+m.LockToken+`"`)
	h.Set("Content-Type", "application/octet-stream") // what it is, the sender says in a property
	h.Set("X-Content-Type-Options", "nosniff")
}

// deleteCloudMessage completes a message, or rejects it where the query has reject.
func (a api) deleteCloudMessage(w http.ResponseWriter, r *rest.Request) error {
	how := hub.Completed
	if query := r.URL.Query(); query.Has("reject") {
		switch strings.ToLower(query.Get("reject")) {
		case "", "true":
			how = hub.Rejected
		case "false":
		default:
			return invalid("reject is true or false")
		}
	}
	return a.settle(w, r, how)
}

func (a api) abandonCloudMessage(w http.ResponseWriter, r *rest.Request) error {
	return a.settle(w, r, hub.Abandoned)
}

func (a api) settle(w http.ResponseWriter, r *rest.Request, how hub.Settlement) error {
	from, err := a.sender(r, deviceBound)
	if err != nil {
		return err
	}
	if err := a.Service.Settle(r.Context(), from, r.PathValue("lock"), how); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// deleteCommands purges a device's queue. A module has none, and so no messages.
func (a api) deleteCommands(w http.ResponseWriter, r *rest.Request, caller access.Caller, to target) error {
	purged := 0
	var err error
	if to.module == "" {
		purged, err = a.Service.Purge(r.Context(), caller, to.hub.Name, to.id)
	} else {
		_, _, err = a.Service.Twin(r.Context(), caller, to.place()) // which takes the same right
	}
	if err != nil {
		return err
	}
	return answerJSON(w, struct {
		Purged   int       `json:"totalMessagesPurged"`
		DeviceID device.ID `json:"deviceId"`
		ModuleID *string   `json:"moduleId"`
	}{purged, to.id, orNull(string(to.module))})
}

// A feedbackJSON is a record of a feedback message.
type feedbackJSON struct {
	OriginalMessageID  string      `json:"originalMessageId"`
	EnqueuedTimeUTC    string      `json:"enqueuedTimeUtc"` // when the outcome was known
	StatusCode         hub.Outcome `json:"statusCode"`
	Description        hub.Outcome `json:"description"`
	DeviceID           device.ID   `json:"deviceId"`
	DeviceGenerationID string      `json:"deviceGenerationId"`
}

// getFeedback gives out feedback under a lock, whose token is the entity tag.
func (a api) getFeedback(w http.ResponseWriter, r *rest.Request, caller access.Caller, host string) error {
	lockToken, batch, err := a.Service.Feedback(r.Context(), caller, host)
	if err != nil {
		return err
	}
	if len(batch) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	list := make([]feedbackJSON, len(batch))
	for i, f := range batch {
		list[i] = feedbackJSON{f.MessageID, hub.FormatTime(f.Ended), f.Outcome, f.Outcome, f.DeviceID, f.GenerationID}
	}
	rest.SetHeader(w.Header(), "ContentType", feedbackType)
	return answer(w, lockToken, list)
}

// feedbackSettler serves who settles feedback in one way.
func (a api) feedbackSettler(how hub.Settlement) func(http.ResponseWriter, *rest.Request) error {
	return a.ofHub(feedbackPath, func(w http.ResponseWriter, r *rest.Request, caller access.Caller, host string) error {
		if err := a.Service.SettleFeedback(r.Context(), caller, host, r.PathValue("lock"), how); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}
