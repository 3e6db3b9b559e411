package record

import (
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

// MessageColumns are in the order in which Message goes through them.
const MessageColumns = "sequence, hub, device_id, module_id, enqueued, system, properties, body"

// Message reads the row of a message.
func Message(r *Row) (*hub.Message, error) {
	m := &hub.Message{Sequence: uint64(r.Number()), Hub: r.Text(), DeviceID: device.ID(r.Text()), ModuleID: device.ID(r.Text()), Enqueued: r.Time()}
	if err := r.decode(&m.System); err != nil {
		return nil, err
	}
	if err := r.decode(&m.Properties); err != nil {
		return nil, err
	}
	m.Body = r.Blob()
	return m, nil
}

// Properties returns a map as the columns "system" and "properties" have it:
// JSON text, or nil.
func Properties(m map[string]string) any { return encoded(m, m == nil) }
