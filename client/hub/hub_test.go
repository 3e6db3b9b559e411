package hub_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/client/internal/memtls"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/sas"
)

const deviceID = "Pump#7"

func key() device.SymmetricKey {
	k, err := device.NewSymmetricKey([]byte("device key, 32 bytes, not secret"))
	if err != nil {
		panic(err)
	}
	return k
}

// A request is what the hub saw of one.
type request struct {
	path, authorization, media string
	headers                    map[string]string // the iothub- ones, in lower case
	body                       string
	certificates               int
}

// send lets a device do something at a hub that answers as told, and returns
// the requests that arrived.
func send(t *testing.T, credential client.Credential, answer http.HandlerFunc, do func(context.Context, *hub.Client) error) (got []request, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := memtls.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			seen := request{r.URL.EscapedPath(), r.Header.Get("Authorization"), r.Header.Get("Content-Type"), map[string]string{}, string(body), len(r.TLS.PeerCertificates)}
			for name, values := range r.Header {
				if name = strings.ToLower(name); strings.HasPrefix(name, "iothub-") {
					seen.headers[name] = values[0]
				}
			}
			got = append(got, seen)
			answer(w, r)
		}))
		c, e := hub.New(hub.Config{Host: memtls.Host + ":8443", DeviceID: deviceID, Credential: credential, HTTP: o})
		if e != nil {
			t.Fatal(e)
		}
		err = do(t.Context(), c)
	})
	return got, err
}

func stored(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }

func TestAMessageArrivesWhole(t *testing.T) {
	m := hub.Message{
		Body: []byte(`{"t":21.5}`), ContentType: "application/json", ContentEncoding: "utf-8", MessageID: "m-1", CorrelationID: "c-1",
		CreationTime: time.Date(2024, 5, 1, 12, 0, 0, 5e6, time.FixedZone("", 7200)), Properties: map[string]string{"alert": "true", "empty": ""},
	}
	got, err := send(t, client.SymmetricKey(key()), stored, func(ctx context.Context, c *hub.Client) error { return c.Send(ctx, m) })
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	want := map[string]string{"iothub-contenttype": "application/json", "iothub-contentencoding": "utf-8", "iothub-messageid": "m-1",
		"iothub-correlationid": "c-1", "iothub-creation-time-utc": "2024-05-01T10:00:00.005Z", "iothub-app-alert": "true", "iothub-app-empty": ""}
	if r := got[0]; r.path != "/devices/Pump%237/messages/events" || r.body != string(m.Body) || !maps.Equal(r.headers, want) {
		t.Errorf("%+v", r)
	}
	token, err := sas.Parse(got[0].authorization)
	if err != nil || !token.SignedBy(key().Bytes()) || token.Resource != "example.com/devices/Pump#7" || token.KeyName != "" {
		t.Errorf("token %q, %v", got[0].authorization, err)
	}
}

func TestPropertiesThatHeadersWouldSpoil(t *testing.T) {
	for name, value := range map[string]string{
		"tooHot": "true", "größe": "1", "with space": "1", "a:b": "1", "umlaut": "größe", "line": "a\r\nAuthorization: none", "blank": " x ", "nul": "\x00",
	} {
		m := hub.Message{Body: []byte("x"), Properties: map[string]string{name: value}}
		got, err := send(t, client.SymmetricKey(key()), stored, func(ctx context.Context, c *hub.Client) error { return c.Send(ctx, m) })
		if err != nil || len(got) != 1 || len(got[0].headers) != 0 {
			t.Errorf("%s: %+v, %v", name, got, err)
			continue
		}
		var batch []struct {
			Body          []byte
			Base64Encoded bool
			Properties    map[string]string
		}
		if err := json.Unmarshal([]byte(got[0].body), &batch); err != nil || got[0].media != "application/vnd.microsoft.iothub.json" {
			t.Errorf("%s: %q, %v", name, got[0].body, err)
			continue
		}
		if len(batch) != 1 || string(batch[0].Body) != "x" || !batch[0].Base64Encoded || batch[0].Properties["iothub-app-"+name] != value {
			t.Errorf("%s: %+v", name, batch)
		}
	}
}

func TestBatches(t *testing.T) {
	got, err := send(t, client.SymmetricKey(key()), stored, func(ctx context.Context, c *hub.Client) error {
		return c.SendBatch(ctx, []hub.Message{{Body: []byte{0xff}}, {MessageID: "2"}})
	})
	if want := `[{"body":"/w==","base64Encoded":true},{"body":"","base64Encoded":true,"properties":{"iothub-messageid":"2"}}]`; err != nil || got[0].body != want {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestMessagesThatAreNotSent(t *testing.T) {
	big := make([]byte, hub.MaxMessage)
	for name, do := range map[string]func(context.Context, *hub.Client) error{
		"no messages":    func(ctx context.Context, c *hub.Client) error { return c.SendBatch(ctx, nil) },
		"501 messages":   func(ctx context.Context, c *hub.Client) error { return c.SendBatch(ctx, make([]hub.Message, 501)) },
		"a huge message": func(ctx context.Context, c *hub.Client) error { return c.Send(ctx, hub.Message{Body: append(big, 0)}) },
		"huge properties": func(ctx context.Context, c *hub.Client) error {
			return c.Send(ctx, hub.Message{Body: big, Properties: map[string]string{"a": "b"}})
		},
		"a huge batch": func(ctx context.Context, c *hub.Client) error {
			return c.SendBatch(ctx, []hub.Message{{Body: big}, {Body: []byte("x")}})
		},
		"a nameless property": func(ctx context.Context, c *hub.Client) error {
			return c.Send(ctx, hub.Message{Properties: map[string]string{"": "x"}})
		},
	} {
		if got, err := send(t, client.SymmetricKey(key()), stored, do); err == nil || len(got) > 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestTroubleOnTheWay(t *testing.T) {
	n := 0
	got, err := send(t, client.SymmetricKey(key()), func(w http.ResponseWriter, r *http.Request) {
		switch n++; n {
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
		case 2:
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			stored(w, r)
		}
	}, func(ctx context.Context, c *hub.Client) error { return c.Send(ctx, hub.Message{Body: []byte("x")}) })
	if err != nil || len(got) != 3 || got[2].body != "x" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAHubThatRefuses(t *testing.T) {
	got, err := send(t, client.SymmetricKey(key()), func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"Message":"ErrorCode:IotHubUnauthorizedAccess;Unauthorized","ExceptionMessage":"Tracking ID:1bc-G:20-TimeStamp:02/05/2021 10:03:38"}`)
	}, func(ctx context.Context, c *hub.Client) error { return c.Send(ctx, hub.Message{}) })
	refused, ok := errors.AsType[*client.Error](err)
	if !ok || refused.Name != "IotHubUnauthorizedAccess" || refused.Code != 401002 || refused.TrackingID != "1bc-G:20" || len(got) != 1 {
		t.Errorf("%+v after %d requests", err, len(got))
	}
}

func TestADeviceWithACertificateSendsNoToken(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	credential := client.X509(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private})
	got, err := send(t, credential, stored, func(ctx context.Context, c *hub.Client) error { return c.Send(ctx, hub.Message{}) })
	if err != nil || got[0].authorization != "" || got[0].certificates != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// chip is a TPM in which the hub's key is active already.
type chip struct {
	client.SecurityModule
	macs int
	err  error
}

func (c *chip) MAC(_ context.Context, msg []byte) ([]byte, error) {
	c.macs++
	h := hmac.New(sha256.New, key().Bytes())
	h.Write(msg)
	return h.Sum(nil), c.err
}

func TestATPMSignsOncePerToken(t *testing.T) {
	c := &chip{}
	got, err := send(t, client.TPM(c), stored, func(ctx context.Context, h *hub.Client) error {
		for range 3 {
			if err := h.Send(ctx, hub.Message{}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || c.macs != 1 {
		t.Fatalf("%d signatures, %v", c.macs, err)
	}
	if token, err := sas.Parse(got[2].authorization); err != nil || !token.SignedBy(key().Bytes()) {
		t.Errorf("%q, %v", got[2].authorization, err)
	}
}

func TestABrokenTPMSendsNothing(t *testing.T) {
	c := &chip{err: errors.New("the chip is hot")}
	got, err := send(t, client.TPM(c), stored, func(ctx context.Context, h *hub.Client) error { return h.Send(ctx, hub.Message{}) })
	if !errors.Is(err, c.err) || len(got) != 0 || c.macs != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	for name, c := range map[string]hub.Config{
		"no host":                  {DeviceID: "d", Credential: client.SymmetricKey(key())},
		"no device":                {Host: "h", Credential: client.SymmetricKey(key())},
		"a device with a slash":    {Host: "h", DeviceID: "a/b", Credential: client.SymmetricKey(key())},
		"no credential":            {Host: "h", DeviceID: "d"},
		"a credential with no key": {Host: "h", DeviceID: "d", Credential: client.SymmetricKey(device.SymmetricKey{})},
	} {
		if _, err := hub.New(c); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
}
