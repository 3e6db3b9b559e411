package mqtt

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A decoder reads the members of one packet. After the first failure it reads
// nothing but zero values.
type decoder struct {
	left []byte
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
	d.left = nil
}

func (d *decoder) bytes(n int, what string) []byte {
	if d.err == nil && len(d.left) < n {
		d.fail("it ends within %s", what)
	}
	if d.err != nil {
		return nil
	}
	b := d.left[:n:n]
	d.left = d.left[n:]
	return b
}

func (d *decoder) byte(what string) byte {
	if b := d.bytes(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint16(what string) uint16 {
	if b := d.bytes(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// binary reads bytes behind their length.
func (d *decoder) binary(what string) []byte {
	return d.bytes(int(d.uint16(what)), what)
}

// text reads a UTF-8 encoded string (section 1.5.3).
func (d *decoder) text(what string) string {
	b := d.binary(what)
	if err := checkText(b); err != nil {
		d.fail("%s %v", what, err)
		return ""
	}
	return string(b)
}

func checkText[T string | []byte](b T) error {
	switch s := string(b); {
	case !utf8.ValidString(s):
		return fmt.Errorf("is not UTF-8")
	case strings.IndexByte(s, 0) >= 0:
		return fmt.Errorf("has the character U+0000")
	}
	return nil
}

// packetID reads a packet identifier, which is never zero (section 2.3.1).
func (d *decoder) packetID() uint16 {
	id := d.uint16("the packet identifier")
	if id == 0 {
		d.fail("its packet identifier is 0")
	}
	return id
}

// The flags of a CONNECT (section 3.1.2.3).
const (
	flagReserved     = 0x01
	flagCleanSession = 0x02
	flagWill         = 0x04
	flagWillQoS      = 0x18
	flagWillRetain   = 0x20
	flagPassword     = 0x40
	flagUsername     = 0x80
)

func (d *decoder) connect() *Connect {
	name := d.text("the protocol name")
	c := &Connect{Level: d.byte("the protocol level")}
	switch {
	case d.err != nil:
		return c
	case name != "MQTT" && name != "MQIsdp":
		d.fail("the protocol is %.20q", name)
		return c
	case c.Level != protocolLevel(name):
		d.left = nil // who knows what it means there
		return c
	}
	flags := d.byte("its flags")
	switch {
	case flags&flagReserved != 0:
		d.fail("its reserved flag is set")
	case flags&flagWill == 0 && flags&(flagWillQoS|flagWillRetain) != 0:
		d.fail("it has flags for a will and no will")
	case flags&flagWillQoS == flagWillQoS:
		d.fail("the QoS of its will is 3")
	case flags&flagUsername == 0 && flags&flagPassword != 0:
		d.fail("it has a password and no user name")
	}
	c.CleanSession = flags&flagCleanSession != 0
	c.KeepAlive = d.uint16("the keep-alive")
	c.ClientID = d.text("the client identifier")
	if flags&flagWill != 0 {
		c.Will = &Will{
			Topic: d.text("the topic of its will"), Payload: d.binary("the payload of its will"),
			QoS: flags & flagWillQoS >> 3, Retain: flags&flagWillRetain != 0,
		}
		if err := checkTopic(c.Will.Topic); err != nil {
			d.fail("the topic of its will %v", err)
		}
	}
	if flags&flagUsername != 0 {
		username := d.text("the user name")
		c.Username = &username
	}
	if flags&flagPassword != 0 {
		c.Password = d.binary("the password")
	}
	return c
}

// protocolLevel is the level that belongs to a protocol name.
func protocolLevel(name string) byte {
	if name == "MQIsdp" {
		return 3
	}
	return 4
}

func (d *decoder) connack() *Connack {
	flags, code := d.byte("its flags"), ReturnCode(d.byte("the return code"))
	switch {
	case flags > 1:
		d.fail("its acknowledge flags are %#x", flags)
	case flags == 1 && code != Accepted:
		d.fail("a session is present and the connection refused")
	}
	return &Connack{flags == 1, code}
}

func (d *decoder) publish(flags byte) *Publish {
	p := &Publish{Dup: flags&0x08 != 0, QoS: flags >> 1 & 3, Retain: flags&1 != 0}
	switch {
	case p.QoS == 3:
		d.fail("its QoS is 3")
	case p.QoS == 0 && p.Dup:
		d.fail("it is a duplicate of QoS 0")
	}
	p.Topic = d.text("the topic")
	if err := checkTopic(p.Topic); err != nil {
		d.fail("the topic %v", err)
	}
	if p.QoS > 0 {
		p.ID = d.packetID()
	}
	p.Payload, d.left = d.left, nil
	return p
}

// checkTopic says what is wrong with a topic name (section 4.7.3).
func checkTopic(topic string) error {
	if topic == "" {
		return fmt.Errorf("is empty")
	}
	if strings.ContainsAny(topic, "#+") {
		return fmt.Errorf("has a wildcard")
	}
	return nil
}

// checkFilter says what is wrong with a topic filter (sections 4.7.1 and 4.7.3).
func checkFilter(filter string) error {
	if filter == "" {
		return fmt.Errorf("is empty")
	}
	for rest := filter; ; {
		level, after, more := strings.Cut(rest, "/")
		switch {
		case len(level) > 1 && strings.ContainsAny(level, "#+"):
			return fmt.Errorf("has a wildcard that is not a whole level")
		case level == "#" && more:
			return fmt.Errorf("goes on after #")
		case !more:
			return nil
		}
		rest = after
	}
}

func (d *decoder) subscribe() *Subscribe {
	s := &Subscribe{ID: d.packetID()}
	for d.err == nil && (len(d.left) > 0 || s.Subscriptions == nil) {
		filter := d.filter()
		qos := d.byte("the QoS of a topic filter")
		if qos > 2 {
			d.fail("the QoS of a topic filter is %d", qos)
		}
		s.Subscriptions = append(s.Subscriptions, Subscription{filter, qos})
	}
	return s
}

func (d *decoder) filter() string {
	filter := d.text("a topic filter")
	if d.err == nil {
		if err := checkFilter(filter); err != nil {
			d.fail("a topic filter %v", err)
		}
	}
	return filter
}

func (d *decoder) suback() *Suback {
	s := &Suback{ID: d.packetID()}
	s.Codes, d.left = d.left, nil
	if len(s.Codes) == 0 {
		d.fail("it answers no topic filter")
	}
	for _, code := range s.Codes {
		if code > 2 && code != SubscriptionFailed {
			d.fail("its return code is %#x", code)
		}
	}
	return s
}

func (d *decoder) unsubscribe() *Unsubscribe {
	u := &Unsubscribe{ID: d.packetID()}
	for d.err == nil && (len(d.left) > 0 || u.Filters == nil) {
		u.Filters = append(u.Filters, d.filter())
	}
	return u
}
