package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest/symkey"
	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/wire/hubjson"
)

const (
	// crowdTick is how long a device waits between two messages, as long as the hub
	// acknowledges them.
	crowdTick = 100 * time.Millisecond
	// crowdPending is how many of them wait for it.
	crowdPending = 8
	// crowdPatience is how long the whole crowd may take to get somewhere.
	crowdPatience = 2 * time.Minute
	// quickDeaths is how many come one after the other. Before each of the others
	// the devices live for calm: so long stands a connection after which the next
	// one is tried at once, and not after ever longer waits.
	quickDeaths = 2
	calm        = 11 * time.Second
)

// A crowd is many devices that live at their hub at the same time, over MQTT on
// TLS, and the operators who talk to them all the while.
type crowd struct {
	*fleet
	database *database
	operator *admin.Client
	twins    *service.Hub

	serving []*process // under fleet.mu
	members []*member

	uncertain atomic.Int64 // calls of operators that were not answered, or with an error of the server's
}

// A member is one device, with all that it did, was acknowledged and heard.
type member struct {
	*hub.Connection
	crowd *crowd
	id    string
	home  int // the server that it prefers

	mu       sync.Mutex // guards what follows
	raw      net.Conn   // to the hub
	at       int        // the server that it was last connected to
	connects int
	since    time.Time // when it was connected last
	sent     []sending
	floor    int // connections before the last mark
	acked    int // since then

	reported      int   // the value that was acknowledged last
	reportVersion int64 // and its version

	ordered        []order // messages to the device
	heard          map[int]int
	lastHeard      int
	desired        int   // the value that was acknowledged to the operator
	desiredVersion int64 // and its version
	desiredTried   int   // the value that was asked for last
	changes        int   // how many were acknowledged
	followed       int64 // the version that the device was told
	followedValue  int
}

// A sending is a message of a device: how often that had been connected when the
// message was queued, and when it was acknowledged.
type sending struct {
	queued, acked int
	done          bool
}

// An order is a message to a device, by its message-id once it was acknowledged.
type order struct{ id string }

// gather makes the identities of so many devices and connects them.
func gather(t *testing.T, d *database, many int, servers ...*process) *crowd {
	t.Helper()
	c := &crowd{fleet: newFleet(t, d.data), database: d}
	c.connect(servers...)
	c.serve(servers...)
	options := client.HTTP{RootCAs: c.world.roots, Attempts: 1, Timeout: answerBound, Transport: &http.Transport{DialContext: c.dial, MaxIdleConnsPerHost: fleetWorkers}}
	var err error
	if c.operator, err = admin.New(c.connectionString(app.ServiceConnectionFile), options); err != nil {
		t.Fatal(err)
	}
	if c.twins, err = service.NewHub(c.connectionString(app.HubConnectionFile), options); err != nil {
		t.Fatal(err)
	}
	for i := range many {
		c.members = append(c.members, &member{crowd: c, id: fmt.Sprintf("crowd-%d", i), home: i % len(servers), heard: map[int]int{}})
	}
	c.each(func(m *member) error {
		identity := hubjson.Device{DeviceID: device.ID(m.id)}
		key := hubjson.Key{SymmetricKey: symkey.DeriveDeviceKey(c.group, m.id)}
		identity.Authentication.SymmetricKey = &hubjson.SymmetricKeys{PrimaryKey: key, SecondaryKey: key}
		_, err := c.twins.CreateDevice(t.Context(), identity)
		return err
	})
	c.each((*member).connect)
	t.Cleanup(func() { c.each(func(m *member) error { return m.Close() }) })
	return c
}

func (c *crowd) connectionString(file string) string {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.database.data, file))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// serve makes servers those that there are now.
func (c *crowd) serve(servers ...*process) {
	c.serveFrom(servers...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serving = servers
}

// each does something with every member, some at a time.
func (c *crowd) each(do func(*member) error) {
	c.t.Helper()
	next := make(chan *member)
	var wg sync.WaitGroup
	for range fleetWorkers {
		wg.Go(func() {
			for m := range next {
				if err := do(m); err != nil {
					c.t.Errorf("%s: %v", m.id, err)
				}
			}
		})
	}
	for _, m := range c.members {
		next <- m
	}
	close(next)
	wg.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
}

func (m *member) connect() (err error) {
	c := m.crowd
	m.Connection, err = hub.Connect(c.t.Context(), hub.ConnectionConfig{
		Host: hubHost, DeviceID: device.ID(m.id), Credential: client.SymmetricKey(symkey.DeriveDeviceKey(c.group, m.id)),
		RootCAs: c.world.roots, Dial: m.dial, Pending: crowdPending,
		Changed: func(connected bool, _ error) {
			if connected {
				m.remember(func() { m.connects++; m.since = time.Now() })
			}
		},
		OnDesired: m.told,
		OnMessage: m.take,
	})
	return err
}

// dial connects to the server that the member prefers, or else to another one.
func (m *member) dial(ctx context.Context, network, _ string) (raw net.Conn, err error) {
	m.crowd.mu.Lock()
	servers := m.crowd.serving
	m.crowd.mu.Unlock()
	for i := range servers {
		at := (m.home + i) % len(servers)
		if raw, err = new(net.Dialer).DialContext(ctx, network, servers[at].mqtts); err == nil {
			m.remember(func() { m.raw, m.at = raw, at })
			return raw, nil
		}
	}
	return nil, err
}

func (m *member) remember(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// take hears of a message to the device, in the order in which they were sent,
// those apart that are given again.
func (m *member) take(_ context.Context, g hub.CloudMessage) error {
	n, err := strconv.Atoi(string(g.Body))
	m.remember(func() {
		switch m.heard[n]++; {
		case err != nil || g.Properties["for"] != m.id:
			m.crowd.t.Errorf("%s is sent %+v", m.id, g)
		case m.heard[n] == 1 && n < m.lastHeard:
			m.crowd.t.Errorf("%s hears of message %d behind %d", m.id, n, m.lastHeard)
		}
		m.lastHeard = max(m.lastHeard, n)
	})
	return nil
}

// told hears of desired properties, of ever newer ones.
func (m *member) told(_ context.Context, d hub.Desired) {
	var v struct{ Value int }
	err := json.Unmarshal(d.Properties, &v)
	m.remember(func() {
		if err != nil || d.Version <= m.followed || v.Value < m.followedValue {
			m.crowd.t.Errorf("%s is told of version %d with %s behind %d with %d", m.id, d.Version, d.Properties, m.followed, m.followedValue)
		}
		m.followed, m.followedValue = d.Version, v.Value
	})
}

// live sends messages, reports and looks at its twin until ctx ends.
func (m *member) live(ctx context.Context) {
	tick := time.NewTicker(crowdTick)
	defer tick.Stop()
	for n := 1; ctx.Err() == nil; n++ {
		err := m.send()
		if err == nil && n%16 == 0 {
			err = m.report()
		}
		if err == nil && n%64 == 0 {
			err = m.look()
		}
		if err != nil {
			m.crowd.t.Errorf("%s: %v", m.id, err)
			return
		}
		<-tick.C
	}
}

// send queues the next message.
func (m *member) send() error {
	var n int
	m.remember(func() {
		n = len(m.sent)
		m.sent = append(m.sent, sending{queued: m.connects})
	})
	message := hub.Message{Body: []byte(strconv.Itoa(n)), Properties: map[string]string{"of": m.id}}
	return m.Queue(m.crowd.t.Context(), message, func(err error) {
		m.remember(func() {
			s := &m.sent[n]
			if err == nil {
				s.acked, s.done = m.connects, true
				if m.connects > m.floor {
					m.acked++
				}
			}
		})
	})
}

// report reports the next value, and wants a newer version than before.
func (m *member) report() error {
	ctx, cancel := context.WithTimeout(m.crowd.t.Context(), crowdPatience)
	defer cancel()
	var next int
	m.remember(func() { next = m.reported + 1 })
	version, err := m.Report(ctx, map[string]any{"value": next})
	if err != nil {
		return err
	}
	m.remember(func() {
		if version <= m.reportVersion {
			m.crowd.t.Errorf("%s reported version %d behind %d", m.id, version, m.reportVersion)
		}
		m.reported, m.reportVersion = next, version
	})
	return nil
}

// look reads the twin: what the device was acknowledged is in it, as it was, and
// what the operators were, as it was or newer.
func (m *member) look() error {
	ctx, cancel := context.WithTimeout(m.crowd.t.Context(), crowdPatience)
	defer cancel()
	var desired int
	var desiredVersion int64
	m.remember(func() { desired, desiredVersion = m.desired, m.desiredVersion })
	t, err := m.Twin(ctx)
	if err != nil {
		return err
	}
	var wants, says struct{ Value int }
	if err := errors.Join(json.Unmarshal(t.Desired.Properties, &wants), json.Unmarshal(t.Reported.Properties, &says)); err != nil {
		return err
	}
	m.remember(func() {
		switch {
		case m.reported > 0 && (says.Value != m.reported || t.Reported.Version != m.reportVersion):
			m.crowd.t.Errorf("%s was acknowledged %d as version %d and reads %d, version %d", m.id, m.reported, m.reportVersion, says.Value, t.Reported.Version)
		case wants.Value < desired || wants.Value > m.desiredTried || t.Desired.Version < desiredVersion:
			m.crowd.t.Errorf("the operator of %s was acknowledged %d as version %d, and the device reads %d, version %d", m.id, desired, desiredVersion, wants.Value, t.Desired.Version)
		}
	})
	return nil
}

// command sends messages to devices until ctx ends, to those of every so many.
func (c *crowd) command(ctx context.Context, first, step int) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := first; ctx.Err() == nil; i += step {
		m := c.members[i%len(c.members)]
		var n int
		m.remember(func() {
			n = len(m.ordered) + 1
			m.ordered = append(m.ordered, order{})
		})
		id, err := c.operator.Send(c.t.Context(), hubHost, m.id, admin.MessageToDevice{
			Body: []byte(strconv.Itoa(n)), Properties: map[string]string{"for": m.id}, Ack: "full",
		})
		if err != nil {
			c.unanswered(err)
		} else {
			m.remember(func() { m.ordered[n-1].id = id })
		}
		<-tick.C
	}
}

// desire changes desired properties until ctx ends.
func (c *crowd) desire(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		m := c.members[i%len(c.members)]
		var next int
		m.remember(func() { m.desiredTried++; next = m.desiredTried })
		change := hubjson.TwinChange{Desired: json.RawMessage(fmt.Sprintf(`{"value":%d}`, next))}
		twin, err := c.twins.PatchTwin(c.t.Context(), device.ID(m.id), change, "")
		var version int64
		if err == nil {
			_, version, err = twin.Properties.Desired.Split()
		}
		if err != nil {
			c.unanswered(err)
		} else {
			m.remember(func() {
				if version <= m.desiredVersion {
					c.t.Errorf("the desired properties of %s have version %d behind %d", m.id, version, m.desiredVersion)
				}
				m.desired, m.desiredVersion = next, version
				m.changes++
			})
		}
		<-tick.C
	}
}

// unanswered counts a call that nobody knows the outcome of. A refusal is none.
func (c *crowd) unanswered(err error) {
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status < 500 {
		c.t.Errorf("an operator is refused: %v", err)
	}
	c.uncertain.Add(1)
}

// mark begins to count anew what is acknowledged: on a new connection to those
// that lost theirs.
func (c *crowd) mark(lost func(*member) bool) {
	for _, m := range c.members {
		m.remember(func() {
			m.acked, m.floor = 0, m.connects
			if !lost(m) {
				m.floor--
			}
		})
	}
}

// wait returns when every member is where it is to be.
func (c *crowd) wait(state string, there func(*member) bool) {
	c.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(crowdPatience)
	for _, m := range c.members {
		ok := false
		for m.remember(func() { ok = there(m) }); !ok && !c.t.Failed(); m.remember(func() { ok = there(m) }) {
			if time.Now().After(deadline) {
				c.t.Errorf("%s: not %s after %v", m.id, state, crowdPatience)
			}
			<-tick.C
		}
	}
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// heardAgain waits until each member was acknowledged a message since the mark.
func (c *crowd) heardAgain() {
	c.t.Helper()
	c.wait("acknowledged a message", func(m *member) bool { return m.acked > 0 })
}

// ripe returns when the round's victim may die.
func (c *crowd) ripe(round int) {
	c.t.Helper()
	c.heardAgain()
	if round >= quickDeaths {
		c.wait("left in peace", func(m *member) bool { return time.Since(m.since) > calm })
	}
}

// goOn begins what goes on while servers die. stop ends it and returns when
// nothing is under way any more.
func (c *crowd) goOn() (stop func()) {
	talking, silence := context.WithCancel(c.t.Context())
	var operators, devices sync.WaitGroup
	for i := range 2 {
		operators.Go(func() { c.command(talking, i, 2) })
	}
	operators.Go(func() { c.desire(talking) })
	for _, m := range c.members {
		devices.Go(func() { m.live(talking) })
	}
	return func() {
		silence()
		operators.Wait()
		devices.Wait()
	}
}

// A tally is what came of it all.
type tally struct {
	messages, cut, again  int // of devices: all, those that lost their connection on the way, copies
	orders, uncertain     int // messages to devices that were acknowledged; that arrived without that
	givenAgain, feedbacks int
	reports, changes      int // of twins, that were acknowledged
}

// settleAll waits until all that was acknowledged is where it has to be, and
// looks whether it is whole. followed says that devices hear of desired
// properties without looking.
func (c *crowd) settleAll(followed bool) (sum tally) {
	c.t.Helper()
	c.wait("acknowledged everything", func(m *member) bool {
		for _, s := range m.sent {
			if !s.done {
				return false
			}
		}
		return true
	})
	c.wait("sent all that was acknowledged", func(m *member) bool {
		for i, o := range m.ordered {
			if o.id != "" && m.heard[i+1] == 0 {
				return false
			}
		}
		return true
	})
	c.each((*member).look)
	for _, m := range c.members {
		sum.messages += len(m.sent)
		for _, s := range m.sent {
			if s.acked > s.queued {
				sum.cut++
			}
		}
		sum.reports += m.reported
		sum.changes += m.changes
		for i, o := range m.ordered {
			n := m.heard[i+1]
			sum.givenAgain += max(0, n-1)
			switch {
			case o.id != "":
				sum.orders++
			case n > 0:
				sum.uncertain++
			}
		}
	}
	if followed {
		c.follow()
	}
	sum.again = c.checkStream()
	sum.feedbacks = c.checkFeedback(sum)
	return sum
}

// follow waits until the devices were told what they can read.
func (c *crowd) follow() {
	c.t.Helper()
	now := map[*member]int64{}
	var mu sync.Mutex
	c.each(func(m *member) error {
		t, err := m.Twin(c.t.Context())
		mu.Lock()
		defer mu.Unlock()
		now[m] = t.Desired.Version
		return err
	})
	c.wait("told of its desired properties", func(m *member) bool { return m.followed >= now[m] })
}

// checkStream reads what the hub has of the devices: each message, those that
// were sent first in their order. One is there again at most as often as its
// device was connected anew before it was acknowledged.
func (c *crowd) checkStream() (again int) {
	c.t.Helper()
	copies := map[string][]int{}
	for _, m := range c.members {
		copies[m.id] = make([]int, 0, len(m.sent))
	}
	for got, err := range c.operator.Messages(c.t.Context(), hubHost, admin.Selection{}) {
		if err != nil {
			c.t.Fatal(err)
		}
		id := string(got.DeviceID)
		n, err := strconv.Atoi(string(got.Body))
		switch next := len(copies[id]); {
		case err != nil || n > next || got.Properties["of"] != id:
			c.t.Fatalf("%+v, want message %d of %s", got, next, id)
		case n == next:
			copies[id] = append(copies[id], 1)
		default:
			copies[id][n]++
			again++
		}
	}
	for _, m := range c.members {
		if there := len(copies[m.id]); there != len(m.sent) {
			c.t.Errorf("%s was acknowledged %d messages, and %d are there", m.id, len(m.sent), there)
		}
		for n, copies := range copies[m.id] {
			if s := m.sent[n]; copies > 1+s.acked-s.queued {
				c.t.Errorf("message %d of %s is there %d times; it was connected %d times when it sent it, and %d times when it was acknowledged",
					n, m.id, copies, s.queued, s.acked)
			}
		}
	}
	return again
}

// checkFeedback reads what became of the messages to devices: each that was
// acknowledged was completed, once.
func (c *crowd) checkFeedback(sum tally) (records int) {
	c.t.Helper()
	told := map[string]int{}
	for {
		var batch []struct {
			OriginalMessageID string `json:"originalMessageId"`
			StatusCode        string `json:"statusCode"`
		}
		lock := c.lockFeedback(&batch)
		if lock == "" {
			break
		}
		for _, f := range batch {
			if records++; f.StatusCode != "Success" {
				c.t.Errorf("a message to a device ended as %s", f.StatusCode)
			}
			told[f.OriginalMessageID]++
		}
		if status := c.operate("DELETE", hubHost, "/messages/serviceBound/feedback/"+lock, nil, nil); status != http.StatusNoContent {
			c.t.Fatalf("settling feedback: status %d", status)
		}
	}
	for _, m := range c.members {
		for i, o := range m.ordered {
			if o.id != "" && told[o.id] != 1 {
				c.t.Errorf("the feedback on message %d to %s came %d times", i+1, m.id, told[o.id])
			}
		}
	}
	if records != sum.orders+sum.uncertain {
		c.t.Errorf("%d records of feedback on %d messages that were acknowledged and %d that arrived without that", records, sum.orders, sum.uncertain)
	}
	return records
}

// lockFeedback takes the next feedback; no lock says that there is none.
func (c *crowd) lockFeedback(batch any) (lock string) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), "GET", "https://"+hubHost+"/messages/serviceBound/feedback?api-version=2021-04-12", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", c.world.hub.token(hubHost, time.Now()))
	response, err := c.client.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNoContent {
		return ""
	}
	if err := json.NewDecoder(response.Body).Decode(batch); err != nil || response.StatusCode != http.StatusOK {
		c.t.Fatalf("feedback: %s, %v", response.Status, err)
	}
	lock, err = strconv.Unquote(response.Header.Get("ETag"))
	if err != nil {
		c.t.Fatal(err)
	}
	return lock
}

func (s tally) String() string {
	return fmt.Sprintf("%d messages, 0 lost, %d cut off and sent again, of which %d are there twice; %d messages to devices acknowledged, 0 lost, %d given again, %d arrived whose sender was not answered, each with one feedback (%d); %d reports and %d changes of desired properties, 0 lost",
		s.messages, s.cut, s.again, s.orders, s.givenAgain, s.uncertain, s.feedbacks, s.reports, s.changes)
}

// crowdSize is how many devices there are.
func crowdSize() int {
	if *heavy {
		return 500
	}
	return 100
}

// The hub is killed while its devices send, are sent messages and change their
// twins over MQTT. Nothing that one of them or an operator was acknowledged is
// lost or goes back; a message of a device is there twice only where its
// acknowledgement was lost with the connection.
func TestKilledHubLosesNothing(t *testing.T) {
	onEachEngine(t, func(t *testing.T, d *database) {
		random := seeded(t)
		server := startProcess(t, d.data)
		c := gather(t, d, crowdSize(), server)
		stop := c.goOn()
		began, deaths := time.Now(), max(2, *kills/10)
		var back []time.Duration
		for round := range deaths {
			c.ripe(round)
			<-time.After(time.Duration(random.IntN(300_000)) * time.Microsecond)
			server.kill()
			c.mark(func(*member) bool { return true })
			server = startProcess(t, d.data)
			c.serve(server)
			listens := time.Now()
			c.heardAgain()
			back = append(back, time.Since(listens))
		}
		stop()
		took := time.Since(began)
		sum := c.settleAll(true)
		t.Logf("%d devices, %d kills in %v: %s; %d calls of operators were not answered", len(c.members), deaths, took.Round(time.Second), sum, c.uncertain.Load())
		t.Logf("the last device is acknowledged a message again %s after the server listens", spread(back))
	})
}

// Devices are spread over two servers on one database. When one is killed its
// devices go on at the other, and come back when it does.
func TestDevicesMoveToTheOtherServer(t *testing.T) {
	if *engine == "sqlite" {
		return
	}
	random := seeded(t)
	d := newDatabase(t, "postgres")
	servers := []*process{startProcess(t, d.data), startProcess(t, d.data)}
	c := gather(t, d, crowdSize(), servers...)
	stop := c.goOn()
	deaths := max(2, *kills/10)
	var moved []time.Duration
	for round := range deaths {
		c.ripe(round)
		for _, m := range c.members {
			m.remember(func() {
				if m.at != m.home {
					t.Errorf("%s is not where it wants to be", m.id)
				}
			})
		}
		<-time.After(time.Duration(random.IntN(300_000)) * time.Microsecond)
		victim := round % 2
		servers[victim].kill()
		died := time.Now()
		c.mark(func(m *member) bool { return m.at == victim })
		c.heardAgain()
		moved = append(moved, time.Since(died))
		servers[victim] = startProcess(t, d.data)
		c.serve(servers...)
		away := func(m *member) bool { return m.at != m.home }
		c.mark(away)
		for _, m := range c.members {
			m.remember(func() {
				if away(m) {
					m.raw.Close() // it goes back
				}
			})
		}
	}
	c.heardAgain()
	stop()
	sum := c.settleAll(false)
	t.Logf("%d devices, %d deaths of either server: %s; %d calls of operators were not answered", len(c.members), deaths, sum, c.uncertain.Load())
	t.Logf("the last device is acknowledged a message at the other server %s after the death of its own", spread(moved))
}
