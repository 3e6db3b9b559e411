package app

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

// What goes on in the background is told at every scrape: what waits for what,
// how long, and which hub elsewhere is the reason.
func TestGaugesOfRegistrationsUnderWay(t *testing.T) {
	config, s, _ := start(t, func(c *Config) { c.Metrics.Listen = "127.0.0.1:0" })
	scope, far := device.IDScope(config.IDScope), linkFar(t, s, device.IDScope(config.IDScope))
	now := time.Now()
	for id, p := range map[device.RegistrationID]provision.Pending{
		"leased":  {Due: now.Add(time.Hour), Lease: now.Add(time.Hour), Tried: []provision.Place{{Hub: "elsewhere.example", DeviceID: "leased"}, {Hub: "FAR.example", DeviceID: "leased"}}},
		"delayed": {Due: now.Add(time.Hour), Tried: []provision.Place{{Hub: "far.example", DeviceID: "delayed"}}},
		"asked":   {Due: now.Add(2 * time.Hour)}, // of a webhook: nobody knows yet where it is to go
	} {
		err := s.store.ChangeRegistration(t.Context(), scope, id, func(*provision.Registration) (*provision.Registration, error) {
			return &provision.Registration{
				Scope: scope, Key: id, ID: string(id), Status: provision.Assigning, Attestation: attest.TypeSymmetricKey,
				Created: now.Add(-time.Hour), Updated: now.Add(-20 * time.Minute), OperationID: "4.x", Pending: &p,
			}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	link, err := s.hubs.links.open(far)
	if err != nil {
		t.Fatal(err)
	}
	link.end(nil)
	for range 2 {
		link.end(errs.New(errs.Unavailable, 0, "no answer"))
	}
	of := `{hub="far.example",id_scope="` + config.IDScope + `"} `
	body := counts(t, s,
		`berth_registrations_under_way{state="leased"} 1`,
		`berth_registrations_under_way{state="delayed"} 2`,
		`berth_registrations_under_way{state="due"} 0`,
		`berth_linked_hub_consecutive_failures`+of+"2\n",
		`berth_linked_hub_waiting_registrations`+of+"2\n",
		`berth_database_up 1`,
	)
	if age := value(t, body, "berth_registrations_under_way_oldest_age_seconds"); age < 1200 || age > 1500 {
		t.Errorf("the oldest is under way for %v seconds", age)
	}
	if at := value(t, body, "berth_linked_hub_last_success_timestamp_seconds"+of[:len(of)-1]); at < float64(now.Unix()) || at > float64(now.Unix()+60) {
		t.Errorf("the hub elsewhere answered at %v", at)
	}
}

// A server whose database is away still tells that, and what it knows itself.
func TestGaugesWithoutTheDatabase(t *testing.T) {
	_, s, _ := start(t, func(c *Config) { c.Metrics.Listen = "127.0.0.1:0" })
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	body := counts(t, s, `berth_database_up 0`, `berth_mqtt_connections_open 0`)
	if strings.Contains(body, "berth_registrations_under_way") {
		t.Error("registrations that nobody could read are counted")
	}
}

func linkFar(t *testing.T, s *Server, scope device.IDScope) provision.LinkedHub {
	t.Helper()
	key, err := device.ParseSymmetricKey(deviceKey)
	if err != nil {
		t.Fatal(err)
	}
	far := provision.LinkedHub{Host: "far.example", Weight: 1, Connection: &provision.Connection{Policy: "service", Key: key}}
	if err := s.store.PutLinkedHub(t.Context(), scope, far); err != nil {
		t.Fatal(err)
	}
	return far
}

// value returns that of one series among the metrics of a server.
func value(t *testing.T, metrics, series string) (v float64) {
	t.Helper()
	for line := range strings.Lines(metrics) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			if _, err := fmt.Sscan(rest, &v); err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("missing: %s", series)
	return 0
}

func TestGaugesOfConnectionsCertificatesAndFiles(t *testing.T) {
	_, s, client := start(t, func(c *Config) {
		c.Metrics.Listen, c.MQTT.Listen, c.MaxConnections = "127.0.0.1:0", "127.0.0.1:0", 77
	})
	open := dial(t, s.Address(), client)
	defer open.Close()
	for _, packet := range []string{
		"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03abc",       // of MQTT 5
		"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03abc",           // without a user name
		"\x10\x13\x00\x04MQTT\x04\x82\x00\x3c\x00\x03abc\x00\x02xx", // of nobody here
	} {
		connect(t, s, client, packet)
	}
	body := counts(t, s,
		`berth_connections_max{listener="https"} 77`,
		`berth_connections_open{listener="https"} 1`,
		`berth_connections_max{listener="mqtts"} 77`,
		`berth_mqtt_connects_total{code="unacceptable protocol version"} 1`,
		`berth_mqtt_connects_total{code="bad user name or password"} 2`,
		`berth_mqtt_connects_total{code="connection accepted"} 0`,
	)
	leaf := s.tls.current.Load().Certificates[0].Leaf
	if at := value(t, body, `berth_server_certificate_not_after_timestamp_seconds{certificate="tls.pem"}`); at != float64(leaf.NotAfter.Unix()) {
		t.Errorf("the certificate expires at %v, and not at %v", at, leaf.NotAfter)
	}
	value(t, body, `berth_database_size_bytes{file="berth.db-wal"}`)
	if size := value(t, body, `berth_database_size_bytes{file="berth.db"}`); size < 1<<10 {
		t.Errorf("the database has %v bytes", size)
	}
}

// connect sends a CONNECT and waits for the server to hang up.
func connect(t *testing.T, s *Server, client *http.Client, packet string) {
	t.Helper()
	c := dial(t, s.mqtts.Addr(), client)
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(packet)); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(c); err != nil || len(answer) != 4 {
		t.Fatalf("% x, %v", answer, err)
	}
}

// dial shakes hands with a listener of the server that client trusts.
func dial(t *testing.T, address net.Addr, client *http.Client) *tls.Conn {
	t.Helper()
	config := client.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = "localhost"
	c, err := tls.Dial(address.Network(), address.String(), config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
