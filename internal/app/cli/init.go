package cli

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/internal/app"
)

func newInit(t *terminal) *cobra.Command {
	o := app.InitOptions{}
	c := &cobra.Command{
		Use:   "init --host NAME",
		Short: "Make a data directory: keys, certificates, database, configuration",
		Long: `Make a data directory for a server: its key, a CA and a server certificate, a
database with an ID scope and one hub, and berth.toml. Nothing is overwritten.

Devices and programs trust the server by ca.pem. The names given here go into
its certificate, so give the ones that devices will connect to.`,
		Example: `  berth init --data ./data --host dps.example.com --hub hub.example.com`,
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if len(o.Hosts) == 0 {
				return usageError{fmt.Errorf("init needs the name that devices connect to: --host NAME")}
			}
			o.Data = t.data
			if err := app.Init(c.Context(), o, time.Now()); err != nil {
				return err
			}
			config, err := app.LoadConfig(t.data)
			if err != nil {
				return err
			}
			return t.showInit(config)
		},
	}
	c.Flags().StringSliceVar(&o.Hosts, "host", nil, "`name` of the provisioning service; repeat for further names")
	c.Flags().StringVar(&o.Hub, "hub", "", "host `name` of the first hub (default: the first --host)")
	c.Flags().StringVar(&o.Listen, "listen", ":443", "`address` of the HTTPS listener")
	c.Flags().StringVar(&o.PostgresDSNFile, "postgres-dsn-file", "", "`file` with the connection string of a PostgreSQL database, mode 0600 (default: a database file of its own)")
	c.Flags().BoolVar(&o.RSA, "rsa", false, "also make an RSA server certificate, for clients without ECDSA")
	c.Flags().StringVar(&o.Scope, "id-scope", "", "ID `scope` to take over, 0ne and eight hexadecimal digits (default: a fresh one)")
	return c
}

func (t *terminal) showInit(c app.Config) error {
	made := map[string]string{
		"data": c.Data, "idScope": c.IDScope, "host": c.Hosts[0],
		"ca":                filepath.Join(c.Data, app.CAFile),
		"serviceConnection": filepath.Join(c.Data, app.ServiceConnectionFile),
		"hubConnection":     filepath.Join(c.Data, app.HubConnectionFile),
	}
	if t.json() {
		return t.printJSON(made)
	}
	fmt.Fprintf(t.out, `ID scope             %s
CA for clients       %s
Service connection   %s (a secret)
Hub connection       %s (a secret)

Next: berth serve --data %s
`, made["idScope"], made["ca"], made["serviceConnection"], made["hubConnection"], c.Data)
	return nil
}
