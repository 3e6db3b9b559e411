package record

import (
	"fmt"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/sealed"
)

// IdentityColumns and TwinColumns are in the order in which their readers and
// HomeValues go through them. An identity and its twin are one row, for they
// come and go together. The first two are the key.
const (
	IdentityColumns = `hub, id, generation_id, etag, disabled, status_reason, status_updated, iot_edge, authentication,
	primary_thumbprint, secondary_thumbprint, keys`
	TwinColumns = "twin_version, tags, desired, desired_version, desired_updated, reported, reported_version, reported_updated"
	HomeColumns = IdentityColumns + ", " + TwinColumns
)

// A Home is a device's identity and its twin, or none: its zero value. It
// remembers what the row has, also when someone changes the device.
type Home struct {
	Device *hub.Device
	Twin   *hub.Twin

	exists bool
	sealed []byte
	keys   attest.SymmetricKeys
}

// Exists reports whether there is such a row.
func (h *Home) Exists() bool { return h.exists }

// Identity reads the columns of an identity.
func (c Codec) Identity(r *Row) (*hub.Device, error) {
	h, err := c.identity(r)
	if err != nil {
		return nil, err
	}
	return h.Device, nil
}

func (c Codec) identity(r *Row) (*Home, error) {
	d := &hub.Device{
		Hub: r.Text(), ID: device.ID(r.Text()), GenerationID: r.Text(), ETag: r.Text(), Disabled: r.Flag(), StatusReason: r.Text(),
		StatusUpdated: r.Time(), IoTEdge: r.Flag(),
		Auth: hub.Authentication{Type: hub.AuthenticationType(r.Text()), PrimaryThumbprint: r.Text(), SecondaryThumbprint: r.Text()},
	}
	h := &Home{Device: d, exists: true, sealed: r.Blob()}
	var err error
	if h.keys, err = sealed.OpenKeys(c.Sealer, h.sealed, "device", d.Hub, string(d.ID)); err != nil {
		return nil, err
	}
	d.Auth.Keys = h.keys
	return h, nil
}

// Twin reads the columns of a twin, and returns nil when there is none.
func Twin(r *Row) (*hub.Twin, error) {
	version, ok := r.next().(int64)
	if !ok {
		return nil, nil
	}
	return &hub.Twin{
		Version: version, Tags: r.JSON(), Desired: r.JSON(), DesiredVersion: r.Number(), DesiredUpdated: r.Time(),
		Reported: r.JSON(), ReportedVersion: r.Number(), ReportedUpdated: r.Time(),
	}, nil
}

// Home reads the columns of an identity and then those of its twin.
func (c Codec) Home(r *Row) (*Home, error) {
	h, err := c.identity(r)
	if err != nil {
		return nil, err
	}
	h.Twin, err = Twin(r)
	return h, err
}

// HomeValues returns the row of d and its twin, which is nil for none, at the
// place where old was. Keys that did not change stay sealed as they are. It
// refuses a d of another place: a change cannot rename a device.
func (c Codec) HomeValues(at hub.Place, old *Home, d *hub.Device, twin *hub.Twin) ([]any, error) {
	if d.Hub != at.Hub || d.ID != at.ID {
		return nil, fmt.Errorf("device %s/%s cannot become %s/%s", at.Hub, at.ID, d.Hub, d.ID)
	}
	keys := old.sealed
	if k := d.Auth.Keys; !k.Primary.Equal(old.keys.Primary) || !k.Secondary.Equal(old.keys.Secondary) {
		var err error
		if keys, err = sealed.Keys(c.Sealer, k, "device", at.Hub, string(at.ID)); err != nil {
			return nil, err
		}
	}
	values := [20]any{
		at.Hub, string(at.ID), d.GenerationID, d.ETag, d.Disabled, d.StatusReason, nanoseconds(d.StatusUpdated), d.IoTEdge,
		string(d.Auth.Type), d.Auth.PrimaryThumbprint, d.Auth.SecondaryThumbprint, keys,
	}
	if twin != nil {
		copy(values[12:], []any{
			twin.Version, jsonText(twin.Tags), jsonText(twin.Desired), twin.DesiredVersion, nanoseconds(twin.DesiredUpdated),
			jsonText(twin.Reported), twin.ReportedVersion, nanoseconds(twin.ReportedUpdated),
		})
	}
	return values[:], nil
}
