// Package hubmqtt speaks the device API of IoT Hub over MQTT 3.1.1: telemetry,
// messages to devices, device twins and direct methods on their fixed topics. It is no broker: devices
// reach the hub and nobody else. It turns packets into calls of the hub and what
// comes back into packets; it decides nothing.
package hubmqtt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	machine "github.com/berth-iot/berth/front/internal/mqtt"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/limit"
	"github.com/berth-iot/berth/wire/hubtopic"
	"github.com/berth-iot/berth/wire/mqtt"
	"github.com/berth-iot/berth/wire/sas"
)

// tokenGrace is for how long a connection outlives the token it was made with:
// clients renew it by connecting again, some of them late.
const tokenGrace = 10 * time.Minute

// Hubs knows the hubs of this server.
type Hubs interface {
	// Hub returns the hub of a host name, in lower case and without a port.
	Hub(name string) (hub.Host, bool)
}

// Config is what the front stands on. Every member is needed but Addresses and
// Observe.
type Config struct {
	Service *hub.Service
	Hubs    Hubs
	// Addresses bounds the connections that one address makes; nil for no bound.
	Addresses limit.By
	// Observe is told of every request of a device; nil for nobody.
	Observe func(method, route string, status int, took time.Duration)
	Now     func() time.Time
	Logger  *slog.Logger
	Random  io.Reader
}

// A Front serves connections.
type Front struct {
	Config
}

// New returns a front.
func New(c Config) *Front { return &Front{Config: c} }

// Serves reports whether a user name is one for this front: all are that are not
// for another one.
func (f *Front) Serves(string) bool { return true }

// Greet judges a CONNECT; it is the greeter of a connection with the peer.
func (f *Front) Greet(ctx context.Context, conn *machine.Conn, p machine.Peer, connect *mqtt.Connect) (machine.Session, mqtt.ReturnCode, error) {
	s, code, err := f.admit(ctx, conn, p, connect)
	if err != nil {
		return nil, code, err
	}
	f.Logger.Debug("mqtt connection", "hub", s.from.Hub, "device_id", s.from.ID, "remote", p.Address)
	return s, mqtt.Accepted, nil
}

func (f *Front) admit(ctx context.Context, conn *machine.Conn, p machine.Peer, connect *mqtt.Connect) (*session, mqtt.ReturnCode, error) {
	if connect.Username == nil {
		return nil, mqtt.BadUserNameOrPassword, errors.New("there is no user name")
	}
	u, err := hubtopic.ParseUsername(*connect.Username)
	if err != nil {
		return nil, mqtt.BadUserNameOrPassword, err
	}
	if wait := f.Addresses.Take(hub.HostName(u.Host), limit.Address(p.Address), f.Now()); wait > 0 {
		return nil, mqtt.ServerUnavailable, errs.New(errs.Busy, 0, "the address is over its rate limit")
	}
	host, ok := f.Hubs.Hub(hub.HostName(u.Host))
	if !ok {
		return nil, mqtt.NotAuthorized, fmt.Errorf("there is no hub %q", u.Host)
	}
	at, err := placeOf(host, u)
	if err != nil {
		return nil, mqtt.IdentifierRejected, err
	}
	by := hub.Approach{Wire: "mqtt", Remote: p.Address}
	if by.TrackingID, err = errs.NewTrackingID(f.Random); err != nil {
		return nil, mqtt.ServerUnavailable, err
	}
	refuse := func(code mqtt.ReturnCode, check, why string) (*session, mqtt.ReturnCode, error) {
		f.Service.Refuse(by, at, check, why)
		return nil, code, fmt.Errorf("%s: %s", check, why)
	}
	if connect.ClientID != at.String() {
		return refuse(mqtt.IdentifierRejected, "client identifier", fmt.Sprintf("it is %.200q, which is not %q as in the user name", connect.ClientID, at))
	}
	credential := attest.Credential{Chain: p.Chain}
	if len(connect.Password) > 0 {
		token, err := sas.Parse(string(connect.Password))
		if err != nil {
			return refuse(mqtt.BadUserNameOrPassword, "password", "it is not a SAS token: "+err.Error())
		}
		credential.Token = &token
	}
	if connect.Will != nil {
		if r, err := hubtopic.ParseRequest(connect.Will.Topic); err != nil || r.Operation != hubtopic.Telemetry || !owns(at, r) {
			return refuse(mqtt.NotAuthorized, "will", "it is for another topic than that of the device's own telemetry")
		}
	}
	from, err := f.Service.Authenticate(ctx, host, at.ID, at.Module, credential, by)
	if err != nil {
		return nil, refusal(err), err
	}
	s := &session{Front: f, conn: conn, peer: p, from: from}
	if err := s.resume(ctx, !connect.CleanSession); err != nil {
		return nil, refusal(err), err
	}
	if model := u.Parameters["model-id"]; model != "" {
		if err := f.Service.NameModel(ctx, from, model); err != nil {
			return nil, refusal(err), err
		}
		s.from.ModelID = model
	}
	if credential.Token != nil {
		// The grace comes first: a difference of times has an upper bound.
		left := credential.Token.Expiry.Add(tokenGrace).Sub(f.Now())
		s.expiry = time.AfterFunc(left, func() { conn.Close(errors.New("the token has expired")) })
	}
	s.detach = f.Service.Attach(ctx, s.from, s)
	s.Queued()
	return s, mqtt.Accepted, nil
}

// placeOf is who a user name says is connecting.
func placeOf(host hub.Host, u hubtopic.Username) (at hub.Place, err error) {
	at.Hub = host.Name
	if at.ID, err = device.ParseID(u.DeviceID); err != nil {
		return at, fmt.Errorf("the device ID: %w", err)
	}
	if u.ModuleID != "" {
		if at.Module, err = device.ParseID(u.ModuleID); err != nil {
			return at, fmt.Errorf("the module ID: %w", err)
		}
	}
	return at, nil
}

// refusal is the code for a device that is not let in. Clients go on trying after
// that of a refused authorization, whatever the reason was.
func refusal(err error) mqtt.ReturnCode {
	switch errs.KindOf(err) {
	case errs.Unavailable, errs.Busy, errs.Internal:
		return mqtt.ServerUnavailable
	}
	return mqtt.NotAuthorized
}

// A session is one device that is connected.
type session struct {
	*Front
	conn   *machine.Conn
	peer   machine.Peer
	from   hub.Sender
	expiry *time.Timer // nil for a certificate
	detach func()
	keep   bool // the client wants its session kept
	// kept is with which QoS the device is to have its messages in its next
	// connections, if these want their session kept; nil where it is to ask.
	kept *byte
	// asked says that the Subscribes being read ask for direct methods.
	asked bool

	mu      sync.Mutex // guards what follows
	granted map[string]byte
	calls   map[string]chan methodAnswer // direct methods that wait, by request ID
	lastRID uint32
	handing handing
}

// owns reports whether a topic names what is at a place.
func owns(at hub.Place, r hubtopic.Request) bool {
	return r.DeviceID == string(at.ID) && r.ModuleID == string(at.Module)
}

// resume grants a client that wants its session kept what it may have subscribed
// to in an earlier connection: some do that once in their lives and never look
// whether the session is present. Of most filters nothing is kept: to who has not
// subscribed, these messages are ones that it ignores. Messages to the device it
// would lose, so the hub remembers who had them.
func (s *session) resume(ctx context.Context, keep bool) (err error) {
	subscribed := map[string]byte{hubtopic.TwinResponses: 0, hubtopic.TwinDesired: 0, hubtopic.Methods: 0}
	if s.from.Module != "" { // no messages are sent to modules
		if keep {
			s.granted = subscribed
		}
		return nil
	}
	if s.kept, err = s.Service.Subscription(ctx, s.from); err != nil {
		return err
	}
	if s.keep = keep; !keep {
		return s.remember(ctx, nil)
	}
	s.granted = subscribed
	if s.kept != nil {
		s.granted[hubtopic.CloudToDevice(string(s.from.ID))] = *s.kept
	}
	return nil
}

// remember keeps what the next connections are to be granted. Most clients say
// again what is known.
func (s *session) remember(ctx context.Context, qos *byte) error {
	if s.kept == nil && qos == nil || s.kept != nil && qos != nil && *s.kept == *qos {
		return nil
	}
	if err := s.Service.KeepSubscription(ctx, s.from, qos); err != nil {
		return err
	}
	s.kept = qos
	return nil
}

type methodAnswer struct {
	status  int
	payload json.RawMessage
}

// Subscribe grants the filters there are.
func (s *session) Subscribe(ctx context.Context, want mqtt.Subscription) byte {
	qos := min(want.QoS, 1)
	if s.from.Module != "" && slices.Contains(hubtopic.ToModule(string(s.from.ID), string(s.from.Module)), want.Filter) {
		return qos // there is nothing to come: clients subscribe to what IoT Edge sends
	}
	switch {
	case want.Filter == hubtopic.TwinResponses, want.Filter == hubtopic.TwinDesired, want.Filter == hubtopic.Methods:
	case s.from.Module == "" && want.Filter == hubtopic.CloudToDevice(string(s.from.ID)):
		if !s.keep {
			break
		}
		if err := s.remember(ctx, &qos); err != nil {
			s.Logger.Error("keeping a subscription", "hub", s.from.Hub, "device_id", s.from.ID, "error", err)
			return mqtt.SubscriptionFailed
		}
	default:
		return mqtt.SubscriptionFailed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.granted == nil {
		s.granted = make(map[string]byte)
	}
	s.granted[want.Filter] = qos
	s.asked = s.asked || want.Filter == hubtopic.Methods
	return qos
}

// Subscribed sends what waits for the device, and has called who waits for it to take
// calls.
func (s *session) Subscribed(context.Context) {
	if s.asked {
		s.asked = false
		s.Service.TakesMethods(s.from.Place)
	}
	s.Queued()
}

// Unsubscribe ends a subscription.
func (s *session) Unsubscribe(ctx context.Context, filter string) {
	if s.from.Module == "" && filter == hubtopic.CloudToDevice(string(s.from.ID)) {
		if err := s.remember(ctx, nil); err != nil {
			s.conn.Close(err) // it would be given what it no longer wants
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.granted, filter)
}

// Ended makes the device one that is not connected.
func (s *session) Ended(will *mqtt.Will, why error) {
	s.detach()
	if s.expiry != nil {
		s.expiry.Stop()
	}
	if will != nil {
		s.publishWill(will)
	}
	s.Logger.Debug("mqtt connection ended", "hub", s.from.Hub, "device_id", s.from.ID, "remote", s.peer.Address, "reason", why)
}

func (s *session) publishWill(will *mqtt.Will) {
	r, err := hubtopic.ParseRequest(will.Topic)
	if err != nil {
		return // it was read when the device connected
	}
	m := message(r, will.Payload, will.Retain)
	m.Properties["iothub-MessageType"] = "Will"
	err = s.Service.Receive(context.Background(), s.from, m, func(err error) {
		if err != nil {
			s.Logger.Error("keeping a will", "hub", s.from.Hub, "device_id", s.from.ID, "error", err)
		}
	})
	if err != nil {
		s.Logger.Warn("refusing a will", "hub", s.from.Hub, "device_id", s.from.ID, "error", err)
	}
}

// Publish does what a topic is for. One that is not for this device is the end of
// the connection.
func (s *session) Publish(ctx context.Context, p *mqtt.Publish, accepted func()) error {
	r, err := hubtopic.ParseRequest(p.Topic)
	if err != nil {
		return err
	}
	switch r.Operation {
	case hubtopic.Telemetry:
		return s.telemetry(ctx, r, p, accepted)
	case hubtopic.MethodAnswer:
		accepted()
		s.answered(r, p.Payload)
		return nil
	}
	accepted()
	return s.twin(ctx, r, p.Payload)
}

func message(r hubtopic.Request, body []byte, retain bool) hub.Message {
	m := hub.Message{Body: body}
	m.System, m.Properties = hubtopic.Split(r.Properties)
	if retain {
		m.Properties["mqtt-retain"] = "true" // it is not: the hub is no broker
	}
	return m
}

func (s *session) telemetry(ctx context.Context, r hubtopic.Request, p *mqtt.Publish, accepted func()) error {
	if !owns(s.from.Place, r) {
		return errors.New("a message in the name of another device or module")
	}
	began := s.Now()
	return s.Service.Receive(ctx, s.from, message(r, p.Payload, p.Retain), func(err error) {
		if s.Observe != nil {
			s.Observe("PUBLISH", "events", status(err), s.Now().Sub(began))
		}
		if err != nil {
			s.Logger.Error("keeping a message", "hub", s.from.Hub, "device_id", s.from.ID, "error", err)
			s.conn.Close(err) // it sends again what was not acknowledged
			return
		}
		accepted()
	})
}

// status is the code that a call counts as.
func status(err error) int {
	if err == nil {
		return 200
	}
	return code(err).Status()
}

// twin answers a request for the device's twin.
func (s *session) twin(ctx context.Context, r hubtopic.Request, payload []byte) error {
	began := s.Now()
	topic, body, err := s.twinAnswer(ctx, r, payload)
	route, took := "twin", s.Now().Sub(began)
	if r.Operation == hubtopic.TwinPatch {
		route = "reported"
	}
	if err != nil {
		id, _ := errs.NewTrackingID(s.Random)
		s.failed(ctx, route, took, id, err)
		topic, body = hubtopic.TwinResponse(status(err), r.RequestID, nil), s.errorBody(err, id)
	}
	if s.Observe != nil {
		s.Observe("PUBLISH", route, status(err), took)
	}
	return s.send(hubtopic.TwinResponses, topic, body)
}

// failed logs a request that was answered with an error.
func (s *session) failed(ctx context.Context, route string, took time.Duration, id errs.TrackingID, err error) {
	level := slog.LevelInfo
	if errs.KindOf(err) == errs.Internal && ctx.Err() == nil {
		level = slog.LevelError
	}
	s.Logger.Log(ctx, level, "mqtt request", "method", "PUBLISH", "route", route, "status", status(err), "duration", took,
		"tracking_id", string(id), "remote", s.peer.Address, "hub", s.from.Hub, "device_id", s.from.ID, "error", err)
}

func (s *session) twinAnswer(ctx context.Context, r hubtopic.Request, payload []byte) (topic string, body []byte, err error) {
	if r.Operation == hubtopic.TwinPatch {
		version, err := s.Service.PatchReported(ctx, s.from, payload, r.Version)
		return hubtopic.TwinResponse(204, r.RequestID, &version), nil, err
	}
	t, err := s.Service.DeviceTwin(ctx, s.from)
	if err != nil {
		return "", nil, err
	}
	body = append([]byte(`{"desired":`), versioned(t.Desired, t.DesiredVersion)...)
	body = append(append(body, `,"reported":`...), versioned(t.Reported, t.ReportedVersion)...)
	return hubtopic.TwinResponse(200, r.RequestID, nil), append(body, '}'), nil
}

// versioned adds $version to a section, a compact JSON object.
func versioned(section json.RawMessage, version int64) []byte {
	b := append([]byte(nil), section[:len(section)-1]...)
	if len(b) > 1 {
		b = append(b, ',')
	}
	b = strconv.AppendInt(append(b, `"$version":`...), version, 10)
	return append(b, '}')
}

// codes holds what a kind of error is called here when nobody said more.
var codes = map[errs.Kind]errs.Code{
	errs.Invalid: errs.CodeArgumentInvalid, errs.Denied: errs.CodeUnauthorizedAccess, errs.Forbidden: errs.CodeForbidden,
	errs.NotFound: errs.CodeDeviceNotFound, errs.Precondition: errs.CodePreconditionFailed, errs.TooLarge: errs.CodeMessageTooLarge,
	errs.Busy: errs.CodeThrottling, errs.Unavailable: errs.CodeServiceUnavailable,
}

func code(err error) errs.Code {
	e := errs.Public(err)
	if e.Code != 0 {
		return e.Code
	}
	if c, ok := codes[e.Kind]; ok {
		return c
	}
	return errs.CodeServerError
}

// An errorBody tells a device why a request failed. One client looks at nothing
// but errorCode, and another one cannot read an info that is null.
type errorBody struct {
	ErrorCode    errs.Code `json:"errorCode"`
	TrackingID   string    `json:"trackingId"`
	Message      string    `json:"message"`
	Info         struct{}  `json:"info"`
	TimestampUTC string    `json:"timestampUtc"`
}

func (s *session) errorBody(err error, id errs.TrackingID) []byte {
	b, _ := json.Marshal(errorBody{ // strings and a number
		ErrorCode: code(err), TrackingID: string(id), Message: errs.Public(err).Message,
		TimestampUTC: s.Now().UTC().Format("2006-01-02T15:04:05.0000000Z"),
	})
	return b
}

// send sends to who subscribed to filter; others do without.
func (s *session) send(filter, topic string, payload []byte) error {
	s.mu.Lock()
	qos, ok := s.granted[filter]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	var acknowledged func()
	if qos > 0 {
		acknowledged = func() {} // it is not kept for the device either way
	}
	err := s.conn.Send(topic, payload, acknowledged)
	if errors.Is(err, machine.ErrFull) {
		return errors.New("the device acknowledges nothing")
	}
	return err
}

// Close implements hub.Link.
func (s *session) Close(why error) { s.conn.Close(why) }

// Desired implements hub.Link.
func (s *session) Desired(patch json.RawMessage, version int64) {
	if err := s.send(hubtopic.TwinDesired, hubtopic.Desired(version), versioned(patch, version)); err != nil {
		s.conn.Close(err) // it asks for its twin when it is back
	}
}

// Invoke implements hub.Link.
func (s *session) Invoke(ctx context.Context, name string, payload json.RawMessage) (int, json.RawMessage, error) {
	answer := make(chan methodAnswer, 1)
	s.mu.Lock()
	if _, ok := s.granted[hubtopic.Methods]; !ok {
		s.mu.Unlock()
		return 0, nil, hub.ErrNoMethods
	}
	if s.calls == nil {
		s.calls = make(map[string]chan methodAnswer)
	}
	s.lastRID++
	rid := strconv.FormatUint(uint64(s.lastRID), 16)
	s.calls[rid] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.calls, rid)
	}()
	if err := s.conn.Send(hubtopic.MethodCall(name, rid), payload, nil); err != nil {
		return 0, nil, err
	}
	select {
	case a := <-answer:
		return a.status, a.payload, nil
	case <-s.conn.Done():
		return 0, nil, errors.New("the connection ended")
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
}

// answered gives an answer to who waits for it, if somebody does.
func (s *session) answered(r hubtopic.Request, payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if answer := s.calls[r.RequestID]; answer != nil {
		answer <- methodAnswer{r.Status, payload}
		delete(s.calls, r.RequestID)
	}
}
