package scenario

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/client/natstest"
	"github.com/berth-iot/berth/internal/app"
)

// A taker is a program that takes what a route brings by a webhook.
type taker struct {
	t       *testing.T
	address string

	mu     sync.Mutex // guards what follows
	server *httptest.Server
	bodies []string
	news   chan struct{} // closed when there are more, and replaced
}

func newTaker(t *testing.T) *taker {
	t.Helper()
	k := &taker{t: t, address: "127.0.0.1:0", news: make(chan struct{})}
	k.start()
	t.Cleanup(k.stop)
	k.address = k.server.Listener.Addr().String()
	return k
}

func (k *taker) start() {
	l, err := net.Listen("tcp", k.address)
	if err != nil {
		k.t.Error(err)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(k.take)}}
	k.server.Start()
}

func (k *taker) stop() {
	k.mu.Lock()
	server := k.server
	k.server = nil
	k.mu.Unlock()
	if server != nil {
		server.CloseClientConnections()
		server.Close()
	}
}

func (k *taker) take(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var sent struct{ Messages []struct{ Body string } }
	if err := json.Unmarshal(body, &sent); err != nil || r.Header.Get("webhook-signature") == "" {
		k.t.Errorf("%v: %s", err, body)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range sent.Messages {
		k.bodies = append(k.bodies, m.Body)
	}
	close(k.news)
	k.news = make(chan struct{})
}

// await waits for the messages of a device that are numbered from zero and fit.
func (k *taker) await(count int, fits func(int) bool) (again int) {
	k.t.Helper()
	last := -1
	for n := range count {
		if fits(n) {
			last = n
		}
	}
	patience := time.After(2 * time.Minute)
	for {
		k.mu.Lock()
		bodies, news := k.bodies, k.news
		k.mu.Unlock()
		next := 0
		again = 0
		for _, b := range bodies {
			n, err := strconv.Atoi(b)
			for !fits(next) {
				next++
			}
			switch {
			case err != nil || n > next || !fits(n):
				k.t.Fatalf("%q came where %d was next", b, next)
			case n == next:
				next++
			default:
				again++
			}
		}
		if next > last {
			return again
		}
		select {
		case <-news:
		case <-patience:
			k.t.Fatalf("%d of %d came", next, count)
		}
	}
}

// A lake is a NATS server with JetStream, that takes what a route brings.
type lake struct {
	*natstest.Server
	t *testing.T
}

func newLake(t *testing.T) *lake {
	t.Helper()
	return &lake{natstest.Start(t, "-js", "-sd", t.TempDir()), t}
}

// await waits for the messages that are numbered from zero.
func (k *lake) await(count int) (again int) {
	k.t.Helper()
	connection, err := nats.Connect(k.URL(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
	if err != nil {
		k.t.Fatal(err)
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(k.t.Context(), 2*time.Minute)
	defer cancel()
	consumer, err := js.OrderedConsumer(ctx, "LAKE", jetstream.OrderedConsumerConfig{})
	if err != nil {
		k.t.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		k.t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	defer messages.Stop()
	for next := 0; next < count; {
		m, err := messages.Next()
		if err != nil {
			k.t.Fatalf("%d of %d came: %v", next, count, err)
		}
		n, err := strconv.Atoi(string(m.Data()))
		switch {
		case err != nil || n > next || m.Subject() != "berth.hub%2Eexample."+liveID || m.Headers().Get("Berth-Device") != liveID:
			k.t.Fatalf("%s %q came where %d was next", m.Subject(), m.Data(), next)
		case n == next:
			next++
		default:
			again++
		}
	}
	return again
}

const liveID = "key-group-live"

// What a device sends over MQTT reaches the sinks that routes say: all of it, in
// order, whoever is killed on the way.
func TestMessagesReachTheirSinks(t *testing.T) {
	l := beginLife(t, hub.MQTT, nil)
	owner, err := os.ReadFile(filepath.Join(l.database.data, app.ServiceConnectionFile))
	if err != nil {
		t.Fatal(err)
	}
	operator, err := admin.New(string(owner), client.HTTP{RootCAs: l.world.roots, Transport: &http.Transport{DialContext: l.dial}})
	if err != nil {
		t.Fatal(err)
	}
	all, odd := newTaker(t), newTaker(t)
	for name, k := range map[string]*taker{"all": all, "odd": odd} {
		sink := admin.SinkChange{Kind: "webhook", URL: "http://" + k.address + "/", Secret: "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="}
		if _, err := operator.PutSink(t.Context(), hubHost, name, sink); err != nil {
			t.Fatal(err)
		}
	}
	deep := newLake(t)
	if _, err := operator.PutSink(t.Context(), hubHost, "lake", admin.SinkChange{Kind: "jetstream", URL: deep.URL(), Settings: map[string]string{"stream": "LAKE"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := operator.PutRoute(t.Context(), hubHost, "lake", admin.RouteChange{Sink: "lake", Enabled: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := operator.PutRoute(t.Context(), hubHost, "all", admin.RouteChange{Sink: "all", Enabled: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := operator.PutRoute(t.Context(), hubHost, "odd", admin.RouteChange{Sink: "odd", Enabled: true, Condition: `parity = `}); err == nil {
		t.Error("a condition that is none was taken")
	}
	if _, err := operator.PutRoute(t.Context(), hubHost, "odd", admin.RouteChange{Sink: "odd", Enabled: true, Condition: `parity = "odd"`}); err != nil {
		t.Fatal(err)
	}
	tested, err := operator.TestSink(t.Context(), hubHost, "all")
	if err != nil || !tested.Delivered {
		t.Fatalf("%+v, %v", tested, err)
	}
	all.mu.Lock()
	all.bodies = nil
	all.mu.Unlock()

	// A program that reads for a group, and says what it read, goes on over the deaths
	// of the server.
	group := make(chan int, 1<<20) // the numbers that it is given
	reading, enough := context.WithCancel(t.Context())
	defer enough()
	go func() {
		defer close(group)
		for m, err := range operator.ReadGroup(reading, hubHost, admin.Group{Name: "watch", Start: "earliest", Follow: true}) {
			if err != nil {
				if reading.Err() == nil {
					t.Errorf("reading for a group: %v", err)
				}
				return
			}
			if n, err := strconv.Atoi(string(m.Body)); err == nil {
				group <- n
			}
		}
	}()

	sent := 0
	send := func(d time.Duration) {
		for until := time.Now().Add(d); time.Now().Before(until); sent++ {
			m := hub.Message{Body: []byte(strconv.Itoa(sent)), Properties: map[string]string{"parity": []string{"even", "odd"}[sent%2]}}
			if err := l.Queue(t.Context(), m, func(error) {}); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(time.Second)
	for range max(2, *kills/4) {
		restarted := make(chan struct{})
		go func() {
			defer close(restarted)
			<-time.After(150 * time.Millisecond)
			odd.stop()
			deep.Kill()
			<-time.After(150 * time.Millisecond)
			l.restart()
			odd.start()
			deep.Start(t)
		}()
		send(600 * time.Millisecond)
		<-restarted
	}
	send(300 * time.Millisecond)
	began := time.Now()
	again := all.await(sent, func(int) bool { return true })
	t.Logf("%d messages; %d came again; the last %s after it was sent", sent, again, time.Since(began).Round(time.Millisecond))
	again = odd.await(sent, func(n int) bool { return n%2 == 1 })
	t.Logf("of the odd ones %d came again; the last %s after it was sent", again, time.Since(began).Round(time.Millisecond))
	again = deep.await(sent)
	t.Logf("in JetStream %d came again; the last %s after it was sent", again, time.Since(began).Round(time.Millisecond))
	next, twice := 0, 0
	for patience := time.After(time.Minute); next < sent; {
		select {
		case n, ok := <-group:
			switch {
			case !ok || n > next:
				t.Fatalf("a group was given %d where %d was next", n, next)
			case n == next:
				next++
			default:
				twice++
			}
		case <-patience:
			t.Fatalf("a group was given %d of %d messages", next, sent)
		}
	}
	t.Logf("a group was given %d again; the last %s after it was sent", twice, time.Since(began).Round(time.Millisecond))

	// A sink that is down is shown, and gets everything afterwards.
	odd.stop()
	send(200 * time.Millisecond)
	health := func(until func(admin.ReaderHealth) bool) (h admin.ReaderHealth) {
		t.Helper()
		for patience := time.After(time.Minute); ; {
			r, err := operator.Route(t.Context(), hubHost, "odd")
			if err != nil {
				t.Fatal(err)
			}
			if h = r.Health; until(h) {
				return h
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-patience:
				t.Fatalf("%+v", h)
			}
		}
	}
	h := health(func(h admin.ReaderHealth) bool { return h.LastError != "" && !h.FailingSince.IsZero() && h.Lag > 0 })
	t.Logf("%d behind: %s", h.Lag, h.LastError)
	odd.start()
	odd.await(sent, func(n int) bool { return n%2 == 1 })
	if h := health(func(h admin.ReaderHealth) bool { return h.FailingSince.IsZero() && h.Lag == 0 }); h.Lost != 0 {
		t.Errorf("%+v", h)
	}
}
