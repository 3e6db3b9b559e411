package scenario

import (
	"context"
	"errors"
	"flag"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"database/sql"

	"github.com/jackc/pgx/v5"

	"github.com/berth-iot/berth/store/postgres/pgtest"
)

var (
	kills  = flag.Int("kills", 6, "how many times a server is killed, and PostgreSQL a quarter as often")
	engine = flag.String("engine", "", "the one engine to test, sqlite or postgres")
)

// A database is where a server keeps its data, and its data directory.
type database struct {
	data string
	dsn  string // of PostgreSQL, empty for SQLite
}

// shared is the PostgreSQL server of all tests that do not kill it, started by
// the first one that needs it.
var shared struct {
	once   sync.Once
	server *pgtest.Server
	err    error
}

func stopShared() {
	if shared.server != nil {
		shared.server.Stop()
	}
}

// newDatabase makes a data directory, and for PostgreSQL an empty place in the
// server of all tests.
func newDatabase(t *testing.T, engine string) *database {
	t.Helper()
	dsn := ""
	if engine == "postgres" {
		shared.once.Do(func() { shared.server, shared.err = pgtest.Start(t.Context()) })
		if shared.err != nil {
			t.Fatal(shared.err)
		}
		var err error
		if dsn, err = shared.server.Schema(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return initialised(t, dsn)
}

func initialised(t *testing.T, dsn string) *database {
	t.Helper()
	dir := t.TempDir()
	d := &database{data: filepath.Join(dir, "server"), dsn: dsn}
	dsnFile := ""
	if dsn != "" {
		dsnFile = filepath.Join(dir, "dsn")
		if err := os.WriteFile(dsnFile, []byte(dsn), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := initialise(d.data, false, dsnFile); err != nil {
		t.Fatal(err)
	}
	return d
}

func onEachEngine(t *testing.T, run func(t *testing.T, d *database)) {
	for _, name := range []string{"sqlite", "postgres"} {
		if *engine == "" || *engine == name {
			t.Run(name, func(t *testing.T) { run(t, newDatabase(t, name)) })
		}
	}
}

// query reads a row with the engine's own eyes.
func (d *database) query(t *testing.T, text string, into ...any) {
	t.Helper()
	var err error
	if d.dsn == "" {
		var db *sql.DB
		if db, err = sql.Open("sqlite", "file:"+filepath.Join(d.data, "berth.db")); err == nil {
			defer db.Close()
			err = db.QueryRow(text).Scan(into...)
		}
	} else {
		var c *pgx.Conn
		if c, err = pgx.Connect(t.Context(), d.dsn); err == nil {
			defer c.Close(t.Context())
			err = c.QueryRow(t.Context(), text).Scan(into...)
		}
	}
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// quiet returns when what killed clients have begun is over.
func (d *database) quiet(t *testing.T) {
	t.Helper()
	for n := 1; d.dsn != "" && n > 0; {
		d.query(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()", &n)
	}
}

// check looks at what the last kill left of as many devices.
func (d *database) check(t *testing.T, devices int) {
	t.Helper()
	if d.dsn == "" {
		var verdict string
		if d.query(t, "PRAGMA integrity_check", &verdict); verdict != "ok" {
			t.Errorf("integrity_check: %s", verdict)
		}
	}
	var registrations, identities int
	d.query(t, "SELECT (SELECT count(*) FROM registration), (SELECT count(*) FROM device)", &registrations, &identities)
	if registrations != devices || identities != devices {
		t.Errorf("%d devices were told their home; there are %d records and %d identities", devices, registrations, identities)
	}
}

// What was acknowledged is there after a kill, whole: the registration record,
// and the identity at the hub with the key that the device has. What was not
// acknowledged is there or not, but never half; an operation that was begun
// comes to its end; and the device that asks again is taken in.
func TestKilledServerLosesNothing(t *testing.T) {
	onEachEngine(t, func(t *testing.T, d *database) {
		f := newFleet(t, d.data)
		random := seeded(t)
		var starts []time.Duration
		begin := func(env ...string) *process {
			server := startProcess(t, d.data, env...)
			starts = append(starts, server.took)
			f.connect(server)
			if len(starts) == 1 {
				f.enroll()
			}
			d.quiet(t)
			f.settle()
			return server
		}
		acknowledged := 0
		for round := range *kills {
			var env []string
			if round%2 == 1 {
				env = append(env, servePolling+"=1")
			}
			server := begin(env...)
			acknowledged += f.loadAndKill(round, server, time.Duration(random.IntN(300_000))*time.Microsecond)
			if t.Failed() {
				t.Fatalf("the server said: %s", &server.output)
			}
		}
		begin().kill()
		waited := f.finish(d.data)
		f.checkAll()
		d.check(t, f.homes())
		t.Logf("%d kills, %d registrations acknowledged, of %d devices: 0 lost; %d operations waited for a lease; %s", *kills, acknowledged, f.homes(), waited, f.latency())
		t.Logf("a server starts in %s", spread(starts[1:]))
	})
}

func seeded(t *testing.T) *mathrand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return mathrand.New(mathrand.NewPCG(seed, 0))
}

// spread sums up how long something took.
func spread(took []time.Duration) string {
	slices.Sort(took)
	n := len(took)
	return took[n/2].Round(time.Millisecond).String() + " (median), " + took[n-1].Round(time.Millisecond).String() + " at most"
}

// loadAndKill registers until the server is killed, some time after it has
// acknowledged the first device. It returns how many times a device was told
// its home.
func (f *fleet) loadAndKill(round int, server *process, after time.Duration) int {
	var acknowledged atomic.Int64
	first := make(chan struct{})
	var once sync.Once
	ctx, stop := context.WithCancel(f.t.Context())
	defer stop()
	var killing sync.WaitGroup
	killing.Go(func() {
		select {
		case <-first:
			<-time.After(after)
		case <-time.After(time.Minute):
			f.t.Error("nothing was acknowledged for a minute")
		}
		server.kill()
		stop()
	})
	f.load(ctx, round, func(u *unit) error {
		err := f.provision(u)
		switch {
		case err == nil:
			acknowledged.Add(1)
			once.Do(func() { close(first) })
		case errors.Is(err, errUnavailable):
			f.t.Errorf("%s: %v", u.id, err)
		}
		return err
	})
	killing.Wait()
	return int(acknowledged.Load())
}

// PostgreSQL itself is killed under the load of a server, and started again.
// Nobody is told what did not happen; who asks meanwhile is told to come again;
// and the server needs nobody's help afterwards.
func TestServerOutlivesPostgreSQL(t *testing.T) {
	if *engine == "sqlite" {
		return
	}
	postgresql, err := pgtest.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer postgresql.Stop()
	d := initialised(t, postgresql.DSN())
	f := newFleet(t, d.data)
	server := startProcess(t, d.data)
	f.connect(server)
	f.enroll()
	var acknowledged, refused atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var loading sync.WaitGroup
	loading.Go(func() {
		f.load(ctx, 0, func(u *unit) error {
			err := f.provision(u)
			for ; errors.Is(err, errUnavailable); err = f.provision(u) {
				refused.Add(1)
				<-time.After(10 * time.Millisecond) // a device would give it seconds
			}
			if err != nil {
				t.Errorf("%s: %v", u.id, err)
			}
			acknowledged.Add(1)
			return err
		})
	})
	var recoveries []time.Duration
	for range max(2, *kills/4) {
		reach(t, &acknowledged, acknowledged.Load()+50)
		if err := postgresql.Kill(); err != nil {
			t.Fatal(err)
		}
		reach(t, &refused, refused.Load()+3*fleetWorkers)
		if status := f.ready(); status != http.StatusServiceUnavailable {
			t.Errorf("/readyz answers %d without a database", status)
		}
		if err := postgresql.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		reach(t, &acknowledged, acknowledged.Load()+1)
		recoveries = append(recoveries, time.Since(began))
		if status := f.ready(); status != http.StatusOK {
			t.Errorf("/readyz answers %d with a database", status)
		}
		if t.Failed() {
			break
		}
	}
	stop()
	loading.Wait()
	if t.Failed() {
		t.Fatalf("the server said: %s", &server.output)
	}
	d.quiet(t)
	f.settle()
	waited := f.finish(d.data)
	f.checkAll()
	d.check(t, f.homes())
	t.Logf("%d kills of PostgreSQL, %d registrations acknowledged, of %d devices: 0 lost; %d calls were answered 503, %d operations waited for a lease; %s",
		len(recoveries), acknowledged.Load(), f.homes(), refused.Load(), waited, f.latency())
	t.Logf("once PostgreSQL takes connections the first device has its home in %s", spread(recoveries))
}

// ready asks a server whether calls may be sent to it.
func (f *fleet) ready() (status int) {
	f.t.Helper()
	client := f.newClient(nil)
	defer client.CloseIdleConnections()
	response, err := client.Get("https://" + dpsHost + "/readyz")
	if err != nil {
		f.t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// reach returns when the count is at least n.
func reach(t *testing.T, count *atomic.Int64, n int64) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(time.Minute)
	for count.Load() < n && !t.Failed() {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d after a minute", count.Load(), n)
		}
		<-tick.C
	}
}
