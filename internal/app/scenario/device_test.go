package scenario

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/berth-iot/berth/attest/symkey"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm/tpm2"
	"github.com/berth-iot/berth/hsm/tpm2/swtpm"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/tpm"
	"github.com/berth-iot/berth/wire/sas"
)

// A wire carries the calls of devices to the server.
type wire interface {
	// carry makes one call. An answer is given in the terms of the HTTP API,
	// whatever the wire has for them.
	carry(call) (answer, error)
	// deliver sends the telemetry of a device to the hub that has the host name.
	deliver(delivery) (answer, error)
}

// A delivery is telemetry with what its device shows.
type delivery struct {
	host, id    string
	token       string           // a SAS token, or empty
	certificate *tls.Certificate // or nil
}

// A call is what a device says, on any wire.
type call struct {
	operation   string // register, poll or lookup
	scope, id   string
	operationID string           // to poll
	version     string           // api-version
	token       string           // a SAS token, or empty
	certificate *tls.Certificate // or nil
	body        []byte
}

// An answer is what the server says to it.
type answer struct {
	status     int
	retryAfter string // seconds, or empty
	body       []byte // JSON
}

func deviceCall(operation string) command {
	return func(w *world, neg bool, args []string, set map[string]string) {
		c := w.call(operation, args[0], set)
		if !neg {
			w.answered = w.carry(c)
			if w.answered.status >= 400 {
				w.ts.Fatalf("refused with %d: %s", w.answered.status, w.answered.body)
			}
		} else {
			w.unchanged(func() { w.answered = w.carry(c) })
			w.checkRefusal(w.answered)
		}
		var begun struct{ OperationID string }
		if json.Unmarshal(w.answered.body, &begun) == nil && begun.OperationID != "" {
			w.operation = begun.OperationID
		}
		w.show(w.answered)
	}
}

func (w *world) carry(c call) answer {
	a, err := w.wire.carry(c)
	w.ts.Check(err)
	return a
}

// checkRefusal wants an error body, or the challenge of a TPM.
func (w *world) checkRefusal(a answer) {
	var body struct {
		ErrorCode         int
		TrackingID        errs.TrackingID
		Message           string
		TimestampUTC      string
		AuthenticationKey string
		KeyName           string
	}
	if err := json.Unmarshal(a.body, &body); err != nil {
		w.ts.Fatalf("status %d, and the body is not JSON: %q", a.status, a.body)
	}
	_, err := time.Parse(time.RFC3339, body.TimestampUTC)
	switch {
	case a.status < 400:
		w.ts.Fatalf("status %d, a refusal was meant: %s", a.status, a.body)
	case a.status == http.StatusUnauthorized && body.AuthenticationKey != "" && body.KeyName == "registration":
	case body.ErrorCode/1000 != a.status || len(body.TrackingID) != 36 || body.Message == "" || err != nil:
		w.ts.Fatalf("status %d with the body %s", a.status, a.body)
	}
}

// call is what a device says that shows what the script lets it show.
func (w *world) call(operation, id string, set map[string]string) call {
	c := call{operation: operation, scope: or(set["scope"], w.scope), id: id, version: or(set["version"], "2021-06-01")}
	resource := sas.DeviceResource(c.scope, id)
	if other := set["for"]; strings.Contains(other, "/") {
		scope, id, _ := strings.Cut(other, "/")
		resource = sas.DeviceResource(scope, id)
	} else if other != "" {
		resource = sas.DeviceResource(c.scope, other)
	}
	c.token = w.token(id, resource, "registration", set)
	c.certificate = w.certificate(set)
	c.body = w.body(id, set)
	if operation == "poll" {
		c.body = nil
		c.operationID = or(set["operation"], w.operation)
	}
	return c
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (w *world) token(id, resource, keyName string, set map[string]string) string {
	if set["key"]+set["derived"]+set["signed"] == "" {
		return ""
	}
	expiry := w.now().Add(time.Hour)
	if until := set["until"]; until != "" {
		expiry = w.now().Add(w.duration(until))
	}
	keyName = or(set["name"], keyName)
	var key device.SymmetricKey
	switch {
	case set["signed"] != "":
		chip := named(w, "TPM", w.chips, set["signed"])
		token, err := sas.SignWith(func(msg []byte) ([]byte, error) { return chip.MAC(context.Background(), msg) }, resource, expiry, keyName)
		w.ts.Check(err)
		return token
	case set["derived"] != "":
		key = symkey.DeriveDeviceKey(named(w, "key", w.keys, set["derived"]), id)
	default:
		key = named(w, "key", w.keys, set["key"])
	}
	return sas.Sign(key.Bytes(), resource, expiry, keyName)
}

func (w *world) certificate(set map[string]string) *tls.Certificate {
	name := or(set["cert"], set["alone"])
	if name == "" {
		return nil
	}
	leaf := named(w, "leaf", w.leaves, name)
	c := &tls.Certificate{Certificate: [][]byte{leaf.Certificate.Raw}, PrivateKey: leaf.Key}
	if set["cert"] != "" {
		for _, above := range leaf.Above {
			c.Certificate = append(c.Certificate, above.Raw)
		}
	}
	return c
}

func (w *world) body(id string, set map[string]string) []byte {
	if file := set["body"]; file != "" {
		b, err := os.ReadFile(w.ts.MkAbs(file))
		w.ts.Check(err)
		return b
	}
	body := map[string]any{"registrationId": id}
	if set["tpm"] != "" {
		chip := named(w, "TPM", w.chips, set["tpm"])
		keys := map[string]string{"endorsementKey": encode(chip.ek), "storageRootKey": encode(chip.srk)}
		switch srk := set["srk"]; srk {
		case "":
		case "software":
			keys["storageRootKey"] = encode(w.softwareSRK(chip))
		default:
			keys["storageRootKey"] = encode(named(w, "TPM", w.chips, srk).srk)
		}
		body["tpm"] = keys
	}
	b, err := json.Marshal(body)
	w.ts.Check(err)
	return b
}

// softwareSRK is what a thief presents who knows a private key, and can have it
// loaded into the TPM only by admitting that it was not made there.
func (w *world) softwareSRK(c *chip) []byte {
	public, err := tpm.ParsePublic(c.srk)
	w.ts.Check(err)
	fake := *public
	fake.Attributes &^= tpm.FixedTPM | tpm.FixedParent | tpm.SensitiveDataOrigin
	return fake.Marshal()
}

// A chip is a software TPM and its public keys.
type chip struct {
	*tpm2.TPM
	ek, srk []byte
}

func startTPM(w *world, neg bool, args []string, _ map[string]string) {
	w.must(neg)
	ctx := context.Background()
	instance, err := swtpm.Start(ctx, w.ts.MkAbs("tpm-"+args[0]))
	w.ts.Check(err)
	w.env.Defer(func() { instance.Stop() })
	t, err := tpm2.Open(ctx, instance.Address())
	w.ts.Check(err)
	w.env.Defer(func() { t.Close() })
	c := &chip{TPM: t}
	c.ek, err = t.EndorsementKey(ctx)
	w.ts.Check(err)
	c.srk, err = t.StorageRootKey(ctx)
	w.ts.Check(err)
	w.chips[args[0]] = c
}

func activate(w *world, neg bool, args []string, _ map[string]string) {
	var last struct {
		AuthenticationKey []byte
		RegistrationState struct {
			TPM struct{ AuthenticationKey []byte }
		}
	}
	w.ts.Check(json.Unmarshal(w.answered.body, &last))
	blob := last.AuthenticationKey
	if blob == nil {
		blob = last.RegistrationState.TPM.AuthenticationKey
	}
	if blob == nil {
		w.ts.Fatalf("the last answer holds no blob")
	}
	err := named(w, "TPM", w.chips, args[0]).Activate(context.Background(), blob)
	if (err != nil) != neg {
		w.ts.Fatalf("activating: %v", err)
	}
}

func makeCA(w *world, neg bool, args []string, set map[string]string) {
	w.must(neg)
	var made *pki.Issuer
	var err error
	if under := set["under"]; under != "" {
		made, err = named(w, "CA", w.cas, under).NewIntermediate(args[0], w.now(), rand.Reader)
	} else {
		made, err = pki.NewRoot(args[0], w.now(), rand.Reader)
	}
	w.ts.Check(err)
	w.cas[args[0]] = made
}

func makeLeaf(w *world, neg bool, args []string, set map[string]string) {
	w.must(neg)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	w.ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: set["cn"]},
		NotBefore: w.now().Add(w.duration(or(set["from"], "-1h"))), NotAfter: w.now().Add(w.duration(or(set["until"], "24h"))),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.ts.Check(err)
	issuer := &pki.Issuer{Certificate: template, Key: key}
	if under := set["under"]; under != "" {
		issuer = named(w, "CA", w.cas, under)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.Certificate, key.Public(), issuer.Key)
	w.ts.Check(err)
	certificate, err := x509.ParseCertificate(der)
	w.ts.Check(err)
	w.leaves[args[0]] = &pki.Leaf{Certificate: certificate, Key: key, Above: issuer.Above}
}

// send makes a device use the hub with what it has.
func send(w *world, neg bool, args []string, set map[string]string) {
	host := at(set)
	a, err := w.wire.deliver(delivery{host, args[0], w.token(args[0], sas.HubDeviceResource(host, args[0]), "", set), w.certificate(set)})
	w.ts.Check(err)
	w.expect(a, neg, http.StatusUnauthorized)
}

// noise registers with bodies that no device sends, none of which may be taken
// or change anything: KIND bytes are random ones, KIND json is the body that
// fits with some bytes of it changed. The first are refused whatever else is
// shown; the second may have stayed good, so what else is shown must be bad.
func noise(w *world, neg bool, args []string, set map[string]string) {
	w.must(neg)
	n, err := strconv.Atoi(args[0])
	w.ts.Check(err)
	c := w.call("register", args[2], set)
	good := c.body
	seed := uint64(time.Now().UnixNano())
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	w.ts.Logf("seed %d", seed)
	w.unchanged(func() {
		for range n {
			switch args[1] {
			case "bytes":
				c.body = randomBytes(random)
			case "json":
				c.body = changed(random, good)
			default:
				w.ts.Fatalf("%s is not known here; bytes and json are", args[1])
			}
			if a := w.carry(c); a.status < 400 || a.status > 499 {
				w.ts.Fatalf("status %d for the body %q: %s", a.status, c.body, a.body)
			} else {
				w.checkRefusal(a)
			}
		}
	})
}

// randomBytes are up to a hundred, or seldom up to 50,000, and not JSON.
func randomBytes(random *mathrand.Rand) []byte {
	size := 1 + random.IntN(100)
	if random.IntN(50) == 0 {
		size *= 500
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	if json.Valid(b) || len(strings.TrimSpace(string(b))) == 0 {
		b[0] = '}'
	}
	return b
}

// changed cuts, doubles or overwrites a few pieces of good.
func changed(random *mathrand.Rand, good []byte) []byte {
	b := append([]byte(nil), good...)
	for range 1 + random.IntN(3) {
		from := random.IntN(len(b))
		to := from + random.IntN(min(8, len(b)-from))
		switch random.IntN(3) {
		case 0:
			b = append(b[:from:from], b[to:]...)
		case 1:
			b = append(b[:to:to], b[from:]...)
		case 2:
			for i := from; i < to; i++ {
				b[i] = `{}[]",:\ 01a`[random.IntN(12)]
			}
		}
		if len(b) == 0 {
			b = []byte("{")
		}
	}
	return b
}

// payload writes a body of exactly so many bytes.
func payload(w *world, neg bool, args []string, _ map[string]string) {
	w.must(neg)
	size, err := strconv.Atoi(args[1])
	w.ts.Check(err)
	const before, after = `{"payload":"`, `"}`
	body := before + strings.Repeat("x", size-len(before+after)) + after
	w.ts.Check(os.WriteFile(w.ts.MkAbs(args[0]), []byte(body), 0o600))
}
