package provision_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/sas"
)

// A pond is a service in memory, in a bubble of time, with one hub elsewhere that
// takes its time. Every device has the key 1.
type pond struct {
	mu      sync.Mutex // guards the rest
	records map[device.RegistrationID]*provision.Registration
	fault   error // what the store answers, or nil
	takes   time.Duration
	inside  int // calls of the hub now, and at most
	most    int
	told    int
	faults  []error
}

func (p *pond) Scope(context.Context, device.IDScope) (*provision.Scope, error) {
	return &provision.Scope{ID: scope, Allocation: enroll.Static}, nil
}

func (p *pond) Entry(_ context.Context, _ device.IDScope, _ enroll.Kind, key1 device.RegistrationID) (*enroll.Entry, error) {
	return byKey(enroll.Individual, string(key1), key(1), key(2)), nil
}

func (p *pond) Groups(context.Context, device.IDScope, attest.Type) ([]*enroll.Entry, error) {
	return nil, nil
}

func (p *pond) EndorsementKeys(context.Context, device.IDScope, device.RegistrationID) ([]byte, error) {
	return nil, enroll.NotFound()
}

func (p *pond) CACertificates(context.Context, device.IDScope) ([]*enroll.CACertificate, error) {
	return nil, nil
}

func (p *pond) Linked(context.Context, device.IDScope) ([]provision.LinkedHub, error) {
	return []provision.LinkedHub{{Host: away, Weight: 1, Allocation: true, Connection: &provision.Connection{Policy: "x", Key: key(7)}}}, nil
}

func (p *pond) Assign(context.Context, provision.Assignment) error { panic("no hub is here") }

func (p *pond) AssignElsewhere(ctx context.Context, _ provision.Assignment) error {
	p.mu.Lock()
	p.inside++
	p.most = max(p.most, p.inside)
	takes := p.takes
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.inside--
		p.told++
	}()
	select {
	case <-time.After(takes):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("telling the hub: %w", ctx.Err())
	}
}

func (p *pond) Registration(_ context.Context, _ device.IDScope, key device.RegistrationID) (*provision.Registration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.records[key]; r != nil {
		return r, nil
	}
	return nil, errs.New(errs.NotFound, 0, "no record")
}

func (p *pond) ChangeRegistration(ctx context.Context, _ device.IDScope, key device.RegistrationID, decide func(*provision.Registration) (*provision.Registration, error)) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault != nil {
		return p.fault
	}
	next, err := decide(p.records[key])
	if err == nil {
		p.records[key] = next
	}
	return err
}

func (p *pond) Registrations(context.Context, device.IDScope, string, device.RegistrationID, int) ([]*provision.Registration, error) {
	return nil, nil
}

func (p *pond) DueRegistrations(_ context.Context, now time.Time, limit int) (due []*provision.Registration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(p.records)) {
		if r := p.records[key]; r.Pending != nil && !r.Pending.Due.After(now) && len(due) < limit {
			due = append(due, r)
		}
	}
	return due, p.fault
}

func (p *pond) Together(ctx context.Context, do func(context.Context) error) error { return do(ctx) }

func (p *pond) server(workers int) *provision.Registrar {
	return provision.NewRegistrar(provision.Config{
		Enrollments: p, Records: p, Scopes: p, Hubs: p, Journal: provision.NewJournal(64), Now: time.Now, Random: rand.Reader,
		ChallengeWindow: window, GiveUpAfter: time.Hour, Workers: workers,
		Fault: func(err error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.faults = append(p.faults, err)
		},
	})
}

func (p *pond) register(t *testing.T, r *provision.Registrar, id string) {
	t.Helper()
	token, err := sas.Parse(sas.Sign(key(1).Bytes(), sas.DeviceResource(string(scope), id), time.Now().Add(time.Hour), "registration"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Register(t.Context(), request(id, attest.Credential{Token: &token})); err != nil {
		t.Fatal(err)
	}
}

func (p *pond) count(status provision.Status) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.records {
		if r.Status == status {
			n++
		}
	}
	return n
}

func bubble(t *testing.T, f func(t *testing.T, p *pond)) {
	synctest.Test(t, func(t *testing.T) {
		f(t, &pond{records: map[device.RegistrationID]*provision.Registration{}})
	})
}

// run runs a server until stop is called, which returns how long that took.
func run(t *testing.T, r *provision.Registrar, grace time.Duration) (stop func() time.Duration) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		r.Run(ctx, grace)
		close(done)
	}()
	synctest.Wait()
	return func() time.Duration {
		begin := time.Now()
		cancel()
		<-done
		return time.Since(begin)
	}
}

func TestRegistrationsAreWorkedOnAtOnceAndNotAllAtATime(t *testing.T) {
	bubble(t, func(t *testing.T, p *pond) {
		p.takes = time.Second
		r := p.server(4)
		stop := run(t, r, time.Minute)
		begin := time.Now()
		for i := range 10 {
			p.register(t, r, fmt.Sprint("pump-", i))
		}
		for p.count(provision.Assigned) < 10 {
			<-time.After(100 * time.Millisecond)
			synctest.Wait()
		}
		if took := time.Since(begin); p.most != 4 || took != 3*time.Second || p.told != 10 {
			t.Errorf("%d at a time took %s, with %d calls", p.most, took, p.told)
		}
		stop()
	})
}

func TestWhatAnotherServerLeftIsFound(t *testing.T) {
	bubble(t, func(t *testing.T, p *pond) {
		p.register(t, p.server(1), "pump-7") // which never runs
		stop := run(t, p.server(1), time.Minute)
		<-time.After(3 * time.Second)
		synctest.Wait()
		if p.count(provision.Assigned) != 1 {
			t.Error("it was not found")
		}
		stop()
	})
}

func TestAServerThatStopsLetsGo(t *testing.T) {
	for _, c := range []struct {
		takes, stops time.Duration
		status       provision.Status
	}{{10 * time.Second, 9 * time.Second, provision.Assigned}, {time.Minute, 20 * time.Second, provision.Assigning}} {
		bubble(t, func(t *testing.T, p *pond) {
			p.takes = c.takes
			r := p.server(2)
			stop := run(t, r, 20*time.Second)
			p.register(t, r, "pump-7")
			<-time.After(time.Second)
			if took := stop(); took != c.stops {
				t.Errorf("it took %s", took)
			}
			record := p.records["pump-7"]
			if record.Status != c.status {
				t.Fatalf("the record is %+v", record)
			}
			if c.status == provision.Assigned {
				return
			}
			if p := record.Pending; !p.Lease.IsZero() || p.Due.After(time.Now()) || p.Attempts != 0 || p.LastError != "" {
				t.Errorf("it holds on to it: %+v", p)
			}
			p.takes = 0
			stop = run(t, p.server(1), time.Minute)
			synctest.Wait()
			if p.count(provision.Assigned) != 1 {
				t.Error("nobody else goes on")
			}
			stop()
		})
	}
}

func TestAStoreThatIsAwayIsReported(t *testing.T) {
	bubble(t, func(t *testing.T, p *pond) {
		r := p.server(1)
		p.register(t, r, "pump-7")
		p.fault = errHubDown
		stop := run(t, r, time.Minute)
		<-time.After(10 * time.Second)
		p.mu.Lock()
		if len(p.faults) < 3 {
			t.Errorf("reported: %v", p.faults)
		}
		p.fault = nil
		p.mu.Unlock()
		<-time.After(3 * time.Second)
		synctest.Wait()
		if p.count(provision.Assigned) != 1 {
			t.Error("it does not go on")
		}
		stop()
	})
}

// A hub that never answers costs an attempt its time and no more.
func TestAHubThatNeverAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, p *pond) {
		p.takes = 24 * time.Hour
		r := p.server(1)
		stop := run(t, r, 0)
		begin := time.Now()
		p.register(t, r, "pump-7")
		for p.count(provision.Failed) == 0 {
			<-time.After(time.Second)
			synctest.Wait()
		}
		record := p.records["pump-7"]
		if took := time.Since(begin); took < time.Hour || took > time.Hour+provision.LeaseTime || record.ErrorCode != errs.CodeInternal || p.most != 1 {
			t.Errorf("after %s: %+v", took, record)
		}
		stop()
	})
}
