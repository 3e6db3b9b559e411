package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/wire/mqtt"
)

var limits = Limits{Packet: 1024, Window: 4, WindowBytes: 1500, Pending: 2048, Connect: 10 * time.Second, Write: 30 * time.Second, Silence: 1767 * time.Second}

// A peer is a client without manners of its own, and the session that serves it.
type peer struct {
	*testing.T
	net.Conn
	r     *reader
	ended chan error // why Serve returned

	conn     *Conn
	story    []string // what the session was called with
	accept   []func() // of the messages that wait to be accepted
	hold     bool     // keep them waiting
	answer   string   // is sent to who subscribes or publishes
	fail     error    // of Publish
	will     *mqtt.Will
	sessions int
}

func (p *peer) Publish(_ context.Context, m *mqtt.Publish, accepted func()) error {
	p.story = append(p.story, fmt.Sprintf("%s=%s", m.Topic, m.Payload))
	if p.hold {
		p.accept = append(p.accept, accepted)
		return p.fail
	}
	accepted()
	p.reply("published")
	return p.fail
}

func (p *peer) reply(to string) {
	if p.answer != "" {
		if err := p.conn.Send(p.answer, []byte(to), nil); err != nil {
			p.Error(err)
		}
	}
}

func (p *peer) Subscribe(_ context.Context, s mqtt.Subscription) byte {
	p.story = append(p.story, fmt.Sprintf("+%s/%d", s.Filter, s.QoS))
	if strings.HasPrefix(s.Filter, "no") {
		return mqtt.SubscriptionFailed
	}
	return min(s.QoS, 1)
}

func (p *peer) Subscribed(context.Context)              { p.reply("subscribed") }
func (p *peer) Unsubscribe(_ context.Context, f string) { p.story = append(p.story, "-"+f) }
func (p *peer) Ended(will *mqtt.Will, why error) {
	p.will = will
	p.sessions++
	p.story = append(p.story, "ended: "+why.Error())
}
func (p *peer) greet(_ context.Context, c *Conn, m *mqtt.Connect) (Session, mqtt.ReturnCode, error) {
	p.conn = c
	if m.ClientID == "stranger" {
		return nil, mqtt.NotAuthorized, errors.New("a stranger")
	}
	if m.ClientID == "awaited" {
		p.reply("greeted")
	}
	return p, mqtt.Accepted, nil
}

// meet runs f with a connection in a bubble.
func meet(t *testing.T, f func(p *peer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		p := &peer{T: t, Conn: client, r: &reader{raw: client, limit: 1 << 20}, ended: make(chan error, 1)}
		go func() { p.ended <- Serve(t.Context(), server, limits, p.greet) }()
		f(p)
		client.Close()
		synctest.Wait()
	})
}

func (p *peer) send(packets ...mqtt.Packet) {
	p.Helper()
	p.sendBytes(p.bytes(packets...))
}

func (p *peer) bytes(packets ...mqtt.Packet) (b []byte) {
	p.Helper()
	for _, packet := range packets {
		var err error
		if b, err = packet.Append(b); err != nil {
			p.Fatal(err)
		}
	}
	return b
}

func (p *peer) sendBytes(b []byte) {
	p.Helper()
	if err := p.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		p.Fatal(err)
	}
	if _, err := p.Write(b); err != nil {
		p.Fatal(err)
	}
}

func (p *peer) hears(want ...mqtt.Packet) {
	p.Helper()
	for _, w := range want {
		got, err := p.r.packet()
		if err != nil || !reflect.DeepEqual(got, w) {
			p.Fatalf("heard %#v (%v), want %#v", got, err, w)
		}
	}
}

// hungUp wants the connection closed, and why.
func (p *peer) hungUp(why string) {
	p.Helper()
	if got, err := p.r.packet(); err == nil {
		p.Errorf("heard %#v, want the end", got)
	}
	if err := <-p.ended; err == nil || !strings.HasPrefix(err.Error(), why) {
		p.Errorf("it ended with: %v, want: %s", err, why)
	}
}

func (p *peer) connect(c mqtt.Connect) {
	p.Helper()
	c.Level, c.ClientID = 4, "d1"
	p.send(&c)
	p.hears(&mqtt.Connack{})
}

func text(s string) *string { return &s }

func TestConversation(t *testing.T) {
	meet(t, func(p *peer) {
		p.connect(mqtt.Connect{Username: text("u"), Password: []byte("p"), Will: &mqtt.Will{Topic: "w"}})
		p.send(&mqtt.Pingreq{})
		p.hears(&mqtt.Pingresp{})
		p.send(&mqtt.Subscribe{ID: 7, Subscriptions: []mqtt.Subscription{{Filter: "a/#", QoS: 2}, {Filter: "no", QoS: 1}, {Filter: "b", QoS: 0}}})
		p.hears(&mqtt.Suback{ID: 7, Codes: []byte{1, mqtt.SubscriptionFailed, 0}})
		p.send(&mqtt.Publish{Topic: "t", Payload: []byte("zero")}, &mqtt.Publish{QoS: 1, ID: 9, Topic: "t", Payload: []byte("one")})
		p.hears(&mqtt.Puback{ID: 9})
		p.send(&mqtt.Unsubscribe{ID: 8, Filters: []string{"a/#", "b"}})
		p.hears(&mqtt.Unsuback{ID: 8})
		p.send(&mqtt.Disconnect{})
		p.hungUp("the client disconnected")
		want := "+a/#/2 +no/1 +b/0 t=zero t=one -a/# -b ended: the client disconnected"
		if got := strings.Join(p.story, " "); got != want || p.will != nil {
			t.Errorf("\ngot  %s, will %v\nwant %s", got, p.will, want)
		}
	})
}

// What a session sends because of a packet comes behind the answer to it: one
// client takes nothing else.
func TestAnswersComeFirst(t *testing.T) {
	meet(t, func(p *peer) {
		p.answer = "res"
		p.connect(mqtt.Connect{})
		p.send(&mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: "res"}}})
		p.hears(&mqtt.Suback{ID: 1, Codes: []byte{0}}, &mqtt.Publish{Topic: "res", Payload: []byte("subscribed")})
		p.send(&mqtt.Publish{QoS: 1, ID: 2, Topic: "t"})
		p.hears(&mqtt.Puback{ID: 2}, &mqtt.Publish{Topic: "res", Payload: []byte("published")})
	})
}

// What a session sends before it is granted arrives behind the answer to that.
func TestTheWelcomeComesFirst(t *testing.T) {
	meet(t, func(p *peer) {
		p.answer = "news"
		p.send(&mqtt.Connect{Level: 4, ClientID: "awaited", CleanSession: true})
		p.hears(&mqtt.Connack{}, &mqtt.Publish{Topic: "news", Payload: []byte("greeted")})
		p.send(&mqtt.Pingreq{})
		p.hears(&mqtt.Pingresp{})
	})
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name    string
		connect mqtt.Connect
		code    mqtt.ReturnCode
		why     string
	}{
		{"a stranger", mqtt.Connect{Level: 4, ClientID: "stranger"}, mqtt.NotAuthorized, "a stranger"},
		{"no name and a session", mqtt.Connect{Level: 4}, mqtt.IdentifierRejected, "a client without an identifier"},
	} {
		t.Run(c.name, func(t *testing.T) {
			meet(t, func(p *peer) {
				p.send(&c.connect)
				p.hears(&mqtt.Connack{Code: c.code})
				p.hungUp(c.why)
				if p.sessions != 0 {
					t.Error("there was a session")
				}
			})
		})
	}
	t.Run("MQTT 5", func(t *testing.T) {
		meet(t, func(p *peer) {
			p.sendBytes([]byte("\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02d1"))
			p.hears(&mqtt.Connack{Code: mqtt.UnacceptableProtocolVersion})
			p.hungUp("the protocol level is 5")
		})
	})
	t.Run("no name", func(t *testing.T) {
		meet(t, func(p *peer) {
			p.send(&mqtt.Connect{Level: 3, CleanSession: true})
			p.hears(&mqtt.Connack{})
		})
	})
}

func TestBreaches(t *testing.T) {
	publish := func(p mqtt.Publish) []byte {
		b, err := p.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	connect, err := (&mqtt.Connect{Level: 4, ClientID: "d1"}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		bytes []byte
		why   string
	}{
		{"a second CONNECT", connect, "a second CONNECT"},
		{"QoS 2", publish(mqtt.Publish{QoS: 2, ID: 1, Topic: "t"}), "a message of QoS 2"},
		{"a server's packet", []byte{0x20, 2, 0, 0}, "a client does not send *mqtt.Connack"},
		{"PUBREL", []byte{0x62, 2, 0, 1}, "PUBREL is not spoken here"},
		{"malformed", []byte{0x30, 2, 0, 9}, "PUBLISH: it ends within the topic"},
		{"a length of five bytes", []byte{0x30, 255, 255, 255, 255, 1}, "the remaining length has more than four bytes"},
		{"too large", []byte{0x30, 0xfe, 7}, "a packet of 1025 bytes; 1024 are allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			meet(t, func(p *peer) {
				p.connect(mqtt.Connect{Will: &mqtt.Will{Topic: "w"}})
				p.sendBytes(c.bytes)
				p.hungUp(c.why)
				if p.will == nil || p.sessions != 1 {
					t.Errorf("will %v of %d sessions", p.will, p.sessions)
				}
			})
		})
	}
	t.Run("no CONNECT", func(t *testing.T) {
		meet(t, func(p *peer) {
			p.send(&mqtt.Pingreq{})
			p.hungUp("the first packet is not a CONNECT")
		})
	})
	t.Run("an error of the session", func(t *testing.T) {
		meet(t, func(p *peer) {
			p.fail, p.hold = errors.New("another device's topic"), true
			p.connect(mqtt.Connect{})
			p.send(&mqtt.Publish{QoS: 1, ID: 1, Topic: "t"})
			p.hungUp("another device's topic")
		})
	})
	t.Run("hung up within a packet", func(t *testing.T) {
		meet(t, func(p *peer) {
			p.connect(mqtt.Connect{})
			p.sendBytes([]byte{0x30, 0x80, 1, 0, 1, 't'})
			p.Close()
			p.hungUp(io.ErrUnexpectedEOF.Error())
		})
	})
}

func TestSilence(t *testing.T) {
	for _, c := range []struct {
		keepAlive uint16
		after     time.Duration
	}{{10, 15 * time.Second}, {1, 1500 * time.Millisecond}, {0, limits.Silence}, {65535, limits.Silence}} {
		meet(t, func(p *peer) {
			p.connect(mqtt.Connect{KeepAlive: c.keepAlive})
			<-time.After(c.after - time.Millisecond) // of the bubble's clock
			p.send(&mqtt.Pingreq{})
			p.hears(&mqtt.Pingresp{})
			began := time.Now()
			p.hungUp(ErrSilent.Error())
			if took := time.Since(began); took != c.after {
				t.Errorf("keep-alive %d: hung up after %v, want %v", c.keepAlive, took, c.after)
			}
		})
	}
	t.Run("no CONNECT", func(t *testing.T) {
		meet(t, func(p *peer) {
			began := time.Now()
			p.sendBytes([]byte{0x10})
			p.hungUp("waiting for a CONNECT")
			if took := time.Since(began); took != limits.Connect {
				t.Errorf("hung up after %v", took)
			}
		})
	})
}

// Nor are they while those there are have as many bytes as may be, whatever their
// QoS.
func TestBackPressureOfBytes(t *testing.T) {
	meet(t, func(p *peer) {
		p.hold = true
		p.connect(mqtt.Connect{})
		large := make([]byte, 900)
		sent := p.bytes(&mqtt.Publish{QoS: 1, ID: 1, Topic: "t", Payload: large}, &mqtt.Publish{Topic: "t", Payload: large},
			&mqtt.Publish{QoS: 1, ID: 2, Topic: "t"}, &mqtt.Publish{QoS: 1, ID: 3, Topic: "t"})
		go func() {
			if _, err := p.Write(sent); err != nil {
				p.Error(err)
			}
		}()
		synctest.Wait()
		if len(p.accept) != 2 {
			t.Fatalf("%d messages are under way, want two of 900 bytes", len(p.accept))
		}
		p.accept[1]() // of QoS 0, which nobody hears of
		synctest.Wait()
		if len(p.accept) != 4 {
			t.Errorf("%d messages came, want the other two", len(p.accept))
		}
		p.accept[0]()
		p.hears(&mqtt.Puback{ID: 1})
	})
}

// While a window of messages is not safe, no more are read.
func TestBackPressure(t *testing.T) {
	meet(t, func(p *peer) {
		p.hold = true
		p.connect(mqtt.Connect{})
		for i := range uint16(limits.Window) {
			p.send(&mqtt.Publish{QoS: 1, ID: i + 1, Topic: "t"})
		}
		more := make(chan struct{})
		go func() {
			defer close(more)
			p.send(&mqtt.Publish{QoS: 1, ID: 5, Topic: "t"}, &mqtt.Publish{QoS: 1, ID: 6, Topic: "t"})
		}()
		<-more // the pipe took them, the session did not
		synctest.Wait()
		if len(p.accept) != limits.Window {
			t.Fatalf("%d messages are under way, want %d", len(p.accept), limits.Window)
		}
		accepted := p.accept[0]
		accepted()
		accepted() // once is enough
		p.hears(&mqtt.Puback{ID: 1})
		synctest.Wait()
		if len(p.accept) != limits.Window+1 {
			t.Errorf("%d messages came, want one more", len(p.accept))
		}
	})
}

func TestSend(t *testing.T) {
	meet(t, func(p *peer) {
		p.connect(mqtt.Connect{})
		var told []int
		for i := range limits.Window {
			if err := p.conn.Send("c2d", []byte{byte(i)}, func() { told = append(told, i) }); err != nil {
				t.Fatal(err)
			}
			p.hears(&mqtt.Publish{QoS: 1, ID: uint16(i + 1), Topic: "c2d", Payload: []byte{byte(i)}})
		}
		if err := p.conn.Send("c2d", nil, func() {}); !errors.Is(err, ErrFull) {
			t.Errorf("beyond the window: %v", err)
		}
		p.send(&mqtt.Puback{ID: 2}, &mqtt.Puback{ID: 2}, &mqtt.Puback{ID: 99})
		synctest.Wait()
		if fmt.Sprint(told) != "[1]" {
			t.Errorf("acknowledged: %v", told)
		}
		p.conn.lastID = 65535 // identifiers begin anew, and leave out those in use
		if err := p.conn.Send("c2d", nil, func() {}); err != nil {
			t.Fatal(err)
		}
		p.hears(&mqtt.Publish{QoS: 1, ID: 2, Topic: "c2d", Payload: []byte{}})
		if err := p.conn.Send("a/#", nil, nil); err == nil {
			t.Error("sent to a wildcard")
		}
		p.conn.Close(errors.New("taken over"))
		p.hungUp("taken over")
		if err := p.conn.Send("c2d", nil, nil); err == nil || err.Error() != "taken over" {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestSlowReaders(t *testing.T) {
	t.Run("too much waits", func(t *testing.T) {
		meet(t, func(p *peer) {
			p.connect(mqtt.Connect{})
			var err error
			for range 10 {
				if err = p.conn.Send("t", make([]byte, 1000), nil); err != nil {
					break
				}
			}
			if !errors.Is(err, ErrSlow) {
				t.Error(err)
			}
			if err := <-p.ended; !errors.Is(err, ErrSlow) {
				t.Error(err)
			}
		})
	})
	t.Run("for too long", func(t *testing.T) {
		meet(t, func(p *peer) {
			p.connect(mqtt.Connect{})
			began := time.Now()
			if err := p.conn.Send("t", nil, nil); err != nil {
				t.Fatal(err)
			}
			if err := <-p.ended; !errors.Is(err, ErrSlow) || time.Since(began) != limits.Write {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
	})
}

func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		p := &peer{T: t, Conn: client, r: &reader{raw: client, limit: 1 << 20}, ended: make(chan error, 1)}
		ctx, stop := context.WithCancelCause(t.Context())
		go func() { p.ended <- Serve(ctx, server, limits, p.greet) }()
		p.connect(mqtt.Connect{})
		stop(errors.New("the server stops"))
		p.hungUp("the server stops")
	})
}

// Packets arrive in any pieces.
func TestPieces(t *testing.T) {
	var b []byte
	var err error
	packets := []mqtt.Packet{
		&mqtt.Connect{Level: 4, ClientID: "d1"}, &mqtt.Publish{QoS: 1, ID: 1, Topic: "t", Payload: make([]byte, 900)},
		&mqtt.Pingreq{}, &mqtt.Publish{Topic: strings.Repeat("t", 60), Payload: []byte{}}, &mqtt.Publish{Topic: strings.Repeat("t", 61), Payload: []byte{}}, &mqtt.Disconnect{},
	}
	for _, p := range packets {
		if b, err = p.Append(b); err != nil {
			t.Fatal(err)
		}
	}
	for _, piece := range []int{1, 2, 3, 7, 63, 64, 65, 1 << 20} {
		r := &reader{raw: &pieces{b, piece}, limit: 1024}
		for i, want := range packets {
			got, err := r.packet()
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("pieces of %d: packet %d: %#v, %v", piece, i, got, err)
			}
		}
		if _, err := r.packet(); !errors.Is(err, io.EOF) {
			t.Errorf("pieces of %d: %v at the end", piece, err)
		}
	}
}

// pieces gives out what is left in pieces of a size.
type pieces struct {
	left []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.left)
	p.left = p.left[n:]
	return n, nil
}

// No bytes of a client crash the server.
func FuzzServe(f *testing.F) {
	f.Add([]byte("\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02d1\xc0\x00\x82\x06\x00\x01\x00\x01a\x01\x32\x05\x00\x01a\x00\x02\xe0\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		client, server := net.Pipe()
		go func() {
			_, _ = io.Copy(io.Discard, client)
		}()
		go func() {
			_, _ = client.Write(b)
			client.Close()
		}()
		p := &peer{T: t}
		if err := Serve(t.Context(), server, limits, p.greet); err == nil {
			t.Error("it ended for no reason")
		}
	})
}
