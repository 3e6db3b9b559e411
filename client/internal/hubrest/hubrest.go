// Package hubrest makes the calls of the IoT Hub service REST API that
// operators' programs and the provisioning service share.
package hubrest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubjson"
)

const (
	query     = "?api-version=2021-04-12"
	maxAnswer = 1 << 20 // bytes
)

// pathOf is an ID as it stands in a path. Dots are legal in IDs, and lead elsewhere
// in paths.
func pathOf(what string, id device.ID) (string, error) {
	if _, err := device.ParseID(string(id)); err != nil {
		return "", fmt.Errorf("the %s %w", what, err)
	}
	if id == "." || id == ".." {
		return "", fmt.Errorf("the %s cannot be said in a URL", what)
	}
	return url.PathEscape(string(id)), nil
}

// AnyETag is the entity tag that matches whatever is there.
const AnyETag = "*"

// A Hub is an operator's access to one hub. It is safe for concurrent use.
type Hub struct {
	// Resume says that a write whose answer was lost may be made again: its
	// caller understands what the second one finds.
	Resume bool

	rest      *rest.Client
	authorize func(context.Context) (string, error)
}

// New returns the access that s grants; it does not connect.
func New(s rest.ConnectionString, o client.HTTP) (*Hub, error) {
	r, err := rest.New(s.Host, nil, o)
	if err != nil {
		return nil, err
	}
	return &Hub{rest: r, authorize: s.Authorize()}, nil
}

// Device returns an identity, keys included.
func (h *Hub) Device(ctx context.Context, id device.ID) (*hubjson.Device, error) {
	var d hubjson.Device
	err := h.call(ctx, request{method: http.MethodGet, collection: "/devices/", id: id, repeatable: true}, &d)
	if err == nil && d.DeviceID != id {
		err = errors.New("the answer is about another device")
	}
	if err != nil {
		return nil, fmt.Errorf("reading device %s: %w", id, err)
	}
	return &d, nil
}

// PutDevice creates an identity when etag is empty, or else replaces the one
// that has it.
func (h *Hub) PutDevice(ctx context.Context, d hubjson.Device, etag string) (*hubjson.Device, error) {
	var put hubjson.Device
	err := h.call(ctx, request{method: http.MethodPut, collection: "/devices/", id: d.DeviceID, etag: etag, body: d, repeatable: h.Resume}, &put)
	if err != nil {
		return nil, fmt.Errorf("writing device %s: %w", d.DeviceID, err)
	}
	return &put, nil
}

// DeleteDevice removes an identity if it has the entity tag, or in any case if
// that is empty. After a lost answer it is repeated.
func (h *Hub) DeleteDevice(ctx context.Context, id device.ID, etag string) error {
	err := h.call(ctx, request{method: http.MethodDelete, collection: "/devices/", id: id, etag: etag, repeatable: true}, nil)
	if err != nil {
		return fmt.Errorf("deleting device %s: %w", id, err)
	}
	return nil
}

// Twin returns the twin of a device, or of a module of it where module is not empty.
func (h *Hub) Twin(ctx context.Context, id, module device.ID) (*hubjson.Twin, error) {
	var t hubjson.Twin
	if err := h.call(ctx, request{method: http.MethodGet, collection: "/twins/", id: id, module: module, repeatable: true}, &t); err != nil {
		return nil, fmt.Errorf("reading the twin of %s: %w", name(id, module), err)
	}
	return &t, nil
}

// PatchTwin merges c into the twin, if that has the entity tag or etag is empty.
func (h *Hub) PatchTwin(ctx context.Context, id, module device.ID, c hubjson.TwinChange, etag string) (*hubjson.Twin, error) {
	return h.writeTwin(ctx, http.MethodPatch, id, module, c, etag)
}

// ReplaceTwin writes c over the twin's tags and desired properties, if that has
// the entity tag or etag is empty.
func (h *Hub) ReplaceTwin(ctx context.Context, id, module device.ID, c hubjson.TwinChange, etag string) (*hubjson.Twin, error) {
	return h.writeTwin(ctx, http.MethodPut, id, module, c, etag)
}

func (h *Hub) writeTwin(ctx context.Context, method string, id, module device.ID, c hubjson.TwinChange, etag string) (*hubjson.Twin, error) {
	var t hubjson.Twin
	err := h.call(ctx, request{method: method, collection: "/twins/", id: id, module: module, etag: etag, body: c, repeatable: h.Resume}, &t)
	if err != nil {
		return nil, fmt.Errorf("writing the twin of %s: %w", name(id, module), err)
	}
	return &t, nil
}

// Invoke calls a direct method of a device or a module. It is not repeated.
func (h *Hub) Invoke(ctx context.Context, id, module device.ID, m hubjson.Method) (hubjson.MethodResult, error) {
	var result hubjson.MethodResult
	if err := h.call(ctx, request{method: http.MethodPost, collection: "/twins/", id: id, module: module, below: "/methods", body: m}, &result); err != nil {
		return result, fmt.Errorf("calling method %s of %s: %w", m.Name, name(id, module), err)
	}
	return result, nil
}

// Statistics counts the hub's devices.
func (h *Hub) Statistics(ctx context.Context) (hubjson.Statistics, error) {
	var s hubjson.Statistics
	if err := h.call(ctx, request{method: http.MethodGet, collection: "/statistics/", id: "devices", repeatable: true}, &s); err != nil {
		return s, fmt.Errorf("reading the statistics: %w", err)
	}
	return s, nil
}

// name is what a device or a module is called in errors.
func name(id, module device.ID) string {
	if module == "" {
		return string(id)
	}
	return string(id) + "/" + string(module)
}

type request struct {
	method, collection string
	id                 device.ID
	module             device.ID // empty for the device itself
	below              string    // the rest of the path
	etag               string    // empty for no If-Match
	body               any       // nil for none
	repeatable         bool
}

// call makes a request and reads the answer into v, unless that is nil.
func (h *Hub) call(ctx context.Context, r request, v any) error {
	path, err := pathOf("device ID", r.id)
	if err != nil {
		return err
	}
	if r.module != "" {
		module, err := pathOf("module ID", r.module)
		if err != nil {
			return err
		}
		path += "/modules/" + module
	}
	call := rest.Request{
		Method: r.method, Path: r.collection + path + r.below + query,
		Header: http.Header{}, Authorize: h.authorize, Repeatable: r.repeatable, MaxAnswer: maxAnswer,
	}
	if r.etag != "" {
		call.Header.Set("If-Match", `"`+r.etag+`"`)
	}
	if r.body != nil {
		if call.Body, err = json.Marshal(r.body); err != nil {
			return err
		}
	}
	answer, err := h.rest.Do(ctx, call)
	if err != nil || v == nil {
		return err
	}
	return answer.JSON(v)
}
