// Package dpsmqtt speaks the device API of DPS over MQTT 3.1.1: a device says in
// its CONNECT who it is, publishes a registration or the question what became of
// one, and hears the answers on a topic of its own. Bodies and codes are those of
// the REST API. It turns packets into calls of the provisioning service and what
// comes back into packets; it decides nothing.
//
// A CONNECT is accepted from whoever names a registration; the credential is
// judged with each call, as over HTTPS, so that the device hears why it is
// refused. A device with a TPM shows the token that answers its challenge in a new
// CONNECT; the original has no TPM attestation on this wire.
package dpsmqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/dps"
	machine "github.com/berth-iot/berth/front/internal/mqtt"
	"github.com/berth-iot/berth/limit"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
	"github.com/berth-iot/berth/wire/mqtt"
	"github.com/berth-iot/berth/wire/sas"
)

// A Registrar is the device's side of the provisioning service.
type Registrar interface {
	// Register takes a device in.
	Register(context.Context, provision.Request) (provision.Outcome, error)
	// OperationStatus says how far a registration is.
	OperationStatus(ctx context.Context, r provision.Request, operationID string) (provision.Outcome, error)
}

// Config is what the front stands on. Every member is needed but the bounds and
// Observe.
type Config struct {
	Registrar Registrar
	// Addresses bounds the calls of one address, Devices those of one device from
	// one address, as over HTTPS; nil for no bound.
	Addresses, Devices limit.By
	// Observe is told of every call; nil for nobody.
	Observe func(method, route string, status int, took time.Duration)
	Now     func() time.Time
	Logger  *slog.Logger
	Random  io.Reader
}

// A Front serves connections.
type Front struct{ Config }

// New returns a front.
func New(c Config) *Front { return &Front{c} }

// The topics (DPS, MQTT device API). A device has one filter for all answers.
const (
	answersFilter = "$dps/registrations/res/#"
	registerTopic = "$dps/registrations/PUT/iotdps-register/"
	pollTopic     = "$dps/registrations/GET/iotdps-get-operationstatus/"
)

// Serves reports whether a user name is one for this front: whether it begins as
// {idScope}/registrations/{registrationId}/api-version={version}&… does. What is
// wrong with the rest of it, Greet says.
func (f *Front) Serves(username string) bool {
	scope, rest, _ := strings.Cut(username, "/")
	collection, _, more := strings.Cut(rest, "/")
	_, err := device.ParseIDScope(scope)
	return err == nil && more && strings.EqualFold(collection, "registrations")
}

// A claim is what a device says in its user name.
type claim struct{ scope, id, version string }

func parseUsername(username string) (c claim, err error) {
	parts := strings.SplitN(username, "/", 4)
	if len(parts) != 4 || !strings.EqualFold(parts[1], "registrations") || parts[2] == "" {
		return c, errors.New("the user name is not {idScope}/registrations/{registrationId}/api-version={version}")
	}
	if _, err := device.ParseIDScope(parts[0]); err != nil {
		return c, fmt.Errorf("the ID scope of the user name: %w", err)
	}
	c.scope = parts[0]
	if c.id, err = url.PathUnescape(parts[2]); err != nil {
		return c, fmt.Errorf("the registration ID of the user name: %w", err)
	}
	for member := range strings.SplitSeq(strings.TrimPrefix(parts[3], "?"), "&") {
		name, value, _ := strings.Cut(member, "=")
		if name != "api-version" {
			continue // ClientVersion, and what may come
		}
		if c.version != "" {
			return c, errors.New("the user name has more than one api-version")
		}
		date := strings.TrimSuffix(value, "-preview")
		if _, err := time.Parse(time.DateOnly, date); err != nil {
			return c, errors.New("the api-version of the user name must be YYYY-MM-DD or YYYY-MM-DD-preview")
		}
		c.version = value
	}
	if c.version == "" {
		return c, errors.New("the user name has no api-version")
	}
	return c, nil
}

// Greet judges a CONNECT; it is the greeter of a connection with the peer.
func (f *Front) Greet(_ context.Context, conn *machine.Conn, p machine.Peer, connect *mqtt.Connect) (machine.Session, mqtt.ReturnCode, error) {
	if connect.Username == nil {
		return nil, mqtt.BadUserNameOrPassword, errors.New("there is no user name")
	}
	claim, err := parseUsername(*connect.Username)
	if err != nil {
		return nil, mqtt.BadUserNameOrPassword, err
	}
	if wait := f.Addresses.Take(strings.ToLower(claim.scope), limit.Address(p.Address), f.Now()); wait > 0 {
		return nil, mqtt.ServerUnavailable, errs.New(errs.Busy, 0, "the address is over its rate limit")
	}
	s := &session{Front: f, conn: conn, peer: p, claim: claim}
	if len(connect.Password) > 0 {
		token, err := sas.Parse(string(connect.Password))
		if err != nil {
			return nil, mqtt.BadUserNameOrPassword, fmt.Errorf("the password is not a SAS token: %w", err)
		}
		s.token = &token
	}
	return s, mqtt.Accepted, nil
}

// A session is one device that talks.
type session struct {
	*Front
	conn  *machine.Conn
	peer  machine.Peer
	claim claim
	token *sas.Token

	subscribed bool
	granted    byte // the QoS of answers
}

// Subscribe grants the one filter there is, to whom it may concern.
func (s *session) Subscribe(_ context.Context, want mqtt.Subscription) byte {
	if want.Filter != answersFilter {
		return mqtt.SubscriptionFailed
	}
	s.subscribed, s.granted = true, min(want.QoS, 1)
	return s.granted
}

// Subscribed has nothing to send.
func (s *session) Subscribed(context.Context) {}

// Unsubscribe ends the answers.
func (s *session) Unsubscribe(_ context.Context, filter string) {
	if filter == answersFilter {
		s.subscribed = false
	}
}

// Ended logs that the device is gone. It has no will that matters here.
func (s *session) Ended(_ *mqtt.Will, why error) {
	s.Logger.Debug("mqtt connection ended", "id_scope", s.claim.scope, "registration_id", s.claim.id, "remote", s.peer.Address, "reason", why)
}

// Publish makes a call. It is acknowledged before it is answered: one client takes
// nothing else.
func (s *session) Publish(ctx context.Context, p *mqtt.Publish, accepted func()) error {
	call, err := parseTopic(p.Topic)
	if err != nil {
		return err
	}
	accepted()
	began := s.Now()
	id, err := errs.NewTrackingID(s.Random)
	var outcome provision.Outcome
	if err == nil {
		outcome, err = s.call(ctx, call, p.Payload, id)
	}
	a := s.answer(outcome, err, id)
	s.end(call, a, id, s.Now().Sub(began), err)
	if !s.subscribed {
		return nil // it wants no answer
	}
	return s.send(call, a)
}

// A call is what a topic asks for.
type call struct {
	method, route string
	rid           string // to be echoed as it is
	operationID   string // of a poll
}

// parseTopic reads a topic. One that this front does not have is the end of the
// connection, as it is of one to the original.
func parseTopic(topic string) (c call, err error) {
	path, query, _ := strings.Cut(topic, "?")
	switch {
	case strings.EqualFold(path, registerTopic):
		c.method, c.route = "PUT", "register"
	case strings.EqualFold(path, pollTopic):
		c.method, c.route = "GET", "operationstatus"
	default:
		return c, fmt.Errorf("a message for the topic %.100q, which is not one for devices", topic)
	}
	for member := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(member, "=")
		switch strings.ToLower(name) {
		case "$rid":
			c.rid = value
		case "operationid":
			if c.operationID, err = url.PathUnescape(value); err != nil {
				return c, fmt.Errorf("a message for the topic %.100q: operationId: %w", topic, err)
			}
		}
	}
	if c.rid == "" || strings.ContainsAny(c.rid, "$/#+") {
		return c, fmt.Errorf("a message for the topic %.100q, which names no $rid for the answer", topic)
	}
	return c, nil
}

func (s *session) call(ctx context.Context, c call, payload []byte, id errs.TrackingID) (provision.Outcome, error) {
	now, address, scope := s.Now(), limit.Address(s.peer.Address), strings.ToLower(s.claim.scope)
	if wait := s.Addresses.Take(scope, address, now); wait > 0 {
		return provision.Outcome{}, busy(wait)
	}
	if wait := s.Devices.Take(scope, address+" "+strings.ToLower(s.claim.scope+" "+s.claim.id), now); wait > 0 {
		return provision.Outcome{}, busy(wait)
	}
	request := provision.Request{
		Scope: s.claim.scope, ID: s.claim.id, APIVersion: s.claim.version,
		Credential: attest.Credential{Token: s.token, Chain: s.peer.Chain},
		TrackingID: id, Wire: "mqtt", Remote: host(s.peer.Address),
	}
	if c.route == "operationstatus" { // whatever its body says
		return s.Registrar.OperationStatus(ctx, request, c.operationID)
	}
	if len(payload) > dpsjson.MaxBody {
		return provision.Outcome{}, errs.New(errs.TooLarge, errs.CodeTooLarge, "The body is longer than %d bytes", dpsjson.MaxBody)
	}
	if err := dps.ReadBody(&request, payload); err != nil {
		return provision.Outcome{}, err
	}
	return s.Registrar.Register(ctx, request)
}

func busy(wait time.Duration) error {
	e := errs.New(errs.Busy, 0, "Too many requests; try again later.")
	e.RetryAfter = wait
	return e
}

// An answer is what the device hears.
type answer struct {
	status     int
	body       any
	retryAfter time.Duration
}

func (s *session) answer(o provision.Outcome, err error, id errs.TrackingID) answer {
	switch {
	case err != nil:
		return answer{dps.Code(err).Status(), dps.Error(err, id, s.Now()), errs.Public(err).RetryAfter}
	case o.Challenge != nil:
		return answer{401, dps.Challenge(o.Challenge), 0}
	case o.Operation.RetryAfter > 0:
		return answer{202, dps.Operation(o.Operation, s.claim.version), o.Operation.RetryAfter}
	}
	return answer{200, dps.Operation(o.Operation, s.claim.version), 0}
}

// send sends an answer. Clients take the topic apart in many ways: $rid comes
// first and retry-after last, in lower case, and nothing else.
func (s *session) send(c call, a answer) error {
	body, err := dpsjson.Encode(a.body)
	if err != nil {
		return err
	}
	topic := "$dps/registrations/res/" + strconv.Itoa(a.status) + "/?$rid=" + c.rid
	if a.retryAfter > 0 {
		topic += "&retry-after=" + strconv.Itoa(int((a.retryAfter+time.Second-1)/time.Second))
	}
	var acknowledged func()
	if s.granted > 0 {
		acknowledged = func() {} // the device asks again if it did not get it
	}
	err = s.conn.Send(topic, body, acknowledged)
	if errors.Is(err, machine.ErrFull) {
		return errors.New("the device acknowledges no answers")
	}
	return err
}

// end logs and counts a call.
func (s *session) end(c call, a answer, id errs.TrackingID, took time.Duration, err error) {
	if s.Observe != nil {
		s.Observe(c.method, c.route, a.status, took)
	}
	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.String("method", c.method), slog.String("route", c.route), slog.Int("status", a.status),
		slog.Duration("duration", took), slog.String("tracking_id", string(id)), slog.String("remote", s.peer.Address),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
		switch errs.KindOf(err) {
		case errs.Internal:
			level = slog.LevelError
		case errs.Busy:
			level = slog.LevelDebug // a flood must not become a flood of lines
		}
	}
	s.Logger.LogAttrs(context.Background(), level, "mqtt request", attrs...)
}

// host is an address without its port.
func host(address string) string {
	if i := strings.LastIndexByte(address, ':'); i >= 0 {
		return strings.Trim(address[:i], "[]")
	}
	return address
}
