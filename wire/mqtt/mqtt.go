// Package mqtt turns MQTT control packets into bytes and back, as OASIS MQTT
// 3.1.1 has them; of 3.1 it takes the CONNECT. It does no I/O: Next finds the
// packets in a stream of bytes, Decode reads one, Append writes one.
//
// What it decodes is checked against every rule of the specification that one
// packet can break on its own. The packets of QoS 2 are not among those it
// knows: nothing here speaks that.
package mqtt

import (
	"errors"
	"fmt"
)

// A Type is the type of a control packet (section 2.2.1).
type Type byte

// The control packet types of QoS 0 and 1.
const (
	TypeConnect     Type = 1
	TypeConnack     Type = 2
	TypePublish     Type = 3
	TypePuback      Type = 4
	TypeSubscribe   Type = 8
	TypeSuback      Type = 9
	TypeUnsubscribe Type = 10
	TypeUnsuback    Type = 11
	TypePingreq     Type = 12
	TypePingresp    Type = 13
	TypeDisconnect  Type = 14
)

var typeNames = map[Type]string{
	TypeConnect: "CONNECT", TypeConnack: "CONNACK", TypePublish: "PUBLISH", TypePuback: "PUBACK",
	5: "PUBREC", 6: "PUBREL", 7: "PUBCOMP",
	TypeSubscribe: "SUBSCRIBE", TypeSuback: "SUBACK", TypeUnsubscribe: "UNSUBSCRIBE", TypeUnsuback: "UNSUBACK",
	TypePingreq: "PINGREQ", TypePingresp: "PINGRESP", TypeDisconnect: "DISCONNECT",
}

// String is the name that the specification gives the type.
func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("packet type %d", byte(t))
}

// A Packet is one control packet: a pointer to one of the structs of this
// package.
type Packet interface {
	// Append adds the packet's bytes to b. The error says which member MQTT has
	// no bytes for; b is then returned as it was.
	Append(b []byte) ([]byte, error)
}

// ErrIncomplete says that a packet's bytes are not all there yet.
var ErrIncomplete = errors.New("the packet is incomplete")

// A TooLargeError is a packet above the limit of its reader. Nothing of it need
// have arrived but its length.
type TooLargeError struct{ Size, Limit int }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("a packet of %d bytes; %d are allowed", e.Size, e.Limit)
}

// maxHeader is the size of the largest fixed header: the type and four bytes of
// length (section 2.2.3).
const maxHeader = 5

// Next finds the first packet in a stream: its first byte, what follows its
// fixed header, and the bytes that it takes in all. body is part of b.
//
// Errors: ErrIncomplete when b ends before the packet does; size is then how
// many bytes it takes in all, as far as that can be told, or 0. A TooLargeError
// for more bytes than limit. Any other is a malformed length, after which the
// stream cannot be read on.
func Next(b []byte, limit int) (first byte, body []byte, size int, err error) {
	length, shift := 0, 0
	for i := 1; i < maxHeader; i++ {
		if i >= len(b) {
			return 0, nil, 0, ErrIncomplete
		}
		length |= int(b[i]&0x7f) << shift
		shift += 7
		if b[i]&0x80 != 0 {
			continue
		}
		if i > 1 && b[i] == 0 {
			return 0, nil, 0, malformed("the remaining length is not in its shortest form")
		}
		size = i + 1 + length
		switch {
		case size > limit:
			return 0, nil, size, &TooLargeError{size, limit}
		case size > len(b):
			return 0, nil, size, ErrIncomplete
		}
		return b[0], b[i+1 : size : size], size, nil
	}
	return 0, nil, 0, malformed("the remaining length has more than four bytes")
}

// Decode reads the packet that Next found. Slices of the result are parts of
// body.
func Decode(first byte, body []byte) (Packet, error) {
	t, flags := Type(first>>4), first&0x0f
	d := &decoder{left: body}
	var p Packet
	switch t {
	case TypePublish: // has flags of its own
		p = d.publish(flags)
	case TypeConnect:
		p = d.connect()
	case TypeConnack:
		p = d.connack()
	case TypePuback:
		p = &Puback{d.packetID()}
	case TypeSubscribe:
		p = d.subscribe()
	case TypeSuback:
		p = d.suback()
	case TypeUnsubscribe:
		p = d.unsubscribe()
	case TypeUnsuback:
		p = &Unsuback{d.packetID()}
	case TypePingreq:
		p = &Pingreq{}
	case TypePingresp:
		p = &Pingresp{}
	case TypeDisconnect:
		p = &Disconnect{}
	default:
		return nil, malformed("%s is not spoken here", t)
	}
	if t != TypePublish && flags != reserved(t) {
		d.fail("its flags are %#x", flags)
	}
	if d.err == nil && len(d.left) > 0 {
		d.fail("%d bytes are left over", len(d.left))
	}
	if d.err != nil {
		return nil, malformed("%s: %v", t, d.err)
	}
	return p, nil
}

// reserved are the flags of a type that has none to choose (section 2.2.2).
func reserved(t Type) byte {
	if t == TypeSubscribe || t == TypeUnsubscribe {
		return 0x02
	}
	return 0
}

// A MalformedError is a packet that breaks a rule of the specification. Whoever
// receives one closes the connection (section 4.8).
type MalformedError struct{ reason string }

func (e *MalformedError) Error() string { return e.reason }

func malformed(format string, args ...any) error {
	return &MalformedError{fmt.Sprintf(format, args...)}
}
