package service_test

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/memtls"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/front/hubhttp"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/sqlite"
	"github.com/berth-iot/berth/wire/hubjson"
)

type oneHub struct{}

func (oneHub) Hub(name string) (hub.Host, bool) {
	return hub.Host{Name: memtls.Host}, name == memtls.Host
}

// openHub returns a client of a hub of ours, on a database of its own.
func openHub(t *testing.T) *service.Hub {
	t.Helper()
	dir := t.TempDir()
	if err := soft.Create(filepath.Join(dir, "key"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	k, err := soft.Open(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "db"), k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	primary, err := device.ParseSymmetricKey(policyKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.PutPolicy(t.Context(), access.HubOwner(memtls.Host), access.Policy{Name: "owner", Primary: primary, Rights: access.AllHub}); err != nil {
		t.Fatal(err)
	}
	s := hub.New(hub.Config{Registry: db, Stream: db, Queues: db, Presences: db, Configurations: db, Policies: db, Now: time.Now, Random: rand.Reader})
	front := hubhttp.New(hubhttp.Config{Service: s, Hubs: oneHub{}, Logger: slog.New(slog.DiscardHandler), Random: rand.Reader, Now: time.Now})
	c, err := service.NewHub(connection, memtls.Serve(t, front))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// outcomes lists what came of the entries: a code for each, or ok.
func outcomes(refusals []error) string {
	var all []string
	for _, err := range refusals {
		var refusal *client.Error
		switch {
		case err == nil:
			all = append(all, "ok")
		case errors.As(err, &refusal):
			all = append(all, fmt.Sprintf("%d %s", refusal.Code, refusal.Name))
		default:
			all = append(all, err.Error())
		}
	}
	return strings.Join(all, ", ")
}

func TestManyDevicesInOneCall(t *testing.T) {
	c, ctx := openHub(t), t.Context()
	edge := hubjson.Import{ID: "gate", ImportMode: hubjson.ImportCreate, Status: hubjson.Enabled, Capabilities: &hubjson.Capabilities{IoTEdge: true}}
	pump := hubjson.Import{
		ID: "pump", ImportMode: hubjson.ImportCreate, Status: hubjson.Disabled, StatusReason: "not sold",
		Tags: json.RawMessage(`{"site":"a"}`), Properties: &hubjson.ImportProperties{Desired: json.RawMessage(`{"rate":1}`)},
	}
	valve := hubjson.Import{ID: "pump", ModuleID: "valve", ImportMode: hubjson.ImportCreate, Authentication: &hubjson.Authentication{Type: hubjson.None}}
	refusals, err := c.BulkDevices(ctx, []hubjson.Import{edge, pump, valve})
	if err != nil || outcomes(refusals) != "ok, ok, ok" {
		t.Fatal(outcomes(refusals), err)
	}
	d, err := c.Device(ctx, "pump")
	if err != nil || d.Status != hubjson.Disabled || d.StatusReason != "not sold" {
		t.Errorf("%+v, %v", d, err)
	}
	if twin, err := c.Twin(ctx, "pump"); err != nil || string(twin.Tags) != `{"site":"a"}` {
		t.Errorf("%+v, %v", twin, err)
	}
	if modules, err := c.Modules(ctx, "gate"); err != nil || len(modules) != 2 || modules[0].ModuleID != "$edgeAgent" {
		t.Errorf("%+v, %v", modules, err)
	}
	m, err := c.Module(ctx, "pump", "valve")
	if err != nil || m.Authentication.Type != hubjson.None {
		t.Errorf("%+v, %v", m, err)
	}
	m.ManagedBy, m.Authentication = "me", hubjson.Authentication{Type: hubjson.SAS}
	if m, err = c.UpdateModule(ctx, *m); err != nil || m.ManagedBy != "me" || m.Authentication.SymmetricKey.PrimaryKey.IsZero() {
		t.Errorf("%+v, %v", m, err)
	}

	valve.ImportMode, valve.ETag = hubjson.ImportDeleteIfMatchETag, "stale"
	retag := hubjson.Import{ID: "gate", ImportMode: hubjson.ImportUpdateTwin, Tags: json.RawMessage(`{"floor":2}`)}
	refusals, err = c.BulkDevices(ctx, []hubjson.Import{pump, valve, retag, {ID: "nobody", ImportMode: hubjson.ImportDelete}})
	if err != nil || outcomes(refusals) != "409001 DeviceAlreadyExists, 412001 PreconditionFailed, ok, 404001 DeviceNotFound" {
		t.Error(outcomes(refusals), err)
	}
	if n, err := c.ConnectedDevices(ctx); n != 0 || err != nil {
		t.Errorf("%d are connected, %v", n, err)
	}
	if n, err := c.Statistics(ctx); err != nil || n != (hubjson.Statistics{Total: 2, Enabled: 1, Disabled: 1}) {
		t.Errorf("%+v, %v", n, err)
	}

	for name, entries := range map[string][]hubjson.Import{
		"nothing": nil, "too many": make([]hubjson.Import, hubjson.MaxBulk+1), "one twice": {pump, pump},
	} {
		if _, err := c.BulkDevices(ctx, entries); err == nil {
			t.Errorf("%s was sent", name)
		}
	}
}

// What other hubs answer to a bulk operation, and what must not pass for a success.
func TestAnswersToBulkOperations(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   string // what came of the entries, or else of the call
	}{
		{"a name for a code", 400, `{"isSuccessful":false,"errors":[{"deviceId":"a","moduleId":"","errorCode":"DeviceAlreadyExists","errorStatus":"there"}],"warnings":[]}`, "0 DeviceAlreadyExists"},
		{"text for a number", 400, `{"errors":[{"deviceId":"a","errorCode":"409001","errorStatus":"there"}]}`, "409001 DeviceAlreadyExists"},
		{"another device's failure", 400, `{"errors":[{"deviceId":"b","errorCode":409001}]}`, "not sent"},
		{"a failure of nothing", 200, `{"isSuccessful":false,"errors":[]}`, "does not say of what"},
		{"a refusal of all", 400, `{"Message":"ErrorCode:IotHubFormatError;what is that","ExceptionMessage":""}`, "what is that"},
		{"another refusal", 401, `{"Message":"ErrorCode:IotHubUnauthorizedAccess;Unauthorized"}`, "Unauthorized"},
		{"no JSON", 200, `ok`, "JSON"},
	} {
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err != nil || r.Method != http.MethodPost || r.URL.Path != "/devices" {
				t.Errorf("%s %s, %v", r.Method, r.URL, err)
			}
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			w.WriteHeader(c.status)
			io.WriteString(w, c.body)
		})
		hubBubble(t, h, func(t *testing.T, client *service.Hub) {
			refusals, err := client.BulkDevices(t.Context(), []hubjson.Import{{ID: "a", ImportMode: hubjson.ImportCreate}})
			got := outcomes(refusals)
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("%s: %s, want %s", c.name, got, c.want)
			}
		})
	}
}
