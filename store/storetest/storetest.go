// Package storetest is the contract of a store, as tests that every engine
// passes.
package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
)

// A Store is everything a server keeps.
type Store interface {
	enroll.Store
	ListSharedKeys(ctx context.Context, scope device.IDScope, limit int) ([][]string, error)
	enroll.CACertificates
	provision.EnrollmentReader
	provision.Records
	provision.Scopes
	provision.TrustStore
	PutScope(context.Context, provision.Scope) error
	ListScopes(context.Context) ([]provision.Scope, error)
	ChangeScopes(context.Context, func([]provision.Scope) (*provision.Scope, error)) error
	DeleteScope(context.Context, device.IDScope) error
	Linked(context.Context, device.IDScope) ([]provision.LinkedHub, error)
	PutLinkedHub(context.Context, device.IDScope, provision.LinkedHub) error
	DeleteLinkedHub(ctx context.Context, scope device.IDScope, host string) error
	ChangeLinkedHub(ctx context.Context, scope device.IDScope, host string, decide func(*provision.LinkedHub) (*provision.LinkedHub, error)) error
	HubScope(ctx context.Context, name string) (device.IDScope, error)
	access.Keeper
	PutPolicy(context.Context, access.Owner, access.Policy) error
	hub.Registry
	hub.Stream
	hub.Queues
	hub.Presences
	hub.Configurations
	hub.RoutingStore
	hub.Positions
	Wait(ctx context.Context, after uint64) error
	Close() error
}

// The scopes that exist when a rule begins, and one that does not.
const (
	scopeA  device.IDScope = "0ne0000000a"
	scopeB  device.IDScope = "0ne0000000b"
	nowhere device.IDScope = "0ne000000ff"
)

type rule struct {
	name  string
	check func(*testing.T, Store)
}

// Run holds an engine to the contract. It calls create once for every rule;
// what that returns opens one and the same store, empty the first time, and
// again after it was closed.
func Run(t *testing.T, create func(t *testing.T) (open func() Store)) {
	var rules []rule
	for _, more := range [][]rule{scopeRules, policyRules, enrollmentRules, sharedKeyRules, certificateRules, trustRules, registrationRules, deviceRules, finderRules, queueRules, presenceRules, configurationRules, togetherRules, messageRules, routingRules, storeRules} {
		rules = append(rules, more...)
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			s := create(t)()
			t.Cleanup(func() { noError(t, s.Close()) })
			putScopes(t, s)
			r.check(t, s)
		})
	}
	t.Run("what was written is there after closing and opening", func(t *testing.T) {
		whatWasWrittenStays(t, create(t))
	})
}

func putScopes(t *testing.T, s Store) {
	t.Helper()
	for _, id := range []device.IDScope{scopeA, scopeB} {
		noError(t, s.PutScope(t.Context(), provision.Scope{ID: id, Allocation: enroll.Hashed}))
	}
}

var storeRules = []rule{
	{"a context that has ended changes nothing", func(t *testing.T, s Store) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		e := entry(scopeA, enroll.Individual, "pump-7")
		if err := putEntry(ctx, s, e); err == nil {
			t.Error("wrote an enrollment")
		}
		if err := s.Append(ctx, []*hub.Message{{Hub: "a", DeviceID: "d", Enqueued: epoch}}); err == nil {
			t.Error("appended a message")
		}
		_, err := s.Entry(t.Context(), scopeA, enroll.Individual, e.Key())
		isKind(t, err, errs.NotFound)
		last, err := s.LastSequence(t.Context())
		noError(t, err)
		same(t, last, uint64(0))
	}},
	{"a closed store is Unavailable", func(t *testing.T, s Store) {
		noError(t, s.Close())
		_, err := s.Entry(t.Context(), scopeA, enroll.Individual, "pump-7")
		isKind(t, err, errs.Unavailable)
		isKind(t, putEntry(t.Context(), s, entry(scopeA, enroll.Individual, "pump-7")), errs.Unavailable)
		isKind(t, s.Wait(t.Context(), 1), errs.Unavailable)
		noError(t, s.Close())
	}},
}

func whatWasWrittenStays(t *testing.T, open func() Store) {
	ctx, s := t.Context(), open()
	putScopes(t, s)
	e := entry(scopeA, enroll.Individual, "pump-7")
	noError(t, putEntry(ctx, s, e))
	ca := caCertificate(scopeA, "plant")
	noError(t, putCACertificate(ctx, s, ca))
	r := registration(scopeA, "pump-7", "")
	noError(t, putRegistration(ctx, s, r))
	d, twin := home("hub-1", "pump-7")
	noError(t, putHome(ctx, s, d, twin))
	p := filled[access.Policy]()
	noError(t, s.PutPolicy(ctx, access.ScopeOwner(scopeA), p))
	linked := filled[provision.LinkedHub]()
	noError(t, s.PutLinkedHub(ctx, scopeA, linked))
	anchor := trustAnchor("AA")
	changeTrust(t, s, scopeA, trustChange([]ekcert.TrustAnchor{anchor}))
	m := filled[*hub.Message]()
	noError(t, s.Append(ctx, []*hub.Message{m, {Hub: "hub-1", DeviceID: "d", Enqueued: epoch}}))
	changeQueue(t, s, pump7, hub.QueueChange{
		Add: []*hub.CloudMessage{filled[*hub.CloudMessage]()}, Feedback: []hub.Feedback{feedback("hub-1", "a", epoch)},
	})
	waiting := queued(t, s, pump7)
	noError(t, s.Close())

	s = open()
	gotEntry, err := s.Entry(ctx, scopeA, enroll.Individual, "pump-7")
	noError(t, err)
	same(t, gotEntry, e)
	gotCA, err := s.CACertificate(ctx, scopeA, "plant")
	noError(t, err)
	same(t, gotCA, ca)
	gotRegistration, err := s.Registration(ctx, scopeA, "pump-7")
	noError(t, err)
	same(t, gotRegistration, r)
	gotDevice, err := s.Identity(ctx, hub.Place{Hub: "hub-1", ID: "pump-7"})
	noError(t, err)
	same(t, gotDevice, d)
	gotTwin, err := s.Twin(ctx, hub.Place{Hub: "hub-1", ID: "pump-7"})
	noError(t, err)
	same(t, gotTwin, twin)
	policies, err := s.Policies(ctx, access.ScopeOwner(scopeA))
	noError(t, err)
	same(t, policies, []access.Policy{p})
	hubs, err := s.Linked(ctx, scopeA)
	noError(t, err)
	same(t, hubs, []provision.LinkedHub{linked})
	sameTrust(t, s, scopeA, 1, in(1, anchor))
	ms, err := s.Read(ctx, "", 0, 1)
	noError(t, err)
	same(t, ms, []*hub.Message{m})
	same(t, len(waiting), 1)
	same(t, queued(t, s, pump7), waiting)
	whole, err := s.Queued(ctx, pump7, waiting[0].Sequence)
	noError(t, err)
	same(t, whole.Body, filled[*hub.CloudMessage]().Body)
	same(t, lockFeedback(t, s, "hub-1", "t", epoch, epoch.Add(time.Minute), 9), "[a]")

	// Sequence numbers go on, even where the messages are gone.
	n, err := s.Trim(ctx, hub.Retention{Before: epoch.AddDate(1, 0, 0)})
	noError(t, err)
	same(t, n, 2)
	noError(t, s.Close())
	s = open()
	last, err := s.LastSequence(ctx)
	noError(t, err)
	same(t, last, uint64(2))
	next := &hub.Message{Hub: "hub-1", DeviceID: "d", Enqueued: epoch}
	noError(t, s.Append(ctx, []*hub.Message{next}))
	same(t, next.Sequence, uint64(3))
	noError(t, s.Close())
}
