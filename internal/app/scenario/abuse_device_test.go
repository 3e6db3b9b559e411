package scenario

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/wire/hubtopic"
	"github.com/berth-iot/berth/wire/mqtt"
	"github.com/berth-iot/berth/wire/sas"
)

// enter connects a device that is at home, from where the strangers are: it is
// let in, and means harm.
func (s *siege) enter(u *unit) (*mqttClient, error) {
	c, err := s.shakeMQTT()
	if err != nil {
		return nil, err
	}
	username := hubHost + "/" + u.id + "/?api-version=2021-04-12"
	password := sas.Sign(u.key.Bytes(), sas.HubDeviceResource(hubHost, u.id), time.Now().Add(time.Hour), "")
	m := &mqttClient{Conn: c}
	if err := m.send(&mqtt.Connect{Level: 4, ClientID: u.id, CleanSession: true, Username: &username, Password: []byte(password)}); err != nil {
		c.Close()
		return nil, err
	}
	p, err := m.hear()
	if answer, ok := p.(*mqtt.Connack); err == nil && (!ok || answer.Code != mqtt.Accepted) {
		err = fmt.Errorf("a CONNECT was answered with %#v", p)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return m, nil
}

// settled is a device that is at home.
func (s *siege) settled(name string) *unit {
	s.t.Helper()
	u := s.unit("key", name)
	if err := s.provision(u); err != nil {
		s.t.Fatal(err)
	}
	return u
}

func (s *siege) entered(u *unit) *mqttClient {
	s.t.Helper()
	c, err := s.enter(u)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// insider does all that a device must not, in the name of another one or in its
// own. What ends its connection leaves no trace; what is refused has no effect;
// and the other device hears nothing of it.
func (s *siege) insider() string {
	u, victim := s.settled("0-1"), s.settled("0-2")
	bystander := s.entered(victim)
	defer bystander.Close()
	for _, filter := range []string{hubtopic.CloudToDevice(victim.id), hubtopic.TwinDesired, hubtopic.Methods, hubtopic.TwinResponses} {
		if err := bystander.subscribe(filter); err != nil {
			s.t.Fatal(err)
		}
	}
	endings := s.endings(u.id, victim.id)
	for _, name := range slices.Sorted(maps.Keys(endings)) {
		c := s.entered(u)
		if _, err := io.WriteString(c, endings[name]); err != nil {
			s.t.Fatalf("%s: %v", name, err)
		}
		if p, err := c.hear(); err == nil || timedOut(err) {
			s.t.Errorf("%s: answered with %#v, %v", name, p, err)
		}
		c.Close()
	}
	c := s.entered(u)
	refused := s.refused(c, u.id, victim.id)
	taken := s.harmless(c, u.id)
	c.Close()
	if err := bystander.send(&mqtt.Pingreq{}); err != nil {
		s.t.Error(err)
	}
	if p, err := bystander.hear(); err != nil || !isPingresp(p) {
		s.t.Errorf("the other device hears %#v, %v", p, err)
	}
	s.checkTaken(u.id, taken)
	return fmt.Sprintf("%d kinds of packets, each the end of its connection; %d filters refused with 0x80; nothing of it is heard by others or kept", len(endings), refused)
}

func isPingresp(p mqtt.Packet) bool { _, ok := p.(*mqtt.Pingresp); return ok }

// endings are packets that end the connection.
func (s *siege) endings(own, other string) map[string]string {
	publish := func(topic string, size int) string {
		s.t.Helper()
		b, err := (&mqtt.Publish{QoS: 1, ID: 1, Topic: topic, Payload: make([]byte, size)}).Append(nil)
		if err != nil {
			s.t.Fatal(err)
		}
		return string(b)
	}
	raw := func(topic string) string { // which need not be one
		n := len(topic)
		return "\x30" + string([]byte{byte(n + 2), 0, byte(n)}) + topic
	}
	events := func(id string) string { return hubtopic.Events(id, nil) }
	return map[string]string{
		"a message of 256 KiB and a byte":      publish(events(own), 256<<10+1),
		"a message too large by its topic":     publish(hubtopic.Events(own, map[string]string{"p": strings.Repeat("x", 60<<10)}), 200<<10),
		"a packet that is longer than any":     "\x30\x80\x80\x80\x10",
		"another device's telemetry":           publish(events(other), 1),
		"another device's module":              publish("devices/"+other+"/modules/m/messages/events/", 1),
		"a device that has a slash":            publish("devices/"+own+"/"+other+"/messages/events/", 1),
		"a message to itself":                  publish("devices/"+own+"/messages/devicebound/", 1),
		"a message to another device":          publish("devices/"+other+"/messages/devicebound/", 1),
		"desired properties":                   publish("$iothub/twin/PATCH/properties/desired/?$rid=1", 2),
		"the answer to a question for a twin":  publish("$iothub/twin/res/200/?$rid=1", 2),
		"the call of a method":                 publish("$iothub/methods/POST/reboot/?$rid=1", 2),
		"a question without an ID":             publish("$iothub/twin/GET/", 0),
		"a version that is none":               publish("$iothub/twin/PATCH/properties/reported/?$rid=1&$version=x", 2),
		"a registration":                       publish("$dps/registrations/PUT/iotdps-register/?$rid=1", 2),
		"a topic of nobody":                    publish("a/b", 1),
		"a topic with a wildcard":              raw("devices/+/messages/events/"),
		"a topic that is no text":              raw("devices/\xff/messages/events/"),
		"a topic with a NUL":                   raw("devices/" + own + "/messages/events/a=\x00"),
		"a bag with half an escape":            publish(events(own)+"a=%4", 1),
		"a bag with an escape of no digits":    publish(events(own)+"%zz=1", 1),
		"a message of QoS 2":                   "\x34\x07\x00\x01x\x00\x01yz",
		"a message of QoS 3":                   "\x36\x07\x00\x01x\x00\x01yz",
		"a message of QoS 1 without an ID":     "\x32\x05\x00\x01x\x00\x00",
		"a message of QoS 0 that is repeated":  "\x38\x05\x00\x01xyz",
		"half a handshake of QoS 2":            "\x62\x02\x00\x01",
		"an acknowledgement of a subscription": "\x90\x03\x00\x01\x00",
		"a second CONNECT":                     string(s.greeting(true)),
		"a subscription to nothing":            "\x82\x02\x00\x01",
		"a subscription to half a level":       "\x82\x07\x00\x01\x00\x02a#\x00",
		"a subscription of QoS 3":              "\x82\x06\x00\x01\x00\x01a\x03",
	}
}

// refused subscribes to what is not the device's.
func (s *siege) refused(c *mqttClient, own, other string) int {
	filters := []string{
		"#", "+/#", "devices/#", "devices/+/messages/devicebound/#", "devices/" + other + "/messages/devicebound/#", "devices/" + own + "/messages/events/#",
		"devices/" + own + "/#", "$iothub/#", "$iothub/twin/#", "$iothub/twin/PATCH/properties/reported/#", "$iothub/methods/res/#", "$SYS/#", "$dps/registrations/res/#", "$share/g/#",
	}
	p := &mqtt.Subscribe{ID: 9}
	for i := range 2000 { // each of them many times over
		p.Subscriptions = append(p.Subscriptions, mqtt.Subscription{Filter: filters[i%len(filters)], QoS: 1})
	}
	if err := c.send(p); err != nil {
		s.t.Fatal(err)
	}
	answer, err := c.hear()
	if granted, ok := answer.(*mqtt.Suback); err != nil || !ok || !bytes.Equal(granted.Codes, bytes.Repeat([]byte{mqtt.SubscriptionFailed}, 2000)) {
		s.t.Errorf("the subscriptions are answered with %#v, %v", answer, err)
	}
	return len(filters)
}

// harmless does what is taken although it looks odd, and returns how many
// messages of it the hub is to keep.
func (s *siege) harmless(c *mqttClient, own string) (kept int) {
	if err := c.send(&mqtt.Subscribe{ID: 10, Subscriptions: []mqtt.Subscription{{Filter: hubtopic.CloudToDevice(own), QoS: 2}, {Filter: hubtopic.TwinResponses}}}); err != nil {
		s.t.Fatal(err)
	}
	if p, err := c.hear(); err != nil || !bytes.Equal(p.(*mqtt.Suback).Codes, []byte{1, 0}) {
		s.t.Errorf("a subscription of QoS 2 is answered with %#v, %v", p, err)
	}
	many := map[string]string{}
	for i := range 3000 {
		many[fmt.Sprint("name", i)] = fmt.Sprint("value", i)
	}
	for name, p := range map[string]*mqtt.Publish{
		"retained":          {Topic: hubtopic.Events(own, nil), Retain: true},
		"3,000 properties":  {Topic: hubtopic.Events(own, many)},
		"a bag of nothing":  {Topic: hubtopic.Events(own, nil) + "&&=&=&a&&"},
		"256 KiB":           {Topic: hubtopic.Events(own, nil), Payload: make([]byte, 256<<10)},
		"nothing":           {Topic: hubtopic.Events(own, nil)},
		"nobody asked":      {Topic: "$iothub/methods/res/200/?$rid=77", Payload: []byte("{")},
		"a status of ours":  {Topic: "$iothub/methods/res/-1/?$rid=77"},
		"reported, no JSON": {Topic: hubtopic.PatchReported("1", nil), Payload: []byte("{")},
		"reported, deep":    {Topic: hubtopic.PatchReported("1", nil), Payload: []byte(strings.Repeat(`{"a":`, 50_000))},
		"reported, large":   {Topic: hubtopic.PatchReported("1", nil), Payload: []byte(`{"a":"` + strings.Repeat("x", 200<<10) + `"}`)},
		"a long request ID": {Topic: hubtopic.GetTwin(strings.Repeat("1", 60_000))},
	} {
		p.QoS, p.ID = 1, 11
		if err := c.send(p); err != nil {
			s.t.Fatal(err)
		}
		question := strings.HasPrefix(p.Topic, "$iothub/twin")
		if strings.HasPrefix(p.Topic, "devices/") {
			kept++
		}
		for answers := 0; ; answers++ {
			heard, err := c.hear()
			if err != nil {
				s.t.Fatalf("%s: %v", name, err)
			}
			if answer, ok := heard.(*mqtt.Publish); ok && strings.HasPrefix(name, "reported") && !strings.HasPrefix(answer.Topic, "$iothub/twin/res/4") {
				s.t.Errorf("%s: answered on %.60s", name, answer.Topic)
			}
			if !question || answers == 1 {
				break
			}
		}
	}
	return kept
}

// checkTaken wants the hub to have kept these messages, of this device alone, and
// that which was to be retained as one of many.
func (s *siege) checkTaken(id string, want int) {
	s.t.Helper()
	owner, err := os.ReadFile(filepath.Join(s.world.data, app.ServiceConnectionFile))
	if err != nil {
		s.t.Fatal(err)
	}
	operator, err := admin.New(string(owner), client.HTTP{RootCAs: s.world.roots, Transport: &http.Transport{DialContext: s.dial}})
	if err != nil {
		s.t.Fatal(err)
	}
	kept, retained := 0, 0
	for m, err := range operator.Messages(s.t.Context(), hubHost, admin.Selection{}) {
		if err != nil {
			s.t.Fatal(err)
		}
		if kept++; string(m.DeviceID) != id {
			s.t.Errorf("there is a message of %s", m.DeviceID)
		}
		if m.Properties["mqtt-retain"] == "true" {
			retained++
		}
	}
	if kept != want || retained != 1 {
		s.t.Errorf("%d messages are kept, %d of them to be retained; want %d", kept, retained, want)
	}
}

// fightFor connects as one device from many places at the same time: each ends
// the connection before it.
func (s *siege) fightFor(d time.Duration) string {
	u := s.settled("0-1")
	var let, busy atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for range 8 {
		wg.Go(func() {
			for time.Now().Before(end) {
				c, err := s.enter(u)
				if err != nil {
					busy.Add(1)
					continue
				}
				let.Add(1)
				defer c.Close() // the server does, before
			}
		})
	}
	wg.Wait()
	return fmt.Sprintf("%d connections in %v, each the end of the one before; %d ended before they were answered", let.Load(), d, busy.Load())
}

// sendFor has devices send without end, and read no acknowledgement, while an
// honest one sends, too.
func (s *siege) sendFor(d time.Duration) string {
	var sent atomic.Int64
	var wg sync.WaitGroup
	honest := s.settled("3-1")
	bystander := s.entered(honest)
	defer bystander.Close()
	end := time.Now().Add(d)
	for i, size := range []int{0, 64 << 10, 255 << 10} {
		u := s.settled(fmt.Sprintf("%d-1", i))
		message, err := (&mqtt.Publish{QoS: 1, ID: 1, Topic: hubtopic.Events(u.id, nil), Payload: make([]byte, size)}).Append(nil)
		if err != nil {
			s.t.Fatal(err)
		}
		c := s.entered(u)
		defer c.Close()
		wg.Go(func() {
			c.SetDeadline(end)
			for time.Now().Before(end) {
				if _, err := c.Write(message); err != nil {
					return
				}
				sent.Add(int64(len(message)))
			}
		})
	}
	var slowest time.Duration
	acknowledged := 0
	for ; time.Now().Before(end); acknowledged++ {
		began := time.Now()
		if err := bystander.publish(hubtopic.Events(honest.id, nil), []byte("21.5")); err != nil {
			s.t.Fatalf("an honest device: %v", err)
		}
		slowest = max(slowest, time.Since(began))
	}
	wg.Wait()
	if slowest > patience {
		s.t.Errorf("an honest device waited %v for an acknowledgement", slowest)
	}
	return fmt.Sprintf("%d MiB of messages are taken in %v, as fast as they can be kept; an honest device had %d acknowledged, the slowest after %v",
		sent.Load()>>20, d, acknowledged, slowest.Round(time.Millisecond))
}

// hoards has messages and changes sent to it, reads neither and acknowledges
// nothing.
func (s *siege) hoards() string {
	u := s.settled("0-1")
	c := s.entered(u)
	defer c.Close()
	if err := c.subscribe(hubtopic.CloudToDevice(u.id)); err != nil {
		s.t.Fatal(err)
	}
	if err := c.subscribe(hubtopic.TwinDesired); err != nil {
		s.t.Fatal(err)
	}
	message, queued := map[string]any{"bodyBase64": make([]byte, 60<<10)}, 0
	for status := http.StatusOK; ; queued++ {
		if status = s.operate("POST", dpsHost, "/berth/v1/hubs/"+hubHost+"/devices/"+u.id+"/messages", message, nil); status/100 != 2 {
			if status != http.StatusForbidden || queued != 50 {
				s.t.Errorf("message %d to a device that acknowledges none: status %d", queued, status)
			}
			break
		}
	}
	ping, err := (&mqtt.Pingreq{}).Append(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	told := 0
	for began := time.Now(); err == nil; told++ {
		change := map[string]any{"properties": map[string]any{"desired": longTexts(told)}}
		if status := s.operate("PATCH", hubHost, "/twins/"+u.id, change, nil, "If-Match", "*"); status != http.StatusOK {
			s.t.Fatalf("changing the twin: status %d", status)
		}
		if time.Since(began) > time.Minute {
			s.t.Fatalf("a device that reads nothing is still there after %d changes", told)
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		_, err = c.Write(ping) // it stays in touch, too
	}
	return fmt.Sprintf("%d messages wait for it, four of them on the way, and the next is refused; hung up on after %d changes of its twin that it did not read", queued, told)
}

// longTexts are as many as fit into a twin.
func longTexts(n int) map[string]string {
	all := map[string]string{}
	for i := range 7 {
		all[fmt.Sprint("text", i)] = strings.Repeat(string(rune('a'+n%26)), 4000)
	}
	return all
}
