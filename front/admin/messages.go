package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

// Messages is the part of the telemetry stream that is shown to operators.
type Messages interface {
	// Read returns up to limit messages of one hub with sequence numbers above
	// after, in order.
	Read(ctx context.Context, hub string, after uint64, limit int) ([]*hub.Message, error)
	// LastSequence returns the newest sequence number of all hubs.
	LastSequence(ctx context.Context) (uint64, error)
	// Wait returns nil when the newest sequence number is above after, and
	// ctx's error when that ends first.
	Wait(ctx context.Context, after uint64) error
}

// messageJSON is one line of a stream. A body that is UTF-8 text is shown as
// it is, any other in base64.
type messageJSON struct {
	Sequence         uint64            `json:"sequence"`
	Hub              string            `json:"hub"`
	DeviceID         device.ID         `json:"deviceId"`
	ModuleID         device.ID         `json:"moduleId,omitempty"`
	EnqueuedTime     time.Time         `json:"enqueuedTime"`
	SystemProperties map[string]string `json:"systemProperties"`
	Properties       map[string]string `json:"properties"`
	Body             *string           `json:"body,omitempty"`
	BodyBase64       []byte            `json:"bodyBase64,omitempty"`
}

func encodeMessage(m *hub.Message) messageJSON {
	line := messageJSON{
		Sequence: m.Sequence, Hub: m.Hub, DeviceID: m.DeviceID, ModuleID: m.ModuleID, EnqueuedTime: m.Enqueued.UTC(),
		SystemProperties: orEmpty(m.System), Properties: orEmpty(m.Properties),
	}
	if utf8.Valid(m.Body) {
		text := string(m.Body)
		line.Body = &text
	} else {
		line.BodyBase64 = m.Body
	}
	return line
}

func orEmpty(properties map[string]string) map[string]string {
	if properties == nil {
		return map[string]string{}
	}
	return properties
}

const (
	pageSize = 100 // messages read at once
	// writeTimeout is how long a reader may take for a page of messages; who
	// only follows may stay for days.
	writeTimeout = 30 * time.Second
)

// A selection is what the query asks for.
type selection struct {
	group  string    // a consumer group; empty for none
	start  hub.Start // of a new one
	since  time.Time
	after  uint64 // sequence number
	follow bool   // go on with what arrives
	limit  uint64 // end after so many messages; zero means never
}

func parseSelection(r *http.Request) (selection, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return selection{}, invalid("The query cannot be parsed")
	}
	var s selection
	for name, values := range query {
		value := values[0]
		switch name {
		case "group":
			s.group = value
		case "start":
			s.start, err = parseStart(value)
		case "since":
			s.since, err = time.Parse(time.RFC3339, value)
		case "after":
			s.after, err = strconv.ParseUint(value, 10, 63)
		case "follow":
			s.follow, err = strconv.ParseBool(value)
		case "limit":
			s.limit, err = strconv.ParseUint(value, 10, 63)
			if s.limit == 0 {
				err = errors.New("is zero")
			}
		default:
			continue // a proxy's or a client library's
		}
		if err != nil || len(values) > 1 {
			return selection{}, invalid("after takes a sequence number, since a time (RFC 3339), follow true or false, limit a positive number, group a name, start earliest, latest or a time")
		}
	}
	switch {
	case s.group != "" && (query.Has("after") || query.Has("since")):
		return selection{}, invalid("A consumer group goes on where it is; start says where a new one begins")
	case s.group == "" && (query.Has("start") || query.Has("group")):
		return selection{}, invalid("start is for consumer groups, and those have names")
	case query.Has("after") && query.Has("since"):
		return selection{}, invalid("after and since exclude each other")
	}
	return s, nil
}

// parseStart reads where a new consumer group begins.
func parseStart(text string) (s hub.Start, err error) {
	switch text {
	case "latest":
	case "earliest":
		s.Earliest = true
	default:
		s.Since, err = time.Parse(time.RFC3339, text)
	}
	return s, err
}

// messages streams a hub's telemetry, one JSON document a line. The stream ends
// at the newest message, or, when following, with the client's connection or
// when the server drains.
func (f front) messages(w http.ResponseWriter, r call) error {
	want, err := parseSelection(r.Request.Request)
	if err != nil {
		return err
	}
	linked, err := f.ours(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-f.Draining:
			cancel()
		case <-ctx.Done():
		}
	}()
	name := hub.HostName(linked.Host)
	if want.group != "" {
		err = f.streamGroup(ctx, w, name, want)
	} else {
		err = f.stream(ctx, w, name, want)
	}
	if ctx.Err() != nil {
		return nil // the reader left, or was asked to
	}
	return err
}

// lines are a stream that is being written.
type lines struct {
	control *http.ResponseController
	encoder *json.Encoder
	now     func() time.Time
}

// begin begins to answer with a stream.
func (f front) begin(w http.ResponseWriter) lines {
	l := lines{http.NewResponseController(w), json.NewEncoder(w), f.Now}
	// The server's timeouts are meant for short requests. Where one cannot be
	// changed there is none.
	_ = l.control.SetReadDeadline(time.Time{})
	_ = l.control.SetWriteDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/x-ndjson; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	l.encoder.SetEscapeHTML(false)
	return l
}

// write writes messages.
func (l lines) write(ms []*hub.Message) error {
	_ = l.control.SetWriteDeadline(l.now().Add(writeTimeout))
	for _, m := range ms {
		if err := l.encoder.Encode(encodeMessage(m)); err != nil {
			return fmt.Errorf("writing message %d: %w", m.Sequence, err)
		}
	}
	return nil
}

// flush sends what was written.
func (l lines) flush() error {
	_ = l.control.SetWriteDeadline(l.now().Add(writeTimeout))
	if err := l.control.Flush(); err != nil {
		return fmt.Errorf("sending messages: %w", err)
	}
	return nil
}

func (f front) stream(ctx context.Context, w http.ResponseWriter, name string, want selection) error {
	if !want.since.IsZero() {
		var err error
		if want.after, err = f.Routing.Since(ctx, want.since); err != nil {
			return err
		}
	}
	lines := f.begin(w)
	for sent := uint64(0); ; {
		// Asked before reading: what arrives in between ends the wait.
		newest, err := f.Messages.LastSequence(ctx)
		if err != nil {
			return fmt.Errorf("reading the end of the stream: %w", err)
		}
		page := uint64(pageSize)
		if want.limit > 0 {
			page = min(page, want.limit-sent)
		}
		ms, err := f.Messages.Read(ctx, name, want.after, int(page))
		if err != nil {
			return fmt.Errorf("reading the messages of %s: %w", name, err)
		}
		if err := lines.write(ms); err != nil {
			return err
		}
		if len(ms) > 0 {
			want.after = ms[len(ms)-1].Sequence
		}
		if sent += uint64(len(ms)); sent == want.limit && want.limit > 0 {
			return nil
		}
		if len(ms) == pageSize {
			continue
		}
		if !want.follow {
			return nil
		}
		if err := lines.flush(); err != nil {
			return err
		}
		if err := f.Messages.Wait(ctx, max(newest, want.after)); err != nil {
			return fmt.Errorf("waiting for messages: %w", err)
		}
	}
}
