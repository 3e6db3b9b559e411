package record

import (
	"fmt"
	"strings"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/sealed"
)

// IdentityColumns and TwinColumns are what Identity and Twin read of a device,
// ModuleIdentityColumns what Identity reads of a module, and DeviceColumns and
// ModuleColumns the rows of HomeValues. An identity and its twin are one row, for
// they come and go together. A device's first two columns are its key, a module's
// first three.
const (
	IdentityColumns       = devicePublic + ", keys"
	ModuleIdentityColumns = modulePublic + ", keys"
	TwinColumns           = `twin_version, tags, desired, desired_version, desired_updated, desired_metadata,
	reported, reported_version, reported_updated, reported_metadata, configurations, model_id`
	DeviceColumns = "hub, id, generation_id, etag, disabled, status_reason, status_updated, iot_edge, parent_scope, " + authColumns + ", " + TwinColumns + ", indexed"
	ModuleColumns = "hub, id, module, generation_id, etag, managed_by, " + authColumns + ", " + TwinColumns + ", indexed"

	devicePublic = `hub, id, '' AS module, generation_id, etag, disabled, status_reason, status_updated, iot_edge, parent_scope, '' AS managed_by,
	` + thumbprintColumns
	modulePublic = `hub, id, module, generation_id, etag, false AS disabled, '' AS status_reason, NULL AS status_updated, false AS iot_edge,
	'' AS parent_scope, managed_by, ` + thumbprintColumns
	thumbprintColumns = "authentication, primary_thumbprint, secondary_thumbprint"
	authColumns       = thumbprintColumns + ", keys"
)

// A Home is a device's identity and its twin, or none: its zero value. It
// remembers what the row has, also when someone changes the device.
type Home struct {
	Identity *hub.Identity
	Twin     *hub.Twin

	exists  bool
	sealed  []byte
	keys    attest.SymmetricKeys
	was     hub.Identity
	wasTwin *hub.Twin // as its index has it, nil where that is not known
}

// Exists reports whether there is such a row.
func (h *Home) Exists() bool { return h.exists }

// Identity reads the columns of an identity.
func (c Codec) Identity(r *Row) (*hub.Identity, error) {
	h, err := c.identity(r)
	if err != nil {
		return nil, err
	}
	return h.Identity, nil
}

func (c Codec) identity(r *Row) (*Home, error) {
	d := &hub.Identity{
		Place: hub.Place{Hub: r.Text(), ID: device.ID(r.Text()), Module: device.ID(r.Text())}, GenerationID: r.Text(), ETag: r.Text(),
		Disabled: r.Flag(), StatusReason: r.Text(), StatusUpdated: r.Time(), IoTEdge: r.Flag(), ParentScope: r.Text(), ManagedBy: r.Text(),
		Auth: hub.Authentication{Type: hub.AuthenticationType(r.Text()), PrimaryThumbprint: r.Text(), SecondaryThumbprint: r.Text()},
	}
	h := &Home{Identity: d, exists: true, sealed: r.Blob()}
	var err error
	if h.keys, err = sealed.OpenKeys(c.Sealer, h.sealed, sealedFor(d.Place)...); err != nil {
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
		Version: version, Tags: r.JSON(), Desired: r.JSON(), DesiredVersion: r.Number(), DesiredUpdated: r.Time(), DesiredMetadata: r.JSON(),
		Reported: r.JSON(), ReportedVersion: r.Number(), ReportedUpdated: r.Time(), ReportedMetadata: r.JSON(),
		Configurations: r.JSON(), ModelID: r.Text(),
	}, nil
}

// Home reads the columns of an identity, then those of its twin and the version
// that is indexed.
func (c Codec) Home(r *Row) (*Home, error) {
	h, err := c.identity(r)
	if err != nil {
		return nil, err
	}
	if h.Twin, err = Twin(r); err != nil || h.Twin == nil {
		return h, err
	}
	if h.was = *h.Identity; r.Number() == h.Twin.Version {
		twin := *h.Twin
		h.wasTwin = &twin
	}
	return h, nil
}

// IndexChange is hub.IndexChange from what was read to what is to be written.
func (h *Home) IndexChange(d *hub.Identity, twin *hub.Twin) (add, remove []hub.IndexedValue) {
	return hub.IndexChange(&h.was, h.wasTwin, d, twin)
}

// FoundColumns returns what Found reads of a device or a module for the members
// that are wanted.
func FoundColumns(module bool, wanted hub.Members) string {
	columns := devicePublic
	if module {
		columns = modulePublic
	}
	columns += ", NULL AS keys, " + TwinColumns
	if wanted == hub.AllMembers {
		return columns
	}
	names := strings.Split(columns, ",")
	for i, name := range names {
		if !isWanted(strings.TrimSpace(name), wanted) {
			names[i] = "NULL"
		}
	}
	return strings.Join(names, ",")
}

func isWanted(column string, by hub.Members) bool {
	switch column {
	case "generation_id", "etag", "status_reason", "status_updated", "managed_by", "authentication", "primary_thumbprint", "secondary_thumbprint":
		return by.Identity
	case "tags":
		return by.Tags
	case "desired":
		return by.Desired
	case "desired_metadata":
		return by.Desired && by.Metadata
	case "reported":
		return by.Reported
	case "reported_metadata":
		return by.Reported && by.Metadata
	case "configurations":
		return by.Configurations
	}
	return true
}

// Found reads the columns of a twin that was found.
func (c Codec) Found(r *Row) (hub.Found, error) {
	h, err := c.identity(r)
	if err != nil {
		return hub.Found{}, err
	}
	twin, err := Twin(r)
	return hub.Found{Identity: h.Identity, Twin: twin}, err
}

// TwinEntry reads an entry of the index.
func TwinEntry(r *Row) (hub.TwinEntry, error) {
	return hub.TwinEntry{Value: r.Blob(), ID: device.ID(r.Text()), Module: device.ID(r.Text())}, nil
}

// HomeValues returns the row of d and its twin, which is nil for none, at the
// place where old was. Keys that did not change stay sealed as they are. It
// refuses a d of another place: a change cannot rename a device.
func (c Codec) HomeValues(at hub.Place, old *Home, d *hub.Identity, twin *hub.Twin) ([]any, error) {
	if d.Place != at {
		return nil, fmt.Errorf("%s/%s cannot become %s/%s", at.Hub, at, d.Hub, d)
	}
	keys := old.sealed
	if k := d.Auth.Keys; !k.Primary.Equal(old.keys.Primary) || !k.Secondary.Equal(old.keys.Secondary) {
		var err error
		if keys, err = sealed.Keys(c.Sealer, k, sealedFor(at)...); err != nil {
			return nil, err
		}
	}
	values := make([]any, 0, 26)
	if at.Module == "" {
		values = append(values, at.Hub, string(at.ID), d.GenerationID, d.ETag, d.Disabled, d.StatusReason, nanoseconds(d.StatusUpdated), d.IoTEdge, d.ParentScope)
	} else {
		values = append(values, at.Hub, string(at.ID), string(at.Module), d.GenerationID, d.ETag, d.ManagedBy)
	}
	values = append(values, string(d.Auth.Type), d.Auth.PrimaryThumbprint, d.Auth.SecondaryThumbprint, keys)
	if twin == nil {
		return append(values, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil), nil
	}
	return append(values,
		twin.Version, jsonText(twin.Tags), jsonText(twin.Desired), twin.DesiredVersion, nanoseconds(twin.DesiredUpdated), jsonText(twin.DesiredMetadata),
		jsonText(twin.Reported), twin.ReportedVersion, nanoseconds(twin.ReportedUpdated), jsonText(twin.ReportedMetadata),
		jsonText(twin.Configurations), twin.ModelID, twin.Version), nil
}

// CanMove returns an error unless a device can move from one place to the other:
// modules stay with their device, which is not where it comes from.
func CanMove(from, to hub.Place) error {
	if from == to {
		return fmt.Errorf("%s/%s cannot move to where it is", to.Hub, to)
	}
	if from.Module != "" || to.Module != "" {
		return fmt.Errorf("%s/%s cannot move to %s/%s: modules do not move", from.Hub, from, to.Hub, to)
	}
	return nil
}

// sealedFor names the place that keys are sealed for.
func sealedFor(at hub.Place) []string {
	if at.Module == "" {
		return []string{"device", at.Hub, string(at.ID)}
	}
	return []string{"module", at.Hub, string(at.ID), string(at.Module)}
}
