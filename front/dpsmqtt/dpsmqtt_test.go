package dpsmqtt

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/errs"
	machine "github.com/berth-iot/berth/front/internal/mqtt"
	"github.com/berth-iot/berth/limit"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/mqtt"
	"github.com/berth-iot/berth/wire/sas"
)

var limits = machine.Limits{Packet: 1 << 17, Window: 4, WindowBytes: 1 << 20, Pending: 1 << 20, Connect: time.Minute, Write: time.Minute, Silence: time.Hour}

// A registrar remembers what it was asked, and answers as it is told.
type registrar struct {
	asked   []provision.Request
	polled  []string
	outcome provision.Outcome
	err     error
}

func (r *registrar) Register(_ context.Context, q provision.Request) (provision.Outcome, error) {
	r.asked = append(r.asked, q)
	return r.outcome, r.err
}

func (r *registrar) OperationStatus(_ context.Context, q provision.Request, operation string) (provision.Outcome, error) {
	r.polled = append(r.polled, operation)
	return r.Register(context.Background(), q)
}

// A client is at one end of a connection to the front.
type client struct {
	*testing.T
	net.Conn
	*registrar
	front *Front
	ended chan error
	rest  []byte
}

func meet(t *testing.T, f func(d *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		d := &client{T: t, Conn: here, registrar: &registrar{}, ended: make(chan error, 1)}
		d.front = New(Config{Registrar: d.registrar, Now: time.Now, Logger: slog.New(slog.DiscardHandler), Random: rand.Reader})
		go func() {
			d.ended <- machine.Serve(t.Context(), there, limits, func(ctx context.Context, c *machine.Conn, m *mqtt.Connect) (machine.Session, mqtt.ReturnCode, error) {
				return d.front.Greet(ctx, c, machine.Peer{Address: "192.0.2.7:4711"}, m)
			})
		}()
		f(d)
		here.Close()
		synctest.Wait()
	})
}

func (d *client) send(packets ...mqtt.Packet) {
	d.Helper()
	for _, p := range packets {
		b, err := p.Append(nil)
		if err != nil {
			d.Fatal(err)
		}
		if _, err := d.Write(b); err != nil {
			d.Fatal(err)
		}
	}
}

func (d *client) hear() mqtt.Packet {
	d.Helper()
	b := make([]byte, 4096)
	for {
		first, body, size, err := mqtt.Next(d.rest, 1<<20)
		if err == nil {
			d.rest = d.rest[size:]
			p, err := mqtt.Decode(first, body)
			if err != nil {
				d.Fatal(err)
			}
			return p
		}
		n, err := d.Read(b)
		if err != nil {
			d.Fatal(err)
		}
		d.rest = append(d.rest, b[:n]...)
	}
}

const username = "0ne00000001/registrations/pump-7/api-version=2019-03-31&ClientVersion=azure%2F1.9"

func (d *client) connect(username, password string) mqtt.ReturnCode {
	d.Helper()
	c := &mqtt.Connect{Level: 4, ClientID: "pump-7", CleanSession: true, Username: &username}
	if password != "" {
		c.Password = []byte(password)
	}
	d.send(c)
	a, ok := d.hear().(*mqtt.Connack)
	if !ok || a.SessionPresent {
		d.Fatalf("heard %#v", a)
	}
	return a.Code
}

// begin connects and subscribes.
func (d *client) begin(qos byte) {
	d.Helper()
	key := []byte("a key of thirty-two bytes, or so")
	if code := d.connect(username, sas.Sign(key, "0ne00000001/registrations/pump-7", time.Now().Add(time.Hour), "registration")); code != mqtt.Accepted {
		d.Fatal(code)
	}
	d.send(&mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: "$dps/registrations/res/#", QoS: qos}, {Filter: "#", QoS: 1}}})
	if a, ok := d.hear().(*mqtt.Suback); !ok || string(a.Codes) != string([]byte{min(qos, 1), mqtt.SubscriptionFailed}) {
		d.Fatalf("heard %#v", a)
	}
}

// call publishes and wants the answer behind its acknowledgement.
func (d *client) call(topic, payload string) (answer *mqtt.Publish) {
	d.Helper()
	d.send(&mqtt.Publish{QoS: 1, ID: 9, Topic: topic, Payload: []byte(payload)})
	if _, ok := d.hear().(*mqtt.Puback); !ok {
		d.Fatal("the answer came before the acknowledgement")
	}
	answer, ok := d.hear().(*mqtt.Publish)
	if !ok {
		d.Fatal("there is no answer")
	}
	return answer
}

func assigned() provision.Outcome {
	return provision.Outcome{Operation: &provision.Operation{ID: "op-1", Registration: provision.Registration{
		ID: "pump-7", Status: provision.Assigned, Substatus: provision.InitialAssignment, Hub: "hub.example", DeviceID: "pump-7",
		Attestation: attest.TypeSymmetricKey, Created: time.Now(), Updated: time.Now(),
	}}}
}

func assigning() provision.Outcome {
	return provision.Outcome{Operation: &provision.Operation{ID: "op-1", RetryAfter: 3 * time.Second,
		Registration: provision.Registration{ID: "pump-7", Status: provision.Assigning}}}
}

const register = "$dps/registrations/PUT/iotdps-register/?$rid="
const poll = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid="

func TestRegistration(t *testing.T) {
	meet(t, func(d *client) {
		d.begin(1)
		d.outcome = assigning()
		a := d.call(register+"8f3c-1", `{"registrationId":"pump-7","payload":{"site":4}}`)
		if a.Topic != "$dps/registrations/res/202/?$rid=8f3c-1&retry-after=3" || a.QoS != 1 || string(a.Payload) != `{"operationId":"op-1","status":"assigning","registrationState":{"registrationId":"pump-7","status":"assigning"}}` {
			t.Errorf("%s (QoS %d) %s", a.Topic, a.QoS, a.Payload)
		}
		q := d.asked[0]
		if q.Scope != "0ne00000001" || q.ID != "pump-7" || q.APIVersion != "2019-03-31" || q.Wire != "mqtt" || q.Remote != "192.0.2.7" ||
			string(q.Payload) != `{"site":4}` || q.Credential.Token == nil || q.Credential.Token.KeyName != "registration" || len(q.TrackingID) != 36 {
			t.Errorf("%+v", q)
		}
		d.outcome = assigned()
		a = d.call(poll+"2&operationId=op-1", " ")
		var body struct {
			Status string
			State  struct{ AssignedHub string } `json:"registrationState"`
		}
		if err := json.Unmarshal(a.Payload, &body); err != nil || a.Topic != "$dps/registrations/res/200/?$rid=2" || body.Status != "assigned" || body.State.AssignedHub != "hub.example" {
			t.Errorf("%s %s (%v)", a.Topic, a.Payload, err)
		}
		if strings.Join(d.polled, " ") != "op-1" {
			t.Errorf("polled %q", d.polled)
		}
	})
}

// An empty register call, the register call repeated as a poll, and answers of
// QoS 0 are ways of some clients.
func TestWaysOfClients(t *testing.T) {
	meet(t, func(d *client) {
		d.begin(0)
		d.outcome = assigned()
		d.send(&mqtt.Publish{Topic: register + "0"})
		if a, ok := d.hear().(*mqtt.Publish); !ok || a.QoS != 0 || a.Topic != "$dps/registrations/res/200/?$rid=0" {
			t.Errorf("%#v", a)
		}
		if a := d.call(strings.ToUpper(poll[:5])+poll[5:]+"1&operationid=4.a%2Fb", `{"registrationId":"pump-7"}`); a.Topic != "$dps/registrations/res/200/?$rid=1" || d.polled[0] != "4.a/b" {
			t.Errorf("%s %q", a.Topic, d.polled)
		}
		d.send(&mqtt.Unsubscribe{ID: 2, Filters: []string{"$dps/registrations/res/#", "other"}}, &mqtt.Publish{QoS: 1, ID: 3, Topic: register + "2"}, &mqtt.Pingreq{})
		for _, want := range []mqtt.Packet{&mqtt.Unsuback{ID: 2}, &mqtt.Puback{ID: 3}, &mqtt.Pingresp{}} {
			if got := d.hear(); !reflect.DeepEqual(got, want) {
				t.Errorf("heard %#v, want %#v", got, want)
			}
		}
	})
}

func TestRefusalsAreTheOnesOfHTTP(t *testing.T) {
	slow := errs.New(errs.Busy, 0, "Slow down")
	slow.RetryAfter = 1500 * time.Millisecond
	for _, c := range []struct {
		name        string
		err         error
		payload     string
		topic, code string
	}{
		{"unauthorized", attest.Unauthorized(), "", "$dps/registrations/res/401/?$rid=1", `"errorCode":401002`},
		{"not enrolled", errs.New(errs.NotFound, errs.CodeEnrollmentNotFound, "Enrollment not found."), "", "$dps/registrations/res/404/?$rid=1", `"errorCode":404201`},
		{"busy", slow, "", "$dps/registrations/res/429/?$rid=1&retry-after=2", `"errorCode":429`},
		{"ours", errors.New("the disk is full"), "", "$dps/registrations/res/500/?$rid=1", `"message":"Internal error"`},
		{"no JSON", nil, "{", "$dps/registrations/res/400/?$rid=1", `"errorCode":400`},
		{"too long", nil, strings.Repeat(" ", 98305), "$dps/registrations/res/413/?$rid=1", `"errorCode":413000`},
		{"another name", nil, `{"registrationId":"pump-8"}`, "$dps/registrations/res/400/?$rid=1", "registrationId: not the one in the path"},
	} {
		t.Run(c.name, func(t *testing.T) {
			meet(t, func(d *client) {
				d.begin(1)
				d.err, d.outcome = c.err, assigned()
				a := d.call(register+"1", c.payload)
				if a.Topic != c.topic || !strings.Contains(string(a.Payload), c.code) || strings.Contains(string(a.Payload), "disk") {
					t.Errorf("%s %s", a.Topic, a.Payload)
				}
			})
		})
	}
}

func TestConnectsThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		username, password string
	}{
		"of a hub":              {"hub.example/pump-7/?api-version=2021-04-12", ""},
		"without a version":     {"0ne00000001/registrations/pump-7/ClientVersion=1", ""},
		"with two versions":     {"0ne00000001/registrations/pump-7/api-version=2019-03-31&api-version=2019-03-31", ""},
		"with another version":  {"0ne00000001/registrations/pump-7/api-version=latest", ""},
		"without a scope":       {"/registrations/pump-7/api-version=2019-03-31", ""},
		"without a name":        {"0ne00000001/registrations//api-version=2019-03-31", ""},
		"with a broken name":    {"0ne00000001/registrations/pump%/api-version=2019-03-31", ""},
		"with another password": {username, "secret"},
	} {
		t.Run(name, func(t *testing.T) {
			meet(t, func(d *client) {
				if code := d.connect(c.username, c.password); code != mqtt.BadUserNameOrPassword {
					t.Error(code)
				}
				if err := <-d.ended; err == nil || strings.Contains(err.Error(), "secret") {
					t.Error(err)
				}
			})
		})
	}
	t.Run("nobody", func(t *testing.T) {
		meet(t, func(d *client) {
			d.send(&mqtt.Connect{Level: 4, ClientID: "pump-7"})
			if a, ok := d.hear().(*mqtt.Connack); !ok || a.Code != mqtt.BadUserNameOrPassword {
				t.Errorf("%#v", a)
			}
		})
	})
}

func TestTopicsThatEndTheConnection(t *testing.T) {
	for _, topic := range []string{
		"devices/pump-7/messages/events/", "$dps/registrations/PUT/iotdps-register/", register, register + "a$b", register + "a/b",
		"$dps/registrations/res/200/?$rid=1", poll + "1&operationId=%zz", "x",
	} {
		meet(t, func(d *client) {
			d.begin(1)
			d.send(&mqtt.Publish{QoS: 1, ID: 1, Topic: topic})
			if _, err := d.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("%s: %v", topic, err)
			}
			if err := <-d.ended; !strings.HasPrefix(err.Error(), "a message for the topic") || len(d.asked) > 0 {
				t.Errorf("%s: %v", topic, err)
			}
		})
	}
}

func TestRateLimits(t *testing.T) {
	rate, err := limit.ParseRate("2/10s")
	if err != nil {
		t.Fatal(err)
	}
	meet(t, func(d *client) {
		d.front.Devices = limit.Always(limit.New(rate))
		d.begin(1)
		d.outcome = assigned()
		d.call(register+"1", "")
		d.call(register+"2", "")
		if a := d.call(register+"3", ""); !strings.HasPrefix(a.Topic, "$dps/registrations/res/429/?$rid=3&retry-after=") || len(d.asked) != 2 {
			t.Errorf("%s after %d calls", a.Topic, len(d.asked))
		}
	})
	meet(t, func(d *client) {
		d.front.Addresses = limit.Always(limit.New(rate))
		d.begin(1)
		d.outcome = assigned()
		d.call(register+"1", "")
		if a := d.call(register+"2", ""); !strings.HasPrefix(a.Topic, "$dps/registrations/res/429/") {
			t.Error(a.Topic)
		}
	})
}

func TestServes(t *testing.T) {
	for username, want := range map[string]bool{
		username: true,
		"0ne00000001/Registrations/a%3Ab/?api-version=2025-07-01-preview": true,
		"0ne00000001/registrations/pump-7/api-version=latest":             true, // to be told what is wrong with it
		"0ne00000001/enrollments/pump-7/api-version=2019-03-31":           false,
		"hub.example/registrations/?api-version=2021-04-12":               false,
		"hub.example/registrations/m/?api-version=2021-04-12":             false, // a module of a device with this name
		"": false,
	} {
		if New(Config{}).Serves(username) != want {
			t.Errorf("%q: %v", username, !want)
		}
	}
}

func FuzzNamesAndTopics(f *testing.F) {
	f.Add(username, register+"1")
	f.Add(username, poll+"1&operationId=2")
	f.Fuzz(func(t *testing.T, username, topic string) {
		if c, err := parseUsername(username); err == nil && (c.scope == "" || c.id == "" || c.version == "") {
			t.Errorf("%q says %+v", username, c)
		}
		c, err := parseTopic(topic)
		if err == nil && (c.rid == "" || strings.ContainsAny(c.rid, "$/")) {
			t.Errorf("%q names %q", topic, c.rid)
		}
	})
}
