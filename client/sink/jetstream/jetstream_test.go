package jetstream

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/berth-iot/berth/client/natstest"
	"github.com/berth-iot/berth/client/sink/sinktest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

// A broker is a NATS server with JetStream.
type broker struct{ *natstest.Server }

func startBroker(t *testing.T, options ...string) broker {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("jetstream { store_dir: %q }\nmax_payload: 2MB\n", filepath.Join(dir, "js"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return broker{natstest.Start(t, append([]string{"-c", config}, options...)...)}
}

// Config implements sinktest.Far.
func (b broker) Config() hub.SinkConfig {
	return hub.SinkConfig{
		Hub: sinktest.Host, Name: "lake", Kind: Kind, URL: b.URL(), Settings: map[string]string{"stream": "LAKE"}, BatchSize: 100,
	}
}

// connect returns a connection to the broker, which may just have been started.
func (b broker) connect(t *testing.T) jetstream.JetStream {
	t.Helper()
	connection, err := nats.Connect(b.URL(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connection.Close)
	for !connection.IsConnected() {
		if connection.IsClosed() || t.Context().Err() != nil {
			t.Fatal("no connection")
		}
		<-time.After(10 * time.Millisecond)
	}
	js, err := jetstream.New(connection)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// Kept implements sinktest.Far.
func (b broker) Kept(t *testing.T) (kept []*hub.Message) {
	t.Helper()
	js := b.connect(t)
	var stream jetstream.Stream
	for {
		var err error
		if stream, err = js.Stream(t.Context(), "LAKE"); err == nil {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
	for n := uint64(1); n <= stream.CachedInfo().State.LastSeq; n++ {
		m, err := stream.GetMsg(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, decode(t, m))
	}
	return kept
}

func decode(t *testing.T, m *jetstream.RawStreamMsg) *hub.Message {
	t.Helper()
	sequence, err := strconv.ParseUint(m.Header.Get("Berth-Sequence"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	enqueued, err := time.Parse(time.RFC3339Nano, m.Header.Get("Berth-Enqueued"))
	if err != nil {
		t.Fatal(err)
	}
	kept := &hub.Message{
		Sequence: sequence, Hub: m.Header.Get("Berth-Hub"), DeviceID: device.ID(m.Header.Get("Berth-Device")), ModuleID: device.ID(m.Header.Get("Berth-Module")),
		Enqueued: enqueued, Body: m.Data,
	}
	for name, into := range map[string]*map[string]string{"Berth-System-Properties": &kept.System, "Berth-Properties": &kept.Properties} {
		if err := json.Unmarshal([]byte(m.Header.Get(name)), into); err != nil {
			t.Fatal(err)
		}
	}
	if want := "berth.hub%2Eexample%2Ecom." + token(string(kept.DeviceID)); m.Subject != want || strings.Count(m.Subject, ".") != 2 {
		t.Errorf("subject %s, want %s", m.Subject, want)
	}
	return kept
}

func TestContract(t *testing.T) {
	sinktest.Run(t, New(), func(t *testing.T) sinktest.Far { return startBroker(t) })
}

// Others may write to the stream: the order stays, and nothing comes twice.
func TestAStreamThatOthersWriteTo(t *testing.T) {
	b := startBroker(t)
	js := b.connect(t)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LAKE", Subjects: []string{"berth.>"}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			js.Publish(ctx, "berth.other", []byte("x"))
		}
	}()
	sink, err := New().Open(b.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	next := uint64(0)
	for range 10 {
		var batch []*hub.Message
		for range 100 {
			next++
			batch = append(batch, &hub.Message{Sequence: next, Hub: sinktest.Host, DeviceID: "pump-7"})
		}
		if err := sink.Deliver(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-done
	stream, err := js.Stream(t.Context(), "LAKE")
	if err != nil {
		t.Fatal(err)
	}
	want, others := uint64(1), 0
	for n := uint64(1); n <= stream.CachedInfo().State.LastSeq; n++ {
		m, err := stream.GetMsg(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		switch m.Header.Get("Berth-Sequence") {
		case "":
			others++
		case strconv.FormatUint(want, 10):
			want++
		default:
			t.Fatalf("message %s came where %d was next", m.Header.Get("Berth-Sequence"), want)
		}
	}
	if want != next+1 || others == 0 {
		t.Errorf("%d messages, and %d of others", want-1, others)
	}
}

// One message that a stream does not take keeps back those behind it.
func TestAMessageThatIsNotTakenKeepsTheRestBack(t *testing.T) {
	b := startBroker(t)
	js := b.connect(t)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LAKE", Subjects: []string{"berth.>"}, MaxMsgSize: 2000}); err != nil {
		t.Fatal(err)
	}
	sink, err := New().Open(b.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	var batch []*hub.Message
	for n := range uint64(10) {
		batch = append(batch, &hub.Message{Sequence: n + 1, Hub: sinktest.Host, DeviceID: "pump-7", Body: []byte("x")})
	}
	batch[4].Body = make([]byte, 4000)
	for range 3 {
		if err := sink.Deliver(t.Context(), batch); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "message 5") {
			t.Fatal(err)
		}
	}
	if kept := b.Kept(t); len(kept) != 4 {
		t.Fatalf("%d messages are kept", len(kept))
	}
	batch[4].Body = nil
	if err := sink.Deliver(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if kept := b.Kept(t); len(kept) != 10 {
		t.Errorf("%d messages are kept", len(kept))
	}
}

func TestTheStreamMustFit(t *testing.T) {
	b := startBroker(t)
	js := b.connect(t)
	deliver := func(settings map[string]string) string {
		t.Helper()
		c := b.Config()
		c.Settings = settings
		sink, err := New().Open(c)
		if err != nil {
			t.Fatal(err)
		}
		defer sink.Close()
		if err = sink.Deliver(t.Context(), []*hub.Message{{Sequence: 1, Hub: sinktest.Host, DeviceID: "d"}}); err != nil {
			return err.Error()
		}
		return ""
	}
	if got := deliver(nil); !strings.Contains(got, "no stream captures berth.hub%2Eexample%2Ecom.*") {
		t.Error(got)
	}
	if got := deliver(map[string]string{"stream": "MADE", "subject": "plant.{device}.{module}", "max_age": "1h"}); got != "" {
		t.Error(got)
	}
	made, err := js.Stream(t.Context(), "MADE")
	if err != nil {
		t.Fatal(err)
	}
	if c := made.CachedInfo().Config; c.MaxAge != time.Hour || c.Subjects[0] != "plant.*.*" || c.Duplicates != deduplication {
		t.Errorf("%+v", c)
	}
	if got := deliver(map[string]string{"subject": "plant.{device}.{module}"}); got != "" {
		t.Error(got)
	}
	if got := deliver(map[string]string{"stream": "OTHER", "subject": "plant.{device}.{module}"}); !strings.Contains(got, "the stream MADE captures plant.*.*, and not OTHER") {
		t.Error(got)
	}
}

func TestCredentials(t *testing.T) {
	b := startBroker(t, "--user", "berth", "--pass", "hush")
	for secret, good := range map[string]bool{"berth:hush\n": true, "berth:wrong": false, "": false, "token": false} {
		c := b.Config()
		c.Secret = hub.NewSecret([]byte(secret))
		sink, err := New().Open(c)
		if err != nil {
			t.Fatal(err)
		}
		err = sink.Deliver(t.Context(), []*hub.Message{{Sequence: 1, Hub: sinktest.Host, DeviceID: "d"}})
		sink.Close()
		if (err == nil) != good || err != nil && (strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "wrong")) {
			t.Errorf("%q: %v", secret, err)
		}
	}
}

func TestConfigurationsAreRefused(t *testing.T) {
	good := hub.SinkConfig{Hub: sinktest.Host, Name: "lake", Kind: Kind, URL: "tls://nats.example.com:4222"}
	if err := New().Check(good); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*hub.SinkConfig){
		"another scheme":      func(c *hub.SinkConfig) { c.URL = "https://nats.example.com" },
		"a path":              func(c *hub.SinkConfig) { c.URL = "tls://nats.example.com/x" },
		"a password":          func(c *hub.SinkConfig) { c.URL = "tls://a:b@nats.example.com" },
		"a query":             func(c *hub.SinkConfig) { c.URL = "tls://nats.example.com?a=b" },
		"mixed servers":       func(c *hub.SinkConfig) { c.Settings = map[string]string{"servers": "nats://b.example.com"} },
		"another setting":     func(c *hub.SinkConfig) { c.Settings = map[string]string{"topic": "x"} },
		"a stream's name":     func(c *hub.SinkConfig) { c.Settings = map[string]string{"stream": "a.b"} },
		"everything":          func(c *hub.SinkConfig) { c.Settings = map[string]string{"subject": "{device}"} },
		"an empty token":      func(c *hub.SinkConfig) { c.Settings = map[string]string{"subject": "a..{device}"} },
		"a wildcard":          func(c *hub.SinkConfig) { c.Settings = map[string]string{"subject": "a.>"} },
		"a blank":             func(c *hub.SinkConfig) { c.Settings = map[string]string{"subject": "a b"} },
		"the system's":        func(c *hub.SinkConfig) { c.Settings = map[string]string{"subject": "$JS.API.x"} },
		"an unknown word":     func(c *hub.SinkConfig) { c.Settings = map[string]string{"subject": "a.{scope}"} },
		"a half template":     func(c *hub.SinkConfig) { c.Settings = map[string]string{"subject": "a.x-{device}"} },
		"an age":              func(c *hub.SinkConfig) { c.Settings = map[string]string{"max_age": "1s"} },
		"a truth":             func(c *hub.SinkConfig) { c.Settings = map[string]string{"plaintext": "perhaps"} },
		"authorities":         func(c *hub.SinkConfig) { c.Authorities = "x" },
		"a secret of no kind": func(c *hub.SinkConfig) { c.Secret = hub.NewSecret([]byte("a\nb")) },
	} {
		c := good
		spoil(&c)
		if err := New().Check(c); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without TLS nothing leaves the machine, unless an operator says so.
func TestPlaintextStaysOnTheMachine(t *testing.T) {
	c := hub.SinkConfig{Hub: sinktest.Host, Name: "lake", Kind: Kind, URL: "nats://192.0.2.1:4222"}
	sink, err := New().Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	err = sink.Deliver(t.Context(), []*hub.Message{{Sequence: 1, Hub: sinktest.Host, DeviceID: "d"}})
	if err == nil || !strings.Contains(err.Error(), "not on the loopback interface") {
		t.Error(err)
	}
}

func TestTokens(t *testing.T) {
	seen := map[string]string{}
	for _, id := range []string{"a", "a.b", "a%2Eb", "a*", "a>", "a b", "*", ">", "ü", "_", "%", "A"} {
		got := token(id)
		if got == "" || strings.ContainsAny(got, ".*> \t\r\n") {
			t.Errorf("%q becomes %q", id, got)
		}
		if other, taken := seen[got]; taken {
			t.Errorf("%q and %q both become %q", id, other, got)
		}
		seen[got] = id
	}
}
