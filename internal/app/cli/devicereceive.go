package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/berth-iot/berth/client/hub"
)

// A mailbox has the messages to a device, each until it is printed: only then it
// is acknowledged.
type mailbox chan arrival

type arrival struct {
	message hub.CloudMessage
	shown   chan error // has room for it
}

// take is what a Connection calls with a message.
func (b mailbox) take(ctx context.Context, m hub.CloudMessage) error {
	a := arrival{m, make(chan error, 1)}
	select {
	case b <- a:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return <-a.shown
}

// receive prints messages as they arrive, up to limit of them, or until it is
// interrupted.
func (t *terminal) receive(ctx context.Context, box mailbox, limit int) error {
	for range limit {
		select {
		case a := <-box:
			err := t.showArrival(a.message)
			a.shown <- err
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return nil // that is how it ends
		}
	}
	return nil
}

// showArrival writes one line.
func (t *terminal) showArrival(m hub.CloudMessage) error {
	text := utf8.Valid(m.Body)
	if t.json() {
		line := struct {
			MessageID       string            `json:"messageId,omitempty"`
			CorrelationID   string            `json:"correlationId,omitempty"`
			UserID          string            `json:"userId,omitempty"`
			ContentType     string            `json:"contentType,omitempty"`
			ContentEncoding string            `json:"contentEncoding,omitempty"`
			Expiry          time.Time         `json:"expiry,omitzero"`
			Ack             string            `json:"ack,omitempty"`
			Properties      map[string]string `json:"properties,omitempty"`
			Body            *string           `json:"body,omitempty"`
			BodyBase64      []byte            `json:"bodyBase64,omitempty"`
		}{
			MessageID: m.MessageID, CorrelationID: m.CorrelationID, UserID: m.UserID, ContentType: m.ContentType,
			ContentEncoding: m.ContentEncoding, Expiry: m.Expiry, Ack: m.Ack, Properties: m.Properties,
		}
		if body := string(m.Body); text {
			line.Body = &body
		} else {
			line.BodyBase64 = m.Body
		}
		e := json.NewEncoder(t.out)
		e.SetEscapeHTML(false)
		return e.Encode(line)
	}
	words := []string{printable(m.MessageID)}
	for _, name := range slices.Sorted(maps.Keys(m.Properties)) {
		words = append(words, printable(name+"="+m.Properties[name]))
	}
	body := base64.StdEncoding.EncodeToString(m.Body)
	if text {
		body = printable(string(m.Body))
	}
	_, err := fmt.Fprintln(t.out, strings.Join(append(words, body), "  "))
	return err
}
