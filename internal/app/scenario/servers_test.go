package scenario

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-iot/berth/wire/dpsjson"
)

// soon is how long a server may take to hear of what another one changed. It is
// two seconds at most, on a machine that does nothing else.
const soon = 20 * time.Second

// pair is two servers of one PostgreSQL database.
type pair struct {
	*fleet
	database *database
	a, b     *process
}

func newPair(t *testing.T, env ...string) *pair {
	t.Helper()
	d := newDatabase(t, "postgres")
	p := &pair{fleet: newFleet(t, d.data), database: d, a: startProcess(t, d.data, env...), b: startProcess(t, d.data, env...)}
	p.connect(p.a)
	p.enroll()
	return p
}

// Two servers share the load, and either can be killed in the middle of it and
// come back: a device that gets no answer asks at the other address, and is
// taken in there. Nobody notices more than that.
func TestDevicesDoNotNoticeAServersDeath(t *testing.T) {
	if *engine == "sqlite" {
		return
	}
	p := newPair(t)
	p.connect(p.a, p.b)
	var acknowledged, elsewhere atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var loading sync.WaitGroup
	loading.Go(func() {
		p.load(ctx, 0, func(u *unit) error {
			err := p.provision(u)
			for tries := 0; err != nil && tries < 5; tries++ {
				elsewhere.Add(1)
				err = p.provision(u)
			}
			if err != nil {
				t.Errorf("%s: %v", u.id, err)
			}
			acknowledged.Add(1)
			return err
		})
	})
	deaths := max(2, *kills/4)
	for round := range deaths {
		reach(t, &acknowledged, acknowledged.Load()+50)
		victim := &p.a
		if round%2 == 1 {
			victim = &p.b
		}
		(*victim).kill()
		reach(t, &acknowledged, acknowledged.Load()+50) // the other one serves alone
		*victim = startProcess(t, p.database.data)
		p.serveFrom(p.a, p.b)
		if t.Failed() {
			break
		}
	}
	stop()
	loading.Wait()
	if t.Failed() {
		t.Fatalf("the servers said: %s\n%s", &p.a.output, &p.b.output)
	}
	waited := p.finish(p.database.data)
	p.checkAll()
	p.database.check(t, p.homes())
	t.Logf("%d deaths of either server, %d registrations acknowledged, of %d devices: 0 lost; %d calls were made again elsewhere, %d operations waited for a lease; %s",
		deaths, acknowledged.Load(), p.homes(), elsewhere.Load(), waited, p.latency())
}

// What begins at one server can go on at another.
func TestServersFinishWhatOthersBegan(t *testing.T) {
	if *engine == "sqlite" {
		return
	}
	p := newPair(t, servePolling+"=1")
	t.Run("an operation is polled elsewhere", func(t *testing.T) {
		for _, kind := range kinds {
			u := p.unit(kind.name, "0-0")
			p.connect(p.a)
			if err := p.register(u); err != nil {
				t.Fatal(err)
			}
			if u.operation == "" {
				t.Fatalf("%s was answered at once", u.id)
			}
			p.connect(p.b)
			if err := p.await(u); err != nil {
				t.Fatal(err)
			}
			p.check(u)
		}
	})
	t.Run("a challenge is answered elsewhere", func(t *testing.T) {
		u := p.unit("tpm", "0-1")
		body := dpsjson.DeviceRegistration{RegistrationID: u.id, TPM: &dpsjson.TPMKeys{EndorsementKey: u.chip.EndorsementKey, StorageRootKey: u.chip.StorageRootKey}}
		p.connect(p.a)
		if err := p.challenge(u, body); err != nil {
			t.Fatal(err)
		}
		p.connect(p.b)
		var operation dpsjson.OperationStatus
		status, err := p.call(u, "PUT", "/register", p.token(u), body, &operation)
		if err != nil || status != http.StatusAccepted {
			t.Fatalf("status %d, %v", status, err)
		}
		u.operation = operation.OperationID
		if err := p.await(u); err != nil {
			t.Fatal(err)
		}
		p.connect(p.a)
		p.check(u)
	})
	t.Run("what is disabled at one is refused at the other", func(t *testing.T) {
		for path, c := range map[string]struct {
			u     *unit
			proof map[string]any
		}{
			"/enrollmentGroups/key-group": {p.unit("key-group", "0-0"), map[string]any{"primaryKey": p.group.Base64()}},
			"/enrollments/key-0-0":        {p.unit("key", "0-0"), map[string]any{"primaryKey": p.unit("key", "0-0").key.Base64()}},
		} {
			p.connect(p.b)
			if got := p.outcome(c.u); got != dpsjson.Assigned {
				t.Fatalf("%s is %s", c.u.id, got)
			}
			p.connect(p.a)
			body := map[string]any{
				"attestation":        map[string]any{"type": "symmetricKey", "symmetricKey": c.proof},
				"provisioningStatus": "disabled",
			}
			if status := p.operate("PUT", dpsHost, path, body, nil, "If-Match", "*"); status != http.StatusOK {
				t.Fatalf("PUT %s: status %d", path, status)
			}
			began := time.Now()
			p.connect(p.b)
			for p.outcome(c.u) != dpsjson.Disabled {
				if time.Since(began) > soon {
					t.Fatalf("%s: still let in after %v", path, soon)
				}
			}
			t.Logf("%s: refused at the other server after %v", path, time.Since(began).Round(time.Millisecond))
		}
	})
}

// outcome registers a device and polls, and returns what it came to.
func (f *fleet) outcome(u *unit) dpsjson.Status {
	f.t.Helper()
	var operation dpsjson.OperationStatus
	status, err := f.call(u, "PUT", "/register", f.token(u), dpsjson.DeviceRegistration{}, &operation)
	for ; err == nil && operation.Status == dpsjson.Assigning; status, err = f.call(u, "GET", "/operations/"+operation.OperationID, f.token(u), nil, &operation) {
		if status != http.StatusAccepted {
			break
		}
	}
	if err != nil {
		f.t.Fatalf("registering %s: status %d, %v", u.id, status, err)
	}
	return operation.Status
}
