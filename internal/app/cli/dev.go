package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"
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
	data, err := filepath.Abs(keep)
	if err != nil {
		return err
	}
	if keep == "" {
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
	if kept, err := app.LoadConfig(data); err == nil {
		if listen != "" && listen != kept.Listen {
			return app.Config{}, fmt.Errorf("the server kept in %s listens on %s, and its hub is named after that; leave --listen out, or keep the data elsewhere", data, kept.Listen)
		}
		return kept, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return app.Config{}, err
	}
	mqtt := "127.0.0.1:0"
	if listen == "" {
		listen = freeAddress("127.0.0.1:443", "127.0.0.1:8443", "127.0.0.1:0")
		mqtt = freeAddress("127.0.0.1:8883", mqtt)
	} else {
		listen = freeAddress(listen) // port 0 becomes a number, which the hub's name needs
	}
	err := app.Init(ctx, app.InitOptions{
		Data: data, Hosts: []string{devHost, "127.0.0.1"}, Listen: listen,
		Config: func(c *app.Config) { c.Log.Level, c.MQTT.Listen = "warn", mqtt },
	}, time.Now())
	if err != nil {
		return app.Config{}, err
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
	ready := devReady{
		Host: publicHost(devHost, address), IDScope: c.IDScope, CA: filepath.Join(c.Data, app.CAFile), Data: c.Data, Address: address,
		Service: strings.TrimSpace(string(service)), Hub: strings.TrimSpace(string(hub)), Milliseconds: took.Milliseconds(),
	}
	if t.json() {
		return t.printJSON(ready)
	}
	return devText.Execute(t.out, ready)
}

// A devReady is what a developer needs to know of a development server.
type devReady struct {
	Host         string `json:"host"`
	IDScope      string `json:"idScope"`
	CA           string `json:"ca"`
	Data         string `json:"data"`
	Address      string `json:"address"`
	Service      string `json:"serviceConnectionString"`
	Hub          string `json:"hubConnectionString"`
	Milliseconds int64  `json:"readyMilliseconds"`
}

// StandardPort reports whether the server has the port that SDKs have built in.
func (r devReady) StandardPort() bool { return r.Host == devHost }

var devText = template.Must(template.New("dev").Parse(`Berth is ready after {{.Milliseconds}} ms.

  Host      {{.Host}}
  ID scope  {{.IDScope}}
  CA        {{.CA}}
  Service   {{.Service}}
  Hub       {{.Hub}}

In another shell, a device from nothing to its hub:

  export BERTH_DATA={{.Data}}
  berth enrollment create pump-7 --key
  berth enrollment show pump-7 --keys=primary > pump-7.key
  berth device --registration-id pump-7 --key pump-7.key --send hello
  berth hub tail

Your own device, with that key:

  Node  export NODE_EXTRA_CA_CERTS={{.CA}}
        const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
        const { Http } = require('azure-iot-provisioning-device-http');
        const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
        ProvisioningDeviceClient.create('{{.Host}}', '{{.IDScope}}', new Http(),
          new SymmetricKeySecurityClient('pump-7', key)).register((err, home) => console.log(err || home));

  C#    sudo cp {{.CA}} /usr/local/share/ca-certificates/berth.crt && sudo update-ca-certificates
        using var security = new SecurityProviderSymmetricKey("pump-7", key, null);
        using var transport = new ProvisioningTransportHandlerHttp();
        var home = await ProvisioningDeviceClient.Create("{{.Host}}", "{{.IDScope}}", security, transport).RegisterAsync();

  Go    pem, err := os.ReadFile("{{.CA}}")
        roots := x509.NewCertPool()
        roots.AppendCertsFromPEM(pem)
        c, err := provisioning.New(provisioning.Config{Host: "{{.Host}}", IDScope: "{{.IDScope}}",
        	RegistrationID: "pump-7", Credential: client.SymmetricKey(key), HTTP: client.HTTP{RootCAs: roots}})
        home, err := c.Register(ctx)
{{if not .StandardPort}}
The vendors' SDKs have port 443 built in, which was not to be had here: run this as
root, or once: sudo setcap cap_net_bind_service=+ep "$(command -v berth)"
{{end}}
When a device is refused: berth explain pump-7. Stop the server with Ctrl-C.
`))
