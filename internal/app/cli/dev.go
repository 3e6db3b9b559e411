package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/internal/app"
)

// devHost is the name of a development server: every machine resolves it, and
// no other machine can reach it.
const devHost = "localhost"

func newDev(t *terminal) *cobra.Command {
	var keep, listen string
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run a server on this machine for development",
		Long: `Run a provisioning service and a hub on this machine, ready in under a second,
and say how to connect. The data is gone when the server stops, unless --keep
names a directory for it.

Device SDKs have port 443 built in; without the right to use it the server
listens on 8443, which the Go SDK and curl can use.`,
		Example: `  berth dev
  berth dev --keep ./dev-data`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			return t.dev(c.Context(), keep, listen)
		},
	}
	c.Flags().StringVar(&keep, "keep", "", "keep the data in this `directory`, and go on with what is there")
	c.Flags().StringVar(&listen, "listen", "", "`address` of the HTTPS listener (default 127.0.0.1:443, else 127.0.0.1:8443)")
	return c
}

func (t *terminal) dev(ctx context.Context, keep, listen string) error {
	began := time.Now()
	data := keep
	if data == "" {
		temporary, err := os.MkdirTemp("", "berth-dev-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(temporary)
		data = filepath.Join(temporary, "data")
	}
	config, err := devConfig(ctx, data, listen)
	if err != nil {
		return err
	}
	server, err := app.Open(ctx, config, Version(), t.logger(config.Log))
	if err != nil {
		return err
	}
	if err := t.showDev(config, server.Address().String(), time.Since(began)); err != nil {
		return errors.Join(err, server.Close())
	}
	return server.Run(ctx)
}

// devConfig makes the data directory if it is not there.
func devConfig(ctx context.Context, data, listen string) (app.Config, error) {
	if listen == "" {
		listen = freeAddress("127.0.0.1:443", "127.0.0.1:8443", "127.0.0.1:0")
	}
	if _, err := os.Stat(filepath.Join(data, "berth.toml")); errors.Is(err, os.ErrNotExist) {
		err := app.Init(ctx, app.InitOptions{
			Data: data, Hosts: []string{devHost, "127.0.0.1"}, Listen: listen,
			Config: func(c *app.Config) { c.Log.Level = "warn" },
		}, time.Now())
		if err != nil {
			return app.Config{}, err
		}
	}
	return app.LoadConfig(data)
}

// freeAddress returns the first address that can be listened on, with its port.
func freeAddress(addresses ...string) string {
	for _, a := range addresses {
		if l, err := net.Listen("tcp", a); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	return addresses[0]
}

// showDev tells a developer what to paste where.
func (t *terminal) showDev(c app.Config, address string, took time.Duration) error {
	service, err := os.ReadFile(filepath.Join(c.Data, app.ServiceConnectionFile))
	if err != nil {
		return err
	}
	hub, err := os.ReadFile(filepath.Join(c.Data, app.HubConnectionFile))
	if err != nil {
		return err
	}
	ca := filepath.Join(c.Data, app.CAFile)
	host := devHost
	if _, port, err := net.SplitHostPort(address); err == nil && port != "443" {
		host += ":" + port
	}
	if t.json() {
		return t.printJSON(map[string]any{
			"host": host, "idScope": c.IDScope, "ca": ca, "data": c.Data, "address": address,
			"serviceConnectionString": trimLine(service), "hubConnectionString": trimLine(hub),
			"readyMilliseconds": took.Milliseconds(),
		})
	}
	fmt.Fprintf(t.out, devText, took.Milliseconds(), host, c.IDScope, ca, trimLine(service), trimLine(hub), c.Data, ca, host, c.IDScope, ca, ca, host, c.IDScope)
	return nil
}

const devText = `Berth is ready after %d ms.

  Provisioning host   %s
  ID scope            %s
  CA file             %s
  Service             %s
  Hub                 %s

Let the berth command find this server:
  export BERTH_DATA=%s

Node device    export NODE_EXTRA_CA_CERTS=%s
               ProvisioningDeviceClient.create('%s', '%s', new Http(), security)
Go device      provisioning.New(...) with the CA file %s
curl           curl --cacert %s -X PUT 'https://%s/%s/registrations/ID/register?api-version=2021-06-01' …

Stop it with Ctrl-C.
`

// trimLine cuts the line feed off a one-line file.
func trimLine(b []byte) string {
	s := string(b)
	for len(s) > 0 && (s[len(s)-1] == '\n' || s[len(s)-1] == '\r') {
		s = s[:len(s)-1]
	}
	return s
}
