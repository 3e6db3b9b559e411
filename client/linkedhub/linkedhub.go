// Package linkedhub gives devices their identities at an IoT hub elsewhere,
// Azure's or Berth's, that a provisioning service is linked to by a connection
// string. It makes the calls that the Device Provisioning Service makes, with
// the IoT Hub service REST API.
//
// Every method may be called again when it is not known how far it got. No
// error has a symmetric key in it, not even one that the hub repeats.
package linkedhub

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/hubrest"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

const (
	defaultBudget  = time.Minute
	defaultTimeout = 30 * time.Second

	// azureOperations is the smallest quota of a hub at Azure.
	azureOperations = 100
)

// Both ends of a move can be a linked hub.
var (
	_ provision.Origin      = (*Hub)(nil)
	_ provision.Destination = (*Hub)(nil)
)

// Options say how to reach a hub. The zero value is good for one at Azure.
type Options struct {
	// HTTP has the roots and the transport. Its Attempts count for nothing:
	// the budget bounds them. A zero Timeout means 30 seconds.
	HTTP client.HTTP
	// Budget bounds each call of a method, repetitions included; zero means a
	// minute, as long as the original service tries.
	Budget time.Duration
	// OperationsPerMinute bounds reads and writes of the identity registry,
	// repetitions not counted. Zero means 100 for a hub at Azure, which is the
	// quota of its smallest unit, and any number for other hosts; a negative
	// number means any. Who would have to wait for longer than the budget is
	// told so at once, with an error of kind errs.Busy.
	OperationsPerMinute int
}

// A Hub is a linked hub. It is safe for concurrent use.
type Hub struct {
	host   string
	policy string
	budget time.Duration
	pace   *pace // nil for none

	// A hub at Azure may have more names than that of the connection string.
	// settled is the first that answered.
	names   []access
	settled atomic.Pointer[hubrest.Hub]
}

// An access is a hub under one of its names.
type access struct {
	calls *hubrest.Hub
	probe *hubrest.Hub // the same, and gives up at once
}

// ParseConnectionString reads the connection string of a shared access policy, in
// the form of Open, and returns the name by which devices reach the hub, with an
// optional :port, and the policy. Errors do not repeat the string.
func ParseConnectionString(s string) (host string, c provision.Connection, err error) {
	parsed, err := rest.ParseConnectionString(s)
	if err != nil {
		return "", c, err
	}
	if parsed.Key().IsZero() {
		return "", c, errors.New("connection string: has a token, which ends; it needs a SharedAccessKey")
	}
	host, _ = hostNames(parsed.Host)
	return host, provision.Connection{Policy: parsed.KeyName, Key: parsed.Key()}, nil
}

// Open reads the connection string of a shared access policy with the rights
// RegistryRead, RegistryWrite and ServiceConnect,
//
//	HostName={host};SharedAccessKeyName={policy};SharedAccessKey={base64}
//
// and returns the hub; it does not connect. Errors do not repeat the string.
func Open(connectionString string, o Options) (*Hub, error) {
	s, err := rest.ParseConnectionString(connectionString)
	if err != nil {
		return nil, err
	}
	if o.Budget < 0 {
		return nil, errors.New("the budget must not be negative")
	}
	host, names := hostNames(s.Host)
	h := &Hub{host: host, policy: s.KeyName, budget: o.Budget}
	if h.budget == 0 {
		h.budget = defaultBudget
	}
	operations := o.OperationsPerMinute
	if operations == 0 && isAzure(s.Host) {
		operations = azureOperations
	}
	if operations > 0 {
		h.pace = newPace(operations)
	}
	for _, name := range names {
		s.Host = name
		a, err := newAccess(s, o.HTTP)
		if err != nil {
			return nil, err
		}
		h.names = append(h.names, a)
	}
	if len(h.names) == 1 {
		h.settled.Store(h.names[0].calls)
	}
	return h, nil
}

func newAccess(s rest.ConnectionString, o client.HTTP) (a access, err error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	o.Attempts = math.MaxInt
	if a.calls, err = hubrest.New(s, o); err != nil {
		return access{}, err
	}
	// A write whose answer was lost is made again: what it then finds is what
	// the methods below read and compare.
	a.calls.Resume = true
	o.Attempts = 1
	a.probe, err = hubrest.New(s, o)
	return a, err
}

// Host returns the name by which devices reach the hub, with an optional :port.
func (h *Hub) Host() string { return h.host }

// do calls f with what is left of the budget. The error it returns has a kind,
// unless the caller's context ended, and none of the secrets.
func (h *Hub) do(caller context.Context, f func(ctx context.Context, calls *hubrest.Hub) error, secrets ...device.SymmetricKey) error {
	ctx, cancel := context.WithTimeout(caller, h.budget)
	defer cancel()
	err := withhold(f(ctx, h.calls(ctx)), secrets)
	switch {
	case err == nil:
		return nil
	case caller.Err() != nil:
		return fmt.Errorf("linked hub %s: %w, in the midst of: %w", h.host, context.Cause(caller), err)
	}
	return fmt.Errorf("linked hub %s: %w", h.host, sorted(err))
}

// calls returns the hub under the name that works. That is found out with a
// read, until one does: a connection string with the device name of a hub at
// Azure is what its tools write, and whether that name serves this API they do
// not say.
func (h *Hub) calls(ctx context.Context) *hubrest.Hub {
	if settled := h.settled.Load(); settled != nil {
		return settled
	}
	for _, a := range h.names {
		_, err := a.probe.Statistics(ctx)
		if err == nil {
			h.settled.Store(a.calls)
			return a.calls
		}
		if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status != http.StatusUnauthorized && refused.Status != http.StatusNotFound {
			return a.calls // it is there and has trouble
		}
	}
	return h.names[len(h.names)-1].calls
}

// turn waits until the identity registry may be asked again.
func (h *Hub) turn(ctx context.Context) error {
	if h.pace == nil {
		return nil
	}
	return h.pace.wait(ctx)
}

// Check tests the link: whether the hub can be reached and what the policy may
// do there. It changes nothing at the hub. An error of kind errs.Invalid names
// the rights that are missing, or says that the hub knows neither key nor
// policy.
func (h *Hub) Check(ctx context.Context) error { return h.do(ctx, h.check) }

func (h *Hub) check(ctx context.Context, calls *hubrest.Hub) error {
	// A name that no device has: what is asked about it is only ever refused
	// for the right or for the device, in this order.
	id := device.ID("berth-link-check-" + strings.ToLower(rand.Text()))
	var missing []string
	var refusal *client.Error
	tests := []struct {
		right string
		try   func() error
	}{
		{"RegistryRead", func() error { _, err := calls.Statistics(ctx); return err }},
		{"ServiceConnect", func() error { _, err := calls.Twin(ctx, id, ""); return err }},
		{"RegistryWrite", func() error { return calls.DeleteDevice(ctx, id, "bm90aGluZw==") }},
	}
	for _, test := range tests {
		err := test.try()
		refused, ok := errors.AsType[*client.Error](err)
		switch {
		case err == nil, isNotFound(err), ok && refused.Status == http.StatusPreconditionFailed:
		case ok && refused.Status == http.StatusUnauthorized && refused.Code != errs.CodeHubNotFound:
			missing, refusal = append(missing, test.right), refused
		default:
			return err
		}
	}
	switch len(missing) {
	case 0:
		return nil
	case len(tests):
		return errs.New(errs.Invalid, errs.CodeArgumentInvalid, "the hub does not accept the key of policy %q: %s", h.policy, text(refusal)).WithCause(refusal)
	}
	return errs.New(errs.Invalid, errs.CodeArgumentInvalid, "policy %q lacks %s", h.policy, strings.Join(missing, " and ")).WithCause(refusal)
}

// hostNames returns the name of a hub for devices and those for this API, in
// the order to try them. A hub at Azure has up to three,
//
//	{hub}.azure-devices.net  {hub}.device.azure-devices.net  {hub}.service.azure-devices.net
//
// of which the first serves everything and the last no devices.
func hostNames(host string) (forDevices string, forAPI []string) {
	name, rest, ok := strings.Cut(host, ".")
	kind, domain, _ := strings.Cut(rest, ".")
	if !ok || !isAzure(host) || !strings.EqualFold(kind, "device") && !strings.EqualFold(kind, "service") {
		return host, []string{host}
	}
	classic := name + "." + domain
	if strings.EqualFold(kind, "service") {
		return classic, []string{host, classic}
	}
	return host, []string{host, classic}
}

func isAzure(host string) bool {
	host = strings.ToLower(rest.Hostname(host))
	for _, domain := range []string{".azure-devices.net", ".azure-devices.cn", ".azure-devices.us"} {
		if strings.HasSuffix(host, domain) {
			return true
		}
	}
	return false
}
