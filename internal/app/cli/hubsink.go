package cli

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client/admin"
)

func newHubSink(o *operator) *cobra.Command {
	c := parent("sink", "Say where routes can take messages", `A sink is a place outside that takes messages of a hub: a webhook, or a stream of NATS
JetStream. Routes say which messages go there (berth hub route).

webhook    batches are posted to a URL as JSON and signed with a key, as Standard
           Webhooks has it: any answer of 2xx takes them, any other has them come again.
jetstream  each message is published to a subject that a stream captures, under an ID
           by which the stream knows it again.`,
		`  berth hub sink add ops --kind webhook --url https://ops.example.com/hook --secret-file hook.key
  berth hub sink list`)
	var host string
	hubFlag(c, &host)
	c.AddCommand(newSinkAdd(o, &host), newSinkList(o, &host), newSinkShow(o, &host), newSinkRemove(o, &host), newSinkTest(o, &host))
	return c
}

func newSinkAdd(o *operator, host *string) *cobra.Command {
	s := admin.SinkChange{}
	var secretFile, caFile string
	var settings []string
	var wait time.Duration
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a sink, or change one",
		Long: `Add a sink, or change the one of that name. It is not connected to yet: berth hub sink
test does that.

The secret of a webhook is its signing key, 24 to 64 bytes in base64 (openssl rand
-base64 32); that of JetStream a credentials file, USER:PASSWORD or a token. It is kept
encrypted and never shown. Where none is given the one before stays, as long as kind,
host, settings and CA are the same.

Settings of jetstream: subject, such as berth.{hub}.{device} (which it is by default),
where {module} can stand as well; stream, the name of a stream that is made if there is
none; max_age, for how long a stream that is made keeps messages (168h); plaintext=true
to do without TLS beyond this machine.`,
		Example: `  berth hub sink add ops --kind webhook --url https://ops.example.com/hook --secret-file hook.key
  berth hub sink add lake --kind jetstream --url tls://nats.example.com:4222 --secret-file berth.creds
  berth hub sink add lake --kind jetstream --url nats://127.0.0.1:4222 --set stream=TELEMETRY --set subject=plant.{device}`,
		Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if s.Kind == "" || s.URL == "" {
				return usageError{errors.New("what is it and where? --kind webhook or jetstream, --url URL")}
			}
			if s.URL, err = o.textOrFile("--url", s.URL); err != nil {
				return err
			}
			if s.Settings, err = parseSettings(settings); err != nil {
				return err
			}
			if secretFile != "" {
				b, err := o.read(secretFile)
				if err != nil {
					return fmt.Errorf("--secret-file: %w", err)
				}
				s.Secret = string(bytes.TrimSpace(b))
			}
			if caFile != "" {
				b, err := o.read(caFile)
				if err != nil {
					return fmt.Errorf("--sink-ca-file: %w", err)
				}
				s.Authorities = string(b)
			}
			s.BatchWait = wait.Milliseconds()
			return o.atHub(c.Context(), *host, func(api *admin.Client, host string) error {
				now, err := api.PutSink(c.Context(), host, args[0], s)
				if err != nil {
					return unknownHub(err)
				}
				if o.json() {
					return o.printJSON(now)
				}
				return o.done("%s is a sink of %s\nTry it, and send messages there:\n  berth hub sink test %s\n  berth hub route add NAME --sink %s", now.Name, host, now.Name, now.Name)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&s.Kind, "kind", "", "what it is: `webhook` or jetstream")
	f.StringVar(&s.URL, "url", "", "where it is: a `URL`, or @FILE with it")
	f.StringVar(&secretFile, "secret-file", "", "`file` with its secret; - is standard input")
	f.StringVar(&caFile, "sink-ca-file", "", "PEM `file` of the CA that vouches for it (default: the system's)")
	f.StringArrayVar(&settings, "set", nil, "a setting of its kind, `name=value`; repeat for more")
	f.IntVar(&s.BatchSize, "batch", 200, "the most messages that are delivered at once, 1 to 1000")
	f.DurationVar(&wait, "wait", 0, "how long a batch that is not full waits for more, up to 10s")
	complete(c, "kind", "webhook", "jetstream")
	return c
}

func parseSettings(written []string) (map[string]string, error) {
	settings := map[string]string{}
	for _, s := range written {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, usageError{fmt.Errorf("--set: %q is not name=value", s)}
		}
		settings[name] = value
	}
	return settings, nil
}

func newSinkList(o *operator, host *string) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the sinks of a hub",
		Long:    `List the sinks of a hub.`,
		Example: `  berth hub sink list`,
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			return o.atHub(c.Context(), *host, func(api *admin.Client, host string) error {
				sinks, err := api.Sinks(c.Context(), host)
				if err != nil {
					return unknownHub(err)
				}
				if o.json() {
					return o.printJSON(sinks)
				}
				rows := [][]string{{"NAME", "KIND", "URL", "BATCH", "SECRET"}}
				for _, s := range sinks {
					secret := "-"
					if s.HasSecret {
						secret = "kept"
					}
					where, _, _ := strings.Cut(s.URL, "?")
					rows = append(rows, []string{s.Name, s.Kind, printable(where), strconv.Itoa(s.BatchSize), secret})
				}
				return o.table(rows)
			})
		},
	}
}

func newSinkShow(o *operator, host *string) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show one sink",
		Long:    `Show one sink as JSON, without its secret.`,
		Example: `  berth hub sink show ops`,
		Args:    exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.atHub(c.Context(), *host, func(api *admin.Client, host string) error {
				s, err := api.Sink(c.Context(), host, args[0])
				if err != nil {
					return unknownRouting(err, "sink")
				}
				return o.printJSON(s)
			})
		},
	}
}

func newSinkRemove(o *operator, host *string) *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a sink",
		Long:    `Remove a sink that no route goes to, and forget its secret.`,
		Example: `  berth hub sink remove lake`,
		Args:    exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.atHub(c.Context(), *host, func(api *admin.Client, host string) error {
				if err := api.DeleteSink(c.Context(), host, args[0]); err != nil {
					return unknownRouting(err, "sink")
				}
				return o.done("removed %s", args[0])
			})
		},
	}
}

func newSinkTest(o *operator, host *string) *cobra.Command {
	return &cobra.Command{
		Use:   "test NAME",
		Short: "Have a test message delivered to a sink",
		Long: `Have the server deliver one message to a sink, whose body is {"test":true}, and say what
the sink said.`,
		Example: `  berth hub sink test ops`,
		Args:    exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.atHub(c.Context(), *host, func(api *admin.Client, host string) error {
				tested, err := api.TestSink(c.Context(), host, args[0])
				if err != nil {
					return unknownRouting(err, "sink")
				}
				if o.json() {
					if err := o.printJSON(tested); err != nil {
						return err
					}
				}
				switch {
				case !tested.Delivered:
					return fmt.Errorf("the sink took nothing: %s", printable(tested.Error))
				case o.json():
					return nil
				}
				return o.done("delivered in %d ms", tested.Took)
			})
		},
	}
}
