package service

import (
	"context"

	"github.com/berth-iot/berth/wire/hubjson"
)

// BulkDevices does what up to [hubjson.MaxBulk] entries ask for, of devices and of
// modules, in one call: each succeeds or fails on its own. The answer has an element
// for every entry, nil or the [client.Error] by which it was refused; the error is
// about the call as a whole.
//
// The call is repeated after network errors and answers 429 and 5xx. Where the answer
// was lost that told of a success, an entry that creates is then reported with status
// 409, one with an ETag with 412, and one that deletes with 404.
func (h *Hub) BulkDevices(ctx context.Context, entries []hubjson.Import) ([]error, error) {
	return h.calls.Bulk(ctx, entries)
}

// ConnectedDevices counts the hub's devices that are connected.
func (h *Hub) ConnectedDevices(ctx context.Context) (int64, error) {
	return h.calls.Connected(ctx)
}
