package app

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/berth-iot/berth/client"
	devicesdk "github.com/berth-iot/berth/client/provisioning"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// A tenant is an operator and a device of a server, both with the SDK.
type tenant struct {
	t        *testing.T
	config   Config
	server   *Server
	http     client.HTTP
	operator *service.Client
}

func newTenant(t *testing.T, change ...func(*Config)) *tenant {
	t.Helper()
	config, server, trusting := start(t, change...)
	transport := trusting.Transport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.Address().String())
	}
	n := &tenant{t: t, config: config, server: server, http: client.HTTP{Transport: transport}}
	text, err := os.ReadFile(filepath.Join(config.Data, ServiceConnectionFile))
	if err != nil {
		t.Fatal(err)
	}
	if n.operator, err = service.New(strings.TrimSpace(string(text)), n.http); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"hub-1.example", "hub-2.example"} {
		err := server.store.PutLinkedHub(t.Context(), device.IDScope(config.IDScope), provision.LinkedHub{Host: host, Weight: 1, Allocation: true})
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}

const deviceKey = "cHVtcC03LCBhIGtleSBvZiAzMiBieXRlcyBoZXJlLi4="

// enroll makes an enrollment with custom allocation.
func (n *tenant) enroll(id string, d dpsjson.CustomAllocationDefinition) error {
	key, err := device.ParseSymmetricKey(deviceKey)
	if err != nil {
		n.t.Fatal(err)
	}
	_, err = n.operator.CreateEnrollment(n.t.Context(), dpsjson.IndividualEnrollment{
		RegistrationID:   id,
		Attestation:      &dpsjson.AttestationMechanism{Type: dpsjson.AttestationSymmetricKey, SymmetricKey: &dpsjson.SymmetricKeys{PrimaryKey: dpsjson.Key{SymmetricKey: key}, SecondaryKey: dpsjson.Key{SymmetricKey: key}}},
		AllocationPolicy: dpsjson.AllocationCustom, CustomAllocationDefinition: &d,
	})
	return err
}

// register is what the device does that has the key.
func (n *tenant) register(id, payload string) (*devicesdk.Assignment, error) {
	key, err := device.ParseSymmetricKey(deviceKey)
	if err != nil {
		n.t.Fatal(err)
	}
	c, err := devicesdk.New(devicesdk.Config{
		Host: "localhost", IDScope: n.config.IDScope, RegistrationID: id,
		Credential: client.SymmetricKey(key), Payload: json.RawMessage(payload), HTTP: n.http,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return c.Register(n.t.Context())
}

func TestExpressionAllocates(t *testing.T) {
	n := newTenant(t)
	err := n.enroll("pump-7", dpsjson.CustomAllocationDefinition{Expression: `
		{"iotHubHostName": linkedHubs.filter(h, h.startsWith(deviceRuntimeContext.payload.hub))[0],
		 "initialTwin": {"tags": {"line": 7}}, "payload": {"hello": deviceRuntimeContext.registrationId}}`})
	if err != nil {
		t.Fatal(err)
	}
	for _, hub := range []string{"hub-2", "hub-1"} {
		got, err := n.register("pump-7", `{"hub":"`+hub+`"}`)
		if err != nil || got.Hub != hub+".example" || string(got.Payload) != `{"hello":"pump-7"}` {
			t.Errorf("%s: %+v, %v", hub, got, err)
		}
	}
	if _, err := n.register("pump-7", `{}`); err == nil || !strings.Contains(err.Error(), "400207") || strings.Contains(err.Error(), "no such key") {
		t.Errorf("a device that says nothing: %v", err)
	}
}

// What cannot be worked with is said when it is written, and where it is.
func TestDefinitionsAreCheckedWhenTheyAreWritten(t *testing.T) {
	n := newTenant(t, func(c *Config) { c.Provisioning.Webhooks = []string{"https://allocate.example/api"} })
	for _, c := range []struct {
		d    dpsjson.CustomAllocationDefinition
		want string
	}{
		{dpsjson.CustomAllocationDefinition{Expression: "linkedHubs[0]"}, ""},
		{dpsjson.CustomAllocationDefinition{Expression: "linkedHubs\n[0"}, "customAllocationDefinition.expression: line 2, column 3: Syntax error"},
		{dpsjson.CustomAllocationDefinition{Expression: "hubs[0]"}, "customAllocationDefinition.expression: line 1, column 1: undeclared reference to 'hubs'"},
		{dpsjson.CustomAllocationDefinition{WebhookURL: "https://allocate.example/api/x?code=1", APIVersion: "2021-10-01"}, ""},
		{dpsjson.CustomAllocationDefinition{WebhookURL: "https://evil.example/api/x?code=1", APIVersion: "2021-10-01"}, "customAllocationDefinition.webhookUrl: is not among the webhooks that this server asks"},
		{dpsjson.CustomAllocationDefinition{WebhookURL: "http://allocate.example/api", APIVersion: "2021-10-01"}, "customAllocationDefinition.webhookUrl: must begin with https://"},
	} {
		err := n.enroll("pump-7", c.d)
		switch {
		case c.want == "" && err == nil:
			if err := n.operator.DeleteEnrollment(t.Context(), "pump-7", ""); err != nil {
				t.Fatal(err)
			}
		case err == nil || c.want == "" || !strings.Contains(err.Error(), c.want):
			t.Errorf("%+v: %v\nwant %s", c.d, err, c.want)
		}
	}
}

func TestWebhookAllocates(t *testing.T) {
	var asked atomic.Int32
	var fails atomic.Bool
	webhook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fails.Load() {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if asked.Add(1) == 1 {
			w.WriteHeader(http.StatusBadGateway) // once
			return
		}
		var request dpsjson.AllocationRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil || r.URL.Query().Get("code") != "c2VjcmV0" {
			t.Errorf("%v, %s", err, r.URL)
			return
		}
		d := request.DeviceRuntimeContext
		if request.IndividualEnrollment == nil || request.EnrollmentGroup != nil || d.SymmetricKey == nil || len(request.LinkedHubs) != 3 {
			t.Errorf("%+v", request)
		}
		io.WriteString(w, `{"iotHubHostName":"HUB-2.example","initialTwin":{"tags":{"from":"webhook"}},"payload":{"current":"`+d.CurrentIoTHubHostName+`"}}`)
	}))
	t.Cleanup(webhook.Close)
	n := newTenant(t, func(c *Config) { c.Metrics.Listen = "127.0.0.1:0" })
	if err := n.enroll("pump-7", dpsjson.CustomAllocationDefinition{WebhookURL: webhook.URL + "/api?code=c2VjcmV0", APIVersion: "2021-10-01"}); err != nil {
		t.Fatal(err)
	}
	for _, current := range []string{"", "hub-2.example"} {
		got, err := n.register("pump-7", `{"a":1}`)
		if err != nil || got.Hub != "hub-2.example" || string(got.Payload) != `{"current":"`+current+`"}` {
			t.Errorf("%+v, %v", got, err)
		}
	}
	fails.Store(true)
	if _, err := n.register("pump-7", "null"); err == nil || !strings.Contains(err.Error(), "Custom allocation failed with status code: 400") || !strings.Contains(err.Error(), "400207") {
		t.Errorf("%v", err)
	}
	found := n.server.chooser.webhooks.Health()
	if len(found) != 1 || found[0].ID != "pump-7" || found[0].Failures != 1 || strings.Contains(found[0].LastError, "c2VjcmV0") {
		t.Errorf("%+v", found)
	}
	counts(t, n.server,
		`berth_registrations_total{result="assigning"} 3`,
		`berth_background_registration_duration_seconds_count{result="assigned"} 2`,
		`berth_background_registration_duration_seconds_count{result="failed"} 1`,
		`berth_custom_allocation_duration_seconds_count{by="webhook",result="failed"} 1`,
		`berth_webhooks_failing 1`,
	)
}
