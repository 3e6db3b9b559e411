package provisioning_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/memtls"
	"github.com/berth-iot/berth/client/provisioning"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm/tpm2"
	"github.com/berth-iot/berth/hsm/tpm2/swtpm"
	"github.com/berth-iot/berth/tpm"
	"github.com/berth-iot/berth/wire/dpsjson"
	"github.com/berth-iot/berth/wire/sas"
)

// register runs one registration against h in a bubble and returns how long it
// took by the bubble's clock.
func register(t *testing.T, h http.Handler, c provisioning.Config) (home *provisioning.Assignment, took time.Duration, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c.Host, c.IDScope, c.HTTP = memtls.Host, scope, memtls.Serve(t, h)
		p, e := provisioning.New(c)
		if e != nil {
			t.Fatal(e)
		}
		start := time.Now()
		home, err = p.Register(t.Context())
		took = time.Since(start)
	})
	return home, took, err
}

func withKey() provisioning.Config {
	return provisioning.Config{RegistrationID: "Pump:7", Credential: client.SymmetricKey(deviceKey)}
}

func TestADeviceWithAKeyFindsItsHub(t *testing.T) {
	s := &service{t: t, keys: [][]byte{deviceKey.Bytes()}, change: func(op *dpsjson.OperationStatus) {
		op.RegistrationState.Payload = json.RawMessage(`{"hall":3}`)
	}}
	c := withKey()
	c.Payload = map[string]int{"floor": 2}
	home, took, err := register(t, s, c)
	want := &provisioning.Assignment{Hub: "contoso.azure-devices.net", DeviceID: "Pump:7", RegistrationID: "Pump:7",
		Substatus: "initialAssignment", Payload: json.RawMessage(`{"hall":3}`), Created: time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)}
	if err != nil || !reflect.DeepEqual(home, want) {
		t.Errorf("%+v, %v", home, err)
	}
	if len(s.requests) != 1 || s.requests[0] != "PUT /0ne00111111/registrations/Pump:7/register" || took > time.Second {
		t.Errorf("a final first answer took %v in %s", s.requests, took)
	}
	if got := string(s.bodies[0].Payload); got != `{"floor":2}` {
		t.Errorf("payload %s", got)
	}
}

func TestPollingFollowsTheService(t *testing.T) {
	for retryAfter, each := range map[string]time.Duration{
		"3": 3 * time.Second, "": 2 * time.Second, "0": 2 * time.Second, "-1": 2 * time.Second, "3.5": 2 * time.Second,
		"Sun, 06 Nov 2094 08:49:37 GMT": 2 * time.Second, "3600": 30 * time.Second, "18446744073709551615": 2 * time.Second,
	} {
		t.Run(retryAfter, func(t *testing.T) {
			s := &service{t: t, keys: [][]byte{deviceKey.Bytes()}, polls: 3, retryAfter: retryAfter}
			_, took, err := register(t, s, withKey())
			if err != nil || took != 3*each || len(s.requests) != 4 || s.requests[3] != "GET /0ne00111111/registrations/Pump:7/operations/5.op%2F1" {
				t.Errorf("%s for %v: %v", took, s.requests, err)
			}
		})
	}
}

func TestEndlessAssigningEnds(t *testing.T) {
	s := &service{t: t, keys: [][]byte{deviceKey.Bytes()}, polls: 1 << 30, retryAfter: "3"}
	_, took, err := register(t, s, withKey())
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "still assigning") || took > 5*time.Minute || took < 4*time.Minute {
		t.Errorf("after %s: %v", took, err)
	}
}

func TestATokenThatExpiresWhilePollingIsRenewed(t *testing.T) {
	s := &service{t: t, keys: [][]byte{deviceKey.Bytes()}, polls: 300, retryAfter: "30"}
	c := withKey()
	c.Patience = 3 * time.Hour
	if _, took, err := register(t, s, c); err != nil || took < 2*time.Hour {
		t.Errorf("after %s: %v", took, err)
	}
}

// hidden is a private key of which only the signing shows, as in a token.
type hidden struct{ crypto.Signer }

func certificate(t *testing.T, commonName string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: commonName}, NotAfter: time.Now().AddDate(50, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: hidden{key}}
}

func TestADeviceWithACertificateIsNamedByIt(t *testing.T) {
	s := &service{t: t, polls: 1}
	home, _, err := register(t, s, provisioning.Config{Credential: client.X509(certificate(t, "pump-7"))})
	if err != nil || home.RegistrationID != "pump-7" {
		t.Errorf("%+v, %v", home, err)
	}
}

func TestADeviceWithATPM(t *testing.T) {
	var steps []provisioning.Step
	trace := &provisioning.Trace{Done: func(s provisioning.Step, took time.Duration, err error) { steps = append(steps, s) }}
	s, c := &service{t: t, wrap: wrapPlainly, polls: 1}, &chip{t: t}
	home, _, err := register(t, s, provisioning.Config{Credential: client.TPM(c), Trace: trace})
	if err != nil || home.RegistrationID != chipID || string(c.key) != string(hubKey) {
		t.Errorf("%+v, %v, left with key %q", home, err, c.key)
	}
	for _, b := range s.bodies {
		if string(b.TPM.EndorsementKey) != string(ek) || string(b.TPM.StorageRootKey) != string(srk) {
			t.Errorf("sent %q", b.TPM)
		}
	}
	want := []provisioning.Step{provisioning.ReadEndorsementKey, provisioning.ReadStorageRootKey, provisioning.ReceiveChallenge,
		provisioning.ActivateCredential, provisioning.SignToken, provisioning.Register, provisioning.AwaitAssignment, provisioning.Poll,
		provisioning.ActivateHubKey}
	if !slices.Equal(steps, want) {
		t.Errorf("steps %q", steps)
	}
}

// certifiedChip is a chip that may hold a certificate.
type certifiedChip struct {
	*chip
	certificate, chain []byte
	fault              error
}

func (c certifiedChip) EndorsementCertificate(context.Context) (certificate, chain []byte, err error) {
	return c.certificate, c.chain, c.fault
}

func TestACertificateIsShownWhereThereIsOne(t *testing.T) {
	for name, test := range map[string]struct {
		module certifiedChip
		traced bool // as a fault
	}{
		"one":            {certifiedChip{certificate: []byte("certificate")}, false},
		"with its chain": {certifiedChip{certificate: []byte("certificate"), chain: []byte("chain")}, false},
		"none":           {certifiedChip{fault: errs.New(errs.NotFound, 0, "there is none")}, false},
		"unreadable":     {certifiedChip{fault: errors.New("the chip is hot")}, true},
	} {
		traced := 0
		trace := &provisioning.Trace{Done: func(s provisioning.Step, _ time.Duration, err error) {
			if err != nil && s == provisioning.ReadEndorsementCertificate {
				traced++
			}
		}}
		s := &service{t: t, wrap: wrapPlainly}
		test.module.chip = &chip{t: t}
		if _, _, err := register(t, s, provisioning.Config{Credential: client.TPM(test.module), Trace: trace}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if (traced == 1) != test.traced || len(s.bodies) != 2 {
			t.Errorf("%s: %d faults traced, %d bodies", name, traced, len(s.bodies))
		}
		for _, b := range s.bodies {
			if string(b.TPM.EndorsementCertificate) != string(test.module.certificate) || string(b.TPM.EndorsementCertificateChain) != string(test.module.chain) {
				t.Errorf("%s: sent %q", name, b.TPM)
			}
		}
	}
}

func TestAChallengeThatWasTooOldIsRepeated(t *testing.T) {
	for stale, ok := range map[int]bool{1: true, 2: true, 3: false} {
		s, c := &service{t: t, wrap: wrapPlainly, stale: stale}, &chip{t: t}
		_, _, err := register(t, s, provisioning.Config{Credential: client.TPM(c)})
		refused, typed := errors.AsType[*client.Error](err)
		if (err == nil) != ok || !ok && (!typed || refused.Status != 401) {
			t.Errorf("%d stale challenges: %v", stale, err)
		}
		if len(s.requests) > 4 {
			t.Errorf("%d requests", len(s.requests))
		}
	}
}

func TestABrokenTPMIsNotTriedAgain(t *testing.T) {
	for _, at := range []string{"ek", "srk", "activate", "mac", "activate hub key"} {
		s, c := &service{t: t, wrap: wrapPlainly}, &chip{t: t, broken: errors.New("the chip is hot"), brokenAt: at}
		_, took, err := register(t, s, provisioning.Config{Credential: client.TPM(c)})
		if !errors.Is(err, c.broken) || took > 0 || len(s.requests) > 2 {
			t.Errorf("%s: %v after %s and %v", at, err, took, s.requests)
		}
	}
}

func TestASlowTPMIsWaitedFor(t *testing.T) {
	s, c := &service{t: t, wrap: wrapPlainly}, &slow{chip{t: t}}
	if _, took, err := register(t, s, provisioning.Config{Credential: client.TPM(c)}); err != nil || took < 6*time.Minute {
		t.Errorf("after %s: %v", took, err)
	}
}

// slow is a chip that takes minutes for everything.
type slow struct{ chip }

func (s *slow) EndorsementKey(ctx context.Context) ([]byte, error) {
	<-time.After(2 * time.Minute)
	return s.chip.EndorsementKey(ctx)
}

func (s *slow) Activate(ctx context.Context, blob []byte) error {
	<-time.After(2 * time.Minute)
	return s.chip.Activate(ctx, blob)
}

// saying answers every request with the same.
func saying(status int, media, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", media)
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

const jsonType = "application/json; charset=utf-8"

func TestAnswersThatAreNotBelieved(t *testing.T) {
	assigned := func(state string) string {
		return `{"operationId":"o","status":"assigned","registrationState":{` + state + `}}`
	}
	const hub, id = `"assignedHub":"h.example"`, `"deviceId":"d"`
	for name, tt := range map[string]struct {
		status      int
		media, body string
		tpm         bool
	}{
		"nothing":                     {202, jsonType, "", false},
		"not JSON":                    {202, "text/html", "<html>", false},
		"JSON under another name":     {202, "text/plain", assigned(hub + "," + id), false},
		"an array":                    {202, jsonType, "[]", false},
		"no status":                   {202, jsonType, `{"operationId":"o"}`, false},
		"an unknown status":           {202, jsonType, `{"operationId":"o","status":"exploded"}`, false},
		"no operation to poll":        {202, jsonType, `{"status":"assigning"}`, false},
		"an endless operation ID":     {202, jsonType, `{"status":"assigning","operationId":"` + strings.Repeat("o", 5000) + `"}`, false},
		"a huge body":                 {202, jsonType, assigned(hub + "," + id + `,"payload":"` + strings.Repeat("x", 1<<20) + `"`), false},
		"no state":                    {202, jsonType, `{"operationId":"o","status":"assigned"}`, false},
		"no hub":                      {202, jsonType, assigned(id), false},
		"no device ID":                {202, jsonType, assigned(hub), false},
		"a hub with a path":           {202, jsonType, assigned(`"assignedHub":"h.example/x",` + id), false},
		"a hub with a user":           {202, jsonType, assigned(`"assignedHub":"u@h.example",` + id), false},
		"a hub that is a URL":         {202, jsonType, assigned(`"assignedHub":"https://h.example",` + id), false},
		"a hub with a line break":     {202, jsonType, assigned(`"assignedHub":"h.example\r\nX: y",` + id), false},
		"a hub with port zero":        {202, jsonType, assigned(`"assignedHub":"h.example:0",` + id), false},
		"a device ID with a slash":    {202, jsonType, assigned(hub + `,"deviceId":"a/b"`), false},
		"another device's assignment": {202, jsonType, assigned(hub + "," + id + `,"registrationId":"other"`), false},
		"members of other types":      {202, jsonType, `{"operationId":7,"status":true}`, false},
		"no challenge":                {202, jsonType, assigned(hub + "," + id), true},
		"a 401 without a blob":        {401, jsonType, `{"message":"Unauthorized","errorCode":401002}`, true},
		"a 401 with half a blob":      {401, jsonType, `{"authenticationKey":"AA","keyName":"registration"}`, true},
		"a 401 that is not JSON":      {401, "text/html", `<html>`, true},
		"a challenge without a TPM":   {401, jsonType, `{"authenticationKey":"AAAA","keyName":"registration"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := withKey()
			module := &chip{t: t}
			if tt.tpm {
				c.Credential = client.TPM(module)
			}
			home, took, err := register(t, saying(tt.status, tt.media, tt.body), c)
			if err == nil || took > 0 {
				t.Errorf("%+v after %s, %v", home, took, err)
			}
			if tt.status == 401 {
				if refused, ok := errors.AsType[*client.Error](err); !ok || refused.Status != 401 {
					t.Errorf("%v is no client.Error of status 401", err)
				}
			}
			if module.activated > 0 {
				t.Error("the TPM was made to activate something")
			}
		})
	}
}

func TestATPMWithoutAHubKeyIsNotProvisioned(t *testing.T) {
	s := &service{t: t, wrap: wrapPlainly, change: func(op *dpsjson.OperationStatus) { op.RegistrationState.TPM = nil }}
	if home, _, err := register(t, s, provisioning.Config{Credential: client.TPM(&chip{t: t})}); err == nil {
		t.Errorf("%+v", home)
	}
}

func TestTurnedDown(t *testing.T) {
	for _, tt := range []struct {
		status string
		want   provisioning.Error
	}{
		{"failed", provisioning.Error{Status: dpsjson.Failed, Code: 400208, Message: "no hub [31m", TrackingID: "request-1"}},
		{"Disabled", provisioning.Error{Status: dpsjson.Disabled, TrackingID: "request-1"}},
	} {
		s := &service{t: t, keys: [][]byte{deviceKey.Bytes()}, change: func(op *dpsjson.OperationStatus) {
			op.Status = dpsjson.Status(tt.status)
			if tt.want.Code == 0 {
				op.RegistrationState = nil
				return
			}
			op.RegistrationState = &dpsjson.RegistrationState{ErrorCode: 400208, ErrorMessage: "no hub\x1b[31m"}
		}}
		_, _, err := register(t, s, withKey())
		if got, ok := errors.AsType[*provisioning.Error](err); !ok || *got != tt.want {
			t.Errorf("%s: %v", tt.status, err)
		}
	}
}

func TestRefusedAtOnce(t *testing.T) {
	s := &service{t: t, keys: [][]byte{[]byte("another key")}}
	_, _, err := register(t, s, withKey())
	refused, ok := errors.AsType[*client.Error](err)
	if !ok || refused.Code != 401002 || refused.TrackingID != "t-1" || len(s.requests) != 1 {
		t.Errorf("%v after %v", err, s.requests)
	}
	if want := "registering Pump:7: 401002 IotHubUnauthorizedAccess: Unauthorized (tracking ID t-1)"; err.Error() != want {
		t.Errorf("%q", err)
	}
}

func TestTroubleOnTheWayIsOvercome(t *testing.T) {
	s := &service{t: t, wrap: wrapPlainly, polls: 2}
	n := 0
	shaky := func(w http.ResponseWriter, r *http.Request) {
		switch n++; n % 4 {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			w.Header().Set("Retry-After", "5")
			w.WriteHeader(http.StatusTooManyRequests)
		case 3:
			panic(http.ErrAbortHandler)
		default:
			s.ServeHTTP(w, r)
		}
	}
	if _, _, err := register(t, http.HandlerFunc(shaky), provisioning.Config{Credential: client.TPM(&chip{t: t})}); err != nil {
		t.Error(err)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	n := 0
	away := func(w http.ResponseWriter, r *http.Request) {
		n++
		http.Redirect(w, r, "https://elsewhere.example"+r.URL.Path, http.StatusTemporaryRedirect)
	}
	_, _, err := register(t, http.HandlerFunc(away), withKey())
	if refused, ok := errors.AsType[*client.Error](err); !ok || refused.Status != 307 || n != 1 {
		t.Errorf("%d requests: %v", n, err)
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	good := func() provisioning.Config {
		c := withKey()
		c.Host, c.IDScope = "dps.example", scope
		return c
	}
	if _, err := provisioning.New(good()); err != nil {
		t.Fatal(err)
	}
	mine, other := certificate(t, "pump-7"), certificate(t, "pump-8")
	for name, spoil := range map[string]func(*provisioning.Config){
		"no host":              func(c *provisioning.Config) { c.Host = "" },
		"a URL":                func(c *provisioning.Config) { c.Host = "https://dps.example" },
		"no scope":             func(c *provisioning.Config) { c.IDScope = "" },
		"a scope with a slash": func(c *provisioning.Config) { c.IDScope = "0ne/../x" },
		"no credential":        func(c *provisioning.Config) { c.Credential = client.Credential{} },
		"no key":               func(c *provisioning.Config) { c.Credential = client.SymmetricKey(device.SymmetricKey{}) },
		"no TPM":               func(c *provisioning.Config) { c.Credential = client.TPM(nil) },
		"no ID for a key":      func(c *provisioning.Config) { c.RegistrationID = "" },
		"an ID with a slash":   func(c *provisioning.Config) { c.RegistrationID = "a/b" },
		"a certificate without key": func(c *provisioning.Config) {
			c.Credential = client.X509(tls.Certificate{Certificate: mine.Certificate})
		},
		"another's key": func(c *provisioning.Config) {
			c.Credential = client.X509(tls.Certificate{Certificate: mine.Certificate, PrivateKey: other.PrivateKey})
		},
		"an empty chain": func(c *provisioning.Config) { c.Credential = client.X509(tls.Certificate{PrivateKey: mine.PrivateKey}) },
		"rubbish for a chain": func(c *provisioning.Config) {
			c.Credential = client.X509(tls.Certificate{Certificate: [][]byte{{1, 2}}})
		},
		"a CN that is no ID": func(c *provisioning.Config) {
			c.Credential, c.RegistrationID = client.X509(certificate(t, "pump 7")), ""
		},
		"a payload of a chan":  func(c *provisioning.Config) { c.Payload = make(chan int) },
		"an endless payload":   func(c *provisioning.Config) { c.Payload = strings.Repeat("x", 200<<10) },
		"negative patience":    func(c *provisioning.Config) { c.Patience = -1 },
		"negative attempts":    func(c *provisioning.Config) { c.HTTP.Attempts = -1 },
		"a broken raw payload": func(c *provisioning.Config) { c.Payload = json.RawMessage(`{`) },
	} {
		c := good()
		spoil(&c)
		if _, err := provisioning.New(c); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
}

func TestNoVerbShowsTheKey(t *testing.T) {
	c := withKey()
	c.Host, c.IDScope = "dps.example", scope
	p, err := provisioning.New(c)
	if err != nil {
		t.Fatal(err)
	}
	x := c
	pair := certificate(t, "a")
	private := pair.PrivateKey.(hidden).Signer.(*ecdsa.PrivateKey)
	pair.PrivateKey = private
	secret, err := private.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	number := new(big.Int).SetBytes(secret).String()
	x.Credential = client.X509(pair)
	for _, v := range []any{c, p, *p, x, c.Credential} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
			text := fmt.Sprintf(verb, v)
			if strings.Contains(text, deviceKey.Base64()) || strings.Contains(text, "device key, 32") || strings.Contains(text, number) {
				t.Errorf("%s of %T shows %s", verb, v, text)
			}
		}
	}
}

func TestDeriveDeviceKey(t *testing.T) {
	group := mustKey("8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==")
	if got := provisioning.DeriveDeviceKey(group, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6").Base64(); got != "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=" {
		t.Error(got)
	}
}

// TestARealTPM runs the whole flow with a software TPM: the service's blobs are
// encrypted for that TPM, and the hub's key ends up in it.
func TestARealTPM(t *testing.T) {
	chip, err := swtpm.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatalf("%v\nswtpm is needed: apt-get install swtpm swtpm-tools", err)
	}
	defer chip.Stop()
	module, err := tpm2.Open(t.Context(), chip.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer module.Close()
	s := &service{t: t, wrap: func(keys *dpsjson.TPMKeys, key []byte) []byte {
		ek, err := tpm.ParsePublic(keys.EndorsementKey)
		if err != nil {
			t.Error(err)
		}
		srk, err := tpm.ParsePublic(keys.StorageRootKey)
		if err != nil {
			t.Error(err)
		}
		blob, err := tpm.Activation(rand.Reader, ek, srk, key, "dps.example")
		if err != nil {
			t.Error(err)
		}
		return blob
	}}
	srv := httptest.NewTLSServer(s)
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	credential := client.TPM(module)
	p, err := provisioning.New(provisioning.Config{
		Host: srv.Listener.Addr().String(), IDScope: scope, Credential: credential, HTTP: client.HTTP{RootCAs: roots},
		Trace: &provisioning.Trace{Done: func(step provisioning.Step, took time.Duration, err error) {
			t.Logf("%-22s %8s %v", step, took.Round(time.Microsecond), err)
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	home, err := p.Register(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token, err := credential.Token(t.Context(), sas.HubDeviceResource(home.Hub, string(home.DeviceID)), "", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if parsed, err := sas.Parse(token); err != nil || !parsed.SignedBy(hubKey) {
		t.Errorf("the TPM does not sign with the hub's key: %v", err)
	}
}
