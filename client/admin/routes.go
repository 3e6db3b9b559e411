package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/hub"
)

// A Route takes messages of a hub to a sink, as it is read.
type Route struct {
	Name      string       `json:"name"`
	Source    hub.Source   `json:"source"`
	Condition string       `json:"condition"`
	Sink      string       `json:"sink"`
	Enabled   bool         `json:"enabled"`
	Health    ReaderHealth `json:"health"`
	ETag      string       `json:"etag"`
}

// A ReaderHealth says how a route or a consumer group does.
type ReaderHealth struct {
	Sequence  uint64 `json:"sequence"`  // of the last message it is done with
	Delivered uint64 `json:"delivered"` // messages, by a route
	// Lost counts what the stream did not keep until it was read: no fewer than the
	// messages that were lost.
	Lost         uint64    `json:"lost"`
	Lag          uint64    `json:"lag"`                   // numbers from the oldest message that is still to be read
	OldestUnread time.Time `json:"oldestUnread,omitzero"` // when that was enqueued
	LastDelivery time.Time `json:"lastDelivery,omitzero"`
	FailingSince time.Time `json:"failingSince,omitzero"` // the zero time while the sink takes what it is given
	LastError    string    `json:"lastError,omitempty"`   // the last thing it refused with, also afterwards
	Reading      bool      `json:"reading"`               // somebody has it in hand
}

// A RouteChange is what an operator says about a route.
type RouteChange struct {
	Source    hub.Source `json:"source,omitempty"`    // DeviceMessages unless it is given
	Condition string     `json:"condition,omitempty"` // all messages unless it is given
	Sink      string     `json:"sink"`
	Enabled   bool       `json:"enabled"`
	// IfMatch is the entity tag that the route must have; empty for any, or none.
	IfMatch string `json:"-"`
}

// Routes returns the routes of a hub, ordered by name.
func (c *Client) Routes(ctx context.Context, host string) (routes []Route, err error) {
	return routes, c.routing(ctx, "", http.MethodGet, host, "routes", nil, &routes, "listing the routes")
}

// Route returns one route of a hub.
func (c *Client) Route(ctx context.Context, host, name string) (*Route, error) {
	var r Route
	return &r, c.routing(ctx, "", http.MethodGet, host, "routes/"+url.PathEscape(name), nil, &r, "reading the route "+name)
}

// PutRoute creates or replaces a route of a hub.
func (c *Client) PutRoute(ctx context.Context, host, name string, r RouteChange) (*Route, error) {
	var now Route
	return &now, c.routing(ctx, r.IfMatch, http.MethodPut, host, "routes/"+url.PathEscape(name), r, &now, "writing the route "+name)
}

// DeleteRoute removes a route of a hub.
func (c *Client) DeleteRoute(ctx context.Context, host, name string) error {
	return c.routing(ctx, "", http.MethodDelete, host, "routes/"+url.PathEscape(name), nil, nil, "removing the route "+name)
}

// A Sink is where routes can take messages, as it is read.
type Sink struct {
	Name        string            `json:"name"`
	Kind        string            `json:"kind"`
	URL         string            `json:"url"`
	Settings    map[string]string `json:"settings"`
	HasSecret   bool              `json:"hasSecret"`
	Authorities string            `json:"authorities,omitempty"` // PEM
	BatchSize   int               `json:"batchSize"`
	BatchWait   int64             `json:"batchWaitMilliseconds"`
	ETag        string            `json:"etag"`
}

// A SinkChange is what an operator says about a sink.
type SinkChange struct {
	Kind     string            `json:"kind"` // "webhook" or "jetstream"
	URL      string            `json:"url"`
	Settings map[string]string `json:"settings,omitempty"`
	// Secret stays what it is where none is given, and kind, settings, authorities and
	// the URL's host are the same.
	Secret      string `json:"secret,omitempty"`
	Authorities string `json:"authorities,omitempty"` // PEM
	BatchSize   int    `json:"batchSize,omitempty"`
	BatchWait   int64  `json:"batchWaitMilliseconds,omitempty"`
	// IfMatch is the entity tag that the sink must have; empty for any, or none.
	IfMatch string `json:"-"`
}

// Sinks returns the sinks of a hub, ordered by name.
func (c *Client) Sinks(ctx context.Context, host string) (sinks []Sink, err error) {
	return sinks, c.routing(ctx, "", http.MethodGet, host, "sinks", nil, &sinks, "listing the sinks")
}

// Sink returns one sink of a hub.
func (c *Client) Sink(ctx context.Context, host, name string) (*Sink, error) {
	var s Sink
	return &s, c.routing(ctx, "", http.MethodGet, host, "sinks/"+url.PathEscape(name), nil, &s, "reading the sink "+name)
}

// PutSink creates or replaces a sink of a hub.
func (c *Client) PutSink(ctx context.Context, host, name string, s SinkChange) (*Sink, error) {
	var now Sink
	return &now, c.routing(ctx, s.IfMatch, http.MethodPut, host, "sinks/"+url.PathEscape(name), s, &now, "writing the sink "+name)
}

// DeleteSink removes a sink of a hub that no route goes to.
func (c *Client) DeleteSink(ctx context.Context, host, name string) error {
	return c.routing(ctx, "", http.MethodDelete, host, "sinks/"+url.PathEscape(name), nil, nil, "removing the sink "+name)
}

// A SinkTest is what came of a message that only says it is a test.
type SinkTest struct {
	Delivered bool   `json:"delivered"`
	Error     string `json:"error,omitempty"` // what the sink said
	Took      int64  `json:"tookMilliseconds"`
}

// TestSink has one message delivered to a sink of a hub.
func (c *Client) TestSink(ctx context.Context, host, name string) (*SinkTest, error) {
	var t SinkTest
	return &t, c.routing(ctx, "", http.MethodPost, host, "sinks/"+url.PathEscape(name)+"/test", nil, &t, "testing the sink "+name)
}

// A ConsumerGroup reads the messages of a hub under a name.
type ConsumerGroup struct {
	Name   string       `json:"name"`
	Health ReaderHealth `json:"health"`
}

// ConsumerGroups returns the consumer groups of a hub, ordered by name.
func (c *Client) ConsumerGroups(ctx context.Context, host string) (groups []ConsumerGroup, err error) {
	return groups, c.routing(ctx, "", http.MethodGet, host, "consumerGroups", nil, &groups, "listing the consumer groups")
}

// DeleteConsumerGroup forgets a consumer group that nobody reads for.
func (c *Client) DeleteConsumerGroup(ctx context.Context, host, name string) error {
	return c.routing(ctx, "", http.MethodDelete, host, "consumerGroups/"+url.PathEscape(name), nil, nil, "removing the consumer group "+name)
}

// routing makes a call about a hub of these servers.
func (c *Client) routing(ctx context.Context, ifMatch, method, host, path string, sent, answer any, doing string) error {
	base, err := hubPath(host)
	var body []byte
	if err == nil && sent != nil {
		body, err = json.Marshal(sent)
	}
	if err == nil {
		err = c.callIf(ctx, ifMatch, method, base+"/"+path, body, answer)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// A Group says for which consumer group to read, and how.
type Group struct {
	Name string
	// Start is where the group begins if there was none: "earliest", a time (RFC
	// 3339), or empty for the messages that come from then on. With a group that
	// exists it is refused.
	Start  string
	Follow bool // go on with what arrives, until the context ends
}

// commitEvery is how often a reader of a group says how far it is.
const commitEvery = 500 * time.Millisecond

// ReadGroup reads for a consumer group behind what it committed, in order, and
// commits what the loop is done with: a message when the next one is asked for or
// the loop ends. Where that cannot be said in time, messages come again. While
// somebody else reads, ReadGroup waits. When a stream that it follows breaks off, it
// goes on where it was. An error ends the loop.
func (c *Client) ReadGroup(ctx context.Context, host string, g Group) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for {
			more, err := c.readGroup(ctx, host, &g, yield)
			if more {
				rest.Wait(ctx, pause)
				err = ctx.Err()
			}
			if err != nil {
				yield(nil, fmt.Errorf("reading messages of %s for %s: %w", host, g.Name, err))
			}
			if err != nil || !more {
				return
			}
		}
	}
}

func (c *Client) readGroup(ctx context.Context, host string, g *Group, yield func(*Message, error) bool) (more bool, err error) {
	path, err := hubPath(host)
	if err != nil {
		return false, err
	}
	query := url.Values{"group": {g.Name}, "follow": {strconv.FormatBool(g.Follow)}}
	if g.Start != "" {
		query.Set("start", g.Start)
	}
	var reader string
	body, err := c.rest.Stream(ctx, rest.Request{
		Method:     http.MethodGet,
		Path:       "/berth/v1/" + path + "/messages?" + query.Encode(),
		Header:     http.Header{"Accept": {"application/x-ndjson"}},
		Authorize:  c.authorize,
		Repeatable: g.Start == "", // it is made by the first call
		Began:      func(h http.Header) { reader = h.Get("Berth-Reader") },
	})
	if err != nil {
		return false, err
	}
	defer body.Close()
	g.Start = "" // the group exists by now
	commits := &committer{send: func(ctx context.Context, sequence uint64) error {
		return c.routing(ctx, "", http.MethodPost, host, "consumerGroups/"+url.PathEscape(g.Name)+"/commit",
			map[string]any{"reader": reader, "sequence": sequence}, nil, "committing")
	}}
	commits.begin(ctx)
	defer func() {
		if failed := commits.end(ctx); failed != nil && err == nil && !more {
			err = failed
		}
	}()
	for m, err := range readLines(body) {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if err != nil {
			return g.Follow && !errors.Is(err, errNoMessage), err
		}
		ok := yield(m, nil)
		commits.done(m.Sequence)
		if !ok {
			return false, nil
		}
	}
	return g.Follow && ctx.Err() == nil, ctx.Err()
}

// A committer says now and then how far a reader is.
type committer struct {
	send func(context.Context, uint64) error

	mu             sync.Mutex // guards what follows
	reached, saved uint64
	failed         error

	stop    chan struct{}
	stopped chan struct{}
}

func (c *committer) begin(ctx context.Context) {
	c.stop, c.stopped = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(c.stopped)
		tick := time.NewTicker(commitEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				c.save(ctx)
			case <-c.stop:
				return
			}
		}
	}()
}

// done says that the reader is done with a message.
func (c *committer) done(sequence uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reached = sequence
}

func (c *committer) save(ctx context.Context) {
	c.mu.Lock()
	reached, saved := c.reached, c.saved
	c.mu.Unlock()
	if reached == saved {
		return
	}
	err := c.send(ctx, reached)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed = err; err == nil {
		c.saved = reached
	}
}

// end says how far the reader is, also when its context has ended, and returns why
// that is not known if it is not. That somebody else reads by now is no error: what
// was not said comes again there.
func (c *committer) end(ctx context.Context) error {
	close(c.stop)
	<-c.stopped
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	c.save(ctx)
	if refused, ok := errors.AsType[*client.Error](c.failed); ok && refused.Status == http.StatusConflict {
		return nil
	}
	return c.failed
}
