package hubhttp

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
)

// postMethod calls a direct method. The status of the answer is 200 whatever the
// device's own is: that stands in the body.
func (a api) postMethod(w http.ResponseWriter, r *rest.Request, caller access.Caller, to target) error {
	if err := rest.RequireJSON(r.Request); err != nil {
		return err
	}
	body, err := rest.ReadBody(w, r.Request, hub.MaxMethodPayload+4<<10)
	if err != nil {
		return err
	}
	m, err := decodeMethod(body)
	if err != nil {
		return err
	}
	// Other answers have less time.
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(m.Connect + hub.MaxResponseTimeout)); err != nil {
		return err
	}
	result, err := a.Service.Invoke(r.Context(), caller, to.place(), m)
	if err != nil {
		return err
	}
	return answerJSON(w, methodResultJSON{result.Status, result.Payload})
}

type methodResultJSON struct {
	Status  int             `json:"status"`
	Payload json.RawMessage `json:"payload"`
}

// decodeMethod reads a call. Old tools have another name for the timeout.
func decodeMethod(body []byte) (hub.Method, error) {
	var sent struct {
		MethodName               string
		Payload                  json.RawMessage
		ConnectTimeoutInSeconds  int64
		ResponseTimeoutInSeconds int64
		TimeoutInSeconds         int64
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		return hub.Method{}, errs.New(errs.Invalid, errs.CodeFormatError, "The body is not a direct method in JSON").WithCause(err)
	}
	if sent.ResponseTimeoutInSeconds == 0 {
		sent.ResponseTimeoutInSeconds = sent.TimeoutInSeconds
	}
	for name, v := range map[string]int64{"connectTimeoutInSeconds": sent.ConnectTimeoutInSeconds, "responseTimeoutInSeconds": sent.ResponseTimeoutInSeconds} {
		if v < 0 || v > int64(hub.MaxResponseTimeout/time.Second) {
			return hub.Method{}, invalid("%s is not between 0 and %d", name, hub.MaxResponseTimeout/time.Second)
		}
	}
	return hub.Method{
		Name: sent.MethodName, Payload: sent.Payload,
		Connect: time.Duration(sent.ConnectTimeoutInSeconds) * time.Second, Response: time.Duration(sent.ResponseTimeoutInSeconds) * time.Second,
	}, nil
}
