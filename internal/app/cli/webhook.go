package cli

import (
	"cmp"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

func newWebhook(t *terminal) *cobra.Command {
	c := parent("webhook", "See which webhooks fail", `The webhooks that choose hubs under custom allocation. An enrollment names its webhook:
berth group create --webhook.`,
		`  berth webhook list`)
	c.AddCommand(newWebhookList(newOperator(t, c)))
	return c
}

func newWebhookList(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the webhooks that failed",
		Long: `List the enrollments whose webhooks failed since the server started, the last failure
first: how often in a row up to now, and why the last time. One that answers by now has
failed zero times in a row.`,
		Example: `  berth webhook list
  berth webhook list -o json`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			failed, err := client.Webhooks(c.Context())
			if err != nil {
				return err
			}
			if o.json() {
				return o.printJSON(failed)
			}
			if len(failed) == 0 {
				return o.done("no webhook has failed since the server started")
			}
			rows := [][]string{{"ENROLLMENT", "KIND", "IN A ROW", "LAST FAILURE", "ERROR"}}
			for _, h := range failed {
				rows = append(rows, []string{h.ID, string(h.Kind), strconv.Itoa(h.Failures), h.LastFailure.UTC().Format(time.RFC3339), printable(cmp.Or(h.LastError, "-"))})
			}
			return o.table(rows)
		},
	}
}
