package deviceclient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/deviceclient"
	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/client/internal/memtls"
	"github.com/berth-iot/berth/client/provisioning"
	"github.com/berth-iot/berth/device"
)

// try connects a device for a minute and tells its story: where it registers,
// what it is told to remember and where it dials. No hub is ever there.
func try(t *testing.T, change func(*deviceclient.Config)) (story string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var told []string
		tell := func(s string) {
			if len(told) == 0 || told[len(told)-1] != s {
				told = append(told, s)
			}
		}
		o := memtls.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			tell("register")
			w.Header().Set("Content-Type", "application/json")
			if strings.Contains(r.URL.Path, "stranger") {
				w.WriteHeader(http.StatusUnauthorized)
			}
			io.WriteString(w, `{"operationId":"1","status":"assigned","registrationState":{"registrationId":"pump-7","assignedHub":"new.example","deviceId":"pump-7","status":"assigned"}}`)
		}))
		key, err2 := device.NewSymmetricKey([]byte("device key, 32 bytes, not secret"))
		if err2 != nil {
			t.Fatal(err2)
		}
		config := deviceclient.Config{
			Provisioning: provisioning.Config{Host: memtls.Host, IDScope: "0ne00111111", RegistrationID: "pump-7", Credential: client.SymmetricKey(key), HTTP: o},
			Hub: hub.ConnectionConfig{Dial: func(_ context.Context, _, address string) (net.Conn, error) {
				tell("dial " + address)
				return nil, errors.New("nobody is there")
			}},
			Assigned: func(a *provisioning.Assignment) error { tell("remember " + a.Hub); return nil },
		}
		if change != nil {
			change(&config)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = deviceclient.Connect(ctx, config)
		story = strings.Join(told, ", ")
	})
	return story, err
}

func TestADeviceRegistersAndThenConnects(t *testing.T) {
	full := errors.New("the flash is full")
	for name, c := range map[string]struct {
		change func(*deviceclient.Config)
		story  string
		err    string
	}{
		"is new": {nil, "register, remember new.example, dial new.example:8883", "nobody is there"},
		"remembers": {func(c *deviceclient.Config) {
			c.Home = &provisioning.Assignment{Hub: "old.example", DeviceID: "pump-6"}
		}, "dial old.example:8883", "nobody is there"},
		"cannot":        {func(c *deviceclient.Config) { c.Assigned = func(*provisioning.Assignment) error { return full } }, "register", full.Error()},
		"is not let in": {func(c *deviceclient.Config) { c.Provisioning.RegistrationID = "stranger" }, "register", "401"},
		"has no scope":  {func(c *deviceclient.Config) { c.Provisioning.IDScope = "" }, "", "ID scope"},
		"has other ways": {func(c *deviceclient.Config) {
			c.Hub.Reprovision = func(context.Context) (string, device.ID, error) { return "", "", nil }
		}, "", "Reprovision"},
	} {
		story, err := try(t, c.change)
		if story != c.story || err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("a device that %s: %s: %v", name, story, err)
		}
	}
}
