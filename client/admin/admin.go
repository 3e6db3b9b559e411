// Package admin is the SDK for Berth's own REST API, which the DPS service API
// has no words for: why a device was let in or refused, which hubs devices are
// assigned to, who may operate it, and what devices sent.
//
// A refusal is a [client.Error].
package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
)

const (
	maxAnswer = 16 << 20 // bytes
	maxLine   = 4 << 20  // bytes of one message as JSON

	// pause is how long to wait before asking for a stream that broke off.
	pause = time.Second
)

// A Client is an operator's access to one server. It is safe for concurrent
// use.
type Client struct {
	rest         *rest.Client
	host, policy string
	authorize    func(context.Context) (string, error)
}

// New reads the connection string of a policy with the right ServiceConfig, in
// the forms of the service API, and returns a client; it does not connect.
// Errors do not repeat the string.
func New(connectionString string, o client.HTTP) (*Client, error) {
	s, err := rest.ParseConnectionString(connectionString)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	r, err := rest.New(s.Host, nil, o)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	return &Client{rest: r, host: s.Host, policy: s.KeyName, authorize: s.Authorize()}, nil
}

// Host returns the host of the connection string, with an optional :port.
func (c *Client) Host() string { return c.host }

// Policy returns the name of the connection string's policy, or nothing where it
// has a token instead.
func (c *Client) Policy() string { return c.policy }

// Version returns the version of the server's program.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v struct{ Version string }
	if err := c.call(ctx, http.MethodGet, "version", nil, &v); err != nil {
		return "", fmt.Errorf("reading the version: %w", err)
	}
	return v.Version, nil
}

// Decisions returns what was decided lately about a registration ID, or the
// decision with a tracking ID, newest first.
func (c *Client) Decisions(ctx context.Context, id string) ([]provision.Decision, error) {
	if id == "" {
		return nil, errors.New("reading decisions: the ID is empty")
	}
	var found []provision.Decision
	if err := c.call(ctx, http.MethodGet, "decisions/"+url.PathEscape(id), nil, &found); err != nil {
		return nil, fmt.Errorf("reading decisions about %s: %w", id, err)
	}
	return found, nil
}

// Refusals returns why hubs of the scope did not let a device in lately, or the
// refusal with a tracking ID, newest first.
func (c *Client) Refusals(ctx context.Context, id string) ([]hub.Refusal, error) {
	if id == "" {
		return nil, errors.New("reading refusals: the ID is empty")
	}
	var found []hub.Refusal
	if err := c.call(ctx, http.MethodGet, "refusals/"+url.PathEscape(id), nil, &found); err != nil {
		return nil, fmt.Errorf("reading refusals of %s: %w", id, err)
	}
	return found, nil
}

// A Message is one device-to-cloud message.
type Message struct {
	Sequence         uint64            `json:"sequence"` // its place in the stream
	Hub              string            `json:"hub"`
	DeviceID         device.ID         `json:"deviceId"`
	ModuleID         device.ID         `json:"moduleId,omitempty"`
	EnqueuedTime     time.Time         `json:"enqueuedTime"`
	SystemProperties map[string]string `json:"systemProperties"` // "message-id", "content-type"
	Properties       map[string]string `json:"properties"`       // the application's own
	Body             []byte            `json:"-"`
}

// UnmarshalJSON reads a line of the stream, where a body that is text stands as
// body and any other in base64 as bodyBase64.
func (m *Message) UnmarshalJSON(line []byte) error {
	type plain Message
	var v struct {
		plain
		Body       string
		BodyBase64 string
	}
	if err := json.Unmarshal(line, &v); err != nil {
		return err
	}
	*m = Message(v.plain)
	m.Body = []byte(v.Body)
	if v.BodyBase64 != "" {
		var err error
		if m.Body, err = base64.StdEncoding.DecodeString(v.BodyBase64); err != nil {
			return errors.New("bodyBase64 is not base64")
		}
	}
	return nil
}

// A Selection says which messages of a hub to read. The zero value selects all
// there are.
type Selection struct {
	After uint64 // only those with a higher sequence number
	// Since selects only those that were enqueued then or later; it is for when After
	// is zero.
	Since  time.Time
	Follow bool // go on with what arrives, until the context ends
}

// Messages reads a hub's stream, in order. When a stream that it follows breaks
// off, as when the server is restarted, it goes on where it was. An error ends
// the loop.
func (c *Client) Messages(ctx context.Context, host string, s Selection) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		path, err := hubPath(host)
		if err != nil {
			yield(nil, err)
			return
		}
		for {
			more, err := c.stream(ctx, path, &s, yield)
			if more {
				rest.Wait(ctx, pause)
				err = ctx.Err()
			}
			if err != nil {
				yield(nil, fmt.Errorf("reading messages of %s: %w", host, err))
			}
			if err != nil || !more {
				return
			}
		}
	}
}

// stream reads one stream to its end and moves s.After along. It reports
// whether to ask for more: when it was to follow and the stream broke off.
func (c *Client) stream(ctx context.Context, path string, s *Selection, yield func(*Message, error) bool) (more bool, err error) {
	query := url.Values{"follow": {strconv.FormatBool(s.Follow)}}
	if s.After == 0 && !s.Since.IsZero() {
		query.Set("since", s.Since.UTC().Format(time.RFC3339Nano))
	} else {
		query.Set("after", strconv.FormatUint(s.After, 10))
	}
	body, err := c.rest.Stream(ctx, rest.Request{
		Method:     http.MethodGet,
		Path:       "/berth/v1/" + path + "/messages?" + query.Encode(),
		Header:     http.Header{"Accept": {"application/x-ndjson"}},
		Authorize:  c.authorize,
		Repeatable: true,
	})
	if err != nil {
		return false, err
	}
	defer body.Close()
	for m, err := range readLines(body) {
		switch {
		case err != nil && ctx.Err() != nil:
			return false, ctx.Err()
		case err != nil:
			return s.Follow && !errors.Is(err, errNoMessage), err
		case m.Sequence <= s.After:
			return false, errors.New("the stream is out of order")
		}
		s.After = m.Sequence
		if !yield(m, nil) {
			return false, nil
		}
	}
	return s.Follow && ctx.Err() == nil, ctx.Err()
}

// errNoMessage is why a stream is not read on.
var errNoMessage = errors.New("a line of the stream is not a message")

// readLines reads the messages of a stream, until it ends or breaks off.
func readLines(body io.Reader) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, maxLine)
		lines.Split(wholeLines)
		for lines.Scan() {
			var m Message
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
				yield(nil, errNoMessage)
				return
			}
			if !yield(&m, nil) {
				return
			}
		}
		switch err := lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			yield(nil, fmt.Errorf("%w: it is longer than %d bytes", errNoMessage, maxLine))
		case err != nil:
			yield(nil, err)
		}
	}
}

// wholeLines is a bufio.SplitFunc for lines that end. What stands after the
// last line break was cut off on its way.
func wholeLines(data []byte, atEOF bool) (advance int, line []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF {
		return len(data), nil, nil
	}
	return 0, nil, nil
}

// call makes a request, all of which can be repeated, and reads the answer into
// v, unless that is nil.
func (c *Client) call(ctx context.Context, method, path string, body []byte, v any) error {
	return c.callIf(ctx, "", method, path, body, v)
}

// once is call for what would do harm if it were done twice.
func (c *Client) once(ctx context.Context, method, path string, body []byte, v any) error {
	answer, err := c.rest.Do(ctx, rest.Request{
		Method: method, Path: "/berth/v1/" + path, Body: body, Authorize: c.authorize, MaxAnswer: maxAnswer,
	})
	if err != nil {
		return err
	}
	return answer.JSON(v)
}

// callIf is call with an If-Match, unless that is empty.
func (c *Client) callIf(ctx context.Context, ifMatch, method, path string, body []byte, v any) error {
	header := http.Header{}
	if ifMatch != "" {
		header.Set("If-Match", ifMatch)
	}
	answer, err := c.rest.Do(ctx, rest.Request{
		Method: method, Path: "/berth/v1/" + path, Header: header, Body: body, Authorize: c.authorize, Repeatable: true, MaxAnswer: maxAnswer,
	})
	if err != nil || v == nil {
		return err
	}
	return answer.JSON(v)
}
