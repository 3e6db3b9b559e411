package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/postgres"
	"github.com/berth-iot/berth/store/sqlite"
)

// A store is what a load writes to.
type store interface {
	enroll.Store
	provision.Records
	access.Policies
	hub.Registry
	hub.Stream
	hub.Queues
	hub.Presences
	hub.Configurations
	Close() error
}

// loaders is how many writes of a load wait at a time: enough to fill a batch.
const loaders = 256

// A loadReport says how a store was filled.
type loadReport struct {
	rows  int // enrollments, records and identities
	took  time.Duration
	bytes map[string]float64 // of the database, for one row of each kind
}

// A part is what a load writes of one kind.
type part struct {
	what string // in the JSON results
	way  string // of the IDs, or empty
	n    int
	do   func(ctx context.Context, db store, i int) error
	in   []table
}

// load fills the store of a server that does not run, past its API: as many
// enrollments as its size says, a third of each mechanism, and as many devices
// of the group key that are registered already. The devices of the fleet are
// among the enrolled, and none of them is registered.
func (s *server) load(ctx context.Context, f *fleet) error {
	l := &loader{server: s, fleet: f, now: time.Now()}
	began := time.Now()
	s.loaded.bytes = map[string]float64{}
	third := thirds(s.size)
	for _, p := range []part{
		{"groups", "", groups, l.group, nil},
		{"symmetric_key", symmetricKey, third, l.withKey, []table{enrollments, keyUses}},
		{"tpm", byTPM, third, l.withTPM, []table{enrollments}},
		{"x509", byCertificate, s.size - groups - 2*third, l.withCertificate, []table{enrollments}},
		{"registered", registered, s.size, l.registered, []table{registrations, identities}},
	} {
		before, err := s.databaseSize(ctx)
		if err != nil {
			return err
		}
		if err := s.loadPart(ctx, p); err != nil {
			return fmt.Errorf("loading %s: %w", p.what, err)
		}
		after, err := s.databaseSize(ctx)
		if err != nil {
			return err
		}
		s.loaded.bytes[p.what] = float64(after-before) / float64(p.n)
	}
	s.loaded.rows = 3 * s.size // who is registered has a record and an identity
	s.loaded.took = time.Since(began)
	return nil
}

// loadPart writes the fleet's devices and one more through the store, and has the
// database copy that one: what is only there to be many takes no encoding and no
// waiting for the disk.
func (s *server) loadPart(ctx context.Context, p part) error {
	db, err := s.openStore(ctx)
	if err != nil {
		return err
	}
	written := min(p.n, s.fleet+1)
	err = concurrently(ctx, loaders, written, func(ctx context.Context, i int) error { return p.do(ctx, db, i) })
	if err := errors.Join(err, db.Close()); err != nil || written == p.n {
		return err
	}
	return s.copies(ctx, []string{individualID(p.way, written-1)}, p.n-written, p.in)
}

// openStore opens the store of a server that does not run.
func (s *server) openStore(ctx context.Context) (store, error) { return openStore(ctx, s.data) }

func openStore(ctx context.Context, data string) (store, error) {
	config, err := app.LoadConfig(data)
	if err != nil {
		return nil, err
	}
	key, err := soft.Open(filepath.Join(data, "server.key"))
	if err != nil {
		return nil, err
	}
	if config.Store.PostgresDSNFile == "" {
		return sqlite.Open(ctx, filepath.Join(data, databaseFile), key)
	}
	dsn, err := os.ReadFile(config.Store.PostgresDSNFile)
	if err != nil {
		return nil, err
	}
	return postgres.Open(ctx, strings.TrimSpace(string(dsn)), key)
}

// settle makes the database what it is after some time of work: what was loaded is
// on the disk, and no commit of those who are measured waits for it.
func (s *server) settle(ctx context.Context) error {
	if s.database != nil {
		return s.database.settle(ctx)
	}
	f, err := os.OpenFile(s.databaseFile(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// databaseFile is that of SQLite in a data directory.
const databaseFile = "berth.db"

func (s *server) databaseFile() string { return filepath.Join(s.data, databaseFile) }

// databaseSize returns how many bytes the database takes on the disk, without
// logs.
func (s *server) databaseSize(ctx context.Context) (int64, error) {
	if s.database != nil {
		return s.database.size(ctx)
	}
	info, err := os.Stat(s.databaseFile())
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// A loader writes rows as the services would.
type loader struct {
	*server
	*fleet
	now time.Time
}

func (l *loader) enroll(ctx context.Context, db store, e *enroll.Entry) (err error) {
	if e.ETag, err = errs.NewUUID(rand.Reader); err != nil {
		return err
	}
	e.Scope, e.Created, e.Updated = device.IDScope(l.scope), l.now, l.now
	return db.ChangeEntry(ctx, e.Scope, e.Kind, e.Key(), func(*enroll.Entry) (*enroll.Entry, error) { return e, nil })
}

func (l *loader) group(ctx context.Context, db store, i int) error {
	return l.enroll(ctx, db, &enroll.Entry{Kind: enroll.Group, ID: [groups]string{groupKeyID, caID}[i], Attestation: [groups]attest.Mechanism{
		{Type: attest.TypeSymmetricKey, SymmetricKey: &attest.SymmetricKeys{Primary: l.groupKey, Secondary: l.groupKey}},
		{Type: attest.TypeX509, X509: &attest.X509{Use: attest.SigningCertificates, Primary: l.root.Certificate.Raw}},
	}[i]})
}

// The IDs of the groups.
const (
	groupKeyID = "by-group-key"
	caID       = "by-certificate"
)

func (l *loader) withKey(ctx context.Context, db store, i int) error {
	secondary, err := device.GenerateSymmetricKey(rand.Reader, keySize)
	if err != nil {
		return err
	}
	primary := secondary
	if i < len(l.keys) {
		primary = l.keys[i]
	} else if primary, err = device.GenerateSymmetricKey(rand.Reader, keySize); err != nil {
		return err
	}
	return l.enroll(ctx, db, &enroll.Entry{Kind: enroll.Individual, ID: individualID(symmetricKey, i), Attestation: attest.Mechanism{
		Type: attest.TypeSymmetricKey, SymmetricKey: &attest.SymmetricKeys{Primary: primary, Secondary: secondary},
	}})
}

func (l *loader) withTPM(ctx context.Context, db store, i int) error {
	return l.enroll(ctx, db, &enroll.Entry{Kind: enroll.Individual, ID: individualID(byTPM, i), Attestation: attest.Mechanism{
		Type: attest.TypeTPM, TPM: &attest.TPM{EndorsementKey: l.tpm.EndorsementKey},
	}})
}

// withCertificate enrolls certificates of the fleet also for those who are not
// in it: theirs would have the same size.
func (l *loader) withCertificate(ctx context.Context, db store, i int) error {
	return l.enroll(ctx, db, &enroll.Entry{Kind: enroll.Individual, ID: individualID(byCertificate, i), Attestation: attest.Mechanism{
		Type: attest.TypeX509, X509: &attest.X509{Use: attest.ClientCertificates, Primary: l.certified[i%len(l.certified)].Certificate.Raw},
	}})
}

// registered is a device that came through the group key before this run.
func (l *loader) registered(ctx context.Context, db store, i int) error {
	id := individualID(registered, i)
	etag, err := errs.NewUUID(rand.Reader)
	if err != nil {
		return err
	}
	if err := l.identity(ctx, db, id); err != nil {
		return err
	}
	record := &provision.Registration{
		Scope: device.IDScope(l.scope), Key: device.RegistrationID(id), ID: id, GroupID: groupKeyID, Attestation: attest.TypeSymmetricKey,
		Status: provision.Assigned, Substatus: provision.InitialAssignment, Hub: l.address, DeviceID: device.ID(id),
		OperationID: "1." + id[:16] + "." + etag, ETag: etag, Created: l.now, Updated: l.now,
	}
	return db.ChangeRegistration(ctx, record.Scope, record.Key, func(*provision.Registration) (*provision.Registration, error) { return record, nil })
}

// identity gives a device its place at the hub.
func (l *loader) identity(ctx context.Context, db store, id string) error {
	key := l.derived(id)
	hubs := hub.New(hub.Config{Registry: db, Stream: db, Queues: db, Presences: db, Configurations: db, Policies: db, Now: func() time.Time { return l.now }, Random: rand.Reader})
	return hubs.Provision(ctx, hub.Provisioning{Hub: host, DeviceID: device.ID(id), Keys: attest.SymmetricKeys{Primary: key, Secondary: key}})
}
