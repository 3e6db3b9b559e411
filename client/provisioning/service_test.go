package provisioning_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/tpm"
	"github.com/berth-iot/berth/wire/dpsjson"
	"github.com/berth-iot/berth/wire/sas"
)

const scope = "0ne00111111"

var (
	deviceKey = mustKey("ZGV2aWNlIGtleSwgMzIgYnl0ZXMsIG5vdCBzZWNyZXQ=")
	hubKey    = []byte("hub key of 32 bytes, wrapped ...")
)

func mustKey(s string) device.SymmetricKey {
	k, err := device.ParseSymmetricKey(s)
	if err != nil {
		panic(err)
	}
	return k
}

// A service speaks the device API to one device, as the tests need it: the
// members say how it behaves.
type service struct {
	t *testing.T
	// keys are those that tokens may be signed with; empty means no token is
	// wanted, but a client certificate.
	keys [][]byte
	// wrap makes activation blobs; nil means devices need no challenge.
	wrap func(keys *dpsjson.TPMKeys, key []byte) []byte
	// stale is how many answers to challenges are turned down.
	stale int
	// polls is how often a device is told to come back before it is assigned,
	// after retryAfter.
	polls      int
	retryAfter string
	// change may spoil the final answer.
	change func(op *dpsjson.OperationStatus)

	mu       sync.Mutex
	requests []string // method and path, in order of arrival
	bodies   []dpsjson.DeviceRegistration
	nonce    byte
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.Method+" "+r.URL.EscapedPath())
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) < 4 || parts[0] != scope || parts[1] != "registrations" || r.URL.Query().Get("api-version") == "" {
		s.t.Errorf("request for %s", r.URL)
	}
	id := parts[2]
	if r.Method == http.MethodPut {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			s.t.Error(err)
		}
		registration, err := dpsjson.DecodeDeviceRegistration(body)
		if err != nil || registration.RegistrationID != id {
			s.t.Errorf("body %s: %v", body, err)
		}
		s.bodies = append(s.bodies, registration)
		if s.wrap != nil && !s.activated(r, id) {
			s.nonce++
			nonce := []byte(strings.Repeat(string('a'+rune(s.nonce)), 32))
			s.keys = [][]byte{nonce}
			s.answer(w, http.StatusUnauthorized, dpsjson.NewChallenge(s.wrap(registration.TPM, nonce)))
			return
		}
	}
	if !s.authorized(r, id) {
		s.answer(w, http.StatusUnauthorized, dpsjson.Error{ErrorCode: 401002, TrackingID: "t-1", Message: "Unauthorized"})
		return
	}
	if s.polls > 0 {
		s.polls--
		w.Header().Set("Retry-After", s.retryAfter)
		s.answer(w, http.StatusAccepted, dpsjson.OperationStatus{OperationID: "5.op/1", Status: dpsjson.Assigning})
		return
	}
	op := dpsjson.OperationStatus{OperationID: "5.op/1", Status: dpsjson.Assigned, RegistrationState: &dpsjson.RegistrationState{
		RegistrationID: strings.ToLower(id), AssignedHub: "contoso.azure-devices.net", DeviceID: id, Status: dpsjson.Assigned,
		Substatus: "initialAssignment", CreatedDateTimeUTC: dpsjson.Time(time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)),
	}}
	if s.wrap != nil {
		op.RegistrationState.TPM = &dpsjson.TPMState{AuthenticationKey: s.wrap(s.bodies[0].TPM, hubKey)}
	}
	if s.change != nil {
		s.change(&op)
	}
	status := http.StatusAccepted
	if r.Method == http.MethodGet {
		status = http.StatusOK
	}
	s.answer(w, status, op)
}

func (s *service) answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("x-ms-request-id", "request-1")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func (s *service) activated(r *http.Request, id string) bool {
	if r.Header.Get("Authorization") == "" || !s.authorized(r, id) {
		return false
	}
	s.stale--
	return s.stale < 0
}

func (s *service) authorized(r *http.Request, id string) bool {
	header := r.Header.Get("Authorization")
	if s.keys == nil {
		return header == "" && len(r.TLS.PeerCertificates) > 0 && strings.EqualFold(r.TLS.PeerCertificates[0].Subject.CommonName, id)
	}
	token, err := sas.Parse(header)
	return err == nil && slices.ContainsFunc(s.keys, token.SignedBy) && token.KeyName == "registration" &&
		token.Resource == sas.DeviceResource(scope, id) && !token.Expired(time.Now(), 0) && token.Expired(time.Now(), -61*time.Minute)
}

// A chip stands in for a TPM where what matters is what the service says to
// it: its blobs are not encrypted, and it can break.
type chip struct {
	t         *testing.T
	key       []byte
	activated int
	broken    error
	brokenAt  string
}

var ek, srk = []byte("an endorsement key"), []byte("a storage root key")

// wrapPlainly is for a chip what tpm.Activation is for a TPM.
func wrapPlainly(keys *dpsjson.TPMKeys, key []byte) []byte {
	return append([]byte("blob:"), key...)
}

func (c *chip) fails(what string) error {
	if c.brokenAt == what {
		return c.broken
	}
	return nil
}

func (c *chip) EndorsementKey(context.Context) ([]byte, error) { return ek, c.fails("ek") }
func (c *chip) StorageRootKey(context.Context) ([]byte, error) { return srk, c.fails("srk") }

func (c *chip) Activate(_ context.Context, blob []byte) error {
	c.activated++
	key, ok := strings.CutPrefix(string(blob), "blob:")
	if !ok {
		c.t.Errorf("asked to activate %q", blob)
	}
	if err := c.fails("activate"); err != nil && c.activated == 1 {
		return err
	}
	if err := c.fails("activate hub key"); err != nil && c.activated == 2 {
		return err
	}
	c.key = []byte(key)
	return nil
}

func (c *chip) MAC(_ context.Context, msg []byte) ([]byte, error) {
	h := hmac.New(sha256.New, c.key)
	h.Write(msg)
	return h.Sum(nil), c.fails("mac")
}

var chipID = tpm.RegistrationID(ek)
