package hubrest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/hubjson"
)

// Bulk does what entries ask for and returns for each why nothing came of it, or nil.
func (h *Hub) Bulk(ctx context.Context, entries []hubjson.Import) ([]error, error) {
	type named struct{ id, module device.ID }
	places := make(map[named]int)
	for i, e := range entries {
		if _, twice := places[named{e.ID, e.ModuleID}]; twice {
			return nil, fmt.Errorf("bulk operation: %s is in it twice", name(e.ID, e.ModuleID))
		}
		places[named{e.ID, e.ModuleID}] = i
	}
	if len(entries) == 0 || len(entries) > hubjson.MaxBulk {
		return nil, fmt.Errorf("a bulk operation has 1 to %d entries, and not %d", hubjson.MaxBulk, len(entries))
	}
	body, err := json.Marshal(entries)
	if err != nil {
		return nil, fmt.Errorf("bulk operation: %w", err)
	}
	answer, err := h.rest.Do(ctx, rest.Request{
		Method: http.MethodPost, Path: "/devices" + query, Body: body, Header: http.Header{}, Authorize: h.authorize,
		Repeatable: true, Also: []int{http.StatusBadRequest}, MaxAnswer: maxAnswer,
	})
	if err != nil {
		return nil, fmt.Errorf("bulk operation: %w", err)
	}
	var result hubjson.BulkResult
	if err := answer.JSON(&result); err != nil {
		return nil, fmt.Errorf("bulk operation: %w", err)
	}
	switch {
	case answer.Status == http.StatusBadRequest && len(result.Errors) == 0:
		return nil, fmt.Errorf("bulk operation: %w", rest.Refusal(answer)) // of all of it
	case !result.IsSuccessful && len(result.Errors) == 0:
		return nil, errors.New("bulk operation: the hub reports a failure and does not say of what")
	}
	refusals := make([]error, len(entries))
	for _, e := range result.Errors {
		i, ok := places[named{e.DeviceID, e.ModuleID}]
		if !ok {
			return nil, fmt.Errorf("bulk operation: the hub reports a failure of something that was not sent: %w", bulkRefusal(e))
		}
		refusals[i] = bulkRefusal(e)
	}
	return refusals, nil
}

func bulkRefusal(e hubjson.BulkError) *client.Error {
	code := errs.Code(e.ErrorCode.Number)
	refusal := &client.Error{Status: code.Status(), Code: code, Name: e.ErrorCode.Name, Message: rest.Printable(e.ErrorStatus, 512)}
	if refusal.Name == "" {
		refusal.Name = code.Name()
	}
	refusal.Name = rest.Printable(refusal.Name, 100)
	return refusal
}

// Connected counts the devices that are connected.
func (h *Hub) Connected(ctx context.Context) (int64, error) {
	var s struct {
		Connected int64 `json:"connectedDeviceCount"`
	}
	if err := h.call(ctx, request{method: http.MethodGet, collection: "/statistics/", id: "service", repeatable: true}, &s); err != nil {
		return 0, fmt.Errorf("reading the statistics: %w", err)
	}
	return s.Connected, nil
}
