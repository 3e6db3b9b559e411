package scenario

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest/symkey"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/wire/sas"
)

const (
	kills        = 20
	crashWorkers = 8
	crashDir     = "BERTH_TEST_SERVE" // tells the test binary to be the server of a data directory
)

// serveUntilKilled is the server that is killed. It says where it listens, and
// ends with whoever holds its standard input.
func serveUntilKilled(data string) int {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	config, err := app.LoadConfig(data)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server, err := app.Open(context.Background(), config, "test", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(server.Address())
	if err := server.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A process is a server in a process of its own.
type process struct {
	*exec.Cmd
	address string
	output  bytes.Buffer
}

func startProcess(t *testing.T, data string) *process {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(program)}
	p.Env = append(os.Environ(), crashDir+"="+data)
	p.Stderr = &p.output
	if _, err := p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	said, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		p.kill()
		t.Fatalf("the server did not start: %s", &p.output)
	}
	p.address = strings.TrimSpace(line)
	return p
}

// kill ends the process as a power cut would, and returns when it is gone.
func (p *process) kill() {
	p.Process.Signal(syscall.SIGKILL)
	p.Wait()
}

// A factory registers devices of one group and remembers what it was told.
type factory struct {
	t     *testing.T
	world world
	group device.SymmetricKey

	mu   sync.Mutex
	told map[string]string // the entity tag of the last answer, by registration ID
	open map[string]bool   // those whose last call was not answered
}

// What was acknowledged is there after a kill, whole: the registration record,
// and the identity at the hub with the key that the device has. What was not
// acknowledged is there or not, but never half, and the device that asks again
// is taken in.
func TestKilledServerLosesNothing(t *testing.T) {
	f := &factory{t: t, told: map[string]string{}, open: map[string]bool{}}
	f.world.data = filepath.Join(t.TempDir(), "server")
	if err := initialise(f.world.data, false); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	var err error
	if f.group, err = device.GenerateSymmetricKey(rand.Reader, 64); err != nil {
		t.Fatal(err)
	}

	for round := range kills {
		server := startProcess(t, f.world.data)
		f.connect(server)
		if round == 0 {
			f.operate("PUT", dpsHost, "/enrollmentGroups/units", fmt.Sprintf(
				`{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":%q}}}`, f.group.Base64()), nil)
		}
		f.settle()
		f.load(round, func(acknowledged <-chan struct{}) {
			select {
			case <-acknowledged:
				<-time.After(time.Duration(random.IntN(300_000)) * time.Microsecond)
			case <-time.After(time.Minute):
				t.Error("nothing was acknowledged for a minute")
			}
			server.kill()
		})
		if t.Failed() {
			return
		}
	}

	server := startProcess(t, f.world.data)
	f.connect(server)
	f.settle()
	f.checkAll()
	server.kill()
	t.Logf("%d registrations were acknowledged before %d kills", len(f.told), kills)
	f.checkDatabase()
}

func (f *factory) connect(server *process) {
	f.t.Helper()
	if err := f.world.meet(server.address); err != nil {
		f.t.Fatal(err)
	}
	f.world.anonymous = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: f.world.dial, TLSClientConfig: f.world.tls(nil), MaxIdleConnsPerHost: crashWorkers,
	}}
}

// load registers as fast as it can, every fourth time a device that was told
// its home before, until kill has returned, which is told when the first
// registration was acknowledged.
func (f *factory) load(round int, kill func(acknowledged <-chan struct{})) {
	ctx, stop := context.WithCancel(f.t.Context())
	acknowledged := make(chan struct{})
	var first sync.Once
	var wg sync.WaitGroup
	for worker := range crashWorkers {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				id := fmt.Sprintf("unit-%d-%d-%d", round, worker, n)
				if n%4 == 3 {
					id = fmt.Sprintf("unit-%d-%d-%d", round, worker, n-2)
				}
				f.begin(id)
				etag, err := f.register(ctx, id)
				if err != nil {
					return // the server is gone
				}
				f.acknowledge(id, etag)
				first.Do(func() { close(acknowledged) })
			}
		})
	}
	kill(acknowledged)
	stop()
	wg.Wait()
	f.world.anonymous.CloseIdleConnections()
}

func (f *factory) begin(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[id] = true
}

func (f *factory) acknowledge(id, etag string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told[id] = etag
	delete(f.open, id)
}

// register is a device's call. It returns the entity tag of the record, and an
// error when there was no answer.
func (f *factory) register(ctx context.Context, id string) (etag string, err error) {
	key := symkey.DeriveDeviceKey(f.group, id)
	request, err := http.NewRequestWithContext(ctx, http.MethodPut,
		"https://"+dpsHost+"/"+f.world.scope+"/registrations/"+id+"/register?api-version=2021-06-01", strings.NewReader("{}"))
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", sas.Sign(key.Bytes(), sas.DeviceResource(f.world.scope, id), time.Now().Add(time.Hour), "registration"))
	a, err := exchange(f.world.anonymous, request)
	if err != nil {
		return "", err
	}
	var told struct {
		Status            string
		RegistrationState struct{ Status, AssignedHub, DeviceID, ETag string }
	}
	state := &told.RegistrationState
	if err := json.Unmarshal(a.body, &told); err != nil || a.status != http.StatusAccepted || told.Status != "assigned" ||
		state.AssignedHub != hubHost || state.DeviceID != id || state.ETag == "" {
		f.t.Errorf("registering %s: status %d, %s", id, a.status, a.body)
		return "", fmt.Errorf("status %d", a.status)
	}
	return state.ETag, nil
}

// operate is an operator's call; what is answered goes into v.
func (f *factory) operate(method, host, path, body string, v any) (found bool) {
	f.t.Helper()
	request, err := http.NewRequest(method, "https://"+host+path+"?api-version=2021-10-01", strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	p := f.world.owner
	if host == hubHost {
		p = f.world.hub
	}
	request.Header.Set("Authorization", p.token(host, time.Now()))
	a, err := exchange(f.world.anonymous, request)
	if err != nil {
		f.t.Fatal(err)
	}
	switch {
	case a.status == http.StatusNotFound:
		return false
	case a.status != http.StatusOK:
		f.t.Fatalf("%s %s: status %d, %s", method, path, a.status, a.body)
	}
	if v != nil {
		if err := json.Unmarshal(a.body, v); err != nil {
			f.t.Fatal(err)
		}
	}
	return true
}

// settle lets the devices that were cut off ask again, after a look at what
// the kill left of them.
func (f *factory) settle() {
	f.t.Helper()
	for id := range f.open {
		f.check(id)
		etag, err := f.register(f.t.Context(), id)
		if err != nil {
			f.t.Fatalf("registering %s again: %v", id, err)
		}
		f.acknowledge(id, etag)
		f.check(id)
	}
}

func (f *factory) checkAll() {
	f.t.Helper()
	for id := range f.told {
		f.check(id)
	}
}

// check holds one device's record and identity against what it was told.
func (f *factory) check(id string) {
	f.t.Helper()
	var record struct{ Status, AssignedHub, DeviceID, ETag string }
	recorded := f.operate("GET", dpsHost, "/registrations/"+id, "", &record)
	etag, told := f.told[id]
	switch {
	case !recorded && told:
		f.t.Fatalf("%s was told its home, and there is no record of it", id)
	case !recorded:
		return
	case record.Status != "assigned" || record.AssignedHub != hubHost || record.DeviceID != id:
		f.t.Fatalf("%s has the record %+v", id, record)
	case told && !f.open[id] && record.ETag != etag:
		f.t.Fatalf("%s was told the entity tag %s, its record has %s", id, etag, record.ETag)
	}
	var identity struct {
		Status         string
		Authentication struct {
			Type         string
			SymmetricKey struct{ PrimaryKey string }
		}
	}
	if !f.operate("GET", hubHost, "/devices/"+url.PathEscape(id), "", &identity) {
		f.t.Fatalf("%s has a record and no identity at the hub", id)
	}
	if want := symkey.DeriveDeviceKey(f.group, id).Base64(); identity.Status != "enabled" || identity.Authentication.SymmetricKey.PrimaryKey != want {
		f.t.Fatalf("%s has another key at the hub, or is %s there", id, identity.Status)
	}
}

// checkDatabase looks at what the last kill left with the engine's own eyes.
func (f *factory) checkDatabase() {
	f.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(f.world.data, "berth.db"))
	if err != nil {
		f.t.Fatal(err)
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		f.t.Errorf("integrity_check: %s, %v", verdict, err)
	}
	var registrations, identities int
	if err := db.QueryRow("SELECT (SELECT count(*) FROM registration), (SELECT count(*) FROM device)").Scan(&registrations, &identities); err != nil {
		f.t.Fatal(err)
	}
	if registrations != len(f.told) || identities != len(f.told) {
		f.t.Errorf("%d devices were told their home; there are %d records and %d identities", len(f.told), registrations, identities)
	}
}
