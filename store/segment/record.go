package segment

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

// A record is one message without its sequence number:
//
//	record     = head-length body-length head body
//	head       = flags enqueued [hub] device-id [module-id] [system] [properties]
//	flags      = one byte, see below
//	enqueued   = 8 bytes, nanoseconds since 1970, little-endian
//	system     = count *(name string)
//	name       = %x00 string / a byte of systemNames or systemPairs
//	properties = count *(string string)
//	string     = length bytes
//
// Lengths and counts are unsigned varints of encoding/binary. A record without
// a hub has that of the record before it in its frame.
const (
	sameHub       = 1 << iota // there is no hub
	hasSystem                 // there is a system
	hasProperties             // there are properties
	hasBody                   // the body is not nil
	hasModule                 // there is a module-id
	knownFlags    = sameHub | hasSystem | hasProperties | hasBody | hasModule
)

// minRecord is the length of the shortest record in bytes: two lengths, flags,
// the time and an empty device ID.
const minRecord = 2 + 1 + 8 + 1

// systemNames are the system properties that are written as one byte, their
// index here. They are part of the format: new ones go to the end.
var systemNames = [...]string{
	0: "", // a name of its own follows
	1: "message-id", 2: "correlation-id", 3: "user-id", 4: "to", 5: "absolute-expiry-time",
	6: "content-type", 7: "content-encoding", 8: "creation-time-utc", 9: "output-name",
	10: "interface-id", 11: "dt-subject", 12: "dt-dataschema", 13: "message-schema",
	14: "connection-device-id", 15: "connection-module-id", 16: "connection-auth-generation-id",
	17: "connection-auth-method", 18: "message-source", 19: "enqueuedtime",
}

// systemPairs are names with a value each that are written as one byte, their
// index here and firstPair. They are part of the format as well.
var systemPairs = [...]struct{ name, value string }{
	{"message-source", "Telemetry"},
	{"content-type", "application/json"},
	{"content-encoding", "utf-8"},
	{"connection-auth-method", `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`},
	{"connection-auth-method", `{"scope":"hub","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`},
	{"connection-auth-method", `{"scope":"device","type":"x509","issuer":"iothub","acceptingIpFilterRule":null}`},
	{"message-source", "twinChangeEvents"},
	{"message-source", "deviceLifecycleEvents"},
	{"message-source", "deviceConnectionStateEvents"},
	{"message-source", "digitalTwinChangeEvents"},
}

const (
	firstPair = 0x80
	// ownDevice is written for the name connection-device-id with the ID of the
	// message's device.
	ownDevice = 0xff
)

var (
	nameBytes = func() map[string]byte {
		m := make(map[string]byte, len(systemNames))
		for i, name := range systemNames[1:] {
			m[name] = byte(i + 1)
		}
		return m
	}()
	// pairsOf has the values that a name has in systemPairs, by the name's byte.
	pairsOf = func() (of [len(systemNames)][]pairByte) {
		for i, p := range systemPairs {
			name := nameBytes[p.name]
			of[name] = append(of[name], pairByte{p.value, byte(firstPair + i)})
		}
		return of
	}()
)

type pairByte struct {
	value string
	code  byte
}

const connectionDeviceID = 14 // its index in systemNames

// appendRecord appends m to b. before is the hub of the record before it in its
// frame, empty for the first. scratch is for the heads, and given back.
func appendRecord(b, scratch []byte, m *hub.Message, enqueued int64, before string) (_, scratchAgain []byte) {
	flags := byte(0)
	if m.Hub == before && before != "" {
		flags |= sameHub
	}
	if m.System != nil {
		flags |= hasSystem
	}
	if m.Properties != nil {
		flags |= hasProperties
	}
	if m.Body != nil {
		flags |= hasBody
	}
	if m.ModuleID != "" {
		flags |= hasModule
	}
	head := append(scratch[:0], flags)
	head = binary.LittleEndian.AppendUint64(head, uint64(enqueued))
	if flags&sameHub == 0 {
		head = appendString(head, m.Hub)
	}
	head = appendString(head, string(m.DeviceID))
	if m.ModuleID != "" {
		head = appendString(head, string(m.ModuleID))
	}
	if m.System != nil {
		head = binary.AppendUvarint(head, uint64(len(m.System)))
		for name, value := range m.System {
			head = appendSystem(head, m.DeviceID, name, value)
		}
	}
	if m.Properties != nil {
		head = binary.AppendUvarint(head, uint64(len(m.Properties)))
		for name, value := range m.Properties {
			head = appendString(appendString(head, name), value)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(head)))
	b = binary.AppendUvarint(b, uint64(len(m.Body)))
	b = append(b, head...)
	return append(b, m.Body...), head
}

func appendSystem(b []byte, of device.ID, name, value string) []byte {
	known, ok := nameBytes[name]
	if !ok {
		return appendString(appendString(append(b, 0), name), value)
	}
	if known == connectionDeviceID && value == string(of) {
		return append(b, ownDevice)
	}
	for _, p := range pairsOf[known] {
		if p.value == value {
			return append(b, p.code)
		}
	}
	return appendString(append(b, known), value)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errRecord = errors.New("a record is not well formed")

// A records decodes the records of a frame, one after the other.
type records struct {
	rest []byte
	hub  string // of the last one
}

// A raw is a record that has been measured and not yet read.
type raw struct{ head, body []byte }

func (r *records) next() (raw, error) {
	head, rest, ok := uvarint(r.rest)
	if !ok {
		return raw{}, errRecord
	}
	body, rest, ok := uvarint(rest)
	if !ok || head > uint64(len(rest)) || body > uint64(len(rest))-head {
		return raw{}, errRecord
	}
	r.rest = rest[head+body:]
	w := raw{head: rest[:head:head], body: rest[head : head+body : head+body]}
	if len(w.head) < 1+8 || w.flags()&^knownFlags != 0 || w.flags()&hasBody == 0 && len(w.body) > 0 {
		return raw{}, errRecord
	}
	return w, r.learn(w)
}

// learn notes the record's hub.
func (r *records) learn(w raw) error {
	if w.flags()&sameHub != 0 {
		if r.hub == "" {
			return errRecord
		}
		return nil
	}
	n, rest, ok := uvarint(w.head[1+8:])
	if !ok || n > uint64(len(rest)) {
		return errRecord
	}
	if string(rest[:n]) != r.hub {
		r.hub = string(rest[:n])
	}
	return nil
}

func (w raw) flags() byte     { return w.head[0] }
func (w raw) enqueued() int64 { return int64(binary.LittleEndian.Uint64(w.head[1:])) }

// message reads the record, which is at a hub. The message shares nothing with it.
func (w raw) message(at string) (*hub.Message, error) {
	m := &hub.Message{Hub: at, Enqueued: time.Unix(0, w.enqueued()).UTC()}
	t := text(w.head[1+8:])
	if w.flags()&sameHub == 0 {
		if _, ok := t.string(); !ok {
			return nil, errRecord
		}
	}
	id, ok := t.string()
	if !ok {
		return nil, errRecord
	}
	m.DeviceID = device.ID(id)
	if w.flags()&hasModule != 0 {
		module, ok := t.string()
		if !ok || module == "" {
			return nil, errRecord
		}
		m.ModuleID = device.ID(module)
	}
	if w.flags()&hasSystem != 0 {
		if m.System, ok = t.system(id); !ok {
			return nil, errRecord
		}
	}
	if w.flags()&hasProperties != 0 {
		if m.Properties, ok = t.properties(); !ok {
			return nil, errRecord
		}
	}
	if t != "" {
		return nil, errRecord
	}
	if w.flags()&hasBody != 0 {
		m.Body = append(make([]byte, 0, len(w.body)), w.body...)
	}
	return m, nil
}

// A text is the rest of a head. The strings in it are parts of it: a message
// has one allocation for all of them.
type text string

func (t *text) count() (int, bool) {
	var n uint64
	for i := 0; i < len(*t) && i < binary.MaxVarintLen64; i++ {
		c := (*t)[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			*t = (*t)[i+1:]
			return int(n), n <= uint64(len(*t))
		}
	}
	return 0, false
}

func (t *text) string() (string, bool) {
	n, ok := t.count()
	if !ok {
		return "", false
	}
	s := (*t)[:n]
	*t = (*t)[n:]
	return string(s), true
}

func (t *text) system(device string) (map[string]string, bool) {
	n, ok := t.count() // no more than there are bytes: each takes one at least
	if !ok {
		return nil, false
	}
	m := make(map[string]string, min(n, 16))
	for range n {
		name, value, ok := t.pair(device)
		if !ok {
			return nil, false
		}
		m[name] = value
	}
	return m, true
}

func (t *text) pair(device string) (name, value string, ok bool) {
	if *t == "" {
		return "", "", false
	}
	c := (*t)[0]
	*t = (*t)[1:]
	switch {
	case c == ownDevice:
		return systemNames[connectionDeviceID], device, true
	case c >= firstPair && int(c-firstPair) < len(systemPairs):
		p := systemPairs[c-firstPair]
		return p.name, p.value, true
	case int(c) >= len(systemNames):
		return "", "", false
	case c != 0:
		name = systemNames[c]
	default:
		if name, ok = t.string(); !ok {
			return "", "", false
		}
	}
	value, ok = t.string()
	return name, value, ok
}

func (t *text) properties() (map[string]string, bool) {
	n, ok := t.count()
	if !ok {
		return nil, false
	}
	m := make(map[string]string, min(n, 16))
	for range n {
		name, ok := t.string()
		if !ok {
			return nil, false
		}
		if m[name], ok = t.string(); !ok {
			return nil, false
		}
	}
	return m, true
}

func uvarint(b []byte) (n uint64, rest []byte, ok bool) {
	n, k := binary.Uvarint(b)
	if k <= 0 {
		return 0, nil, false
	}
	return n, b[k:], true
}
