package scenario

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-iot/berth/wire/mqtt"
	"github.com/berth-iot/berth/wire/sas"
)

func (s *siege) dialMQTT() (net.Conn, error) { return dialFrom(strangers, s.server.mqtts) }

func (s *siege) shakeMQTT() (net.Conn, error) {
	c, err := s.dialMQTT()
	if err != nil {
		return nil, err
	}
	return s.secure(c, nil)
}

func (s *siege) halfShakeMQTT() (net.Conn, error) {
	c, err := s.dialMQTT()
	if err == nil {
		_, err = c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}) // the first bytes of a ClientHello of 512
	}
	return c, err
}

// halfConnect announces a CONNECT as long as any packet may be, and sends the
// beginning of it.
func (s *siege) halfConnect() (net.Conn, error) {
	c, err := s.shakeMQTT()
	if err == nil {
		_, err = c.Write([]byte("\x10\x80\x80\x13\x00\x04MQTT\x04\xc2\x00\x3c\x00\x03abc"))
	}
	return c, err
}

// greeting is the CONNECT of a device that makes itself up.
func (s *siege) greeting(hub bool) []byte {
	s.t.Helper()
	username := s.world.scope + "/registrations/stranger/api-version=2019-03-31"
	if hub {
		username = hubHost + "/stranger/?api-version=2021-04-12"
	}
	b, err := (&mqtt.Connect{Level: 4, ClientID: "stranger", CleanSession: true, Username: &username,
		Password: []byte(sas.Sign([]byte("no key of anybody"), hubHost+"/devices/stranger", time.Now().Add(time.Hour), "")),
	}).Append(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// connectFor connects as a device that nobody knows, one time after the other.
func (s *siege) connectFor(d time.Duration) string {
	greeting := s.greeting(true)
	var refused, busy, reset atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for range 8 {
		wg.Go(func() {
			for time.Now().Before(end) {
				c, err := s.shakeMQTT()
				if err != nil {
					reset.Add(1)
					continue
				}
				answer := make([]byte, 4)
				if _, err = c.Write(greeting); err == nil {
					_, err = io.ReadFull(c, answer)
				}
				c.Close()
				switch {
				case err != nil:
					s.t.Errorf("a CONNECT was not answered: %v", err)
				case bytes.Equal(answer, []byte{0x20, 2, 0, byte(mqtt.NotAuthorized)}):
					refused.Add(1)
				case bytes.Equal(answer, []byte{0x20, 2, 0, byte(mqtt.ServerUnavailable)}):
					busy.Add(1)
				default:
					s.t.Errorf("a CONNECT was answered % x", answer)
				}
			}
		})
	}
	wg.Wait()
	return fmt.Sprintf("%d CONNECTs refused in %v, %d told to come later, and %d connections reset", refused.Load(), d, busy.Load(), reset.Load())
}

// packets that are none, or not for here, end the connection, and before a
// CONNECT nothing else is said.
func (s *siege) packets() string {
	greeting := string(s.greeting(false))
	random := mathrand.New(mathrand.NewPCG(uint64(time.Now().UnixNano()), 0))
	noise := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return string(b)
	}
	all := map[string]string{
		"not a CONNECT":             "\xc0\x00",
		"longer than any":           "\x10\xff\xff\xff\x7f",
		"a length of five bytes":    "\x10\xff\xff\xff\xff\xff",
		"a length that is padded":   "\x10\x80\x00",
		"a type that is reserved":   "\xf0\x00",
		"HTTP":                      "GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: " + strings.Repeat("x", 60) + "\r\n\r\n",
		"a CONNECT with more in it": "\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x03abcde",
		"a second CONNECT":          greeting + greeting,
		"QoS 2":                     greeting + "\x34\x06\x00\x01x\x00\x01y",
		"a topic of nobody":         greeting + "\x30\x05\x00\x03a/b",
		"a topic with a wildcard":   greeting + "\x30\x05\x00\x03a/#",
		"a topic that is no text":   greeting + "\x30\x04\x00\x02\xff\xfe",
		"a filter of nothing":       greeting + "\x82\x02\x00\x01",
		"a message too long":        greeting + "\x30\x80\x80\x80\x10",
		"what a server sends":       greeting + "\x20\x02\x00\x00",
		"words of another protocol": greeting + "\x50\x02\x00\x01",
	}
	for i := range 200 {
		all[fmt.Sprintf("noise %d", i)] = string(byte(0x10+random.IntN(0xe0))) + noise(2+random.IntN(200)) + "\xf0\xff\xff\xff\xff\xff"
	}
	for name, bytes := range all {
		c, err := s.shakeMQTT()
		for errors.Is(err, io.EOF) || err != nil && strings.Contains(err.Error(), "reset") { // too fast
			<-time.After(50 * time.Millisecond)
			c, err = s.shakeMQTT()
		}
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := io.WriteString(c, bytes); err != nil {
			s.t.Fatalf("%s: %v", name, err)
		}
		if strings.HasPrefix(name, "noise") { // may announce more than there is
			c.(*tls.Conn).CloseWrite()
		}
		if answer, err := io.ReadAll(c); timedOut(err) {
			s.t.Errorf("%s: the server neither answers nor hangs up; it said % x", name, answer)
		} else if max := len("\x20\x02\x00\x00"); len(answer) > max || len(answer) > 0 && !strings.HasPrefix(bytes, "\x10") {
			s.t.Errorf("%s: the server said % x", name, answer)
		}
		c.Close()
	}
	return fmt.Sprintf("%d of them, each the end of its connection", len(all))
}

// doesNotRead asks for its twin without end, and reads none of it: so it is hung
// up on, when what waits for it is more than may.
func (s *siege) doesNotRead() string {
	u := s.unit("key", "0-1")
	if err := s.provision(u); err != nil {
		s.t.Fatal(err)
	}
	twin := map[string]any{"properties": map[string]any{"desired": map[string]any{"text": strings.Repeat("x", 4000)}}}
	if status := s.operate("PATCH", hubHost, "/twins/"+u.id, twin, nil, "If-Match", "*"); status != http.StatusOK {
		s.t.Fatalf("status %d", status)
	}
	c, err := s.shakeMQTT()
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	username := hubHost + "/" + u.id + "/?api-version=2021-04-12"
	password := sas.Sign(u.key.Bytes(), sas.HubDeviceResource(hubHost, u.id), time.Now().Add(time.Hour), "")
	client := &mqttClient{Conn: c}
	if err := client.send(&mqtt.Connect{Level: 4, ClientID: u.id, CleanSession: true, Username: &username, Password: []byte(password)}); err != nil {
		s.t.Fatal(err)
	}
	if p, err := client.hear(); err != nil || *p.(*mqtt.Connack) != (mqtt.Connack{}) {
		s.t.Fatalf("%#v, %v", p, err)
	}
	if err := client.subscribe("$iothub/twin/res/#"); err != nil {
		s.t.Fatal(err)
	}
	ask, err := (&mqtt.Publish{Topic: "$iothub/twin/GET/?$rid=1"}).Append(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	asked, began := 0, time.Now()
	for ; time.Since(began) < time.Minute; asked++ {
		c.SetWriteDeadline(time.Now().Add(time.Minute))
		if _, err := c.Write(ask); err != nil {
			if asked < 1<<20/4000 {
				s.t.Errorf("a device was hung up on after %d questions", asked)
			}
			return fmt.Sprintf("hung up on after %v, when it had asked %d times", time.Since(began).Round(time.Millisecond), asked)
		}
	}
	s.t.Errorf("a device asked %d times, read nothing, and is still there", asked)
	return "still there"
}
