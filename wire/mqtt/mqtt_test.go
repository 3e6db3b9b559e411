package mqtt

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func text(s string) *string { return &s }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vectors are packets and their bytes, worked out by hand from the
// specification. The first CONNECT is that of its figure 3.6.
var vectors = []struct {
	name   string
	packet Packet
	bytes  string
}{
	{"connect", &Connect{Level: 4, ClientID: "d1", CleanSession: true, KeepAlive: 10,
		Will:     &Will{Topic: "t", Payload: []byte("w"), QoS: 1},
		Username: text("u"), Password: []byte("p")},
		"10 1a 0004 4d515454 04 ce 000a 0002 6431 0001 74 0001 77 0001 75 0001 70"},
	{"connect with nothing", &Connect{Level: 4}, "10 0c 0004 4d515454 04 00 0000 0000"},
	{"connect of 3.1", &Connect{Level: 3, ClientID: "d1", CleanSession: true, KeepAlive: 60}, "10 10 0006 4d5149736470 03 02 003c 0002 6431"},
	{"connect with an empty password", &Connect{Level: 4, ClientID: "d", Username: text(""), Password: []byte{}},
		"10 11 0004 4d515454 04 c0 0000 0001 64 0000 0000"},
	{"connack", &Connack{}, "20 02 00 00"},
	{"connack with a session", &Connack{SessionPresent: true}, "20 02 01 00"},
	{"connack that refuses", &Connack{Code: NotAuthorized}, "20 02 00 05"},
	{"publish of QoS 0", &Publish{Topic: "a/b", Payload: []byte("xy")}, "30 07 0003 612f62 7879"},
	{"publish of QoS 1", &Publish{Dup: true, QoS: 1, Retain: true, Topic: "a", ID: 258, Payload: []byte{}}, "3b 05 0001 61 0102"},
	{"publish of QoS 2", &Publish{QoS: 2, Topic: "a", ID: 1, Payload: []byte{0}}, "34 06 0001 61 0001 00"},
	{"puback", &Puback{ID: 0xffff}, "40 02 ffff"},
	{"subscribe", &Subscribe{ID: 10, Subscriptions: []Subscription{{"a/b", 1}, {"#", 2}, {"+/c/#", 0}}},
		"82 14 000a 0003 612f62 01 0001 23 02 0005 2b2f632f23 00"},
	{"suback", &Suback{ID: 10, Codes: []byte{0, 1, 2, SubscriptionFailed}}, "90 06 000a 00 01 02 80"},
	{"unsubscribe", &Unsubscribe{ID: 2, Filters: []string{"a", "$x/#"}}, "a2 0b 0002 0001 61 0004 24782f23"},
	{"unsuback", &Unsuback{ID: 2}, "b0 02 0002"},
	{"pingreq", &Pingreq{}, "c0 00"},
	{"pingresp", &Pingresp{}, "d0 00"},
	{"disconnect", &Disconnect{}, "e0 00"},
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			want := unhex(t, v.bytes)
			got, err := v.packet.Append([]byte("before"))
			if err != nil || !bytes.Equal(got, append([]byte("before"), want...)) {
				t.Errorf("encoded as %x (%v), want %x", got, err, want)
			}
			first, body, size, err := Next(append(want, "after"...), len(want))
			if err != nil || size != len(want) {
				t.Fatalf("found %d bytes (%v), want %d", size, err, len(want))
			}
			p, err := Decode(first, body)
			if err != nil || !reflect.DeepEqual(p, v.packet) {
				t.Errorf("decoded as %#v (%v), want %#v", p, err, v.packet)
			}
		})
	}
}

// Every packet that is cut short is incomplete as a stream, and malformed when
// its length says that this was all.
func TestTruncated(t *testing.T) {
	for _, v := range vectors {
		whole := unhex(t, v.bytes)
		for n := range whole {
			if _, _, _, err := Next(whole[:n], 1<<20); !errors.Is(err, ErrIncomplete) {
				t.Errorf("%s: the first %d bytes: %v", v.name, n, err)
			}
		}
		body := whole[2:]
		for n := range body {
			p, err := Decode(whole[0], body[:n])
			publish, ok := p.(*Publish)
			if ok && err == nil && len(publish.Payload) < len(body) {
				continue // a shorter payload is a payload
			}
			if s, ok := p.(*Subscribe); ok && err == nil && len(s.Subscriptions) > 0 {
				continue // and so are fewer filters
			}
			if s, ok := p.(*Suback); ok && err == nil && len(s.Codes) > 0 {
				continue
			}
			if s, ok := p.(*Unsubscribe); ok && err == nil && len(s.Filters) > 0 {
				continue
			}
			if malformed, ok := errors.AsType[*MalformedError](err); !ok || p != nil {
				t.Errorf("%s: a body of %d of %d bytes: %v (%v)", v.name, n, len(body), p, malformed)
			}
		}
	}
}

func TestNext(t *testing.T) {
	for _, c := range []struct {
		name, bytes string
		limit       int
		size        int
		fault       string // how the error begins, empty for none
	}{
		{"no byte", "", 10, 0, "the packet is incomplete"},
		{"no length", "30", 10, 0, "the packet is incomplete"},
		{"half a length", "30 80", 10, 0, "the packet is incomplete"},
		{"length of two bytes", "30 8001" + strings.Repeat("00", 128), 131, 131, ""},
		{"missing body", "30 8001 00", 131, 131, "the packet is incomplete"},
		{"largest length", "30 ffffff7f", 1 << 20, 1<<28 + 4, "a packet of 268435460 bytes; 1048576 are allowed"},
		{"too large by one", "30 04 00000000", 5, 6, "a packet of 6 bytes; 5 are allowed"},
		{"length of five bytes", "30 ffffffff7f", 1 << 30, 0, "the remaining length has more than four bytes"},
		{"longer than need be", "30 8200", 10, 0, "the remaining length is not in its shortest form"},
		{"zero in two bytes", "c0 8000", 10, 0, "the remaining length is not in its shortest form"},
	} {
		_, _, size, err := Next(unhex(t, c.bytes), c.limit)
		if size != c.size || (err == nil) != (c.fault == "") || err != nil && !strings.HasPrefix(err.Error(), c.fault) {
			t.Errorf("%s: %d bytes and %v, want %d and %q", c.name, size, err, c.size, c.fault)
		}
	}
}

func TestMalformed(t *testing.T) {
	for _, c := range []struct{ name, bytes, fault string }{
		{"reserved type 0", "00 00", "packet type 0 is not spoken here"},
		{"reserved type 15", "f0 00", "packet type 15 is not spoken here"},
		{"pubrec", "50 02 0001", "PUBREC is not spoken here"},
		{"pubrel", "62 02 0001", "PUBREL is not spoken here"},
		{"flags of a connect", "11 0c 0004 4d515454 04 00 0000 0000", "CONNECT: its flags are 0x1"},
		{"flags of a subscribe", "80 06 0001 0001 61 00", "SUBSCRIBE: its flags are 0x0"},
		{"flags of a pingreq", "c1 00", "PINGREQ: its flags are 0x1"},
		{"pingreq with a body", "c0 01 00", "PINGREQ: 1 bytes are left over"},
		{"another protocol", "10 0c 0004 4d515455 04 00 0000 0000", `CONNECT: the protocol is "MQTU"`},
		{"reserved connect flag", "10 0c 0004 4d515454 04 01 0000 0000", "CONNECT: its reserved flag is set"},
		{"will QoS without a will", "10 0c 0004 4d515454 04 08 0000 0000", "CONNECT: it has flags for a will and no will"},
		{"will retained without a will", "10 0c 0004 4d515454 04 20 0000 0000", "CONNECT: it has flags for a will and no will"},
		{"will of QoS 3", "10 12 0004 4d515454 04 1c 0000 0000 0001 61 0001 62", "CONNECT: the QoS of its will is 3"},
		{"will without a topic", "10 11 0004 4d515454 04 04 0000 0000 0000 0001 62", "CONNECT: the topic of its will is empty"},
		{"password without a user name", "10 0f 0004 4d515454 04 40 0000 0000 0001 61", "CONNECT: it has a password and no user name"},
		{"user name that is not UTF-8", "10 0f 0004 4d515454 04 80 0000 0000 0001 ff", "CONNECT: the user name is not UTF-8"},
		{"client identifier with a zero", "10 0d 0004 4d515454 04 00 0000 0001 00", "CONNECT: the client identifier has the character U+0000"},
		{"surrogate", "10 0f 0004 4d515454 04 00 0000 0003 eda080", "CONNECT: the client identifier is not UTF-8"},
		{"connect with more than it says", "10 0d 0004 4d515454 04 00 0000 0000 00", "CONNECT: 1 bytes are left over"},
		{"connack with flags", "20 02 02 00", "CONNACK: its acknowledge flags are 0x2"},
		{"connack of a refused session", "20 02 01 05", "CONNACK: a session is present and the connection refused"},
		{"publish of QoS 3", "36 05 0001 61 0001", "PUBLISH: its QoS is 3"},
		{"duplicate of QoS 0", "38 03 0001 61", "PUBLISH: it is a duplicate of QoS 0"},
		{"publish without a topic", "30 02 0000", "PUBLISH: the topic is empty"},
		{"publish to many", "30 05 0003 612f23", "PUBLISH: the topic has a wildcard"},
		{"publish without an identifier", "32 05 0001 61 0000", "PUBLISH: its packet identifier is 0"},
		{"puback of nothing", "40 02 0000", "PUBACK: its packet identifier is 0"},
		{"subscribe to nothing", "82 02 0001", "SUBSCRIBE: it ends within a topic filter"},
		{"subscribe to an empty filter", "82 05 0001 0000 00", "SUBSCRIBE: a topic filter is empty"},
		{"subscribe to half a level", "82 07 0001 0002 6123 00", "SUBSCRIBE: a topic filter has a wildcard that is not a whole level"},
		{"subscribe to a plus in a level", "82 07 0001 0002 2b61 00", "SUBSCRIBE: a topic filter has a wildcard that is not a whole level"},
		{"subscribe beyond #", "82 08 0001 0003 232f61 00", "SUBSCRIBE: a topic filter goes on after #"},
		{"subscribe with QoS 3", "82 06 0001 0001 61 03", "SUBSCRIBE: the QoS of a topic filter is 3"},
		{"suback of nothing", "90 02 0001", "SUBACK: it answers no topic filter"},
		{"suback with QoS 3", "90 03 0001 03", "SUBACK: its return code is 0x3"},
		{"unsubscribe from nothing", "a2 02 0001", "UNSUBSCRIBE: it ends within a topic filter"},
	} {
		first, body, _, err := Next(unhex(t, c.bytes), 1<<20)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		p, err := Decode(first, body)
		if _, ok := errors.AsType[*MalformedError](err); !ok || p != nil || !strings.HasPrefix(err.Error(), c.fault) {
			t.Errorf("%s: %#v and %v, want %s", c.name, p, err, c.fault)
		}
	}
}

// A client of another version is to hear which ones there are, so its CONNECT is
// read as far as that.
func TestOtherVersions(t *testing.T) {
	for name, bytes := range map[string]string{
		"MQTT 5":            "10 0f 0004 4d515454 05 02 003c 00 0002 6431",
		"3.1 by a new name": "10 0c 0004 4d515454 03 00 0000 0000",
		"level 0":           "10 07 0004 4d515454 00",
	} {
		first, body, _, err := Next(unhex(t, bytes), 100)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Decode(first, body)
		c, ok := p.(*Connect)
		if err != nil || !ok || c.ClientID != "" || c.CleanSession {
			t.Errorf("%s: %#v, %v", name, p, err)
		}
	}
}

func TestPacketsThatHaveNoBytes(t *testing.T) {
	long := strings.Repeat("a", 1<<16)
	for _, p := range []Packet{
		&Connect{Level: 5},
		&Connect{Level: 4, ClientID: long},
		&Connect{Level: 4, ClientID: "\xff"},
		&Connect{Level: 4, Password: []byte("p")},
		&Connect{Level: 4, Username: text("u"), Password: []byte(long)},
		&Connect{Level: 4, Will: &Will{}},
		&Connect{Level: 4, Will: &Will{Topic: "a", QoS: 3}},
		&Connack{SessionPresent: true, Code: NotAuthorized},
		&Publish{},
		&Publish{Topic: "a/#"},
		&Publish{Topic: "a\x00"},
		&Publish{Topic: long},
		&Publish{Topic: "a", QoS: 3, ID: 1},
		&Publish{Topic: "a", QoS: 1},
		&Publish{Topic: "a", Dup: true},
		&Publish{Topic: "a", Payload: make([]byte, 1<<28)},
		&Puback{}, &Unsuback{},
		&Subscribe{ID: 1},
		&Subscribe{Subscriptions: []Subscription{{"a", 0}}},
		&Subscribe{ID: 1, Subscriptions: []Subscription{{"a", 3}}},
		&Subscribe{ID: 1, Subscriptions: []Subscription{{"#/a", 0}}},
		&Suback{ID: 1}, &Suback{ID: 1, Codes: []byte{3}},
		&Unsubscribe{ID: 1}, &Unsubscribe{ID: 1, Filters: []string{""}},
	} {
		b, err := p.Append([]byte("before"))
		if err == nil || string(b) != "before" {
			t.Errorf("%T became %d bytes", p, len(b))
		}
	}
}

// What decodes encodes to the same bytes, and no bytes crash the decoder.
func FuzzDecode(f *testing.F) {
	for _, v := range vectors {
		f.Add(unhex(f, v.bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		first, body, size, err := Next(b, 1<<16)
		if err != nil {
			return
		}
		if size > len(b) || len(body) >= size {
			t.Fatalf("found %d bytes and a body of %d in %d", size, len(body), len(b))
		}
		p, err := Decode(first, body)
		if err != nil {
			return
		}
		if _, ok := p.(*Connect); ok && !bytes.HasPrefix(body, []byte("\x00\x04MQTT\x04")) && !bytes.HasPrefix(body, []byte("\x00\x06MQIsdp\x03")) {
			return // a version of which no more is read
		}
		again, err := p.Append(nil)
		if err != nil || !bytes.Equal(again, b[:size]) {
			t.Errorf("%x decodes to %#v, which encodes to %x (%v)", b[:size], p, again, err)
		}
	})
}
