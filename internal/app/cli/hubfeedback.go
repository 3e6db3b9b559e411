package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/wire/hubjson"
)

func newHubFeedback(o *operator) *cobra.Command {
	c := &cobra.Command{
		Use:   "feedback",
		Short: "Take the feedback on messages to devices",
		Long: `Print how the messages to devices ended that were sent with --ack, oldest first, and
take that from the hub: it is not told again. Feedback waits 48 hours for somebody.`,
		Example: `  berth hub feedback
  berth hub feedback -o json`,
		Args: exactly(),
	}
	h := newHubOperator(o, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		hub, err := h.open(c.Context())
		if err != nil {
			return err
		}
		all := []hubjson.Feedback{}
		err = hub.Feedback(c.Context(), func(batch []hubjson.Feedback) error {
			all = append(all, batch...)
			if h.json() {
				return nil
			}
			for _, f := range batch {
				if _, err := fmt.Fprintf(h.out, "%s  %s  %s  %s\n", f.EnqueuedTimeUTC, f.DeviceID, f.StatusCode, printable(f.OriginalMessageID)); err != nil {
					return err
				}
			}
			return nil
		})
		if h.json() && (err == nil || len(all) > 0) {
			if printed := h.printJSON(all); printed != nil {
				return printed
			}
		}
		return err
	}
	return c
}
