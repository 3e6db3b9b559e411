package app

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/linkedhub"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

const (
	// linkBudget bounds one call of a move, of which three must fit into an attempt
	// of the registrar.
	linkBudget = 10 * time.Second
	// checkBudget bounds the trial of a link: somebody is waiting.
	checkBudget = 8 * time.Second
	// A hub that has not answered so often in a row is asked by one at a time, and
	// not before it had a pause: the others are told at once.
	outage      = 3
	outagePause = 5 * time.Second
	// maxLinks bounds the hubs elsewhere that are kept open.
	maxLinks = 1024
)

// links are the hubs elsewhere that this process speaks to.
type links struct {
	http client.HTTP
	now  func() time.Time

	mu     sync.Mutex // guards opened
	opened map[linkKey]*link
}

// A linkKey is a hub as it is reached by one connection.
type linkKey struct {
	host, policy string
	key          [sha256.Size]byte // of the policy
}

func keyOf(l provision.LinkedHub) linkKey {
	return linkKey{strings.ToLower(l.Host), l.Connection.Policy, sha256.Sum256(l.Connection.Key.Bytes())}
}

// openLinks returns the links of a server that trusts the system's authorities
// and those that c names.
func openLinks(c Config) (*links, error) {
	l := &links{now: c.clock(), opened: map[linkKey]*link{}}
	if c.LinkedHubs.CAFile == "" {
		return l, nil
	}
	pem, err := os.ReadFile(c.path(c.LinkedHubs.CAFile))
	if err != nil {
		return nil, fmt.Errorf("linked_hubs.ca_file: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a system without any
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("linked_hubs.ca_file: %s holds no certificate", c.LinkedHubs.CAFile)
	}
	l.http.RootCAs = roots
	return l, nil
}

// open returns the link to a hub elsewhere. It does not connect.
func (l *links) open(h provision.LinkedHub) (*link, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := keyOf(h)
	if known := l.opened[key]; known != nil {
		return known, nil
	}
	opened, err := l.connect(h, linkBudget)
	if err != nil {
		return nil, err
	}
	if len(l.opened) >= maxLinks {
		clear(l.opened)
	}
	l.opened[key] = &link{hub: opened, now: l.now}
	return l.opened[key], nil
}

func (l *links) connect(h provision.LinkedHub, budget time.Duration) (*linkedhub.Hub, error) {
	connection := "HostName=" + h.Host + ";SharedAccessKeyName=" + h.Connection.Policy + ";SharedAccessKey=" + h.Connection.Key.Base64()
	opened, err := linkedhub.Open(connection, linkedhub.Options{HTTP: l.http, Budget: budget})
	if err != nil {
		return nil, fmt.Errorf("opening the linked hub %s: %w", h.Host, err)
	}
	return opened, nil
}

// check tries a link out that may be new. The error is of kind errs.Invalid and
// says what is wrong, for the operator.
func (l *links) check(ctx context.Context, h provision.LinkedHub) error {
	opened, err := l.connect(h, checkBudget)
	if err != nil {
		return err
	}
	err = opened.Check(ctx)
	if err == nil {
		return nil
	}
	reason := err.Error()
	if e, ok := errors.AsType[*errs.Error](err); ok {
		reason = e.Message
		if cause := errors.Unwrap(e); e.Kind != errs.Invalid && cause != nil {
			reason = cause.Error()
		}
	}
	return errs.New(errs.Invalid, errs.CodeBadRequest, "connectionString: the hub %s cannot be used with it: %s", h.Host, reason).WithCause(err)
}

// health is what is known of a link.
func (l *links) health(h provision.LinkedHub) provision.HubHealth {
	l.mu.Lock()
	known := l.opened[keyOf(h)]
	l.mu.Unlock()
	var health provision.HubHealth
	if known != nil {
		known.mu.Lock()
		defer known.mu.Unlock()
		health = known.health
	}
	health.Host = h.Host
	return health
}

// A link is one hub elsewhere, watched.
type link struct {
	hub *linkedhub.Hub
	now func() time.Time

	mu      sync.Mutex // guards the rest
	health  provision.HubHealth
	silent  int       // calls in a row without an answer
	last    error     // of them
	asking  bool      // whether somebody finds out if it is over
	nextAsk time.Time // not before
}

// call makes a call of the hub, and remembers what came of it.
func (l *link) call(f func() error) error {
	if err := l.begin(); err != nil {
		return err
	}
	err := f()
	l.end(err)
	return err
}

// begin refuses a call while the hub does not answer, but for one now and then.
func (l *link) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.silent < outage {
		return nil
	}
	if l.asking || l.now().Before(l.nextAsk) {
		return errs.New(errs.Unavailable, errs.CodeServiceUnavailable, "The linked IoT hub cannot be reached; try again later.").WithCause(l.last)
	}
	l.asking = true
	return nil
}

func (l *link) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asking = false
	now := l.now()
	switch kind := errs.KindOf(err); {
	case errors.Is(err, context.Canceled):
		return // nobody waited for the answer
	case err == nil, kind == errs.NotFound, kind == errs.Precondition, kind == errs.Invalid, kind == errs.Conflict:
		// It answered.
		l.silent, l.last = 0, nil
		l.health.LastSuccess, l.health.Failures = now, 0
		return
	case kind == errs.Unavailable, kind == errs.Internal:
		l.silent, l.last, l.nextAsk = l.silent+1, err, now.Add(outagePause)
	default:
		l.silent, l.last = 0, nil // it answered that it will not
	}
	l.health.LastError, l.health.LastErrorTime = err.Error(), now
	l.health.Failures++
}

// Export implements provision.Origin.
func (l *link) Export(ctx context.Context, id device.ID) (d *provision.Departure, err error) {
	err = l.call(func() error { d, err = l.hub.Export(ctx, id); return err })
	return d, err
}

// Delete implements provision.Origin.
func (l *link) Delete(ctx context.Context, id device.ID, etag string) error {
	return l.call(func() error { return l.hub.Delete(ctx, id, etag) })
}

// Assign implements provision.Destination.
func (l *link) Assign(ctx context.Context, a provision.Assignment) error {
	return l.call(func() error { return l.hub.Assign(ctx, a) })
}

// Receive implements provision.Destination.
func (l *link) Receive(ctx context.Context, a provision.Assignment, d provision.Departure) (generationID string, err error) {
	err = l.call(func() error { generationID, err = l.hub.Receive(ctx, a, d); return err })
	return generationID, err
}
