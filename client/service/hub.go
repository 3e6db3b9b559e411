package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/hubrest"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubjson"
)

// A Hub is an operator's access to one IoT hub, Azure's or Berth's, with the
// IoT Hub service REST API. It is safe for concurrent use. Refusals and
// repetitions are as for a [Client].
type Hub struct {
	calls *hubrest.Hub
	host  string
}

// NewHub reads the connection string of one of the hub's shared access
// policies, in the forms that [New] takes, and returns a client; it does not
// connect. Errors do not repeat the string.
func NewHub(connectionString string, o client.HTTP) (*Hub, error) {
	s, err := rest.ParseConnectionString(connectionString)
	if err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	calls, err := hubrest.New(s, o)
	if err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	return &Hub{calls, s.Host}, nil
}

// Host returns the host name of the hub as the connection string has it, with the
// port if there is one.
func (h *Hub) Host() string { return h.host }

// CreateDevice makes an identity. The hub generates symmetric keys that are not
// given; they are in the answer.
func (h *Hub) CreateDevice(ctx context.Context, d hubjson.Device) (*hubjson.Device, error) {
	return h.calls.PutDevice(ctx, d, "")
}

// Device returns an identity, symmetric keys included.
func (h *Hub) Device(ctx context.Context, id device.ID) (*hubjson.Device, error) {
	return h.calls.Device(ctx, id)
}

// UpdateDevice replaces an identity, provided that it still has the ETag of d,
// which may be [AnyETag]. Symmetric keys that d does not have are generated.
func (h *Hub) UpdateDevice(ctx context.Context, d hubjson.Device) (*hubjson.Device, error) {
	if d.ETag == "" {
		return nil, errNoETag(string(d.DeviceID))
	}
	return h.calls.PutDevice(ctx, d, d.ETag)
}

// DeleteDevice removes an identity and its twin if it still has the given ETag,
// or in any case if that is empty. After a lost answer the call is repeated and
// may then report 404.
func (h *Hub) DeleteDevice(ctx context.Context, id device.ID, etag string) error {
	return h.calls.DeleteDevice(ctx, id, etag)
}

// Twin returns a device's twin.
func (h *Hub) Twin(ctx context.Context, id device.ID) (*hubjson.Twin, error) {
	return h.calls.Twin(ctx, id, "")
}

// PatchTwin merges a change into a device's twin if that still has the given
// ETag, or in any case if that is empty: null removes a member.
func (h *Hub) PatchTwin(ctx context.Context, id device.ID, c hubjson.TwinChange, etag string) (*hubjson.Twin, error) {
	return h.calls.PatchTwin(ctx, id, "", c, etag)
}

// ReplaceTwin writes over a twin's tags and desired properties, on the terms of
// [Hub.PatchTwin]. The change has to say both.
func (h *Hub) ReplaceTwin(ctx context.Context, id device.ID, c hubjson.TwinChange, etag string) (*hubjson.Twin, error) {
	if err := saysAll(c); err != nil {
		return nil, err
	}
	return h.calls.ReplaceTwin(ctx, id, "", c, etag)
}

func saysAll(c hubjson.TwinChange) error {
	if c.Tags == nil || c.Desired == nil {
		return errors.New("replacing a twin takes tags and desired properties, if only empty ones")
	}
	return nil
}

// Invoke calls a direct method of a device and waits for its answer. A device that
// is not connected, or does not answer in time, is a [client.Error] of status 404
// or 504. A lost call is not repeated.
func (h *Hub) Invoke(ctx context.Context, id device.ID, m hubjson.Method) (hubjson.MethodResult, error) {
	return h.calls.Invoke(ctx, id, "", m)
}

// Statistics counts the hub's devices.
func (h *Hub) Statistics(ctx context.Context) (hubjson.Statistics, error) {
	return h.calls.Statistics(ctx)
}
