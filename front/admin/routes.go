package admin

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// routingRoutes are the operations on where a hub's messages go.
func (f front) routingRoutes() []rest.Route {
	const path = "/berth/v1/hubs/{host}"
	of := func(serve func(http.ResponseWriter, call, string) error) func(http.ResponseWriter, *rest.Request) error {
		return f.operator(func(w http.ResponseWriter, r call) error {
			linked, err := f.ours(r)
			if err != nil {
				return err
			}
			return serve(w, r, hub.HostName(linked.Host))
		})
	}
	return []rest.Route{
		{Method: http.MethodGet, Pattern: path + "/routes", Serve: of(f.routesOf)},
		{Method: http.MethodGet, Pattern: path + "/routes/{name}", Serve: of(f.route)},
		{Method: http.MethodPut, Pattern: path + "/routes/{name}", Serve: of(f.putRoute)},
		{Method: http.MethodDelete, Pattern: path + "/routes/{name}", Serve: of(f.deleteRoute)},
		{Method: http.MethodGet, Pattern: path + "/sinks", Serve: of(f.sinks)},
		{Method: http.MethodGet, Pattern: path + "/sinks/{name}", Serve: of(f.sink)},
		{Method: http.MethodPut, Pattern: path + "/sinks/{name}", Serve: of(f.putSink)},
		{Method: http.MethodDelete, Pattern: path + "/sinks/{name}", Serve: of(f.deleteSink)},
		{Method: http.MethodPost, Pattern: path + "/sinks/{name}/test", Serve: of(f.testSink)},
		{Method: http.MethodGet, Pattern: path + "/consumerGroups", Serve: of(f.groups)},
		{Method: http.MethodDelete, Pattern: path + "/consumerGroups/{name}", Serve: of(f.deleteGroup)},
		{Method: http.MethodPost, Pattern: path + "/consumerGroups/{name}/commit", Serve: of(f.commitGroup)},
	}
}

// routeJSON is a route as it is read.
type routeJSON struct {
	Name      string     `json:"name"`
	Source    hub.Source `json:"source"`
	Condition string     `json:"condition"`
	Sink      string     `json:"sink"`
	Enabled   bool       `json:"enabled"`
	Health    healthJSON `json:"health"`
	ETag      string     `json:"etag"`
}

// healthJSON is how a reader of a stream does.
type healthJSON struct {
	Sequence     uint64    `json:"sequence"`
	Delivered    uint64    `json:"delivered"`
	Lost         uint64    `json:"lost"`
	Lag          uint64    `json:"lag"`
	OldestUnread time.Time `json:"oldestUnread,omitzero"`
	LastDelivery time.Time `json:"lastDelivery,omitzero"`
	FailingSince time.Time `json:"failingSince,omitzero"`
	LastError    string    `json:"lastError,omitempty"`
	// Reading says that a server, or a reader, has it in hand.
	Reading bool `json:"reading"`
}

func (f front) readerHealth(p hub.Position, lag uint64, oldest time.Time) healthJSON {
	return healthJSON{
		Sequence: p.Sequence, Delivered: p.Delivered, Lost: p.Lost, Lag: lag, OldestUnread: oldest.UTC(), LastDelivery: p.Delivery.UTC(),
		FailingSince: p.FailingSince.UTC(), LastError: p.LastError, Reading: p.Owner != "" && f.Now().Before(p.Lease),
	}
}

func (f front) routeBody(r hub.RouteStatus) routeJSON {
	return routeJSON{r.Name, r.Source, r.Condition, r.Sink, r.Enabled, f.readerHealth(r.Position, r.Lag, r.Oldest), dpsjson.EncodeETag(r.ETag)}
}

func (f front) routesOf(w http.ResponseWriter, r call, host string) error {
	found, err := f.Routing.Routes(r.Context(), host)
	if err != nil {
		return err
	}
	all := []routeJSON{}
	for _, one := range found {
		all = append(all, f.routeBody(one))
	}
	return answer(w, all)
}

func (f front) route(w http.ResponseWriter, r call, host string) error {
	found, err := f.Routing.Route(r.Context(), host, r.PathValue("name"))
	if err != nil {
		return err
	}
	body := f.routeBody(*found)
	return answerTagged(w, body.ETag, body)
}

func (f front) putRoute(w http.ResponseWriter, r call, host string) error {
	sent := struct {
		Source    hub.Source `json:"source"`
		Condition string     `json:"condition"`
		Sink      string     `json:"sink"`
		Enabled   bool       `json:"enabled"`
	}{Source: hub.DeviceMessages, Condition: "true", Enabled: true}
	if err := readStrict(w, r, maxBody, &sent); err != nil {
		return err
	}
	put := hub.Route{Hub: host, Name: r.PathValue("name"), Source: sent.Source, Condition: sent.Condition, Sink: sent.Sink, Enabled: sent.Enabled}
	if _, err := f.Routing.PutRoute(r.Context(), put, hub.Precondition(precondition(r))); err != nil {
		return err
	}
	return f.route(w, r, host)
}

func (f front) deleteRoute(w http.ResponseWriter, r call, host string) error {
	if err := f.Routing.DeleteRoute(r.Context(), host, r.PathValue("name"), hub.Precondition(precondition(r))); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// sinkJSON is a sink as it is read, without its secret.
type sinkJSON struct {
	Name        string            `json:"name"`
	Kind        string            `json:"kind"`
	URL         string            `json:"url"`
	Settings    map[string]string `json:"settings"`
	HasSecret   bool              `json:"hasSecret"`
	Authorities string            `json:"authorities,omitempty"`
	BatchSize   int               `json:"batchSize"`
	BatchWait   int64             `json:"batchWaitMilliseconds"`
	ETag        string            `json:"etag"`
}

func sinkBody(c hub.SinkConfig) sinkJSON {
	return sinkJSON{
		c.Name, c.Kind, c.URL, orEmpty(c.Settings), !c.Secret.IsZero(), c.Authorities, c.BatchSize, c.BatchWait.Milliseconds(),
		dpsjson.EncodeETag(c.ETag),
	}
}

func (f front) sinks(w http.ResponseWriter, r call, host string) error {
	found, err := f.Routing.Sinks(r.Context(), host)
	if err != nil {
		return err
	}
	all := []sinkJSON{}
	for _, one := range found {
		all = append(all, sinkBody(one))
	}
	return answer(w, all)
}

func (f front) sink(w http.ResponseWriter, r call, host string) error {
	one, err := f.Routing.Sink(r.Context(), host, r.PathValue("name"))
	if err != nil {
		return err
	}
	body := sinkBody(*one)
	return answerTagged(w, body.ETag, body)
}

func (f front) putSink(w http.ResponseWriter, r call, host string) error {
	var sent struct {
		Kind        string            `json:"kind"`
		URL         string            `json:"url"`
		Settings    map[string]string `json:"settings"`
		Secret      string            `json:"secret"`
		Authorities string            `json:"authorities"`
		BatchSize   int               `json:"batchSize"`
		BatchWait   int64             `json:"batchWaitMilliseconds"`
	}
	if err := readStrict(w, r, 2*maxBody, &sent); err != nil {
		return err
	}
	if most := hub.MaxSinkWait.Milliseconds(); sent.BatchWait < 0 || sent.BatchWait > most {
		return invalid("batchWaitMilliseconds must be 0 to %d", most)
	}
	put := hub.SinkConfig{
		Hub: host, Name: r.PathValue("name"), Kind: sent.Kind, URL: sent.URL, Settings: sent.Settings, Secret: hub.NewSecret([]byte(sent.Secret)),
		Authorities: sent.Authorities, BatchSize: sent.BatchSize, BatchWait: time.Duration(sent.BatchWait) * time.Millisecond,
	}
	if _, err := f.Routing.PutSink(r.Context(), put, hub.Precondition(precondition(r))); err != nil {
		return err
	}
	return f.sink(w, r, host)
}

func (f front) deleteSink(w http.ResponseWriter, r call, host string) error {
	if err := f.Routing.DeleteSink(r.Context(), host, r.PathValue("name"), hub.Precondition(precondition(r))); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// testSink delivers one message to a sink. What the sink says about it is the
// answer, and no error of this call.
func (f front) testSink(w http.ResponseWriter, r call, host string) error {
	took := f.Now()
	refusal, err := f.Routing.TestSink(r.Context(), host, r.PathValue("name"))
	if err != nil {
		return err
	}
	tested := struct {
		Delivered bool   `json:"delivered"`
		Error     string `json:"error,omitempty"`
		Took      int64  `json:"tookMilliseconds"`
	}{refusal == nil, "", f.Now().Sub(took).Milliseconds()}
	if refusal != nil {
		tested.Error = refusal.Error()
	}
	return answer(w, tested)
}

// groupJSON is a consumer group.
type groupJSON struct {
	Name   string     `json:"name"`
	Health healthJSON `json:"health"`
}

func (f front) groups(w http.ResponseWriter, r call, host string) error {
	found, err := f.Routing.Groups(r.Context(), host)
	if err != nil {
		return err
	}
	all := []groupJSON{}
	for _, g := range found {
		all = append(all, groupJSON{g.Name, f.readerHealth(g.Position, g.Lag, g.Oldest)})
	}
	return answer(w, all)
}

func (f front) deleteGroup(w http.ResponseWriter, r call, host string) error {
	if err := f.Routing.DeleteGroup(r.Context(), host, r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (f front) commitGroup(w http.ResponseWriter, r call, host string) error {
	var sent struct {
		Reader   string `json:"reader"`
		Sequence uint64 `json:"sequence"`
	}
	if err := readStrict(w, r, maxBody, &sent); err != nil {
		return err
	}
	if err := f.Routing.CommitGroup(r.Context(), host, r.PathValue("name"), sent.Reader, sent.Sequence); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// readerHeader is the header with the name under which the reader of a group
// commits.
const readerHeader = "Berth-Reader"

// streamGroup is stream for a consumer group.
func (f front) streamGroup(ctx context.Context, w http.ResponseWriter, name string, want selection) error {
	id, err := f.Routing.NewReaderID()
	if err != nil {
		return fmt.Errorf("drawing a name for the reader: %w", err)
	}
	lines := f.begin(w)
	w.Header().Set(readerHeader, id)
	group, err := f.Routing.OpenGroup(ctx, name, want.group, id, want.start, func() { _ = lines.flush() })
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		if err := group.Close(ctx); err != nil {
			f.Logger.Error("releasing a consumer group", "error", fmt.Errorf("%s of %s: %w", want.group, name, err))
		}
	}()
	if err := lines.flush(); err != nil {
		return err
	}
	for sent := uint64(0); want.limit == 0 || sent < want.limit; {
		page := uint64(pageSize)
		if want.limit > 0 {
			page = min(page, want.limit-sent)
		}
		ms, err := group.Next(ctx, int(page), want.follow)
		if err != nil || len(ms) == 0 {
			return err
		}
		if err := lines.write(ms); err != nil {
			return err
		}
		sent += uint64(len(ms))
		if err := lines.flush(); err != nil {
			return err
		}
	}
	return nil
}

// releaseTimeout bounds how long a consumer group is given back.
const releaseTimeout = 3 * time.Second
