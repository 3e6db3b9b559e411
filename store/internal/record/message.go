package record

import (
	"encoding/json"

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

// Properties returns a map as the columns "system" and "properties" have it: JSON
// text, or nil.
func Properties(m map[string]string) any {
	if m == nil {
		return nil
	}
	return string(AppendProperties(make([]byte, 0, 512), m))
}

// AppendProperties appends the text of Properties. There are two of each message,
// so it is written by hand: encoding/json takes longer for a map, and leaves seven
// times as many pieces behind.
func AppendProperties(b []byte, m map[string]string) []byte {
	b = append(b, '{')
	began := len(b)
	for name, value := range m {
		if len(b) > began {
			b = append(b, ',')
		}
		b = appendText(append(appendText(b, name), ':'), value)
	}
	return append(b, '}')
}

// appendText appends a JSON string.
func appendText(b []byte, s string) []byte {
	began := len(b)
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c > '~':
			text, _ := json.Marshal(s) // of a string there always is one
			return append(b[:began], text...)
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
