package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-iot/berth/client/provisioning"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// The keys of what provisioning is held against.
const (
	bare      = "bare"
	mutual    = "bare_mutual"
	bareHTTPS = "bare_https"
)

// enrollers is how many enrollments are made at a time.
const enrollers = 16

// A step is a part of what devices do. All devices of a round do it before any
// does the next. Devices are numbered, and each number comes once.
type step struct {
	do func(ctx context.Context, number int) error
	// elsewhere is set for what a device does by itself. It is not measured,
	// and kept apart because the load must not take from the server the CPU
	// that a real device brings along.
	elsewhere bool
}

// A kind is one thing that is measured: a way to be provisioned, or what it
// is held against.
type kind struct {
	key     string // in the JSON results
	name    string // in the table
	against *kind  // what its CPU time is compared with, or nil
	bar     float64

	server   *process
	enroll   func(context.Context) ([]step, error) // nil for what has a server of its own
	steps    []step
	profiler *profiler // of the server, or nil

	cpu       []time.Duration // of one device, by round
	wall      []time.Duration // of all devices, by round
	latencies []time.Duration // of every device
}

// prepare makes everything that rounds need, so that between the measurements
// of a round nothing else happens. stop ends the children it started.
func prepare(ctx context.Context, o options, s *server, log io.Writer) (kinds []*kind, stop func(), err error) {
	b := &bencher{server: s, total: o.n * (o.rounds + 1)}
	if b.tpm, err = newSoftTPM(); err != nil {
		return nil, nil, err
	}
	if b.x509, err = newFactory(b.total); err != nil {
		return nil, nil, err
	}
	if kinds, err = b.kinds(o); err != nil {
		return nil, nil, err
	}
	stop = func() {
		for _, k := range kinds {
			if k.enroll == nil && k.server != nil {
				k.server.stop()
			}
		}
	}
	fmt.Fprintln(log, "bench: enrolling")
	for _, k := range kinds {
		if k.enroll == nil {
			err = b.startBare(ctx, k)
		} else {
			k.server, k.profiler = s.process, s.profiler
			k.steps, err = k.enroll(ctx)
		}
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("preparing, %s: %w", k.name, err)
		}
	}
	return kinds, stop, nil
}

// kinds returns what is to be measured, in this order.
func (b *bencher) kinds(o options) ([]*kind, error) {
	one := &kind{key: bare, name: "bare handshake"}
	both := &kind{key: mutual, name: "bare mutual handshake"}
	all := []*kind{
		one,
		{key: bareHTTPS, name: "bare HTTPS request", against: one},
		{key: "symmetric_key", name: "symmetric key, group", against: one, bar: 1.5, enroll: b.symmetricKeyGroup},
		{key: "symmetric_key_individual", name: "symmetric key, individual", against: one, bar: 1.5, enroll: b.symmetricKey},
		{key: "tpm", name: "TPM, one connection", against: one, bar: 1.9, enroll: b.tpmOnOneConnection},
		{key: "tpm_two_connections", name: "TPM, two connections", against: one, enroll: b.tpmOnTwoConnections},
		both,
		{key: "x509_group", name: "X.509 group", against: both, bar: 1.6, enroll: b.x509Group},
	}
	var wanted []*kind
	var keys []string
	found := false
	for _, k := range all {
		if k.enroll != nil {
			keys = append(keys, k.key)
			found = found || o.wants(k.key)
		}
		if k.enroll == nil || o.wants(k.key) {
			wanted = append(wanted, k)
		}
	}
	if !found {
		return nil, fmt.Errorf("-only %s: there are %s", o.only, strings.Join(keys, ", "))
	}
	return wanted, nil
}

// measureRound lets o.n devices of every kind visit. Round zero warms up and
// does not count.
func measureRound(ctx context.Context, o options, kinds []*kind, round int) error {
	for _, k := range kinds {
		if err := k.measure(ctx, o, round); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return nil
}

func (k *kind) measure(ctx context.Context, o options, round int) error {
	if err := k.profiler.begin(k.key, round); err != nil {
		return fmt.Errorf("profiling: %w", err)
	}
	var cpu, wall time.Duration
	latencies := make([]time.Duration, o.n)
	for _, s := range k.steps {
		before, err := k.server.quiet()
		if err != nil {
			return err
		}
		began := time.Now()
		took, err := s.all(ctx, o, round)
		if err != nil {
			return err
		}
		elapsed := time.Since(began)
		after, err := k.server.quiet()
		if err != nil {
			return err
		}
		if s.elsewhere {
			continue
		}
		cpu += after - before
		wall += elapsed
		for i := range took {
			latencies[i] += took[i]
		}
	}
	if err := k.profiler.end(); err != nil {
		return fmt.Errorf("profiling: %w", err)
	}
	if round > 0 {
		k.cpu = append(k.cpu, cpu/time.Duration(o.n))
		k.wall = append(k.wall, wall)
		k.latencies = append(k.latencies, latencies...)
	}
	return nil
}

// all lets the devices of a round do the step, and returns how long it took
// each.
func (s step) all(ctx context.Context, o options, round int) ([]time.Duration, error) {
	took := make([]time.Duration, o.n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(o.concurrency)
	for i := range took {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			began := time.Now()
			number := round*o.n + i
			if err := s.do(ctx, number); err != nil {
				return fmt.Errorf("device %d: %w", number, err)
			}
			took[i] = time.Since(began)
			return nil
		})
	}
	return took, g.Wait()
}

// A bencher makes devices and enrolls them.
type bencher struct {
	*server
	tpm   *softTPM
	x509  *factory
	total int // devices of a kind
}

// startBare starts the server that k has to itself.
func (b *bencher) startBare(ctx context.Context, k *kind) error {
	p, address, err := startBare(ctx, b.server, k.key)
	if err != nil {
		return err
	}
	do := map[string]func(context.Context, int) error{
		bare:      func(ctx context.Context, _ int) error { return b.shake(ctx, address, nil) },
		mutual:    func(ctx context.Context, i int) error { return b.shake(ctx, address, presented(b.x509.leaves[i])) },
		bareHTTPS: func(ctx context.Context, _ int) error { return b.request(ctx, address) },
	}[k.key]
	k.server, k.steps = p, []step{{do: do}}
	return nil
}

func (b *bencher) symmetricKeyGroup(ctx context.Context) ([]step, error) {
	group, err := b.enrollGroup(ctx, "by-group-key", dpsjson.AttestationMechanism{Type: dpsjson.AttestationSymmetricKey})
	if err != nil {
		return nil, err
	}
	key := group.Attestation.SymmetricKey.PrimaryKey.SymmetricKey
	return []step{{do: func(ctx context.Context, i int) error {
		id := fmt.Sprintf("by-group-key-%06d", i)
		return b.provisionWithKey(ctx, id, provisioning.DeriveDeviceKey(key, id))
	}}}, nil
}

func (b *bencher) symmetricKey(ctx context.Context) ([]step, error) {
	enrolled, err := b.enroll(ctx, "by-key", dpsjson.AttestationMechanism{Type: dpsjson.AttestationSymmetricKey})
	if err != nil {
		return nil, err
	}
	return []step{{do: func(ctx context.Context, i int) error {
		return b.provisionWithKey(ctx, enrolled[i].RegistrationID, enrolled[i].Attestation.SymmetricKey.PrimaryKey.SymmetricKey)
	}}}, nil
}

func (b *bencher) tpmOnOneConnection(ctx context.Context) ([]step, error) {
	return b.byTPM(ctx, "by-tpm", false)
}

func (b *bencher) tpmOnTwoConnections(ctx context.Context) ([]step, error) {
	return b.byTPM(ctx, "by-tpm-twice", true)
}

// byTPM enrolls one endorsement key under many names, which the protocol
// allows: making keys takes long, and whose they are makes no difference to the
// server.
func (b *bencher) byTPM(ctx context.Context, prefix string, hangUp bool) ([]step, error) {
	enrolled, err := b.enroll(ctx, prefix, dpsjson.AttestationMechanism{
		Type: dpsjson.AttestationTPM, TPM: &dpsjson.TPMAttestation{EndorsementKey: b.tpm.ekPublic},
	})
	if err != nil {
		return nil, err
	}
	devices := make([]*tpmDevice, b.total)
	return []step{
		{do: func(ctx context.Context, i int) (err error) {
			devices[i], err = b.challenge(ctx, enrolled[i].RegistrationID, b.tpm, hangUp)
			return err
		}},
		{elsewhere: true, do: func(_ context.Context, i int) error { return devices[i].solve() }},
		{do: func(ctx context.Context, i int) error { return devices[i].answer(ctx, hangUp) }},
	}, nil
}

// x509Group enrolls the root; the devices show their leaf and the intermediate.
func (b *bencher) x509Group(ctx context.Context) ([]step, error) {
	_, err := b.enrollGroup(ctx, "by-certificate", dpsjson.AttestationMechanism{
		Type: dpsjson.AttestationX509, X509: &dpsjson.X509Attestation{
			SigningCertificates: &dpsjson.X509Certificates{Primary: &dpsjson.X509Certificate{Certificate: b.x509.root.Certificate.Raw}},
		},
	})
	if err != nil {
		return nil, err
	}
	return []step{{do: func(ctx context.Context, i int) error {
		leaf := b.x509.leaves[i]
		return b.provisionWithCertificate(ctx, leaf.Certificate.Subject.CommonName, leaf)
	}}}, nil
}

func (b *bencher) enrollGroup(ctx context.Context, id string, m dpsjson.AttestationMechanism) (*dpsjson.EnrollmentGroup, error) {
	b.enrollments++
	return b.operator.CreateGroup(ctx, dpsjson.EnrollmentGroup{EnrollmentGroupID: id, Attestation: &m})
}

// enroll makes an individual enrollment for every device of a kind.
func (b *bencher) enroll(ctx context.Context, prefix string, m dpsjson.AttestationMechanism) ([]*dpsjson.IndividualEnrollment, error) {
	enrolled := make([]*dpsjson.IndividualEnrollment, b.total)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(enrollers)
	for i := range enrolled {
		g.Go(func() (err error) {
			enrolled[i], err = b.operator.CreateEnrollment(ctx, dpsjson.IndividualEnrollment{
				RegistrationID: fmt.Sprintf("%s-%06d", prefix, i), Attestation: &m,
			})
			return err
		})
	}
	b.enrollments += len(enrolled)
	return enrolled, g.Wait()
}

// A factory is a CA hierarchy and the certificates of its devices.
type factory struct {
	root   *pki.Issuer
	leaves []*pki.Leaf // issued by an intermediate below the root
}

func newFactory(devices int) (*factory, error) {
	now := time.Now()
	root, err := pki.NewRoot("Bench Root CA", now, rand.Reader)
	if err != nil {
		return nil, err
	}
	intermediate, err := root.NewIntermediate("Bench Intermediate CA", now, rand.Reader)
	if err != nil {
		return nil, err
	}
	f := &factory{root: root, leaves: make([]*pki.Leaf, devices)}
	for i := range f.leaves {
		if f.leaves[i], err = intermediate.IssueDevice(fmt.Sprintf("by-certificate-%06d", i), now, rand.Reader); err != nil {
			return nil, err
		}
	}
	return f, nil
}
