package linkedhub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/berth-iot/berth/client/internal/hubrest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/hubjson"
)

// rounds is how often an identity is read again because somebody else was
// faster to write it.
const rounds = 10

// Assign gives the device its identity at the hub, and its initial twin where
// nobody has written the twin yet. An identity that is there keeps what the
// assignment does not speak of, its status above all: the hub's operator
// decided that.
//
// When the hub refuses, the error carries its code and the text of its answer,
// as the original service passes them on to the device.
func (h *Hub) Assign(ctx context.Context, a provision.Assignment) error {
	return h.do(ctx, func(ctx context.Context, calls *hubrest.Hub) error {
		_, created, err := h.settle(ctx, calls, a, nil)
		if err != nil {
			return err
		}
		return startTwin(ctx, calls, a, created)
	}, a.Keys.Primary, a.Keys.Secondary)
}

// Receive is Assign for a device that comes from another hub; see
// [provision.Destination].
func (h *Hub) Receive(ctx context.Context, a provision.Assignment, d provision.Departure) (generationID string, err error) {
	err = h.do(ctx, func(ctx context.Context, calls *hubrest.Hub) error {
		identity, created, err := h.settle(ctx, calls, a, &d)
		if err != nil {
			return err
		}
		generationID = identity.GenerationID
		if generationID == d.GenerationID {
			return startTwin(ctx, calls, a, created)
		}
		// It is not known who wrote a twin that is there: a move that was cut
		// off, or a stay long ago. While the device is at the old hub, that
		// decides.
		tags, desired := d.Sections()
		_, err = calls.ReplaceTwin(ctx, a.DeviceID, "", hubjson.TwinChange{Tags: tags, Desired: desired}, hubrest.AnyETag)
		return soon(err)
	}, a.Keys.Primary, a.Keys.Secondary)
	if err != nil {
		return "", err
	}
	return generationID, nil
}

// Export returns what the device takes along from the hub, or an error of kind
// errs.NotFound.
func (h *Hub) Export(ctx context.Context, id device.ID) (*provision.Departure, error) {
	var d *provision.Departure
	err := h.do(ctx, func(ctx context.Context, calls *hubrest.Hub) error {
		if err := h.turn(ctx); err != nil {
			return err
		}
		identity, err := calls.Device(ctx, id)
		if err != nil {
			return err
		}
		// What changes about the identity from here on changes its entity tag.
		twin, err := calls.Twin(ctx, id, "")
		if err != nil {
			return err
		}
		tags, desired, _, err := written(twin)
		if err != nil {
			return err
		}
		d = &provision.Departure{
			Twin:     enroll.InitialTwin{Tags: tags, Desired: desired},
			Disabled: isDisabled(identity), StatusReason: identity.StatusReason,
			GenerationID: identity.GenerationID, ETag: identity.ETag,
		}
		return nil
	})
	return d, err
}

// Delete removes the device's identity and twin if it has the entity tag, or in
// any case if that is empty. That there is none is fine; that it has another
// tag is an error of kind errs.Precondition.
func (h *Hub) Delete(ctx context.Context, id device.ID, etag string) error {
	return h.do(ctx, func(ctx context.Context, calls *hubrest.Hub) error {
		if err := h.turn(ctx); err != nil {
			return err
		}
		err := calls.DeleteDevice(ctx, id, orAny(etag))
		if isNotFound(err) {
			return nil
		}
		return err
	})
}

// settle makes the identity at the hub say what the assignment and, if there is
// one, the departure do. It reports whether it made a new one.
func (h *Hub) settle(ctx context.Context, calls *hubrest.Hub, a provision.Assignment, d *provision.Departure) (identity *hubjson.Device, created bool, err error) {
	if a.Thumbprint == "" && (a.Keys.Primary.IsZero() || a.Keys.Secondary.IsZero()) {
		return nil, false, errs.New(errs.Invalid, errs.CodeArgumentInvalid, "a device takes two symmetric keys or a thumbprint")
	}
	for range rounds {
		if err := h.turn(ctx); err != nil {
			return nil, false, err
		}
		was, err := calls.Device(ctx, a.DeviceID)
		if err != nil && !isNotFound(err) {
			return nil, false, err
		}
		if was != nil && says(was, a, d) {
			return was, false, nil
		}
		if err := h.turn(ctx); err != nil {
			return nil, false, err
		}
		if was == nil {
			identity, err = calls.PutDevice(ctx, rewritten(hubjson.Device{Status: hubjson.Enabled}, a, d), "")
		} else {
			identity, err = calls.PutDevice(ctx, rewritten(*was, a, d), orAny(was.ETag))
		}
		if !raced(err, was != nil) {
			return identity, was == nil, err
		}
	}
	return nil, false, errs.New(errs.Unavailable, errs.CodeServiceUnavailable, "The device's identity at its hub changes all the time; try again later.")
}

// raced reports whether a write was too late: somebody else created, changed or
// deleted the identity since it was read.
func raced(err error, existed bool) bool {
	if !existed {
		return hasStatus(err, http.StatusConflict)
	}
	return hasStatus(err, http.StatusPreconditionFailed) || isNotFound(err)
}

func orAny(etag string) string {
	if etag == "" {
		return hubrest.AnyETag
	}
	return etag
}

// says reports whether writing the assignment over an identity would change
// nothing.
func says(was *hubjson.Device, a provision.Assignment, d *provision.Departure) bool {
	next := rewritten(*was, a, d)
	return isDisabled(was) == isDisabled(&next) && was.StatusReason == next.StatusReason && was.Capabilities == next.Capabilities &&
		sameAuthentication(was.Authentication, next.Authentication)
}

func sameAuthentication(a, b hubjson.Authentication) bool {
	if !strings.EqualFold(string(a.Type), string(b.Type)) {
		return false
	}
	if b.SymmetricKey != nil {
		return a.SymmetricKey != nil && a.SymmetricKey.PrimaryKey.Equal(b.SymmetricKey.PrimaryKey.SymmetricKey) &&
			a.SymmetricKey.SecondaryKey.Equal(b.SymmetricKey.SecondaryKey.SymmetricKey)
	}
	return a.X509Thumbprint != nil && strings.EqualFold(a.X509Thumbprint.PrimaryThumbprint, b.X509Thumbprint.PrimaryThumbprint) &&
		strings.EqualFold(a.X509Thumbprint.SecondaryThumbprint, b.X509Thumbprint.SecondaryThumbprint)
}

// rewritten returns the identity with what the assignment and the departure say
// in it. The rest stays: a write replaces all.
func rewritten(identity hubjson.Device, a provision.Assignment, d *provision.Departure) hubjson.Device {
	identity.DeviceID = a.DeviceID
	identity.Capabilities.IoTEdge = identity.Capabilities.IoTEdge || a.IoTEdge // a device that runs IoT Edge remains one
	if d != nil && d.Disabled {
		identity.Status, identity.StatusReason = hubjson.Disabled, d.StatusReason
	}
	if a.Thumbprint != "" {
		// One certificate fills both slots, as the original service has it.
		identity.Authentication = hubjson.Authentication{
			X509Thumbprint: &hubjson.Thumbprints{PrimaryThumbprint: a.Thumbprint, SecondaryThumbprint: a.Thumbprint},
			Type:           hubjson.SelfSigned,
		}
		return identity
	}
	identity.Authentication = hubjson.Authentication{
		SymmetricKey: &hubjson.SymmetricKeys{
			PrimaryKey: hubjson.Key{SymmetricKey: a.Keys.Primary}, SecondaryKey: hubjson.Key{SymmetricKey: a.Keys.Secondary},
		},
		Type: hubjson.SAS,
	}
	return identity
}

func isDisabled(d *hubjson.Device) bool {
	return strings.EqualFold(string(d.Status), string(hubjson.Disabled))
}

// startTwin writes the initial twin, if there is one, unless somebody has
// written the twin before: then it is the device's and its operator's.
func startTwin(ctx context.Context, calls *hubrest.Hub, a provision.Assignment, created bool) error {
	if a.Twin == nil || a.Twin.Tags == nil && a.Twin.Desired == nil {
		return nil
	}
	etag := hubrest.AnyETag
	if !created {
		// The caller may have been cut off between identity and twin.
		twin, err := calls.Twin(ctx, a.DeviceID, "")
		if err != nil {
			return soon(err)
		}
		if fresh, err := isFresh(twin); err != nil || !fresh {
			return err
		}
		etag = orAny(twin.ETag)
	}
	_, err := calls.PatchTwin(ctx, a.DeviceID, "", hubjson.TwinChange{Tags: a.Twin.Tags, Desired: a.Twin.Desired}, etag)
	if !created && hasStatus(err, http.StatusPreconditionFailed) {
		return nil // written since it was read
	}
	return soon(err)
}

// isFresh reports whether nobody has written tags or desired properties: the
// first write would have moved the version of the latter or left the former.
func isFresh(t *hubjson.Twin) (bool, error) {
	tags, desired, version, err := written(t)
	return version <= 1 && string(desired) == "{}" && string(tags) == "{}", err
}

// written returns what operators wrote into a twin, and the version of the
// desired properties.
func written(t *hubjson.Twin) (tags, desired json.RawMessage, version int64, err error) {
	if tags, _, err = hubjson.Properties(t.Tags).Split(); err != nil {
		return nil, nil, 0, fmt.Errorf("reading the twin of %s: tags: %w", t.DeviceID, err)
	}
	if desired, version, err = t.Properties.Desired.Split(); err != nil {
		return nil, nil, 0, fmt.Errorf("reading the twin of %s: desired: %w", t.DeviceID, err)
	}
	return tags, desired, version, nil
}

// soon is for the twin of an identity that was there a moment ago: a hub may
// take a while to make it.
func soon(err error) error {
	if isNotFound(err) {
		return errs.New(errs.Unavailable, errs.CodeServiceUnavailable, "The device's twin is not there yet; try again later.").WithCause(err)
	}
	return err
}
