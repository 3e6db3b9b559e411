package service

import (
	"context"
	"encoding/json"
	"iter"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubjson"
)

// queryPage is how many rows of a query are asked for at once.
const queryPage = 100

// Query answers a text in the query language of IoT Hub, row by row: twins for
// SELECT *, or else objects with the members that are selected. An error ends it.
func (h *Hub) Query(ctx context.Context, text string) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		for continuation := ""; ; {
			rows, next, err := h.calls.Query(ctx, text, queryPage, continuation)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, row := range rows {
				if !yield(row, nil) {
					return
				}
			}
			if continuation = next; next == "" {
				return
			}
		}
	}
}

// Configurations returns the configurations of the hub.
func (h *Hub) Configurations(ctx context.Context) ([]hubjson.Configuration, error) {
	return h.calls.Configurations(ctx)
}

// Configuration returns one configuration, with what its metrics count.
func (h *Hub) Configuration(ctx context.Context, id string) (*hubjson.Configuration, error) {
	return h.calls.Configuration(ctx, id)
}

// CreateConfiguration makes a configuration. Those that it targets get its content.
func (h *Hub) CreateConfiguration(ctx context.Context, c hubjson.Configuration) (*hubjson.Configuration, error) {
	return h.calls.PutConfiguration(ctx, c, "")
}

// UpdateConfiguration replaces a configuration, provided that it still has the ETag
// of c, which may be [AnyETag]. The content must be what it was.
func (h *Hub) UpdateConfiguration(ctx context.Context, c hubjson.Configuration) (*hubjson.Configuration, error) {
	if c.ETag == "" {
		return nil, errNoETag(c.ID)
	}
	return h.calls.PutConfiguration(ctx, c, c.ETag)
}

// DeleteConfiguration removes a configuration, on the terms of [Hub.DeleteDevice].
// What it set stays until another one sets it.
func (h *Hub) DeleteConfiguration(ctx context.Context, id, etag string) error {
	return h.calls.DeleteConfiguration(ctx, id, etag)
}

// ApplyContent sets the content of a configuration in one device and its modules,
// once.
func (h *Hub) ApplyContent(ctx context.Context, id device.ID, c hubjson.Content) error {
	return h.calls.ApplyContent(ctx, id, c)
}
