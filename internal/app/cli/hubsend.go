package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/errs"
)

func newHubSend(o *operator) *cobra.Command {
	var m admin.MessageToDevice
	var body, bodyFile, hub string
	var properties []string
	var expiry time.Duration
	c := &cobra.Command{
		Use:   "send DEVICE",
		Short: "Send a message to a device",
		Long: `Put a message into the queue of a device of a hub of this server, and say its
message-id. A device that is connected over MQTT and asked for messages gets it at
once; for others it waits, up to --expiry. With --ack the hub keeps feedback on how
the message ended, which berth hub feedback takes.`,
		Example: `  berth hub send pump-7 --body '{"valve": "open"}' --property zone=b
  berth hub send pump-7 --body-file update.bin --ack full --expiry 24h
  berth hub send pump-7 --body restart -o json`,
		Args: exactly("DEVICE"),
		RunE: func(c *cobra.Command, args []string) (err error) {
			switch {
			case c.Flags().Changed("body") == c.Flags().Changed("body-file"):
				return usageError{errors.New("what is to be sent? --body TEXT or --body-file FILE")}
			case c.Flags().Changed("expiry") && expiry <= 0:
				return usageError{errors.New("--expiry must be more than nothing")}
			}
			if m.Properties, err = parseProperties(properties); err != nil {
				return err
			}
			m.Body = []byte(body)
			if bodyFile != "" {
				if m.Body, err = o.read(bodyFile); err != nil {
					return fmt.Errorf("--body-file: %w", err)
				}
			}
			if c.Flags().Changed("expiry") {
				m.Expiry = time.Now().Add(expiry)
			}
			api, err := o.admin()
			if err != nil {
				return err
			}
			var named []string
			if hub != "" {
				named = []string{hub}
			}
			host, err := onlyHub(c.Context(), api, named, "which hub is the device at? --hub HOST:")
			if err != nil {
				return err
			}
			id, err := api.Send(c.Context(), host, args[0], m)
			if refused, ok := errors.AsType[*client.Error](err); ok && refused.Code == errs.CodeDeviceNotFound {
				return fmt.Errorf("there is no device %s at %s", args[0], host)
			}
			if err != nil {
				return unknownHub(err)
			}
			if o.json() {
				return o.printJSON(struct {
					MessageID string `json:"messageId"`
				}{id})
			}
			return o.done("sent %s to %s", id, args[0])
		},
	}
	f := c.Flags()
	f.StringVar(&body, "body", "", "`text` of the message")
	f.StringVar(&bodyFile, "body-file", "", "`file` with the body of the message; - is standard input")
	f.StringVar(&hub, "hub", "", "`HOST` of the device's hub, where more than one is linked")
	f.StringArrayVar(&properties, "property", nil, "`name=value` of the message; repeat for more")
	f.StringVar(&m.ContentType, "content-type", "", "media type of the body")
	f.StringVar(&m.MessageID, "message-id", "", "what feedback calls the message; one is drawn unless it is given")
	f.StringVar(&m.Ack, "ack", "none", "of which ends of the message there is feedback: none, positive, negative or full")
	f.DurationVar(&expiry, "expiry", time.Hour, "how long the message waits for the device, up to 48h")
	return c
}
