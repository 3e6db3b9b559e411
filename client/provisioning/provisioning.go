// Package provisioning is the device SDK for the Azure IoT Hub Device
// Provisioning Service (DPS) and for Berth: a device that knows an ID scope and
// holds a credential learns which hub is its home.
//
//	c, err := provisioning.New(provisioning.Config{
//		Host:           "global.azure-devices-provisioning.net",
//		IDScope:        "0ne00111111",
//		RegistrationID: "pump-7",
//		Credential:     client.SymmetricKey(key),
//	})
//	…
//	home, err := c.Register(ctx)
//	…
//	h, err := hub.New(hub.Config{Host: home.Hub, DeviceID: home.DeviceID, Credential: client.SymmetricKey(key)})
//
// It speaks the DPS device REST API over HTTPS, with all three attestation
// mechanisms: symmetric key, X.509 and TPM.
package provisioning

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/berth-iot/berth/attest/symkey"
	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/tpm"
	"github.com/berth-iot/berth/wire/dpsjson"
	"github.com/berth-iot/berth/wire/sas"
)

const (
	apiVersion = "2021-06-01"

	// keyName is the skn of a device's token.
	keyName = "registration"

	maxAnswer      = 256 << 10 // bytes
	maxOperationID = 512       // bytes; real ones have 55

	// maxChallenges is how often a TPM answers a challenge before the device
	// gives up: the first can be too old when a slow chip is done with it.
	maxChallenges = 3

	defaultPoll, minPoll, maxPoll = 2 * time.Second, time.Second, 30 * time.Second
	defaultPatience               = 5 * time.Minute
)

// A Config says who registers where. Host, IDScope and Credential are required.
type Config struct {
	// Host is the service's name with an optional :port.
	Host string
	// IDScope names the tenant, "0ne" and eight hexadecimal digits.
	IDScope string
	// RegistrationID is the device's name, 1 to 128 letters, digits and - . _ :
	// compared without case. A symmetric key needs it. For X.509 it defaults to
	// the certificate's common name, for a TPM to the name all SDKs derive from
	// the endorsement key.
	RegistrationID string
	// Credential is what the device proves itself with.
	Credential client.Credential
	// Payload is any JSON value for a custom allocation policy; nil for none.
	// It is marshalled once, by New.
	Payload any
	// Patience is how long Register polls an assignment under way; zero means
	// five minutes.
	Patience time.Duration
	// HTTP says how to reach the host.
	HTTP client.HTTP
	// Trace is told of each step; nil for nobody.
	Trace *Trace
}

// A Client registers one device. It is safe for concurrent use, but a TPM
// answers one challenge at a time: registrations with the same TPM that overlap
// fail.
type Client struct {
	config  Config
	payload json.RawMessage
	rest    *rest.Client
}

// New checks the configuration and returns a client; it does not connect.
func New(c Config) (*Client, error) {
	if c.IDScope == "" || len(c.IDScope) > 64 || strings.Trim(c.IDScope, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
		return nil, errors.New("provisioning: the ID scope is not letters and digits")
	}
	if err := c.Credential.Check(); err != nil {
		return nil, fmt.Errorf("provisioning: %w", err)
	}
	leaf, err := c.Credential.Leaf()
	if err != nil {
		return nil, fmt.Errorf("provisioning: %w", err)
	}
	if c.RegistrationID == "" && leaf != nil {
		c.RegistrationID = leaf.Subject.CommonName
	}
	if c.RegistrationID != "" || c.Credential.SecurityModule() == nil {
		if _, err := device.ParseRegistrationID(c.RegistrationID); err != nil {
			return nil, fmt.Errorf("provisioning: the registration ID %w", err)
		}
	}
	if c.Patience < 0 {
		return nil, errors.New("provisioning: patience must not be negative")
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	client := &Client{config: c}
	if c.Payload != nil {
		if client.payload, err = json.Marshal(c.Payload); err != nil {
			return nil, fmt.Errorf("provisioning: the payload: %w", err)
		}
		if len(client.payload) > dpsjson.MaxBody {
			return nil, fmt.Errorf("provisioning: the payload has %d bytes, %d are allowed", len(client.payload), dpsjson.MaxBody)
		}
	}
	if client.rest, err = rest.New(c.Host, c.Credential.Certificate(), c.HTTP); err != nil {
		return nil, fmt.Errorf("provisioning: %w", err)
	}
	return client, nil
}

// DeriveDeviceKey returns the key of one device of an enrollment group with
// symmetric key attestation: HMAC-SHA256 of the registration ID, exactly as the
// device spells it, under one of the group's keys. Do this at the factory, not
// on the device: whoever has the group key is every device.
func DeriveDeviceKey(group device.SymmetricKey, registrationID string) device.SymmetricKey {
	return symkey.DeriveDeviceKey(group, registrationID)
}

// An Assignment is a device's home. The credential it registered with is good
// for the hub too.
type Assignment struct {
	Hub            string    // host name, with an optional :port
	DeviceID       device.ID // the device's name there
	RegistrationID string    // as it was registered
	// Substatus says how the assignment came about: initialAssignment,
	// deviceDataMigrated, deviceDataReset or reprovisionedToInitialAssignment.
	Substatus string
	// Payload is what a custom allocation policy returned, or nil.
	Payload          json.RawMessage
	Created, Updated time.Time // zero if the service did not say
}

// An Error is a registration that the service took in and then turned down. A
// request refused at once is a [client.Error] instead.
type Error struct {
	Status     dpsjson.Status // Failed, or Disabled: the enrollment does not let devices in
	Code       errs.Code      // zero when the service gave none
	Message    string         // the service's text, shortened and without control characters
	TrackingID string         // names the request in the service's logs, if it gave one
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "registration ended as %s", e.Status)
	if e.Code != 0 {
		fmt.Fprintf(&b, ", %d", int(e.Code))
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if e.TrackingID != "" {
		b.WriteString(" (tracking ID " + e.TrackingID + ")")
	}
	return b.String()
}

// Register registers the device, waits until it is assigned and returns its
// home. It tries again after network errors and when the service is busy, until
// ctx ends or the attempts of [client.HTTP] are used up. A device may register
// as often as it likes; it should do so when its hub turns it away.
//
// With a TPM, Register also activates the hub's key in it, which replaces the
// key before: from then on tokens signed with the credential are good for the
// new hub alone.
func (c *Client) Register(ctx context.Context) (*Assignment, error) {
	r := registration{Client: c, id: c.config.RegistrationID}
	home, err := r.run(ctx)
	if err != nil {
		if r.id == "" {
			return nil, fmt.Errorf("registering: %w", err)
		}
		return nil, fmt.Errorf("registering %s: %w", r.id, err)
	}
	return home, nil
}

// A registration is one run of the protocol.
type registration struct {
	*Client
	id     string
	tokens *rest.Tokens // nil where a certificate or nothing proves the device
}

// An operation is where the registration stands, and the answer that said so.
type operation struct {
	dpsjson.OperationStatus
	answer *rest.Answer
}

func (r *registration) run(ctx context.Context) (*Assignment, error) {
	var op *operation
	var err error
	if module := r.config.Credential.SecurityModule(); module != nil {
		op, err = r.registerTPM(ctx, module)
	} else {
		op, err = r.register(ctx)
	}
	if err != nil {
		return nil, err
	}
	if op, err = r.poll(ctx, op); err != nil {
		return nil, err
	}
	return r.conclude(ctx, op)
}

// register makes the one call of a device with a key or a certificate.
func (r *registration) register(ctx context.Context) (*operation, error) {
	if r.config.Credential.Certificate() == nil {
		if err := r.signToken(ctx, keyName); err != nil {
			return nil, err
		}
	}
	var answer *rest.Answer
	err := r.step(Register, func() (err error) {
		answer, err = r.call(ctx, http.MethodPut, "register", r.body(nil))
		return err
	})
	if err != nil {
		return nil, err
	}
	return read(answer)
}

// registerTPM shows the TPM's keys, lets the TPM take in the nonce key that the
// service challenges it with, and registers with a token signed by that key.
func (r *registration) registerTPM(ctx context.Context, module client.SecurityModule) (*operation, error) {
	keys, err := r.readKeys(ctx, module)
	if err != nil {
		return nil, err
	}
	if r.id == "" {
		r.id = tpm.RegistrationID(keys.EndorsementKey)
	}
	var answer *rest.Answer
	err = r.step(ReceiveChallenge, func() (err error) {
		answer, err = r.call(ctx, http.MethodPut, "register", r.body(keys), http.StatusUnauthorized)
		return err
	})
	if err != nil {
		return nil, err
	}
	if answer.Status != http.StatusUnauthorized {
		return nil, errors.New("the service asked for no proof that the keys are in the TPM")
	}
	for range maxChallenges {
		challenge, err := readChallenge(answer)
		if err != nil {
			return nil, err
		}
		err = r.step(ActivateCredential, func() error { return module.Activate(ctx, challenge.AuthenticationKey) })
		if err != nil {
			return nil, fmt.Errorf("activating the service's challenge: %w", err)
		}
		if err := r.signToken(ctx, challenge.KeyName); err != nil {
			return nil, err
		}
		err = r.step(Register, func() (err error) {
			answer, err = r.call(ctx, http.MethodPut, "register", r.body(keys), http.StatusUnauthorized)
			return err
		})
		if err != nil {
			return nil, err
		}
		if answer.Status != http.StatusUnauthorized {
			return read(answer)
		}
	}
	return nil, fmt.Errorf("after %d challenges: %w", maxChallenges, rest.Refusal(answer))
}

func (r *registration) readKeys(ctx context.Context, module client.SecurityModule) (*dpsjson.TPMKeys, error) {
	var keys dpsjson.TPMKeys
	err := r.step(ReadEndorsementKey, func() (err error) {
		keys.EndorsementKey, err = module.EndorsementKey(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the endorsement key: %w", err)
	}
	err = r.step(ReadStorageRootKey, func() (err error) {
		keys.StorageRootKey, err = module.StorageRootKey(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the storage root key: %w", err)
	}
	certified, ok := module.(client.CertifiedModule)
	if !ok {
		return &keys, nil
	}
	err = r.step(ReadEndorsementCertificate, func() (err error) {
		keys.EndorsementCertificate, keys.EndorsementCertificateChain, err = certified.EndorsementCertificate(ctx)
		if errs.KindOf(err) == errs.NotFound {
			return nil
		}
		return err
	})
	if ctx.Err() != nil {
		return nil, err
	}
	return &keys, nil
}

// readChallenge tells the 401 that is a challenge from one that is a refusal.
func readChallenge(answer *rest.Answer) (*dpsjson.Challenge, error) {
	var challenge dpsjson.Challenge
	if err := answer.JSON(&challenge); err != nil || len(challenge.AuthenticationKey) == 0 {
		return nil, rest.Refusal(answer)
	}
	if challenge.KeyName == "" {
		challenge.KeyName = keyName
	}
	return &challenge, nil
}

// signToken makes the token of this registration's requests, and prepares for
// making new ones as they expire.
func (r *registration) signToken(ctx context.Context, name string) error {
	resource := sas.DeviceResource(r.config.IDScope, r.id)
	r.tokens = &rest.Tokens{Sign: func(ctx context.Context, expiry time.Time) (string, error) {
		return r.config.Credential.Token(ctx, resource, name, expiry)
	}}
	return r.step(SignToken, func() error {
		_, err := r.tokens.Token(ctx)
		return err
	})
}

func (r *registration) body(keys *dpsjson.TPMKeys) *dpsjson.DeviceRegistration {
	return &dpsjson.DeviceRegistration{RegistrationID: r.id, TPM: keys, Payload: r.payload}
}

// call makes a request below the registration. All of them can be repeated:
// a device may register as often as it likes.
func (r *registration) call(ctx context.Context, method, path string, body *dpsjson.DeviceRegistration, also ...int) (*rest.Answer, error) {
	request := rest.Request{
		Method: method,
		Path: "/" + url.PathEscape(r.config.IDScope) + "/registrations/" + url.PathEscape(r.id) + "/" + path +
			"?api-version=" + apiVersion,
		Repeatable: true,
		Also:       also,
		MaxAnswer:  maxAnswer,
	}
	if body != nil {
		var err error
		if request.Body, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	if r.tokens != nil {
		request.Authorize = r.tokens.Token
	}
	return r.rest.Do(ctx, request)
}

// read takes an operation out of an answer. Its first word must be a known one.
func read(answer *rest.Answer) (*operation, error) {
	op := &operation{answer: answer}
	if err := answer.JSON(&op.OperationStatus); err != nil {
		return nil, err
	}
	op.Status = dpsjson.Status(strings.ToLower(string(op.Status)))
	switch op.Status {
	case dpsjson.Assigned, dpsjson.Failed, dpsjson.Disabled:
		if op.RegistrationState == nil {
			op.RegistrationState = &dpsjson.RegistrationState{}
		}
	case dpsjson.Assigning, dpsjson.Unassigned:
		if op.OperationID == "" || len(op.OperationID) > maxOperationID {
			return nil, fmt.Errorf("the operation's ID has %d bytes, want 1 to %d", len(op.OperationID), maxOperationID)
		}
	default:
		return nil, fmt.Errorf("the service answered the unknown status %q", rest.Printable(string(op.Status), 32))
	}
	return op, nil
}

// poll asks for the operation until it is final, which it may be already.
func (r *registration) poll(ctx context.Context, op *operation) (*operation, error) {
	patient, cancel := context.WithTimeout(ctx, r.config.Patience)
	defer cancel()
	for op.Status == dpsjson.Assigning || op.Status == dpsjson.Unassigned {
		err := r.step(AwaitAssignment, func() error {
			if rest.Wait(patient, pollDelay(op.answer)) {
				return nil
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			return fmt.Errorf("the service is still assigning: %w", context.DeadlineExceeded)
		})
		if err != nil {
			return nil, err
		}
		path := "operations/" + url.PathEscape(op.OperationID)
		err = r.step(Poll, func() error {
			answer, err := r.call(ctx, http.MethodGet, path, nil)
			if err != nil {
				return err
			}
			op, err = read(answer)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return op, nil
}

// pollDelay is what the service asked for, within reason.
func pollDelay(answer *rest.Answer) time.Duration {
	d := answer.RetryAfter()
	if d == 0 {
		return defaultPoll
	}
	return min(max(d, minPoll), maxPoll)
}

// conclude judges a final operation.
func (r *registration) conclude(ctx context.Context, op *operation) (*Assignment, error) {
	state := op.RegistrationState
	if op.Status != dpsjson.Assigned {
		return nil, &Error{
			Status:     op.Status,
			Code:       errs.Code(state.ErrorCode),
			Message:    rest.Printable(state.ErrorMessage, 512),
			TrackingID: rest.Printable(op.answer.Header.Get("x-ms-request-id"), 128),
		}
	}
	if state.RegistrationID != "" && !strings.EqualFold(state.RegistrationID, r.id) {
		return nil, fmt.Errorf("the service answered for %q instead", rest.Printable(state.RegistrationID, 128))
	}
	if err := rest.CheckHost(state.AssignedHub); err != nil {
		return nil, fmt.Errorf("the assigned hub: %w", err)
	}
	id, err := device.ParseID(state.DeviceID)
	if err != nil {
		return nil, fmt.Errorf("the assigned device ID %w", err)
	}
	if module := r.config.Credential.SecurityModule(); module != nil {
		if state.TPM == nil || len(state.TPM.AuthenticationKey) == 0 {
			return nil, errors.New("the assignment has no key for the TPM")
		}
		err := r.step(ActivateHubKey, func() error { return module.Activate(ctx, state.TPM.AuthenticationKey) })
		if err != nil {
			return nil, fmt.Errorf("activating the hub's key: %w", err)
		}
	}
	home := &Assignment{
		Hub:            state.AssignedHub,
		DeviceID:       id,
		RegistrationID: r.id,
		Substatus:      rest.Printable(state.Substatus, 64),
		Created:        time.Time(state.CreatedDateTimeUTC),
		Updated:        time.Time(state.LastUpdatedDateTimeUTC),
	}
	if string(state.Payload) != "null" {
		home.Payload = state.Payload
	}
	return home, nil
}
