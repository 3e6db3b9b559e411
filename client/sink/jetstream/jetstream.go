// Package jetstream is the sink that publishes messages to a stream of NATS
// JetStream.
//
// The subject of a message is made of a template, berth.{hub}.{device} unless the
// setting subject is another one; {module} can stand in it as well. What a subject
// cannot have in a token is written as %XX, so that different devices have different
// subjects. The body is the payload. The headers Berth-Hub, Berth-Device, Berth-Module,
// Berth-Sequence and Berth-Enqueued say where it comes from, Berth-System-Properties and
// Berth-Properties have the properties as JSON, and Nats-Msg-Id is the hub and the
// sequence number, by which the stream knows a message that comes again.
package jetstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/berth-iot/berth/client/internal/dial"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

// Kind is the kind of these sinks.
const Kind = "jetstream"

const (
	connectTimeout = 5 * time.Second
	ackTimeout     = 10 * time.Second

	usualSubject = "berth.{hub}.{device}"
	usualMaxAge  = 7 * 24 * time.Hour
	// deduplication is for how long a stream that is made knows messages again.
	deduplication = 2 * time.Minute
)

// New returns the kind of sinks that publish.
func New() hub.SinkKind {
	return hub.SinkKind{
		Check: func(c hub.SinkConfig) error { _, err := read(c); return err },
		Open:  func(c hub.SinkConfig) (hub.Sink, error) { return read(c) },
	}
}

// A sink publishes to the stream of one configuration.
type sink struct {
	servers   string // URLs, with commas between
	host      string // for errors
	plaintext bool
	options   []nats.Option
	subject   string // the template
	filter    string // all subjects that it makes
	stream    string // its name; empty for whichever captures the subjects
	maxAge    time.Duration
	dial      dial.Func
	until     time.Time // when connecting ends; set before that begins

	// One connection at a time, and never a reconnected one: what was sent on it
	// arrives in order or, from some message on, not at all.
	connection *nats.Conn
	publisher  jetstream.JetStream
}

// read makes a sink of a configuration, or says what is wrong with that.
func read(c hub.SinkConfig) (*sink, error) {
	s := &sink{servers: c.URL, subject: usualSubject, maxAge: usualMaxAge}
	all := []string{c.URL}
	for name, value := range c.Settings {
		switch name {
		case "subject":
			s.subject = value
		case "stream":
			if value == "" || strings.ContainsAny(value, " \t\r\n.*>/\\") {
				return nil, invalid("stream %q is no name of a stream", value)
			}
			s.stream = value
		case "max_age":
			age, err := time.ParseDuration(value)
			if err != nil || age < time.Minute {
				return nil, invalid("max_age %q is no duration of a minute or more, such as 168h", value)
			}
			s.maxAge = age
		case "plaintext":
			plaintext, err := strconv.ParseBool(value)
			if err != nil {
				return nil, invalid("plaintext is true or false")
			}
			s.plaintext = plaintext
		case "servers":
			all = append(all, strings.Split(value, ",")...)
			s.servers += "," + value
		default:
			return nil, invalid("sinks of kind jetstream have no setting %q; subject, stream, max_age, plaintext and servers are those they have", name)
		}
	}
	secure := false
	for i, address := range all {
		u, err := url.Parse(address)
		switch {
		case err != nil || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "":
			return nil, invalid("%s is no address of NATS, such as tls://nats.example.com:4222", ordinal(i))
		case u.Scheme != "tls" && u.Scheme != "nats":
			return nil, invalid("an address of NATS begins with tls://, or with nats:// for one without TLS")
		case i == 0:
			s.host, secure = u.Host, u.Scheme == "tls"
		case secure != (u.Scheme == "tls"):
			return nil, invalid("all servers speak TLS, or none does")
		}
	}
	var err error
	if s.filter, err = subjects(s.subject, c.Hub); err != nil {
		return nil, err
	}
	return s, s.connectBy(c, secure)
}

func ordinal(i int) string {
	if i == 0 {
		return "url"
	}
	return "servers"
}

func invalid(format string, args ...any) error { return errs.New(errs.Invalid, 0, format, args...) }

// connectBy notes how to connect.
func (s *sink) connectBy(c hub.SinkConfig, secure bool) error {
	may := dial.Policy(dial.Anywhere)
	if !secure && !s.plaintext {
		may = dial.Loopback
	}
	s.dial = dial.To(may, "sinks")
	s.options = []nats.Option{
		nats.Name("berth " + c.Name), nats.NoReconnect(), nats.Timeout(connectTimeout), nats.NoCallbacksAfterClientClose(),
		nats.SetCustomDialer(dialer{s}),
	}
	if secure {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if c.Authorities != "" {
			config.RootCAs = x509.NewCertPool()
			if !config.RootCAs.AppendCertsFromPEM([]byte(c.Authorities)) {
				return invalid("authorities hold no certificate in PEM")
			}
		}
		s.options = append(s.options, nats.Secure(config))
	}
	secret := strings.TrimSpace(string(c.Secret.Bytes()))
	user, password, named := strings.Cut(secret, ":")
	switch {
	case secret == "":
	case strings.Contains(secret, "-----BEGIN NATS USER JWT-----"):
		s.options = append(s.options, nats.UserCredentialBytes([]byte(secret)))
	case strings.ContainsAny(secret, "\r\n"):
		return invalid("the secret is a credentials file of NATS, USER:PASSWORD or a token")
	case named:
		s.options = append(s.options, nats.UserInfo(user, password))
	default:
		s.options = append(s.options, nats.Token(secret))
	}
	return nil
}

// A dialer connects to one server after the other, within the time that there is for
// all of them.
type dialer struct{ *sink }

// Dial implements nats.CustomDialer.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithDeadline(context.Background(), d.until)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return d.dial(ctx, network, address)
}

// subjects returns the wildcard for all subjects that a template makes at a hub, or
// what is wrong with the template.
func subjects(template, host string) (string, error) {
	bad := invalid("subject %q is no template of a subject, such as %s", template, usualSubject)
	if len(template) > 256 {
		return "", bad
	}
	var tokens []string
	for part := range strings.SplitSeq(template, ".") {
		switch part {
		case "{hub}":
			tokens = append(tokens, token(host))
		case "{device}", "{module}":
			tokens = append(tokens, "*")
		default:
			if part == "" || part != token(part) || strings.ContainsAny(part, "{}") || len(tokens) == 0 && part[0] == '$' {
				return "", bad
			}
			tokens = append(tokens, part)
		}
	}
	if tokens[0] == "*" {
		return "", bad // that would be everything
	}
	return strings.Join(tokens, "."), nil
}

// token writes text as one token of a subject.
func token(text string) string {
	if text == "" {
		return "_"
	}
	var b strings.Builder
	for _, c := range []byte(text) {
		if c <= ' ' || c >= 0x7f || c == '.' || c == '*' || c == '>' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// id is the Nats-Msg-Id of a message.
func id(m *hub.Message) string {
	if m.Sequence == 0 {
		return m.Hub + "/" + m.System["message-id"] // a test
	}
	return m.Hub + "/" + strconv.FormatUint(m.Sequence, 10)
}

func (s *sink) encode(m *hub.Message) (*nats.Msg, error) {
	system, err := json.Marshal(orEmpty(m.System))
	if err != nil {
		return nil, err
	}
	properties, err := json.Marshal(orEmpty(m.Properties))
	if err != nil {
		return nil, err
	}
	header := nats.Header{
		"Berth-Hub": {m.Hub}, "Berth-Device": {string(m.DeviceID)}, "Berth-Sequence": {strconv.FormatUint(m.Sequence, 10)},
		"Berth-Enqueued":          {m.Enqueued.UTC().Format(time.RFC3339Nano)},
		"Berth-System-Properties": {string(system)}, "Berth-Properties": {string(properties)},
	}
	if m.ModuleID != "" {
		header.Set("Berth-Module", string(m.ModuleID))
	}
	subject := strings.NewReplacer("{hub}", token(m.Hub), "{device}", token(string(m.DeviceID)), "{module}", token(string(m.ModuleID))).Replace(s.subject)
	return &nats.Msg{Subject: subject, Header: header, Data: m.Body}, nil
}

func orEmpty(properties map[string]string) map[string]string {
	if properties == nil {
		return map[string]string{}
	}
	return properties
}

// Deliver implements hub.Sink.
func (s *sink) Deliver(ctx context.Context, batch []*hub.Message) error {
	err := s.deliver(ctx, batch)
	if err != nil {
		s.hangUp()
		err = errs.New(errs.Unavailable, 0, "publishing to %s: %v", s.host, err)
	}
	return err
}

func (s *sink) deliver(ctx context.Context, batch []*hub.Message) error {
	if s.connection == nil || s.connection.IsClosed() {
		s.hangUp()
		if err := s.connect(ctx); err != nil {
			return err
		}
	}
	// Where others write to the stream as well, chains break; they are then as long as
	// pays.
	for length := len(batch); len(batch) > 0; {
		kept, err := s.chain(ctx, batch[:min(length, len(batch))])
		batch = batch[kept:]
		switch {
		case err == nil:
			length *= 2
		case isBroken(err) && kept > 0:
			length = 2 * kept
		default:
			return err
		}
	}
	return nil
}

// wrongLastMessage is the code of the error of a message that is to come right
// behind another one, and does not.
const wrongLastMessage jetstream.ErrorCode = 10070

func isBroken(err error) bool {
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return ok && refused.ErrorCode == wrongLastMessage
}

// chain publishes messages and returns how many of them the stream keeps, from the
// first on. They are under way together; so that none is kept behind one that is
// not, each is only to be kept right behind the one before it.
func (s *sink) chain(ctx context.Context, batch []*hub.Message) (kept int, err error) {
	var pending []jetstream.PubAckFuture
	var failed error
	for i, m := range batch {
		message, err := s.encode(m)
		if err != nil {
			return 0, fmt.Errorf("encoding message %d: %w", m.Sequence, err)
		}
		options := []jetstream.PublishOpt{jetstream.WithMsgID(id(m)), jetstream.WithRetryAttempts(0)}
		if i > 0 {
			options = append(options, jetstream.WithExpectLastMsgID(id(batch[i-1])))
		}
		future, err := s.publisher.PublishMsgAsync(message, options...)
		if err != nil {
			failed = fmt.Errorf("message %d: %w", m.Sequence, err)
			break
		}
		pending = append(pending, future)
	}
	for i, future := range pending {
		select {
		case <-future.Ok():
			kept++
		case err := <-future.Err():
			return kept, fmt.Errorf("message %d: %w", batch[i].Sequence, err)
		case <-ctx.Done():
			return kept, context.Cause(ctx)
		}
	}
	return kept, failed
}

// connect connects and finds the stream, or makes it.
func (s *sink) connect(ctx context.Context) error {
	s.until = time.Now().Add(ackTimeout)
	if end, ok := ctx.Deadline(); ok && end.Before(s.until) {
		s.until = end
	}
	connection, err := nats.Connect(s.servers, s.options...)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	s.connection = connection
	if s.publisher, err = jetstream.New(connection, jetstream.WithPublishAsyncTimeout(ackTimeout)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	name, err := s.publisher.StreamNameBySubject(ctx, s.filter)
	switch {
	case err == nil && s.stream != "" && name != s.stream:
		return fmt.Errorf("the stream %s captures %s, and not %s", name, s.filter, s.stream)
	case err == nil:
		return nil
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("looking for the stream that captures %s: %w", s.filter, err)
	case s.stream == "":
		return fmt.Errorf("no stream captures %s; make one, or name one in the setting stream", s.filter)
	}
	_, err = s.publisher.CreateStream(ctx, jetstream.StreamConfig{
		Name: s.stream, Subjects: []string{s.filter}, MaxAge: s.maxAge, Duplicates: min(deduplication, s.maxAge),
		Description: "Messages of devices, by Berth",
	})
	if err != nil {
		return fmt.Errorf("making the stream %s for %s: %w", s.stream, s.filter, err)
	}
	return nil
}

func (s *sink) hangUp() {
	if s.connection != nil {
		s.connection.Close()
	}
	s.connection, s.publisher = nil, nil
}

// Close implements hub.Sink.
func (s *sink) Close() error {
	s.hangUp()
	return nil
}
