package hubrest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubjson"
)

// maxPage is the longest page of a query that is read, in bytes.
const maxPage = 64 << 20

// Query returns one page of what a query finds, of at most so many rows. The first
// page has no continuation, and after the last one there is none.
func (h *Hub) Query(ctx context.Context, text string, limit int, continuation string) (rows []json.RawMessage, next string, err error) {
	body, err := json.Marshal(map[string]string{"query": text})
	if err != nil {
		return nil, "", err
	}
	call := rest.Request{
		Method: http.MethodPost, Path: "/devices/query" + query, Header: http.Header{}, Body: body, Authorize: h.authorize, Repeatable: true, MaxAnswer: maxPage,
	}
	call.Header.Set("x-ms-max-item-count", strconv.Itoa(limit))
	if continuation != "" {
		call.Header.Set("x-ms-continuation", continuation)
	}
	answer, err := h.rest.Do(ctx, call)
	if err == nil {
		err = answer.JSON(&rows)
	}
	if err != nil {
		return nil, "", fmt.Errorf("querying: %w", err)
	}
	return rows, answer.Header.Get("x-ms-continuation"), nil
}

const configurations = "/configurations/"

// Configurations returns the configurations of the hub.
func (h *Hub) Configurations(ctx context.Context) ([]hubjson.Configuration, error) {
	var all []hubjson.Configuration
	answer, err := h.rest.Do(ctx, rest.Request{Method: http.MethodGet, Path: "/configurations" + query, Authorize: h.authorize, Repeatable: true, MaxAnswer: maxPage})
	if err == nil {
		err = answer.JSON(&all)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configurations: %w", err)
	}
	return all, nil
}

// Configuration returns one configuration.
func (h *Hub) Configuration(ctx context.Context, id string) (*hubjson.Configuration, error) {
	return h.configuration(ctx, rest.Request{Method: http.MethodGet, Repeatable: true}, id, "reading")
}

// PutConfiguration creates a configuration when etag is empty, or else replaces the
// one that has it.
func (h *Hub) PutConfiguration(ctx context.Context, c hubjson.Configuration, etag string) (*hubjson.Configuration, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	r := rest.Request{Method: http.MethodPut, Header: http.Header{}, Body: body, Repeatable: h.Resume}
	if etag != "" {
		r.Header.Set("If-Match", `"`+etag+`"`)
	}
	return h.configuration(ctx, r, c.ID, "writing")
}

// DeleteConfiguration removes a configuration if it has the entity tag, or in any
// case if that is empty. After a lost answer it is repeated.
func (h *Hub) DeleteConfiguration(ctx context.Context, id, etag string) error {
	r := rest.Request{Method: http.MethodDelete, Header: http.Header{}, Repeatable: true}
	if etag != "" {
		r.Header.Set("If-Match", `"`+etag+`"`)
	}
	_, err := h.configuration(ctx, r, id, "deleting")
	return err
}

// configuration makes a call about one configuration, whose answer it is unless that
// is empty.
func (h *Hub) configuration(ctx context.Context, r rest.Request, id, doing string) (*hubjson.Configuration, error) {
	path, err := pathOf("ID of a configuration", device.ID(id))
	if err != nil {
		return nil, err
	}
	r.Path, r.Authorize, r.MaxAnswer = configurations+path+query, h.authorize, maxAnswer
	answer, err := h.rest.Do(ctx, r)
	var c hubjson.Configuration
	if err == nil && answer.Status != http.StatusNoContent {
		err = answer.JSON(&c)
	}
	if err != nil {
		return nil, fmt.Errorf("%s configuration %s: %w", doing, id, err)
	}
	return &c, nil
}

// ApplyContent sets the content of a configuration in one device.
func (h *Hub) ApplyContent(ctx context.Context, id device.ID, c hubjson.Content) error {
	if err := h.call(ctx, request{method: http.MethodPost, collection: "/devices/", id: id, below: "/applyConfigurationContent", body: c, repeatable: true}, nil); err != nil {
		return fmt.Errorf("applying content to %s: %w", id, err)
	}
	return nil
}
