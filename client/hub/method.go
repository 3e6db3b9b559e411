package hub

import (
	"encoding/json"
	"errors"

	"github.com/berth-iot/berth/wire/hubtopic"
	"github.com/berth-iot/berth/wire/mqtt"
)

// maxCalls is how many direct methods are run at the same time.
const maxCalls = 16

// The statuses of calls that OnMethod does not answer.
const (
	statusTooMany = 429
	statusFailed  = 500
)

// called runs a direct method. The answer goes to the line that the call came
// from: on another one nobody waits for it.
func (c *Connection) called(l *line, d hubtopic.Delivery, payload []byte) {
	answer := func(status int, payload json.RawMessage) {
		_ = l.write(&mqtt.Publish{Topic: hubtopic.AnswerMethod(status, d.RequestID), Payload: payload})
	}
	select {
	case c.calls <- struct{}{}:
	default:
		answer(statusTooMany, message("too many methods are being run"))
		return
	}
	if len(payload) == 0 {
		payload = []byte("null")
	}
	go func() {
		defer func() { <-c.calls }()
		status, result, err := c.config.OnMethod(c.ctx, d.Method, payload)
		if len(result) == 0 {
			result = json.RawMessage("null")
		}
		if err == nil && !json.Valid(result) {
			err = errors.New("the method's answer is not JSON")
		}
		if err != nil {
			status, result = statusFailed, message(err.Error())
		}
		answer(status, result)
	}()
}

// message is the answer of a call that failed.
func message(text string) json.RawMessage {
	b, _ := json.Marshal(map[string]string{"message": text}) // strings
	return b
}
