// Package webhook is the sink that posts messages to a URL: batches as JSON,
// signed as Standard Webhooks has it (specification 1.0.0), so that libraries for
// that verify them.
//
// The body is
//
//	{"type":"hub.messages","hub":"…","messages":[{"sequence":1,"deviceId":"…",
//	"enqueuedTime":"…","systemProperties":{},"properties":{},"body":"…"}]}
//
// where a body that is no UTF-8 text stands in base64 as bodyBase64. Any status of
// 2xx accepts the batch, and anything else has it sent again. A receiver that must
// not take a message twice goes by hub and sequence.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/berth-iot/berth/client/internal/dial"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

// Kind is the kind of these sinks.
const Kind = "webhook"

const (
	// timeout is how long a receiver has for one batch, connecting included.
	timeout       = 15 * time.Second
	maxRetryAfter = 5 * time.Minute
	maxAnswer     = 64 << 10 // bytes of an answer's body that are read
)

// New returns the kind of sinks that post. now is the clock of signatures.
func New(now func() time.Time) hub.SinkKind {
	return hub.SinkKind{
		Check: func(c hub.SinkConfig) error { _, err := read(c); return err },
		Open: func(c hub.SinkConfig) (hub.Sink, error) {
			s, err := read(c)
			if err != nil {
				return nil, err
			}
			s.now = now
			return s, nil
		},
	}
}

// A sink posts to one URL.
type sink struct {
	to   *url.URL
	key  []byte
	http *http.Client
	now  func() time.Time
}

// read makes a sink of a configuration, or says what is wrong with that.
func read(c hub.SinkConfig) (*sink, error) {
	to, err := url.Parse(c.URL)
	if err != nil || to.Host == "" {
		return nil, invalid("url is not a URL")
	}
	for name := range c.Settings {
		return nil, invalid("webhooks have no setting %q", name)
	}
	may := dial.Policy(dial.Anywhere)
	switch to.Scheme {
	case "https":
	case "http":
		may = dial.Loopback
	default:
		return nil, invalid("the url of a webhook begins with https://, or with http:// on this machine")
	}
	var roots *x509.CertPool
	if c.Authorities != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(c.Authorities)) {
			return nil, invalid("authorities hold no certificate in PEM")
		}
	}
	key, err := parseKey(string(c.Secret.Bytes()))
	if err != nil {
		return nil, err
	}
	return &sink{to: to, key: key, http: dial.HTTPClient(roots, dial.To(may, "webhooks"))}, nil
}

// parseKey reads a signing key: 24 to 64 bytes in base64, with whsec_ before it or
// not.
func parseKey(text string) ([]byte, error) {
	if text == "" {
		return nil, invalid("a webhook takes a secret, by which its messages are signed: 24 to 64 bytes in base64")
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(strings.TrimSpace(text), "whsec_"))
	if err != nil || len(key) < 24 || len(key) > 64 {
		return nil, invalid("the secret of a webhook is 24 to 64 bytes in base64")
	}
	return key, nil
}

func invalid(format string, args ...any) error { return errs.New(errs.Invalid, 0, format, args...) }

type envelope struct {
	Type     string    `json:"type"`
	Hub      string    `json:"hub"`
	Messages []message `json:"messages"`
}

type message struct {
	Sequence         uint64            `json:"sequence"`
	DeviceID         device.ID         `json:"deviceId"`
	ModuleID         device.ID         `json:"moduleId,omitempty"`
	EnqueuedTime     time.Time         `json:"enqueuedTime"`
	SystemProperties map[string]string `json:"systemProperties"`
	Properties       map[string]string `json:"properties"`
	Body             *string           `json:"body,omitempty"`
	BodyBase64       []byte            `json:"bodyBase64,omitempty"`
}

// encode returns the body of a batch.
func encode(batch []*hub.Message) ([]byte, error) {
	e := envelope{Type: "hub.messages", Hub: batch[0].Hub}
	for _, m := range batch {
		one := message{m.Sequence, m.DeviceID, m.ModuleID, m.Enqueued.UTC(), orEmpty(m.System), orEmpty(m.Properties), nil, nil}
		if utf8.Valid(m.Body) {
			text := string(m.Body)
			one.Body = &text
		} else {
			one.BodyBase64 = m.Body
		}
		e.Messages = append(e.Messages, one)
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(e)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

func orEmpty(properties map[string]string) map[string]string {
	if properties == nil {
		return map[string]string{}
	}
	return properties
}

// name is the webhook-id of a batch: the same one whenever it is sent again.
func name(batch []*hub.Message) string {
	first, last := batch[0], batch[len(batch)-1]
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%d\n%s", first.Hub, first.Sequence, last.Sequence, first.System["message-id"]))
	return "msg_" + hex.EncodeToString(sum[:16])
}

// sign is the webhook-signature of a body.
func sign(key []byte, id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Deliver implements hub.Sink.
func (s *sink) Deliver(ctx context.Context, batch []*hub.Message) error {
	if len(batch) == 0 {
		return nil
	}
	body, err := encode(batch)
	if err != nil {
		return fmt.Errorf("encoding messages: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.to.String(), bytes.NewReader(body))
	if err != nil {
		return errors.New("the URL cannot be used")
	}
	id, timestamp := name(batch), strconv.FormatInt(s.now().Unix(), 10)
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set("User-Agent", "berth")
	request.Header.Set("Webhook-Id", id)
	request.Header.Set("Webhook-Timestamp", timestamp)
	request.Header.Set("Webhook-Signature", sign(s.key, id, timestamp, body))
	response, err := s.http.Do(request)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return errs.New(errs.Unavailable, 0, "posting to %s: %s", s.to.Host, dial.Redacted(s.to, err))
	}
	defer response.Body.Close()
	// Read to its end, so that the connection can be used again.
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer))
	if response.StatusCode/100 == 2 {
		return nil
	}
	e := errs.New(errs.Unavailable, 0, "%s answered %d %s", s.to.Host, response.StatusCode, http.StatusText(response.StatusCode))
	e.RetryAfter = retryAfter(response.Header)
	return e
}

// retryAfter reads the seconds of a Retry-After header (RFC 9110 §10.2.3); a date
// counts as none.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(strings.TrimSpace(h.Get("Retry-After")), 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}

// Close implements hub.Sink.
func (s *sink) Close() error {
	s.http.CloseIdleConnections()
	return nil
}
