package peers

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berth-iot/berth/client/natstest"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/pki"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// A secret is a server key.
type secret byte

func (s secret) Derive(info []byte, size int) ([]byte, error) {
	m := hmac.New(sha256.New, []byte{byte(s)})
	m.Write(info)
	return m.Sum(nil)[:size], nil
}

// A service is the hub of a server: it keeps what it hears, and has some devices.
type service struct {
	mu      sync.Mutex
	news    []hub.News
	has     map[hub.Place]func(ctx context.Context, c hub.Call) (int, json.RawMessage, error)
	checked int
	changed chan struct{} // closed at every change, and replaced
}

func (s *service) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *service) Heard(n hub.News) { s.change(func() { s.news = append(s.news, n) }) }

func (s *service) Called(c hub.Call) func(context.Context) (int, json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := s.has[c.At]
	if answer == nil {
		return nil
	}
	return func(ctx context.Context) (int, json.RawMessage, error) {
		ctx, cancel := context.WithTimeout(ctx, c.Response)
		defer cancel()
		return answer(ctx, c)
	}
}

func (s *service) Recheck(context.Context) error {
	s.change(func() { s.checked++ })
	return nil
}

// until waits until something is true of the service.
func (s *service) until(t *testing.T, what string, is func() bool) {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		s.mu.Lock()
		ok, changed := is(), s.changed
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%s: not within half a minute", what)
		}
	}
}

// A host is one server of an installation.
type host struct {
	*Peers
	*service
	leave func() // without a kill
}

func join(t *testing.T, c Config) *host {
	t.Helper()
	if c.Key == nil {
		c.Key = secret(1)
	}
	if c.Prefix == "" {
		c.Prefix = "berth"
	}
	if c.Logger == nil {
		c.Logger = quiet()
	}
	p, err := Connect(c)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{Peers: p, service: &service{changed: make(chan struct{}), has: map[hub.Place]func(context.Context, hub.Call) (int, json.RawMessage, error){}}}
	if err := p.Serve(h.service); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	h.leave = sync.OnceFunc(func() { cancel(); running.Wait(); p.Close() })
	t.Cleanup(h.leave)
	return h
}

// await polls what nothing tells of.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s: not within half a minute", what)
		}
	}
}

// meet waits until all know of each other.
func meet(t *testing.T, hosts ...*host) {
	t.Helper()
	for n, h := range hosts {
		await(t, fmt.Sprintf("server %d knows of the others", n), func() bool {
			got := h.Health()
			return got.Connected && got.Others == len(hosts)-1
		})
	}
}

func reboot(at hub.Place) hub.Call {
	return hub.Call{At: at, Name: "reboot", Payload: json.RawMessage(`1`), Response: 5 * time.Second}
}

func echo(_ context.Context, c hub.Call) (int, json.RawMessage, error) {
	return 201, c.Payload, nil
}

func TestNewsReachAllOthersInOrder(t *testing.T) {
	b := natstest.Start(t)
	one, two, three := join(t, Config{URL: b.URL()}), join(t, Config{URL: b.URL()}), join(t, Config{URL: b.URL()})
	meet(t, one, two, three)
	const many = 2000
	for n := range many {
		one.Tell(hub.News{Kind: hub.NewsDesired, At: pump, Version: int64(n), Patch: json.RawMessage(`{"a":1}`)})
	}
	for _, h := range []*host{two, three} {
		h.until(t, "all news", func() bool { return len(h.news) == many })
		for n, got := range h.news {
			if got.Version != int64(n) || got.At != pump || got.Kind != hub.NewsDesired || string(got.Patch) != `{"a":1}` {
				t.Fatalf("news %d are %+v", n, got)
			}
		}
		if got := h.Health(); got.Missed != 0 || got.Refused != 0 {
			t.Errorf("%+v", got)
		}
	}
	if len(one.news) != 0 {
		t.Error("a server heard itself")
	}
}

func TestMethodsAtOtherServers(t *testing.T) {
	b := natstest.Start(t)
	one, two, three := join(t, Config{URL: b.URL()}), join(t, Config{URL: b.URL()}), join(t, Config{URL: b.URL()})
	meet(t, one, two, three)
	ctx := t.Context()
	two.has[pump] = echo
	if status, answer, err := one.Call(ctx, reboot(pump)); status != 201 || string(answer) != "1" || err != nil {
		t.Errorf("%d %s, %v", status, answer, err)
	}
	large := reboot(pump)
	large.Payload = json.RawMessage(`"` + string(bytes.Repeat([]byte("x"), hub.MaxMethodPayload-2)) + `"`)
	if _, answer, err := one.Call(ctx, large); !bytes.Equal(answer, large.Payload) || err != nil {
		t.Errorf("%d bytes came back, %v", len(answer), err)
	}
	await(t, "one knows that it knows everybody", func() bool {
		began := time.Now()
		_, _, err := one.Call(ctx, reboot(hub.Place{Hub: "hub1.example", ID: "nobody"}))
		if !errors.Is(err, hub.ErrNotConnected) {
			t.Errorf("a device that is nowhere: %v", err)
		}
		return time.Since(began) < answerWithin/2
	})
	for name, c := range map[string]struct{ told, want error }{
		"it takes none":      {hub.ErrNoMethods, hub.ErrNoMethods},
		"it is too late":     {context.DeadlineExceeded, context.DeadlineExceeded},
		"it is disconnected": {errors.New("the connection ended"), errors.New("the connection ended")},
	} {
		two.change(func() {
			two.has[pump] = func(context.Context, hub.Call) (int, json.RawMessage, error) { return 0, nil, c.told }
		})
		if _, _, err := one.Call(ctx, reboot(pump)); !errors.Is(err, c.want) && (err == nil || err.Error() != c.want.Error()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// It is on its way from one server to another: the one that it has left fails.
	release := make(chan struct{})
	two.change(func() {
		two.has[pump] = func(context.Context, hub.Call) (int, json.RawMessage, error) {
			close(release)
			return 0, nil, errors.New("the connection ended")
		}
	})
	three.change(func() {
		three.has[pump] = func(_ context.Context, c hub.Call) (int, json.RawMessage, error) {
			<-release
			return 202, c.Payload, nil
		}
	})
	if status, _, err := one.Call(ctx, reboot(pump)); status != 202 || err != nil {
		t.Errorf("of a device that moves: %d, %v", status, err)
	}
}

func TestMethodsOfServersThatEnd(t *testing.T) {
	b := natstest.Start(t)
	one, two := join(t, Config{URL: b.URL()}), join(t, Config{URL: b.URL()})
	meet(t, one, two)
	began := make(chan struct{})
	two.has[pump] = func(ctx context.Context, _ hub.Call) (int, json.RawMessage, error) {
		close(began)
		<-ctx.Done()
		return 0, nil, ctx.Err()
	}
	ended := make(chan error)
	go func() {
		_, _, err := one.Call(t.Context(), hub.Call{At: pump, Name: "sleep", Response: 20 * time.Second})
		ended <- err
	}()
	<-began
	two.leave()
	if err := <-ended; !errors.Is(err, errServerGone) {
		t.Errorf("the server left: %v", err)
	}
	if got := one.Health(); got.Others != 0 {
		t.Errorf("%d others are there", got.Others)
	}
}

func TestWithoutNATS(t *testing.T) {
	b := natstest.New(t)
	one, two := join(t, Config{URL: b.URL()}), join(t, Config{URL: b.URL()})
	one.Tell(hub.News{Kind: hub.NewsDisabled, At: pump}) // nobody hears that, and nobody waits
	if _, _, err := one.Call(t.Context(), reboot(pump)); !errors.Is(err, hub.ErrUnreachable) {
		t.Errorf("before there was NATS: %v", err)
	}
	if h := one.Health(); h.Connected {
		t.Errorf("%+v", h)
	}
	b.Start(t)
	meet(t, one, two)
	two.has[pump] = echo
	if _, _, err := one.Call(t.Context(), reboot(pump)); err != nil {
		t.Error(err)
	}

	b.Kill()
	await(t, "both see that NATS is gone", func() bool { return !one.Health().Connected && !two.Health().Connected })
	checked := two.checkedSoFar()
	one.Tell(hub.News{Kind: hub.NewsDisabled, At: pump})
	if _, _, err := one.Call(t.Context(), reboot(pump)); !errors.Is(err, hub.ErrUnreachable) {
		t.Errorf("while there is no NATS: %v", err)
	}
	b.Start(t)
	two.until(t, "two checks its devices after news were lost", func() bool { return two.checked > checked })
	meet(t, one, two)
	if status, _, err := one.Call(t.Context(), reboot(pump)); status != 201 || err != nil {
		t.Errorf("when NATS is back: %d, %v", status, err)
	}
	if len(two.heardOf()) != 0 {
		t.Errorf("stale news arrived: %v", two.news)
	}
}

func (s *service) checkedSoFar() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checked
}

func (s *service) heardOf() []hub.News {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.news
}

// A server whose messages do not arrive any more, though NATS is there.
func TestAServerThatIsNotHeard(t *testing.T) {
	b := natstest.Start(t)
	one, two := join(t, Config{URL: b.URL()}), join(t, Config{URL: b.URL()})
	meet(t, one, two)
	checked := one.checkedSoFar()
	two.conn.Close() // as when it is killed
	if _, _, err := one.Call(t.Context(), reboot(pump)); !errors.Is(err, hub.ErrUnreachable) {
		t.Errorf("a device that may be there: %v", err)
	}
	one.until(t, "one checks its devices", func() bool { return one.checked > checked })
	if _, _, err := one.Call(t.Context(), reboot(pump)); !errors.Is(err, hub.ErrNotConnected) {
		t.Errorf("a device that is nowhere: %v", err)
	}
}

// A NATS that takes nothing in does not hold up who tells something.
func TestNobodyWaitsForNATS(t *testing.T) {
	b := natstest.Start(t)
	one, two := join(t, Config{URL: b.URL()}), join(t, Config{URL: b.URL()})
	meet(t, one, two)
	thaw := b.Freeze(t)
	patch := json.RawMessage(`"` + strings.Repeat("x", 30<<10) + `"`)
	const many = 4000 // more than the outbox and the kernel take
	began := time.Now()
	for n := range many {
		one.Tell(hub.News{Kind: hub.NewsDesired, At: pump, Version: int64(n), Patch: patch})
	}
	if took := time.Since(began); took > connectTimeout {
		t.Errorf("telling took %v", took)
	}
	checked := two.checkedSoFar()
	thaw()
	two.until(t, "two sees that it missed something", func() bool { return two.checked > checked })
	meet(t, one, two)
	last := int64(-1)
	for _, n := range two.heardOf() {
		if n.Version <= last {
			t.Fatalf("version %d arrived after %d", n.Version, last)
		}
		last = n.Version
	}
}

// Who can reach NATS and has no server key.
func TestStrangersOnNATS(t *testing.T) {
	b := natstest.Start(t)
	one, two := join(t, Config{URL: b.URL()}), join(t, Config{URL: b.URL()})
	meet(t, one, two)
	stranger := join(t, Config{URL: b.URL(), Key: secret(2)})
	two.has[pump] = echo
	stranger.has[pump] = func(context.Context, hub.Call) (int, json.RawMessage, error) { return 666, nil, nil }
	stranger.Tell(hub.News{Kind: hub.NewsDeleted, At: pump})
	if _, _, err := stranger.Call(t.Context(), reboot(pump)); err == nil {
		t.Error("a stranger has called a method")
	}
	spy, err := nats.Connect(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer spy.Close()
	seen, err := spy.SubscribeSync("berth.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	if status, _, err := one.Call(t.Context(), reboot(pump)); status != 201 || err != nil {
		t.Errorf("%d, %v", status, err)
	}
	one.Tell(hub.News{Kind: hub.NewsDisabled, At: pump})
	two.until(t, "what one tells", func() bool { return len(two.news) == 1 })
	refused := two.Health().Refused
	for range 4 { // the call, who has it, the answer, the news; beside who is alive
		m, err := seen.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(m.Data, []byte("pump-7")) {
			t.Errorf("%s can be read", m.Subject)
		}
		for _, subject := range []string{m.Subject, "berth.all", two.subject(two.self), one.subject(one.self)} {
			if err := spy.Publish(subject, m.Data); err != nil {
				t.Fatal(err)
			}
		}
	}
	await(t, "what is sent again is refused", func() bool { return two.Health().Refused >= refused+4 })
	if got := two.heardOf(); len(got) != 1 {
		t.Errorf("sent again, news arrived again: %v", got)
	}
	if got := one.heardOf(); len(got) != 0 {
		t.Errorf("one heard %v", got)
	}
}

func TestCredentialsForNATS(t *testing.T) {
	b := natstest.Start(t, "--user", "berth", "--pass", "right")
	word := func(s string) func() (string, error) { return func() (string, error) { return s, nil } }
	one := join(t, Config{URL: b.URL(), User: "berth", Password: word("right")})
	meet(t, one)
	if n, err := Probe(t.Context(), Config{URL: b.URL(), User: "berth", Password: word("right"), Prefix: "berth", Key: secret(1), Logger: quiet()}); n != 1 || err != nil {
		t.Errorf("%d servers are there, %v", n, err)
	}
	if n, err := Probe(t.Context(), Config{URL: b.URL(), User: "berth", Password: word("right"), Prefix: "berth", Key: secret(2), Logger: quiet()}); n != 0 || err != nil {
		t.Errorf("%d servers of another installation are there, %v", n, err)
	}
	if _, err := Probe(t.Context(), Config{URL: b.URL(), User: "berth", Password: word("wrong"), Prefix: "berth", Key: secret(1), Logger: quiet()}); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with the wrong password: %v", err)
	}
	wrong := join(t, Config{URL: b.URL(), User: "berth", Password: word("wrong")})
	await(t, "the fault is known", func() bool { h := wrong.Health(); return !h.Connected && h.Fault != "" })
	if _, err := Connect(Config{URL: b.URL(), NKeyFile: "/does/not/exist", Prefix: "berth", Key: secret(1), Logger: quiet()}); err == nil {
		t.Error("connected with an NKey that is not there")
	}
}

func TestTLSToNATS(t *testing.T) {
	root, err := pki.NewRoot("NATS", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := root.IssueServer([]string{"127.0.0.1"}, key, time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"tls.pem": pki.EncodeCertificates(leaf.Certificate), "tls.key": text} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := natstest.Start(t, "--tls", "--tlscert", filepath.Join(dir, "tls.pem"), "--tlskey", filepath.Join(dir, "tls.key"))
	address := strings.Replace(b.URL(), "nats:", "tls:", 1)
	trusted := x509.NewCertPool()
	trusted.AddCert(root.Certificate)
	meet(t, join(t, Config{URL: address, RootCAs: trusted}), join(t, Config{URL: address, RootCAs: trusted}))
	stranger := join(t, Config{URL: address, RootCAs: x509.NewCertPool()})
	await(t, "the certificate is refused", func() bool {
		h := stranger.Health()
		return !h.Connected && strings.Contains(h.Fault, "certificate")
	})
}

// BenchmarkMethod calls a method at another server, which has the answer ready.
func BenchmarkMethod(b *testing.B) {
	t := new(testing.T)
	n := natstest.Start(t)
	defer n.Kill()
	one, two := join(t, Config{URL: n.URL()}), join(t, Config{URL: n.URL()})
	defer one.leave()
	defer two.leave()
	meet(t, one, two)
	two.has[pump] = echo
	for b.Loop() {
		if _, _, err := one.Call(b.Context(), reboot(pump)); err != nil {
			b.Fatal(err)
		}
	}
}
