package linkedhub

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/client/internal/memtls"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/hubjson"
	"github.com/berth-iot/berth/wire/sas"
)

const policyKey = "AAECAwQFBgcICQoLDA0ODw=="

func connectionTo(host string) string {
	return "HostName=" + host + ";SharedAccessKeyName=owner;SharedAccessKey=" + policyKey
}

// An azure is a hub that follows the rules that IoT Hub documents for
// identities and twins, and then some.
type azure struct {
	t *testing.T

	// nested makes it use the other of the two forms of error bodies.
	nested bool
	// lacks names rights that the policy does not have.
	lacks string
	// before is called with every request, numbered from 1. It may answer it
	// instead of the hub, and says so.
	before func(n int, w http.ResponseWriter, r *http.Request) bool
	// after is called when the hub has done what was asked, instead of its
	// answer when it says so.
	after func(n int, w http.ResponseWriter, r *http.Request) bool

	mu      sync.Mutex
	count   int
	calls   []string // "PUT /devices/d1 "etag""
	bodies  []string
	counter int // makes entity tags and generations
	devices map[string]*entry
}

// An entry is a device as the hub has it.
type entry struct {
	members       map[string]any // of the identity, as JSON
	tags, desired map[string]any
	version       int // of the desired properties
	changes       int // of the twin
}

func newAzure(t *testing.T) *azure { return &azure{t: t, devices: map[string]*entry{}} }

// open returns the hub of these tests, linked. It is to be called in a bubble.
func (z *azure) open(t *testing.T, change ...func(*Options)) *Hub {
	t.Helper()
	o := Options{HTTP: memtls.Serve(t, z)}
	for _, f := range change {
		f(&o)
	}
	h, err := Open(connectionTo(memtls.Host), o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// bubble runs f, in whose time waiting takes none, with a fresh hub that is
// linked.
func bubble(t *testing.T, f func(t *testing.T, z *azure, h *Hub)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		z := newAzure(t)
		f(t, z, z.open(t))
	})
}

func (z *azure) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	z.mu.Lock()
	z.count++
	n := z.count
	z.calls = append(z.calls, strings.TrimSpace(r.Method+" "+r.URL.EscapedPath()+" "+r.Header.Get("If-Match")))
	z.bodies = append(z.bodies, string(body))
	before, after := z.before, z.after
	z.mu.Unlock()
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	if before != nil && before(n, w, r) {
		return
	}
	z.mu.Lock()
	code, answer := z.decide(r, body)
	z.mu.Unlock()
	if after != nil && after(n, w, r) {
		return
	}
	if code != 0 {
		z.refuse(w, code, "d")
		return
	}
	if answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	json.NewEncoder(w).Encode(answer)
}

// refuse answers with a code, in one of the two forms.
func (z *azure) refuse(w http.ResponseWriter, code errs.Code, what string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("iothub-errorcode", code.Name())
	w.WriteHeader(code.Status())
	message := "ErrorCode:" + code.Name() + ";" + what
	if z.nested {
		inner, _ := json.Marshal(map[string]any{"errorCode": int(code), "trackingId": "t-1", "message": what})
		message = string(inner)
	}
	json.NewEncoder(w).Encode(map[string]string{"Message": message, "ExceptionMessage": "Tracking ID:t-1-TimeStamp:03/01/2026 12:00:00"})
}

func (z *azure) decide(r *http.Request, body []byte) (errs.Code, any) {
	key, _ := device.ParseSymmetricKey(policyKey)
	token, err := sas.Parse(r.Header.Get("Authorization"))
	host, _, _ := strings.Cut(r.Host, ":")
	if err != nil || !token.SignedBy(key.Bytes()) || token.Resource != host || token.KeyName != "owner" || token.Expired(time.Now(), 0) {
		return errs.CodeUnauthorizedAccess, nil
	}
	if r.URL.Query().Get("api-version") != "2021-04-12" {
		return errs.CodeInvalidProtocolVersion, nil
	}
	collection, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	right := map[string]string{"devices": "RegistryWrite", "twins": "ServiceConnect", "statistics": "RegistryRead"}[collection]
	if collection == "devices" && r.Method == http.MethodGet {
		right = "RegistryRead"
	}
	if strings.Contains(z.lacks, right) {
		return errs.CodeUnauthorizedAccess, nil
	}
	switch collection {
	case "devices":
		return z.identity(r.Method, id, r.Header.Get("If-Match"), body)
	case "twins":
		return z.twin(r.Method, id, r.Header.Get("If-Match"), body)
	case "statistics":
		return 0, hubjson.Statistics{Total: int64(len(z.devices))}
	}
	z.t.Errorf("request for %s", r.URL)
	return errs.CodeGenericNotFound, nil
}

func (z *azure) identity(method, id, ifMatch string, body []byte) (errs.Code, any) {
	e := z.devices[id]
	switch {
	case e == nil && (method != http.MethodPut || ifMatch != ""):
		return errs.CodeDeviceNotFound, nil
	case e != nil && method == http.MethodPut && ifMatch == "":
		return errs.CodeDeviceAlreadyExists, nil
	case e != nil && ifMatch != "" && ifMatch != `"*"` && ifMatch != `"`+e.members["etag"].(string)+`"`:
		return errs.CodePreconditionFailed, nil
	case method == http.MethodDelete:
		delete(z.devices, id)
		return 0, nil
	case method == http.MethodGet:
		return 0, e.members
	}
	members := map[string]any{}
	if err := json.Unmarshal(body, &members); err != nil {
		return errs.CodeFormatError, nil
	}
	if members["deviceId"] != id {
		return errs.CodeArgumentInvalid, nil
	}
	z.put(id, members)
	return 0, z.devices[id].members
}

// put writes an identity: all of it but for what is the hub's own.
func (z *azure) put(id string, members map[string]any) {
	e := z.devices[id]
	z.counter++
	generation := any(fmt.Sprint(638412345678900000 + z.counter))
	if e == nil {
		e = &entry{tags: map[string]any{}, desired: map[string]any{}, version: 1, changes: 1}
		z.devices[id] = e
	} else {
		generation = e.members["generationId"]
	}
	members["deviceId"], members["generationId"], members["connectionState"] = id, generation, "Disconnected"
	members["etag"] = base64.StdEncoding.EncodeToString(fmt.Append(nil, 73459257+z.counter))
	e.members = members
}

func (z *azure) twin(method, id, ifMatch string, body []byte) (errs.Code, any) {
	e := z.devices[id]
	if e == nil {
		return errs.CodeDeviceNotFound, nil
	}
	if method != http.MethodGet {
		if ifMatch != "" && ifMatch != `"*"` && ifMatch != `"`+e.twinETag()+`"` {
			return errs.CodePreconditionFailed, nil
		}
		var sent struct {
			Tags       map[string]any
			Properties struct{ Desired map[string]any }
		}
		if err := json.Unmarshal(body, &sent); err != nil {
			return errs.CodeFormatError, nil
		}
		if method == http.MethodPut {
			e.tags, e.desired = map[string]any{}, map[string]any{}
		}
		merge(e.tags, sent.Tags)
		merge(e.desired, sent.Properties.Desired)
		if e.changes++; method == http.MethodPut || sent.Properties.Desired != nil {
			e.version++
		}
	}
	desired := map[string]any{"$version": e.version, "$metadata": map[string]any{"$lastUpdated": "2026-03-01T12:00:00.1234567Z"}}
	merge(desired, e.desired)
	return 0, map[string]any{
		"deviceId": id, "etag": e.twinETag(), "deviceEtag": e.members["etag"], "status": e.members["status"], "version": e.changes + 1,
		"tags": e.tags, "properties": map[string]any{"desired": desired, "reported": map[string]any{"$version": 1, "$metadata": map[string]any{}}},
	}
}

func (e *entry) twinETag() string { return fmt.Sprint("AAAAAAAAAA", e.changes, "=") }

func merge(to, patch map[string]any) {
	for name, v := range patch {
		if v == nil {
			delete(to, name)
		} else {
			to[name] = v
		}
	}
}

// got returns the calls since the last time.
func (z *azure) got() string {
	z.mu.Lock()
	defer z.mu.Unlock()
	calls := strings.Join(z.calls, "\n")
	z.calls, z.bodies = nil, nil
	return calls
}

// has returns a device of the hub as one text, or "nothing".
func (z *azure) has(id string) string {
	z.mu.Lock()
	defer z.mu.Unlock()
	e := z.devices[id]
	if e == nil {
		return "nothing"
	}
	var d hubjson.Device
	text, _ := json.Marshal(e.members)
	if err := json.Unmarshal(text, &d); err != nil {
		return err.Error()
	}
	key := "no key"
	if k := d.Authentication.SymmetricKey; k != nil && !k.PrimaryKey.IsZero() {
		key = fmt.Sprintf("key %c%c", k.PrimaryKey.Bytes()[0], k.SecondaryKey.Bytes()[0])
	}
	if x := d.Authentication.X509Thumbprint; x != nil && x.PrimaryThumbprint != "" {
		key = x.PrimaryThumbprint[:2] + x.SecondaryThumbprint[:2]
	}
	twin, _ := json.Marshal([]any{e.tags, e.desired})
	return fmt.Sprintf("%s %s%s %s %s", d.Status, d.StatusReason, d.Authentication.Type, key, twin)
}

func (z *azure) etag(id string) string {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.devices[id].members["etag"].(string)
}

// key is a symmetric key of 32 times the letter.
func key(letter byte) device.SymmetricKey {
	k, _ := device.NewSymmetricKey([]byte(strings.Repeat(string(rune(letter)), 32)))
	return k
}

// assignment is one with two keys and an initial twin.
func assignment(letters string) provision.Assignment {
	a := provision.Assignment{Hub: memtls.Host, DeviceID: "d1"}
	a.Keys.Primary, a.Keys.Secondary = key(letters[0]), key(letters[1])
	a.Twin = initialTwin(`{"site":"a"}`, `{"rate":1}`)
	return a
}
