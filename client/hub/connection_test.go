package hub_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubtopic"
	"github.com/berth-iot/berth/wire/mqtt"
	"github.com/berth-iot/berth/wire/sas"
)

// A cloud is where hubs are. It takes in a device's connections one by one.
type cloud struct {
	*testing.T
	tls     *tls.Config
	roots   *x509.CertPool
	calls   chan net.Conn
	dialled []string
	key     device.SymmetricKey
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		DNSNames: []string{"hub.example", "other.example"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud{T: t, calls: make(chan net.Conn), roots: x509.NewCertPool()}
	c.roots.AddCert(leaf)
	c.tls = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, SessionTicketsDisabled: true, ClientAuth: tls.RequestClientCert,
	}
	if c.key, err = device.ParseSymmetricKey("ZGV2aWNlIGtleSwgMzIgYnl0ZXMsIG5vdCBzZWNyZXQ="); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cloud) dial(ctx context.Context, _, address string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	c.dialled = append(c.dialled, address)
	select {
	case c.calls <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *cloud) config() hub.ConnectionConfig {
	return hub.ConnectionConfig{Host: "hub.example:8443", DeviceID: "pump-7", Credential: client.SymmetricKey(c.key), RootCAs: c.roots, Dial: c.dial}
}

// A peer is the hub's end of one connection.
type peer struct {
	*testing.T
	*tls.Conn
	rest    []byte
	connect *mqtt.Connect
}

// answer takes in the next connection and answers its CONNECT.
func (c *cloud) answer(code mqtt.ReturnCode) *peer {
	c.Helper()
	p := &peer{T: c.T, Conn: tls.Server(<-c.calls, c.tls)}
	p.connect = expect[*mqtt.Connect](p)
	p.say(&mqtt.Connack{Code: code})
	if code != mqtt.Accepted {
		p.Close()
	}
	return p
}

// accept takes in the next connection with its subscriptions.
func (c *cloud) accept() *peer {
	c.Helper()
	p := c.answer(mqtt.Accepted)
	s := expect[*mqtt.Subscribe](p)
	p.say(&mqtt.Suback{ID: s.ID, Codes: make([]byte, len(s.Subscriptions))})
	return p
}

func (p *peer) say(m mqtt.Packet) {
	p.Helper()
	b, err := m.Append(nil)
	if err != nil {
		p.Fatal(err)
	}
	if _, err := p.Write(b); err != nil {
		p.Fatal(err)
	}
}

// tell publishes to the device.
func (p *peer) tell(topic, payload string) {
	p.Helper()
	p.say(&mqtt.Publish{Topic: topic, Payload: []byte(payload)})
}

// hear returns the next packet, or nil at the end.
func (p *peer) hear() mqtt.Packet {
	p.Helper()
	for {
		first, body, size, err := mqtt.Next(p.rest, 1<<20)
		if err == nil {
			p.rest = p.rest[size:]
			m, err := mqtt.Decode(first, body)
			if err != nil {
				p.Fatal(err)
			}
			return m
		}
		b := make([]byte, 4096)
		n, err := p.Read(b)
		p.rest = append(p.rest, b[:n]...)
		if n == 0 && err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				p.Log(err)
			}
			return nil
		}
	}
}

func expect[P mqtt.Packet](p *peer) P {
	p.Helper()
	m := p.hear()
	want, ok := m.(P)
	if !ok {
		p.Fatalf("got %T %+v, want %T", m, m, want)
	}
	return want
}

// request is what the device publishes next for.
func (p *peer) request() (hubtopic.Request, *mqtt.Publish) {
	p.Helper()
	m := expect[*mqtt.Publish](p)
	r, err := hubtopic.ParseRequest(m.Topic)
	if err != nil {
		p.Fatal(err)
	}
	return r, m
}

// giveTwin answers the question for the twin that has to come next.
func (p *peer) giveTwin(version int, desired string) {
	p.Helper()
	r, _ := p.request()
	if r.Operation != hubtopic.TwinGet {
		p.Fatalf("%+v, want the question for the twin", r)
	}
	p.tell(hubtopic.TwinResponse(200, r.RequestID, nil), fmt.Sprintf(`{"desired":{%s"$version":%d},"reported":{"$version":1}}`, desired, version))
}

// live runs f in a bubble with a device that is connected.
func live(t *testing.T, change func(*hub.ConnectionConfig), f func(*testing.T, *cloud, *hub.Connection, *peer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cloud := newCloud(t)
		config := cloud.config()
		if change != nil {
			change(&config)
		}
		first := make(chan *peer)
		go func() { first <- cloud.accept() }()
		c, err := hub.Connect(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		p := <-first
		defer func() {
			go c.Close()
			for {
				select {
				case raw := <-cloud.calls:
					raw.Close()
				case <-c.Done():
					synctest.Wait()
					return
				}
			}
		}()
		defer p.Close()
		f(t, cloud, c, p)
	})
}

func text(s string) hub.Message { return hub.Message{Body: []byte(s)} }

func TestADeviceSaysWhoItIs(t *testing.T) {
	live(t, nil, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		if got := strings.Join(cloud.dialled, " "); got != "hub.example:8883" {
			t.Errorf("dialled %s", got)
		}
		u, err := hubtopic.ParseUsername(*p.connect.Username)
		if err != nil || u.Host != "hub.example" || u.DeviceID != "pump-7" || p.connect.ClientID != "pump-7" || p.connect.KeepAlive != 240 {
			t.Errorf("%+v %+v %v", p.connect, u, err)
		}
		token, err := sas.Parse(string(p.connect.Password))
		if err != nil || !token.SignedBy(cloud.key.Bytes()) || !sas.Covers(token.Resource, sas.HubDeviceResource("hub.example", "pump-7")) {
			t.Errorf("%+v %v", token, err)
		}
		sent := make(chan error)
		go func() {
			sent <- c.Send(t.Context(), hub.Message{Body: []byte("x"), MessageID: "m/1", Properties: map[string]string{"alert": "a&b"}})
		}()
		r, m := p.request()
		system, application := hubtopic.Split(r.Properties)
		if r.Operation != hubtopic.Telemetry || r.DeviceID != "pump-7" || system["message-id"] != "m/1" || application["alert"] != "a&b" || string(m.Payload) != "x" {
			t.Errorf("%+v", r)
		}
		synctest.Wait()
		select {
		case err := <-sent:
			t.Errorf("sent before it was acknowledged: %v", err)
		default:
		}
		p.say(&mqtt.Puback{ID: m.ID})
		if err := <-sent; err != nil {
			t.Error(err)
		}
		go c.Close()
		expect[*mqtt.Disconnect](p)
		<-c.Done()
		if err := c.Send(t.Context(), text("x")); !errors.Is(err, hub.ErrClosed) {
			t.Errorf("sent over a closed connection: %v", err)
		}
	})
}

func TestAModuleSaysWhoItIs(t *testing.T) {
	module := func(c *hub.ConnectionConfig) { c.ModuleID = "vision" }
	live(t, module, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		u, err := hubtopic.ParseUsername(*p.connect.Username)
		if err != nil || u.DeviceID != "pump-7" || u.ModuleID != "vision" || p.connect.ClientID != "pump-7/vision" {
			t.Errorf("%+v %+v %v", p.connect, u, err)
		}
		token, err := sas.Parse(string(p.connect.Password))
		if err != nil || !token.SignedBy(cloud.key.Bytes()) || token.Resource != "hub.example/devices/pump-7/modules/vision" {
			t.Errorf("%+v %v", token, err)
		}
		go c.Send(t.Context(), text("x"))
		if r, _ := p.request(); r.Operation != hubtopic.Telemetry || r.DeviceID != "pump-7" || r.ModuleID != "vision" {
			t.Errorf("%+v", r)
		}
		p.Close()
		for range 3 {
			cloud.answer(mqtt.NotAuthorized)
		}
		<-c.Done()
		refused, ok := errors.AsType[*hub.RefusedError](c.Err())
		if !ok || refused.ModuleID != "vision" || !strings.Contains(refused.Error(), "pump-7/vision") {
			t.Errorf("%v", c.Err())
		}
	})
}

func TestWhatIsNotAcknowledgedIsSentAgainInOrder(t *testing.T) {
	live(t, func(c *hub.ConnectionConfig) { c.Pending = 4 }, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		done := make(chan string, 8)
		queue := func(s string) {
			t.Helper()
			if err := c.Queue(t.Context(), text(s), func(err error) { done <- fmt.Sprint(s, " ", err) }); err != nil {
				t.Fatal(err)
			}
		}
		var ids []uint16
		for _, s := range []string{"a", "b", "c"} {
			queue(s)
			m := expect[*mqtt.Publish](p)
			if m.Dup || m.QoS != 1 || string(m.Payload) != s {
				t.Errorf("%+v", m)
			}
			ids = append(ids, m.ID)
		}
		p.say(&mqtt.Puback{ID: ids[0]})
		if got := <-done; got != "a <nil>" {
			t.Error(got)
		}
		p.Close()
		synctest.Wait()
		queue("d")
		queue("e")
		impatient, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := c.Send(impatient, text("f")); err == nil || !strings.Contains(err.Error(), "room") {
			t.Errorf("more than four wait: %v", err)
		}
		p = cloud.accept()
		defer p.Close()
		for i, want := range []string{"b", "c", "d", "e"} {
			m := expect[*mqtt.Publish](p)
			if again := i < 2; string(m.Payload) != want || m.Dup != again || again && m.ID != ids[i+1] {
				t.Errorf("%s is sent as %+v, and was as %d", want, m, ids)
			}
			p.say(&mqtt.Puback{ID: m.ID})
			p.say(&mqtt.Puback{ID: m.ID}) // once more is no harm
			if got := <-done; got != want+" <nil>" {
				t.Error(got)
			}
		}
		queue("g")
		expect[*mqtt.Publish](p)
		c.Close()
		if got := <-done; got != "g "+hub.ErrClosed.Error() {
			t.Error(got)
		}
	})
}

func TestPingsKeepItAlive(t *testing.T) {
	live(t, nil, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		began := time.Now()
		for range 3 {
			expect[*mqtt.Pingreq](p)
			p.say(&mqtt.Pingresp{})
		}
		if took := time.Since(began); took != 9*time.Minute {
			t.Errorf("three pings took %v", took)
		}
		answered := time.Now()
		go io.Copy(io.Discard, p) // and never answers again
		next := cloud.accept()
		defer next.Close()
		if took := time.Since(answered); took < 270*time.Second || took > 272*time.Second {
			t.Errorf("a dead connection was given up after %v", took)
		}
	})
}

// pinged is hear for who has no interest in pings.
func (p *peer) pinged() mqtt.Packet {
	for {
		m := p.hear()
		if _, ping := m.(*mqtt.Pingreq); !ping {
			return m
		}
		p.say(&mqtt.Pingresp{})
	}
}

// A token is renewed by connecting again: well before it expires, at once, and
// without a message sent twice.
func TestATokenIsRenewedBeforeItExpires(t *testing.T) {
	live(t, func(c *hub.ConnectionConfig) { c.Pending = 1000 }, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		began, heard := time.Now(), make(chan mqtt.Packet, 1000)
		go func() {
			for m := p.pinged(); m != nil; m = p.pinged() {
				heard <- m
			}
			close(heard)
		}()
		done := 0
		queue := func(s string) {
			t.Helper()
			if err := c.Queue(t.Context(), text(s), func(err error) { done++ }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		queue("unacknowledged")
		first := (<-heard).(*mqtt.Publish)
		for ; ; <-time.After(time.Second) {
			queue("m")
			if len(heard) == 0 {
				break // it takes nothing more to this connection
			}
			p.say(&mqtt.Puback{ID: (<-heard).(*mqtt.Publish).ID})
		}
		if took := time.Since(began); took < 39*time.Minute || took > 52*time.Minute {
			t.Errorf("after %v", took)
		}
		at, before := time.Now(), done
		p.say(&mqtt.Puback{ID: first.ID})
		if m, ok := (<-heard).(*mqtt.Disconnect); !ok {
			t.Errorf("%T, want a farewell", m)
		}
		next := cloud.accept()
		defer next.Close()
		m := expect[*mqtt.Publish](next)
		if string(m.Payload) != "m" || m.Dup || !time.Now().Equal(at) || done != before+1 {
			t.Errorf("after %v: %+v", time.Since(at), m)
		}
		a, err := sas.Parse(string(p.connect.Password))
		if err != nil {
			t.Fatal(err)
		}
		b, err := sas.Parse(string(next.connect.Password))
		if err != nil || b.Expiry.Sub(a.Expiry) < 38*time.Minute {
			t.Errorf("a token until %v, and then one until %v, %v", a.Expiry, b.Expiry, err)
		}
	})
}

// A busyChip is one that cannot sign, so many times from now on.
type busyChip struct {
	chip
	fails int
}

func (c *busyChip) MAC(ctx context.Context, msg []byte) ([]byte, error) {
	c.err = nil
	if c.fails > 0 {
		c.fails--
		c.err = errors.New("the TPM is busy")
	}
	return c.chip.MAC(ctx, msg)
}

// A TPM signs each token anew, before the one before expires. One that cannot for
// a while is asked again, as often as it takes.
func TestATPMRenewsItsToken(t *testing.T) {
	var module *busyChip
	withTPM := func(c *hub.ConnectionConfig) {
		module = &busyChip{}
		c.Credential = client.TPM(module)
	}
	live(t, withTPM, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		for renewal := range 3 {
			token, err := sas.Parse(string(p.connect.Password))
			if err != nil || !token.SignedBy(key().Bytes()) || module.macs != 1+3*renewal {
				t.Fatalf("renewal %d: %v; it signed %d times", renewal, err, module.macs)
			}
			module.fails = 2
			if _, ok := p.pinged().(*mqtt.Disconnect); !ok || !time.Now().Before(token.Expiry) {
				t.Fatalf("no farewell until %v, the token is good until %v", time.Now(), token.Expiry)
			}
			for range 2 { // it connects, and has nothing to say
				silent := &peer{T: t, Conn: tls.Server(<-cloud.calls, cloud.tls)}
				if m := silent.hear(); m != nil {
					t.Errorf("it says %T", m)
				}
				silent.Close()
			}
			if p = cloud.accept(); !time.Now().Before(token.Expiry) {
				t.Errorf("it is back at %v, the token was good until %v", time.Now(), token.Expiry)
			}
		}
		p.Close()
	})
}

// A hub that acknowledges nothing does not keep a device with a token that
// expires.
func TestATokenIsRenewedWhateverIsUnderWay(t *testing.T) {
	live(t, nil, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		began := time.Now()
		if err := c.Queue(t.Context(), text("a"), func(error) {}); err != nil {
			t.Fatal(err)
		}
		expect[*mqtt.Publish](p)
		if m, ok := p.pinged().(*mqtt.Disconnect); !ok || time.Since(began) > 52*time.Minute {
			t.Errorf("%T after %v", m, time.Since(began))
		}
		p = cloud.accept()
		defer p.Close()
		if m := expect[*mqtt.Publish](p); !m.Dup {
			t.Errorf("%+v", m)
		}
	})
}

func TestADeviceThatIsTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newCloud(t)
		go func() {
			cloud.answer(mqtt.ServerUnavailable) // counts for nothing
			for range 3 {
				cloud.answer(mqtt.NotAuthorized)
			}
		}()
		var changes []string
		config := cloud.config()
		config.Changed = func(connected bool, why error) { changes = append(changes, fmt.Sprint(connected, " ", why)) }
		_, err := hub.Connect(t.Context(), config)
		refused, ok := errors.AsType[*hub.RefusedError](err)
		if !ok || refused.Code != mqtt.NotAuthorized || refused.DeviceID != "pump-7" {
			t.Errorf("%v", err)
		}
		if len(changes) != 4 || !strings.Contains(changes[3], "not authorized") {
			t.Errorf("%q", changes)
		}
	})
}

func TestADeviceThatIsTurnedAwayAsksWhereItLives(t *testing.T) {
	asked := 0
	ask := func(c *hub.ConnectionConfig) {
		c.Reprovision = func(context.Context) (string, device.ID, error) {
			if asked++; asked == 1 {
				return "", "", errors.New("nobody knows")
			}
			return "other.example", "pump-8", nil
		}
	}
	live(t, ask, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		done := make(chan error, 1)
		if err := c.Queue(t.Context(), text("a"), func(err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		expect[*mqtt.Publish](p)
		p.Close()
		for range 4 {
			cloud.answer(mqtt.NotAuthorized)
		}
		p = cloud.accept()
		defer p.Close()
		r, m := p.request()
		if r.DeviceID != "pump-8" || m.Dup || p.connect.ClientID != "pump-8" || !strings.HasPrefix(*p.connect.Username, "other.example/pump-8/") {
			t.Errorf("%+v %+v %+v", r, m, p.connect)
		}
		p.say(&mqtt.Puback{ID: m.ID})
		if err := <-done; err != nil || asked != 2 {
			t.Errorf("%v; asked %d times", err, asked)
		}
		if host, id := c.Home(); host != "other.example" || id != "pump-8" {
			t.Errorf("lives at %s as %s", host, id)
		}
	})
}

func TestWaitsBeforeItConnectsAgainGrow(t *testing.T) {
	live(t, nil, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		p.Close()
		began := time.Now()
		for range 60 {
			(<-cloud.calls).Close()
		}
		// Half a second, one, two … half a minute on average.
		if took := time.Since(began); took < 15*time.Minute || took > 40*time.Minute {
			t.Errorf("60 attempts took %v", took)
		}
	})
}

func TestConnectGivesUpWithAReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newCloud(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		config := cloud.config()
		config.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }
		if _, err := hub.Connect(ctx, config); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no route") {
			t.Errorf("%v", err)
		}
	})
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	config := newCloud(t).config()
	config.Dial, config.Port = nil, server.Listener.Addr().(*net.TCPAddr).Port
	config.Host = "127.0.0.1"
	_, err := hub.Connect(t.Context(), config)
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); !untrusted {
		t.Errorf("a server that nobody vouches for: %v", err)
	}
	for name, change := range map[string]func(*hub.ConnectionConfig){
		"host": func(c *hub.ConnectionConfig) { c.Host = "" }, "device": func(c *hub.ConnectionConfig) { c.DeviceID = "" },
		"module": func(c *hub.ConnectionConfig) { c.ModuleID = "a/b" },
		"module's messages": func(c *hub.ConnectionConfig) {
			c.ModuleID, c.OnMessage = "m", func(context.Context, hub.CloudMessage) error { return nil }
		},
		"wildcard": func(c *hub.ConnectionConfig) { c.DeviceID = "a+b" }, "credential": func(c *hub.ConnectionConfig) { c.Credential = client.Credential{} },
		"keep-alive": func(c *hub.ConnectionConfig) { c.KeepAlive = time.Hour }, "pending": func(c *hub.ConnectionConfig) { c.Pending = 1 << 20 },
		"port": func(c *hub.ConnectionConfig) { c.Port = 1 << 16 }, "transport": func(c *hub.ConnectionConfig) { c.Transport = 7 },
	} {
		config := newCloud(t).config()
		change(&config)
		if _, err := hub.Connect(t.Context(), config); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestMessagesThatNoHubTakesAreNotSent(t *testing.T) {
	live(t, nil, func(t *testing.T, _ *cloud, c *hub.Connection, _ *peer) {
		for name, m := range map[string]hub.Message{
			"too large":    {Body: make([]byte, hub.MaxMessage+1)},
			"long topic":   {Properties: map[string]string{"p": strings.Repeat("x", 65536)}},
			"not its name": {Properties: map[string]string{"$.mid": "x"}},
			"no name":      {Properties: map[string]string{"": "x"}},
		} {
			if err := c.Send(t.Context(), m); err == nil {
				t.Errorf("%s: sent", name)
			}
		}
	})
}

func TestTwin(t *testing.T) {
	live(t, nil, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		asked := make(chan string, 1)
		ask := func(f func() (any, error)) {
			go func() {
				v, err := f()
				b, _ := json.Marshal(v)
				asked <- fmt.Sprintf("%s %v", b, err)
			}()
		}
		got := func(want string) {
			t.Helper()
			if got := <-asked; !strings.Contains(got, want) {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}
		ask(func() (any, error) { return c.Twin(t.Context()) })
		p.giveTwin(3, `"rate":5,`)
		got(`{"Desired":{"Version":3,"Properties":{"rate":5}},"Reported":{"Version":1,"Properties":{}}} <nil>`)

		version := int64(2)
		ask(func() (any, error) { return c.Report(t.Context(), map[string]any{"rate": 5}) })
		r, m := p.request()
		if r.Operation != hubtopic.TwinPatch || r.Version != nil || string(m.Payload) != `{"rate":5}` {
			t.Errorf("%+v", r)
		}
		p.tell(hubtopic.TwinResponse(204, "another", &version), "")
		p.tell(hubtopic.TwinResponse(204, r.RequestID, &version), "")
		got("2 <nil>")

		ask(func() (any, error) { return c.ReportIf(t.Context(), map[string]any{"rate": 5}, 1) })
		r, _ = p.request()
		if r.Version == nil || *r.Version != 1 {
			t.Errorf("%+v", r)
		}
		p.tell(hubtopic.TwinResponse(412, r.RequestID, nil), `{"errorCode":412002,"message":"another version","trackingId":"T1"}`)
		got("another version (tracking ID T1)")

		// What may be said twice is, on the next connection.
		ask(func() (any, error) { return c.Report(t.Context(), map[string]any{"rate": 6}) })
		p.request()
		p.Close()
		p = cloud.accept()
		r, _ = p.request()
		version = 3
		p.tell(hubtopic.TwinResponse(204, r.RequestID, &version), "")
		got("3 <nil>")
		ask(func() (any, error) { return c.ReportIf(t.Context(), map[string]any{"rate": 6}, 3) })
		p.request()
		p.Close()
		got(hub.ErrInterrupted.Error())

		p = cloud.accept()
		defer p.Close()
		if _, err := c.Report(t.Context(), strings.Repeat("x", hub.MaxMessage)); err == nil {
			t.Error("reported more than the hub takes")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go io.Copy(io.Discard, p)
		if _, err := c.Twin(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a hub that does not answer: %v", err)
		}
	})
}

func TestNoChangeOfDesiredPropertiesIsMissed(t *testing.T) {
	heard := make(chan string, 100)
	listen := func(c *hub.ConnectionConfig) {
		c.OnDesired = func(_ context.Context, d hub.Desired) {
			heard <- fmt.Sprintf("%d %s %v", d.Version, d.Properties, d.Full)
		}
	}
	live(t, listen, func(t *testing.T, cloud *cloud, _ *hub.Connection, p *peer) {
		want := func(all ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for len(heard) > 0 {
				got = append(got, <-heard)
			}
			if !reflect.DeepEqual(got, all) {
				t.Errorf("got  %q\nwant %q", got, all)
			}
		}
		change := func(version int64, member string) {
			p.tell(hubtopic.Desired(version), fmt.Sprintf(`{%s,"$version":%d}`, member, version))
		}
		change(4, `"b":2`) // is in the twin already, or not
		p.giveTwin(4, `"a":1,"b":2,`)
		want(`4 {"a":1,"b":2} true`)
		change(5, `"a":null`)
		change(5, `"a":null`)
		change(4, `"b":2`)
		want(`5 {"a":null} false`)
		change(7, `"c":3`) // 6 is missing
		p.giveTwin(7, `"b":2,"c":3,`)
		want(`7 {"b":2,"c":3} true`)

		p.Close()
		p = cloud.accept()
		p.giveTwin(7, `"b":2,"c":3,`)
		want()
		change(8, `"d":4`)
		want(`8 {"d":4} false`)
		p.Close()
		p = cloud.accept()
		p.giveTwin(8, `"b":2,"c":3,"d":4,`)
		want()
		p.Close()
		p = cloud.accept()
		r, _ := p.request()
		p.tell(hubtopic.TwinResponse(429, r.RequestID, nil), `{"errorCode":429001}`)
		p.giveTwin(1, ``) // another device of that name
		want(`1 {} true`)
		p.tell(hubtopic.Desired(2), `not JSON`)
		p.giveTwin(2, `"x":1,`)
		want(`2 {"x":1} true`)
		p.Close()
	})
}

func TestSlowDevicesAreNotDrownedInChanges(t *testing.T) {
	var heard chan int64
	var goOn chan struct{}
	listen := func(c *hub.ConnectionConfig) {
		heard, goOn = make(chan int64, 100), make(chan struct{})
		c.OnDesired = func(_ context.Context, d hub.Desired) { heard <- d.Version; <-goOn }
	}
	live(t, listen, func(t *testing.T, cloud *cloud, _ *hub.Connection, p *peer) {
		p.giveTwin(1, "")
		if v := <-heard; v != 1 {
			t.Errorf("version %d", v)
		}
		for v := int64(2); v <= 50; v++ {
			p.tell(hubtopic.Desired(v), `{}`)
		}
		synctest.Wait()
		close(goOn)
		p.giveTwin(50, "")
		synctest.Wait()
		if n := len(heard); n != 1 || <-heard != 50 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestMethods(t *testing.T) {
	hold := make(chan struct{})
	run := func(c *hub.ConnectionConfig) {
		c.OnMethod = func(_ context.Context, name string, payload json.RawMessage) (int, json.RawMessage, error) {
			switch name {
			case "echo":
				return 201, payload, nil
			case "nothing":
				return 200, nil, nil
			case "nonsense":
				return 200, json.RawMessage("{"), nil
			case "hold":
				<-hold
				return 200, nil, nil
			}
			return 0, nil, errors.New("there is no " + name)
		}
	}
	live(t, run, func(t *testing.T, cloud *cloud, _ *hub.Connection, p *peer) {
		for call, want := range map[string]string{
			`echo {"a":1}`: `201 {"a":1}`, `echo `: `201 null`, `nothing {}`: `200 null`, `re boot 1`: "", `x 1`: `500 {"message":"there is no x"}`,
			`nonsense 1`: `500 {"message":"the method's answer is not JSON"}`,
		} {
			name, payload, _ := strings.Cut(call, " ")
			p.tell(hubtopic.MethodCall(name, "1f"), payload)
			r, m := p.request()
			if got := fmt.Sprintf("%d %s", r.Status, m.Payload); want != "" && got != want || r.RequestID != "1f" || r.Operation != hubtopic.MethodAnswer {
				t.Errorf("%s: %s %+v", call, got, r)
			}
		}
		synctest.Wait()
		for i := range 17 {
			p.tell(hubtopic.MethodCall("hold", fmt.Sprint(i)), "")
		}
		if r, _ := p.request(); r.Status != 429 || r.RequestID != "16" {
			t.Errorf("the one too many: %+v", r)
		}
		close(hold)
		for range 16 {
			if r, _ := p.request(); r.Status != 200 {
				t.Errorf("%+v", r)
			}
		}
	})
}
