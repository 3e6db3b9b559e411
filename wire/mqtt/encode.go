package mqtt

import (
	"encoding/binary"
	"fmt"
)

// maxLength is the largest remaining length (section 2.2.3).
const maxLength = 1<<28 - 1

// An encoder writes the members of one packet behind room for the largest fixed
// header.
type encoder struct {
	b   []byte
	err error
}

func (e *encoder) fail(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf(format, args...)
	}
}

func (e *encoder) uint16(v uint16) { e.b = binary.BigEndian.AppendUint16(e.b, v) }

func (e *encoder) packetID(id uint16) {
	if id == 0 {
		e.fail("its packet identifier is 0")
	}
	e.uint16(id)
}

func (e *encoder) binary(v []byte, what string) {
	if len(v) > 0xffff {
		e.fail("%s has %d bytes; 65535 are possible", what, len(v))
		return
	}
	e.uint16(uint16(len(v)))
	e.b = append(e.b, v...)
}

func (e *encoder) text(v, what string) {
	switch err := checkText(v); {
	case err != nil:
		e.fail("%s %v", what, err)
	case len(v) > 0xffff:
		e.fail("%s has %d bytes; 65535 are possible", what, len(v))
	default:
		e.uint16(uint16(len(v)))
		e.b = append(e.b, v...)
	}
}

// packet appends a packet of a type: its fixed header, and what write writes
// about size bytes of.
func packet(b []byte, t Type, flags byte, size int, write func(*encoder)) ([]byte, error) {
	began := len(b)
	e := &encoder{b: b}
	e.b = append(e.b, byte(t)<<4|flags)
	e.b = appendLength(e.b, size)
	header := len(e.b)
	write(e)
	switch {
	case e.err != nil:
		return b[:began], fmt.Errorf("%s: %w", t, e.err)
	case size > maxLength:
		return b[:began], fmt.Errorf("%s: it has %d bytes; %d are possible", t, size, maxLength)
	case len(e.b)-header != size:
		panic(fmt.Sprintf("mqtt: a %s of %d bytes was announced with %d", t, len(e.b)-header, size))
	}
	return e.b, nil
}

func appendLength(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

// Append implements Packet.
func (c *Connect) Append(b []byte) ([]byte, error) {
	name := "MQTT"
	if c.Level == 3 {
		name = "MQIsdp"
	}
	var flags byte
	size := 2 + len(name) + 1 + 1 + 2 + 2 + len(c.ClientID)
	if c.CleanSession {
		flags |= flagCleanSession
	}
	if c.Will != nil {
		flags |= flagWill | c.Will.QoS<<3&flagWillQoS
		if c.Will.Retain {
			flags |= flagWillRetain
		}
		size += 2 + len(c.Will.Topic) + 2 + len(c.Will.Payload)
	}
	if c.Username != nil {
		flags |= flagUsername
		size += 2 + len(*c.Username)
	}
	if c.Password != nil {
		flags |= flagPassword
		size += 2 + len(c.Password)
	}
	return packet(b, TypeConnect, 0, size, func(e *encoder) {
		switch {
		case c.Level != 3 && c.Level != 4:
			e.fail("its protocol level is %d", c.Level)
		case c.Password != nil && c.Username == nil:
			e.fail("it has a password and no user name")
		}
		e.text(name, "the protocol name")
		e.b = append(e.b, c.Level, flags)
		e.uint16(c.KeepAlive)
		e.text(c.ClientID, "the client identifier")
		if c.Will != nil {
			if err := checkTopic(c.Will.Topic); err != nil {
				e.fail("the topic of its will %v", err)
			}
			if c.Will.QoS > 2 {
				e.fail("the QoS of its will is %d", c.Will.QoS)
			}
			e.text(c.Will.Topic, "the topic of its will")
			e.binary(c.Will.Payload, "the payload of its will")
		}
		if c.Username != nil {
			e.text(*c.Username, "the user name")
		}
		if c.Password != nil {
			e.binary(c.Password, "the password")
		}
	})
}

// Append implements Packet.
func (c *Connack) Append(b []byte) ([]byte, error) {
	return packet(b, TypeConnack, 0, 2, func(e *encoder) {
		var flags byte
		if c.SessionPresent {
			flags = 1
			if c.Code != Accepted {
				e.fail("a session is present and the connection refused")
			}
		}
		e.b = append(e.b, flags, byte(c.Code))
	})
}

// Append implements Packet.
func (p *Publish) Append(b []byte) ([]byte, error) {
	flags := p.QoS << 1 & 0x06
	if p.Dup {
		flags |= 0x08
	}
	if p.Retain {
		flags |= 0x01
	}
	size := 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > 0 {
		size += 2
	}
	return packet(b, TypePublish, flags, size, func(e *encoder) {
		switch err := checkTopic(p.Topic); {
		case err != nil:
			e.fail("the topic %v", err)
		case p.QoS > 2:
			e.fail("its QoS is %d", p.QoS)
		case p.QoS == 0 && p.Dup:
			e.fail("it is a duplicate of QoS 0")
		}
		e.text(p.Topic, "the topic")
		if p.QoS > 0 {
			e.packetID(p.ID)
		}
		e.b = append(e.b, p.Payload...)
	})
}

// Append implements Packet.
func (p *Puback) Append(b []byte) ([]byte, error) { return identified(b, TypePuback, p.ID) }

// Append implements Packet.
func (u *Unsuback) Append(b []byte) ([]byte, error) { return identified(b, TypeUnsuback, u.ID) }

func identified(b []byte, t Type, id uint16) ([]byte, error) {
	return packet(b, t, 0, 2, func(e *encoder) { e.packetID(id) })
}

// Append implements Packet.
func (s *Subscribe) Append(b []byte) ([]byte, error) {
	size := 2
	for _, f := range s.Subscriptions {
		size += 2 + len(f.Filter) + 1
	}
	return packet(b, TypeSubscribe, reserved(TypeSubscribe), size, func(e *encoder) {
		e.packetID(s.ID)
		if len(s.Subscriptions) == 0 {
			e.fail("it has no topic filter")
		}
		for _, f := range s.Subscriptions {
			e.filter(f.Filter)
			if f.QoS > 2 {
				e.fail("the QoS of a topic filter is %d", f.QoS)
			}
			e.b = append(e.b, f.QoS)
		}
	})
}

func (e *encoder) filter(filter string) {
	if err := checkFilter(filter); err != nil {
		e.fail("a topic filter %v", err)
	}
	e.text(filter, "a topic filter")
}

// Append implements Packet.
func (s *Suback) Append(b []byte) ([]byte, error) {
	return packet(b, TypeSuback, 0, 2+len(s.Codes), func(e *encoder) {
		e.packetID(s.ID)
		if len(s.Codes) == 0 {
			e.fail("it answers no topic filter")
		}
		for _, code := range s.Codes {
			if code > 2 && code != SubscriptionFailed {
				e.fail("its return code is %#x", code)
			}
		}
		e.b = append(e.b, s.Codes...)
	})
}

// Append implements Packet.
func (u *Unsubscribe) Append(b []byte) ([]byte, error) {
	size := 2
	for _, f := range u.Filters {
		size += 2 + len(f)
	}
	return packet(b, TypeUnsubscribe, reserved(TypeUnsubscribe), size, func(e *encoder) {
		e.packetID(u.ID)
		if len(u.Filters) == 0 {
			e.fail("it has no topic filter")
		}
		for _, f := range u.Filters {
			e.filter(f)
		}
	})
}

// Append implements Packet.
func (*Pingreq) Append(b []byte) ([]byte, error) { return append(b, byte(TypePingreq)<<4, 0), nil }

// Append implements Packet.
func (*Pingresp) Append(b []byte) ([]byte, error) { return append(b, byte(TypePingresp)<<4, 0), nil }

// Append implements Packet.
func (*Disconnect) Append(b []byte) ([]byte, error) {
	return append(b, byte(TypeDisconnect)<<4, 0), nil
}
