package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/internal/app"
)

func newCertificate(t *terminal) *cobra.Command {
	c := parent("certificate", "Renew the server's certificate", `The certificates that the server presents. For those that groups of devices name see
berth ca.`,
		`  berth certificate renew`)
	c.AddCommand(newCertificateRenew(t))
	return c
}

func newCertificateRenew(t *terminal) *cobra.Command {
	o := app.RenewOptions{}
	c := &cobra.Command{
		Use:   "renew",
		Short: "Issue the server's certificate anew, with the names of all scopes and hubs",
		Long: `Issue the certificates of the server in the data directory anew, by the CA that berth
init made: for another two years, and with the names of the configuration, of every
scope and of every hub of this server. Each keeps its key. Clients notice nothing, and a
server that runs takes them within ten seconds. Run it after berth scope add and berth
hub link, on the server's machine and as its user.`,
		Example: `  berth certificate renew
  berth certificate renew -o json`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			o.Data = t.data
			done, err := app.Renew(c.Context(), o, time.Now())
			if err != nil {
				return err
			}
			if t.json() {
				return t.printJSON(done)
			}
			fmt.Fprintf(t.out, "Certificates  %s\nNames         %s\nValid until   %s\n",
				strings.Join(done.Certificates, ", "), strings.Join(done.Names, ", "), done.NotAfter.UTC().Format(time.DateOnly))
			return nil
		},
	}
	c.Flags().StringVar(&o.CAKey, "ca-key", "", "`file` of the CA's key, where it was put aside (default: ca.key in the data directory)")
	return c
}
