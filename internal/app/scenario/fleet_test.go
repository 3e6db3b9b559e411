package scenario

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/symkey"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/tpm/tpmtest"
	"github.com/berth-iot/berth/wire/dpsjson"
	"github.com/berth-iot/berth/wire/sas"
)

const (
	fleetWorkers = 8
	// answerBound is how long a call may take at most, whatever happens to the
	// server or to its database.
	answerBound = 30 * time.Second
	// finalBound is how long an operation may stay open once there is a server
	// that serves.
	finalBound = 30 * time.Second
	// slowPatience is how long a slow device asks before it does something else.
	slowPatience = 2 * time.Second
	// ownUnits is how many devices of each kind with an enrollment of its own a
	// worker has.
	ownUnits = 3
)

// A fleet is devices of every kind, which register and remember what they were
// told.
type fleet struct {
	t      *testing.T
	world  world
	group  device.SymmetricKey
	ca     *pki.Issuer
	client *http.Client

	webhook      *httptest.Server
	webhookGroup device.SymmetricKey

	mu      sync.Mutex // guards what follows and the units' memory
	servers []string   // addresses; a device that gets no answer from one asks another
	units   map[string]*unit

	calls   atomic.Int64
	longest atomic.Int64 // answer to a call, nanoseconds
}

// A unit is a device. One goroutine at a time makes its calls.
type unit struct {
	id string
	// What it proves itself with.
	key  device.SymmetricKey
	leaf *pki.Leaf
	chip *tpmtest.TPM
	slow bool // a webhook is asked where it is to live, so that it has to poll

	nonce []byte // of the TPM's last challenge

	open      bool   // its last call was not answered
	operation string // that it was given and that is not final
	told      string // the entity tag of its record, when it was told its home
	hubKey    []byte // that its TPM was given
}

// kinds are the ways in which devices prove themselves, each by an enrollment of
// its own or through a group.
var kinds = []struct {
	name string
	own  bool // one enrollment for each device, which are made beforehand
	make func(f *fleet, id string) (*unit, error)
}{
	{"key-group", false, func(f *fleet, id string) (*unit, error) {
		return &unit{id: id, key: symkey.DeriveDeviceKey(f.group, id)}, nil
	}},
	{"key", true, func(f *fleet, id string) (*unit, error) {
		key, err := device.GenerateSymmetricKey(rand.Reader, 64)
		return &unit{id: id, key: key}, err
	}},
	{"x509-group", false, func(f *fleet, id string) (*unit, error) {
		leaf, err := f.ca.IssueDevice(id, time.Now(), rand.Reader)
		return &unit{id: id, leaf: leaf}, err
	}},
	{"x509", true, func(f *fleet, id string) (*unit, error) {
		leaf, err := pki.SelfSigned(id, time.Now(), rand.Reader)
		return &unit{id: id, leaf: leaf}, err
	}},
	{"webhook", false, func(f *fleet, id string) (*unit, error) {
		return &unit{id: id, key: symkey.DeriveDeviceKey(f.webhookGroup, id), slow: true}, nil
	}},
	{"tpm", true, func(f *fleet, id string) (*unit, error) {
		chip, err := softTPM()
		return &unit{id: id, chip: chip}, err
	}},
}

// softTPM is the TPM of all devices that have one: their enrollments tell them
// apart by their names, and its keys take long to make.
var softTPM = sync.OnceValues(tpmtest.New)

// newFleet makes what is made at the factory, and enrolls it once somebody
// serves.
func newFleet(t *testing.T, data string) *fleet {
	t.Helper()
	f := &fleet{t: t, units: map[string]*unit{}}
	f.world.data = data
	var err error
	if f.group, err = device.GenerateSymmetricKey(rand.Reader, 64); err != nil {
		t.Fatal(err)
	}
	if f.webhookGroup, err = device.GenerateSymmetricKey(rand.Reader, 64); err != nil {
		t.Fatal(err)
	}
	f.webhook = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"iotHubHostName":"`+hubHost+`"}`)
	}))
	t.Cleanup(f.webhook.Close)
	root, err := pki.NewRoot("Factory", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if f.ca, err = root.NewIntermediate("Line", time.Now(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	return f
}

// connect makes servers those that the fleet calls from now on.
func (f *fleet) connect(servers ...*process) {
	f.t.Helper()
	if err := f.world.meet(""); err != nil {
		f.t.Fatal(err)
	}
	if f.client != nil {
		f.client.CloseIdleConnections()
	}
	f.client = f.newClient(nil)
	f.serveFrom(servers...)
}

// serveFrom makes servers those that new connections are made to.
func (f *fleet) serveFrom(servers ...*process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.servers = nil
	for _, s := range servers {
		f.servers = append(f.servers, s.address)
	}
}

func (f *fleet) newClient(certificate *tls.Certificate) *http.Client {
	return &http.Client{Timeout: answerBound, Transport: &http.Transport{
		DialContext: f.dial, TLSClientConfig: f.world.tls(certificate), MaxIdleConnsPerHost: fleetWorkers, DisableKeepAlives: certificate != nil,
	}}
}

// dial connects to the first server that takes connections, and tells the next
// caller to begin with another one.
func (f *fleet) dial(ctx context.Context, _, _ string) (c net.Conn, err error) {
	f.mu.Lock()
	servers := append([]string(nil), f.servers...)
	f.servers = append(f.servers[1:], f.servers[0])
	f.mu.Unlock()
	for _, address := range servers {
		if c, err = new(net.Dialer).DialContext(ctx, "tcp", address); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// enroll makes the enrollments of all devices.
func (f *fleet) enroll() {
	f.t.Helper()
	f.put("/enrollmentGroups/key-group", attest.TypeSymmetricKey, map[string]any{"primaryKey": f.group.Base64()})
	f.put("/enrollmentGroups/webhook", attest.TypeSymmetricKey, map[string]any{"primaryKey": f.webhookGroup.Base64()},
		"allocationPolicy", "custom", "customAllocationDefinition", map[string]string{"webhookUrl": f.webhook.URL, "apiVersion": "2021-10-01"})
	f.put("/enrollmentGroups/x509-group", attest.TypeX509, map[string]any{"signingCertificates": certificates(f.ca.Above[0].Raw)})
	for _, kind := range kinds {
		if !kind.own {
			continue
		}
		for worker := range fleetWorkers {
			for n := range ownUnits {
				u := f.unit(kind.name, fmt.Sprintf("%d-%d", worker, n))
				switch {
				case u.leaf != nil:
					f.put("/enrollments/"+u.id, attest.TypeX509, map[string]any{"clientCertificates": certificates(u.leaf.Certificate.Raw)})
				case u.chip != nil:
					f.put("/enrollments/"+u.id, attest.TypeTPM, map[string]any{"endorsementKey": u.chip.EndorsementKey})
				default:
					f.put("/enrollments/"+u.id, attest.TypeSymmetricKey, map[string]any{"primaryKey": u.key.Base64()})
				}
			}
		}
	}
}

func certificates(der []byte) map[string]any {
	return map[string]any{"primary": map[string]any{"certificate": der}}
}

// put makes an enrollment, with further members of its body by name and value.
func (f *fleet) put(path string, mechanism attest.Type, proof map[string]any, more ...any) {
	f.t.Helper()
	body := map[string]any{"attestation": map[string]any{"type": mechanism, string(mechanism): proof}}
	for i := 0; i < len(more); i += 2 {
		body[more[i].(string)] = more[i+1]
	}
	if status := f.operate("PUT", dpsHost, path, body, nil); status != http.StatusOK {
		f.t.Fatalf("PUT %s: status %d", path, status)
	}
}

// unit returns the device of that name, made when it is new.
func (f *fleet) unit(kind, name string) *unit {
	f.mu.Lock()
	u := f.units[kind+"-"+name]
	f.mu.Unlock()
	if u != nil {
		return u
	}
	for _, k := range kinds {
		if k.name != kind {
			continue
		}
		u, err := k.make(f, kind+"-"+name)
		if err != nil {
			f.t.Fatal(err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.units[u.id] = u
		return u
	}
	f.t.Fatalf("there is no kind %s", kind)
	return nil
}

// load registers as fast as it can until ctx ends or, in a worker, provision
// returns an error. Each worker goes through all kinds; devices without an
// enrollment of their own are new ones two times out of three.
func (f *fleet) load(ctx context.Context, round int, provision func(u *unit) error) {
	var wg sync.WaitGroup
	for worker := range fleetWorkers {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				kind, turn := kinds[(n+worker)%len(kinds)], n/len(kinds)
				name := fmt.Sprintf("%d-%d-%d", round, worker, turn-turn%3/2)
				if kind.own {
					name = fmt.Sprintf("%d-%d", worker, turn%ownUnits)
				}
				if provision(f.unit(kind.name, name)) != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

// errUnavailable is a 503.
var errUnavailable = errors.New("the service is unavailable")

// provision takes a device from its first call to its home. The error is nil
// when it was told that, errUnavailable, or that of a connection which broke. A
// slow device that was told to wait does not wait here for the lease of a killed
// server.
func (f *fleet) provision(u *unit) error {
	if err := f.register(u); err != nil {
		return err
	}
	return f.await(u)
}

// register makes the call, for a TPM both.
func (f *fleet) register(u *unit) error {
	body := dpsjson.DeviceRegistration{RegistrationID: u.id}
	if u.chip != nil {
		body.TPM = &dpsjson.TPMKeys{EndorsementKey: u.chip.EndorsementKey, StorageRootKey: u.chip.StorageRootKey}
		if err := f.challenge(u, body); err != nil {
			return err
		}
	}
	f.remember(func() { u.open = true })
	var operation dpsjson.OperationStatus
	status, err := f.call(u, "PUT", "/register", f.token(u), body, &operation)
	if err != nil {
		return err
	}
	if status != http.StatusAccepted || operation.OperationID == "" {
		return f.surprise("registering", u, status, operation)
	}
	f.remember(func() { u.open, u.operation, u.told = false, operation.OperationID, "" })
	return f.take(u, status, operation)
}

// challenge is the first call of a device with a TPM.
func (f *fleet) challenge(u *unit, body dpsjson.DeviceRegistration) error {
	var challenge dpsjson.Challenge
	status, err := f.call(u, "PUT", "/register", "", body, &challenge)
	if err != nil {
		return err
	}
	if status != http.StatusUnauthorized || len(challenge.AuthenticationKey) == 0 {
		return f.surprise("challenging", u, status, challenge)
	}
	u.nonce, err = u.chip.Activate(challenge.AuthenticationKey)
	return err
}

// await polls the operation that the device was given until it is final, for a
// while.
func (f *fleet) await(u *unit) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(finalBound)
	if u.slow {
		deadline = time.Now().Add(slowPatience)
	}
	for u.operation != "" {
		if err := f.poll(u); err != nil {
			return err
		}
		switch late := time.Now().After(deadline); {
		case late && u.slow:
			return nil
		case late:
			f.t.Errorf("%s: the operation %s is not final after %v", u.id, u.operation, finalBound)
			return errors.New("not final")
		}
		<-tick.C
	}
	return nil
}

// poll asks once how the operation stands.
func (f *fleet) poll(u *unit) error {
	var operation dpsjson.OperationStatus
	status, err := f.call(u, "GET", "/operations/"+u.operation, f.token(u), nil, &operation)
	if err != nil {
		return err
	}
	return f.take(u, status, operation)
}

// take remembers what an operation came to, if it is final.
func (f *fleet) take(u *unit, status int, operation dpsjson.OperationStatus) error {
	state := operation.RegistrationState
	switch {
	case status == http.StatusAccepted && operation.Status == dpsjson.Assigning && operation.OperationID == u.operation:
		return nil
	case status/100 != 2 || operation.Status != dpsjson.Assigned || state == nil || state.AssignedHub != hubHost || state.DeviceID != u.id || state.ETag == "":
		return f.surprise("the operation of", u, status, operation)
	}
	var hubKey []byte
	if u.chip != nil {
		var err error
		if state.TPM == nil {
			return f.surprise("the hub key of", u, status, operation)
		}
		if hubKey, err = u.chip.Activate(state.TPM.AuthenticationKey); err != nil {
			f.t.Errorf("%s: %v", u.id, err)
			return err
		}
	}
	f.remember(func() { u.operation, u.told, u.hubKey = "", state.ETag, hubKey })
	return nil
}

func (f *fleet) remember(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fleet) surprise(doing string, u *unit, status int, body any) error {
	f.t.Errorf("%s %s: status %d, %+v", doing, u.id, status, body)
	return fmt.Errorf("status %d", status)
}

// token is what the device shows of the key that the provisioning service knows
// it by, empty if it has a certificate.
func (f *fleet) token(u *unit) string {
	key := u.nonce
	if u.chip == nil {
		key = u.key.Bytes()
	}
	if u.leaf != nil {
		return ""
	}
	return sas.Sign(key, sas.DeviceResource(f.world.scope, u.id), time.Now().Add(time.Hour), "registration")
}

// call is a device's call of the provisioning service.
func (f *fleet) call(u *unit, method, path, token string, body, answer any) (status int, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequest(method, "https://"+dpsHost+"/"+f.world.scope+"/registrations/"+u.id+path+"?api-version=2021-06-01", bytes.NewReader(text))
	if err != nil {
		return 0, err
	}
	if token != "" {
		request.Header.Set("Authorization", token)
	}
	a, err := f.exchange(u, request)
	if err != nil {
		return 0, err
	}
	return a.status, json.Unmarshal(a.body, answer)
}

// exchange sends a device's request and reads the answer. One of 503 is
// errUnavailable.
func (f *fleet) exchange(u *unit, request *http.Request) (answer, error) {
	client := f.client
	if u.leaf != nil {
		shown := &tls.Certificate{Certificate: [][]byte{u.leaf.Certificate.Raw}, PrivateKey: u.leaf.Key}
		for _, above := range u.leaf.Above {
			shown.Certificate = append(shown.Certificate, above.Raw)
		}
		client = f.newClient(shown)
	}
	began := time.Now()
	a, err := exchange(client, request)
	f.calls.Add(1)
	for took := int64(time.Since(began)); ; {
		if longest := f.longest.Load(); took <= longest || f.longest.CompareAndSwap(longest, took) {
			break
		}
	}
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		f.t.Errorf("%s waited for %v and was not answered", u.id, answerBound)
	case err == nil && a.status == http.StatusServiceUnavailable:
		if a.retryAfter == "" {
			f.t.Errorf("a 503 does not say when to come again: %s", a.body)
		}
		return answer{}, errUnavailable
	}
	return a, err
}

// operate is an operator's call; what is answered goes into v.
func (f *fleet) operate(method, host, path string, body, v any, headers ...string) (status int) {
	f.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		f.t.Fatal(err)
	}
	request, err := http.NewRequest(method, "https://"+host+path+"?api-version=2021-10-01", bytes.NewReader(text))
	if err != nil {
		f.t.Fatal(err)
	}
	p := f.world.owner
	if host == hubHost {
		p = f.world.hub
	}
	request.Header.Set("Authorization", p.token(host, time.Now()))
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	a, err := exchange(f.client, request)
	if err != nil {
		f.t.Fatal(err)
	}
	if v != nil && a.status == http.StatusOK {
		if err := json.Unmarshal(a.body, v); err != nil {
			f.t.Fatal(err)
		}
	}
	return a.status
}

// settle lets the devices that were cut off go on as they would: those that
// were given an operation ask how it stands, and those that were not answered
// register again, after a look at what is left of them. An operation that needs
// a webhook may take until the lease of a killed server is over, and is only
// asked about: it must be there.
func (f *fleet) settle() {
	f.t.Helper()
	for _, u := range f.units {
		var err error
		switch {
		case u.open && u.slow:
			err = f.register(u)
		case u.open:
			f.checkLeft(u)
			err = f.provision(u)
		case u.operation != "" && u.slow:
			err = f.poll(u)
		case u.operation != "":
			err = f.await(u)
		default:
			continue
		}
		if err != nil {
			f.t.Fatalf("%s cannot go on: %v", u.id, err)
		}
		if u.operation == "" {
			f.check(u)
		}
	}
}

// finish wants the operations under way to end at once, with a server by whose
// clock nobody has a lease any more.
func (f *fleet) finish(data string) (waited int) {
	f.t.Helper()
	server := startProcess(f.t, data, serveAhead+"=3m")
	f.connect(server)
	for _, u := range f.units {
		if u.operation == "" {
			continue
		}
		waited++
		for deadline := time.Now().Add(finalBound); u.operation != ""; {
			if err := f.await(u); err != nil {
				f.t.Fatalf("the operation of %s: %v", u.id, err)
			}
			if u.operation != "" && time.Now().After(deadline) {
				f.t.Fatalf("the operation of %s is not final", u.id)
			}
		}
	}
	return waited
}

// homes returns how many devices were told their home.
func (f *fleet) homes() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.units {
		if u.told != "" {
			n++
		}
	}
	return n
}

// latency sums up how long the devices waited for answers.
func (f *fleet) latency() string {
	return fmt.Sprintf("the longest of %d answers took %v", f.calls.Load(), time.Duration(f.longest.Load()).Round(time.Millisecond))
}

// checkAll holds what is there against what every device was told.
func (f *fleet) checkAll() {
	f.t.Helper()
	for _, u := range f.units {
		if u.told != "" {
			f.check(u)
		}
	}
}

// check holds a device's record and identity against what it was told, and lets
// it use its hub.
func (f *fleet) check(u *unit) {
	f.t.Helper()
	record, ok := f.record(u)
	switch {
	case !ok:
		f.t.Fatalf("%s was told its home, and there is no record of it", u.id)
	case record.ETag != u.told:
		f.t.Fatalf("%s was told the entity tag %s, its record has %s", u.id, u.told, record.ETag)
	}
	f.checkIdentity(u)
	if status := f.send(u); status != http.StatusNoContent {
		f.t.Fatalf("%s was told its home, and what it has gives %d there", u.id, status)
	}
}

// checkLeft looks at a device whose last call was not answered: it happened or
// it did not, at the hub and in the record alike.
func (f *fleet) checkLeft(u *unit) {
	f.t.Helper()
	if _, ok := f.record(u); !ok {
		if status := f.operate("GET", hubHost, "/devices/"+url.PathEscape(u.id), nil, nil); status != http.StatusNotFound {
			f.t.Fatalf("%s has no record, and its identity is answered %d", u.id, status)
		}
		return
	}
	f.checkIdentity(u)
	if u.chip == nil {
		return
	}
	var state dpsjson.RegistrationState
	status, err := f.call(u, "POST", "", f.token(u), dpsjson.DeviceRegistration{}, &state)
	if err != nil || status != http.StatusOK || state.TPM == nil {
		f.t.Fatalf("looking up %s: status %d, %v, %+v", u.id, status, err, state)
	}
	if u.hubKey, err = u.chip.Activate(state.TPM.AuthenticationKey); err != nil {
		f.t.Fatalf("the hub key in the record of %s: %v", u.id, err)
	}
	if status := f.send(u); status != http.StatusNoContent {
		f.t.Fatalf("the hub key in the record of %s is not that at the hub: %d", u.id, status)
	}
}

func (f *fleet) record(u *unit) (record dpsjson.RegistrationState, ok bool) {
	f.t.Helper()
	switch status := f.operate("GET", dpsHost, "/registrations/"+u.id, nil, &record); {
	case status == http.StatusNotFound:
		return record, false
	case status != http.StatusOK || record.Status != dpsjson.Assigned || record.AssignedHub != hubHost || record.DeviceID != u.id:
		f.t.Fatalf("%s has the record %+v, status %d", u.id, record, status)
	}
	return record, true
}

func (f *fleet) checkIdentity(u *unit) {
	f.t.Helper()
	var identity struct {
		Status         string
		Authentication struct {
			Type           string
			SymmetricKey   struct{ PrimaryKey string }
			X509Thumbprint struct{ PrimaryThumbprint string }
		}
	}
	status := f.operate("GET", hubHost, "/devices/"+url.PathEscape(u.id), nil, &identity)
	proof := identity.Authentication
	switch {
	case status != http.StatusOK || identity.Status != "enabled":
		f.t.Fatalf("%s has a record, and its identity at the hub is answered %d, %q", u.id, status, identity.Status)
	case u.leaf != nil && !strings.EqualFold(proof.X509Thumbprint.PrimaryThumbprint, attest.Thumbprint(u.leaf.Certificate.Raw)),
		u.leaf == nil && u.chip == nil && proof.SymmetricKey.PrimaryKey != u.key.Base64():
		f.t.Fatalf("%s is known at the hub by something else than what it has", u.id)
	}
}

// send is the device's telemetry.
func (f *fleet) send(u *unit) (status int) {
	f.t.Helper()
	request, err := http.NewRequest("POST", "https://"+hubHost+"/devices/"+u.id+"/messages/events?api-version=2020-03-13", strings.NewReader("21.5"))
	if err != nil {
		f.t.Fatal(err)
	}
	key := u.hubKey
	if u.chip == nil {
		key = u.key.Bytes()
	}
	if u.leaf == nil {
		request.Header.Set("Authorization", sas.Sign(key, sas.HubDeviceResource(hubHost, u.id), time.Now().Add(time.Hour), ""))
	}
	a, err := f.exchange(u, request)
	if err != nil {
		f.t.Fatal(err)
	}
	return a.status
}
