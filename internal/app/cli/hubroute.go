package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/hub"
)

// hubFlag is the flag of commands about one hub of several.
func hubFlag(c *cobra.Command, host *string) {
	c.PersistentFlags().StringVar(host, "hub", "", "`HOST` of the hub, where more than one is linked")
}

// atHub runs do with a client and the hub that is meant.
func (o *operator) atHub(ctx context.Context, host string, do func(api *admin.Client, host string) error) error {
	api, err := o.admin()
	if err != nil {
		return err
	}
	var named []string
	if host != "" {
		named = []string{host}
	}
	if host, err = onlyHub(ctx, api, named, "which hub? --hub HOST:"); err != nil {
		return err
	}
	return do(api, host)
}

func newHubRoute(o *operator) *cobra.Command {
	c := parent("route", "Say which messages of a hub go to which sink", `A route takes the messages that meet its condition to a sink (berth hub sink), in the
order in which they came and each at least once. A sink that does not take them now
gets them later: the hub keeps messages for as long as telemetry.retention says in
berth.toml. How far behind a route is, list and show say.

Everything that devices send is in the hub's own stream as well, with or without
routes: berth hub tail.`,
		`  berth hub route add alarms --sink ops --condition 'level = "alarm"'
  berth hub route list`)
	var host string
	hubFlag(c, &host)
	c.AddCommand(newRouteAdd(o, &host), newRouteList(o, &host), newRouteShow(o, &host), newRouteRemove(o, &host), newRouteSwitch(o, &host, true), newRouteSwitch(o, &host, false), newRouteTest(o, &host))
	return c
}

func newRouteAdd(o *operator, host *string) *cobra.Command {
	r := admin.RouteChange{}
	var source string
	var disabled bool
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a route, or change one",
		Long: `Add a route, or change the one of that name. A new one begins with the messages that
come from now on; one that is changed goes on where it is.

A condition is in the query language of IoT Hub's message routing: properties that the
device set go by their names, those of the system with a dollar sign, and what stands in
the body below $body, where the message says that it is application/json in utf-8:

  level = 'alarm' AND $connectionDeviceId IN ['pump-7', 'pump-8']
  $body.temperature > 80 OR is_defined($body.fault)

With --source a route takes what the hub itself has to tell: TwinChangeEvents,
DeviceLifecycleEvents or DeviceConnectionStateEvents.`,
		Example: `  berth hub route add all --sink lake
  berth hub route add alarms --sink ops --condition 'level = "alarm"'
  berth hub route add hot --sink ops --condition '$body.temperature > 80'
  berth hub route add twins --sink lake --source TwinChangeEvents`,
		Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if r.Sink == "" {
				return usageError{errors.New("where do they go? --sink NAME; berth hub sink list has them")}
			}
			if r.Condition, err = o.textOrFile("--condition", r.Condition); err != nil {
				return err
			}
			r.Source, r.Enabled = hub.Source(source), !disabled
			return o.atHub(c.Context(), *host, func(api *admin.Client, host string) error {
				now, err := api.PutRoute(c.Context(), host, args[0], r)
				if err != nil {
					return unknownHub(err)
				}
				if o.json() {
					return o.printJSON(now)
				}
				return o.done("%s of %s that meet %s go to %s", now.Source, host, now.Condition, now.Sink)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&r.Sink, "sink", "", "`NAME` of the sink")
	f.StringVar(&r.Condition, "condition", "true", "which messages; `@FILE` reads it from a file")
	f.StringVar(&source, "source", string(hub.DeviceMessages), "what makes the messages")
	f.BoolVar(&disabled, "disabled", false, "let it wait where it is")
	complete(c, "source", sourceNames()...)
	return c
}

func sourceNames() (names []string) {
	for _, s := range hub.Sources {
		names = append(names, string(s))
	}
	return names
}

func newRouteList(o *operator, host *string) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the routes of a hub, and how they do",
		Long: `List the routes of a hub with the messages that they delivered, and how they do: how
many numbers of the stream they are behind and since when, why their sink refuses, and
what went out of the hub's retention before they came to it (lost).`,
		Example: `  berth hub route list
  berth hub route list -o json`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			return o.atHub(c.Context(), *host, func(api *admin.Client, host string) error {
				routes, err := api.Routes(c.Context(), host)
				if err != nil {
					return unknownHub(err)
				}
				if o.json() {
					return o.printJSON(routes)
				}
				rows := [][]string{{"NAME", "SOURCE", "CONDITION", "SINK", "DELIVERED", "STATE"}}
				for _, r := range routes {
					rows = append(rows, []string{r.Name, string(r.Source), printable(r.Condition), r.Sink, strconv.FormatUint(r.Health.Delivered, 10), routeState(r, time.Now())})
				}
				return o.table(rows)
			})
		},
	}
}

// routeState is how a route does, in words.
func routeState(r admin.Route, now time.Time) string {
	var words []string
	h := r.Health
	switch {
	case !r.Enabled:
		words = append(words, "disabled")
	case !h.FailingSince.IsZero():
		words = append(words, "failing for "+now.Sub(h.FailingSince).Round(time.Second).String())
	case h.Lag == 0:
		words = append(words, "up to date")
	}
	if h.Lag > 0 {
		words = append(words, fmt.Sprintf("%d behind, the oldest %s", h.Lag, max(0, now.Sub(h.OldestUnread)).Round(time.Second)))
	}
	if h.Lost > 0 {
		words = append(words, fmt.Sprintf("%d lost", h.Lost))
	}
	if !h.FailingSince.IsZero() {
		words = append(words, h.LastError)
	}
	return printable(strings.Join(words, "; "))
}

func newRouteShow(o *operator, host *string) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show one route, and how it does",
		Long:    `Show one route and how it does, as JSON.`,
		Example: `  berth hub route show alarms`,
		Args:    exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.atHub(c.Context(), *host, func(api *admin.Client, host string) error {
				r, err := api.Route(c.Context(), host, args[0])
				if err != nil {
					return unknownRouting(err, "route")
				}
				return o.printJSON(r)
			})
		},
	}
}

func newRouteRemove(o *operator, host *string) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a route",
		Long: `Remove a route and forget where it was. What it has not delivered is not delivered; to
have it wait instead: berth hub route disable.`,
		Example: `  berth hub route remove alarms`,
		Args:    exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.atHub(c.Context(), *host, func(api *admin.Client, host string) error {
				if err := api.DeleteRoute(c.Context(), host, args[0]); err != nil {
					return unknownRouting(err, "route")
				}
				return o.done("removed %s", args[0])
			})
		},
	}
}

func newRouteSwitch(o *operator, host *string, on bool) *cobra.Command {
	use, short, long := "enable", "Let a route go on", `Let a route go on where it was disabled.`
	if !on {
		use, short, long = "disable", "Let a route wait", `Let a route wait where it is. When it is enabled it goes on there, as far as the hub's
stream still has the messages.`
	}
	return &cobra.Command{
		Use: use + " NAME", Short: short, Long: long,
		Example: `  berth hub route ` + use + ` alarms`,
		Args:    exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.atHub(c.Context(), *host, func(api *admin.Client, host string) error {
				r, err := api.Route(c.Context(), host, args[0])
				if err != nil {
					return unknownRouting(err, "route")
				}
				if _, err := api.PutRoute(c.Context(), host, args[0], admin.RouteChange{Source: r.Source, Condition: r.Condition, Sink: r.Sink, Enabled: on, IfMatch: r.ETag}); err != nil {
					return err
				}
				return o.done("%sd %s", use, args[0])
			})
		},
	}
}

func newRouteTest(o *operator, host *string) *cobra.Command {
	var condition, body, bodyFile, device, contentType, encoding string
	var properties []string
	c := &cobra.Command{
		Use:   "test [NAME]",
		Short: "Say whether a message would take a route",
		Long: `Say whether a message meets a condition: that of a route, or of --condition, for which
no server is asked. The message is made of flags. The exit status is 0 where it does,
and 1 where it does not.`,
		Example: `  berth hub route test --condition 'level = "alarm"' --property level=alarm
  berth hub route test --condition '$body.temperature > 80' --body '{"temperature": 81}'
  berth hub route test hot --body-file sample.json`,
		Args: atMostOne("NAME"),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if (len(args) == 1) == c.Flags().Changed("condition") {
				return usageError{errors.New("what is to be tested? the NAME of a route, or --condition")}
			}
			if condition, err = o.textOrFile("--condition", condition); err != nil {
				return err
			}
			m := &hub.Message{System: map[string]string{"connection-device-id": device, "content-type": contentType, "content-encoding": encoding, "message-source": "Telemetry"}, Body: []byte(body)}
			if m.Properties, err = parseProperties(properties); err != nil {
				return err
			}
			if bodyFile != "" {
				if m.Body, err = o.read(bodyFile); err != nil {
					return fmt.Errorf("--body-file: %w", err)
				}
			}
			if len(args) == 1 {
				err := o.atHub(c.Context(), *host, func(api *admin.Client, host string) error {
					r, err := api.Route(c.Context(), host, args[0])
					if err != nil {
						return unknownRouting(err, "route")
					}
					condition = r.Condition
					return nil
				})
				if err != nil {
					return err
				}
			}
			holds, err := hub.HoldsFor(condition, m)
			if err != nil {
				return err
			}
			if o.json() {
				if err := o.printJSON(struct {
					Condition string `json:"condition"`
					Matches   bool   `json:"matches"`
				}{condition, holds}); err != nil {
					return err
				}
			}
			switch {
			case !holds:
				return fmt.Errorf("the message does not meet %s", condition)
			case o.json():
				return nil
			}
			return o.done("the message meets %s", condition)
		},
	}
	f := c.Flags()
	f.StringVar(&condition, "condition", "", "a condition; `@FILE` reads it from a file")
	f.StringVar(&device, "device", "device-1", "`ID` of the device that sent it")
	f.StringVar(&body, "body", "", "`text` of the message")
	f.StringVar(&bodyFile, "body-file", "", "`file` with the body of the message; - is standard input")
	f.StringArrayVar(&properties, "property", nil, "`name=value` of the message; repeat for more")
	f.StringVar(&contentType, "content-type", "application/json", "media type of the body")
	f.StringVar(&encoding, "content-encoding", "utf-8", "encoding of the body")
	return c
}

// unknownRouting adds to an error that something is not there where to look.
func unknownRouting(err error, what string) error {
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status == http.StatusNotFound {
		return fmt.Errorf("%w\nSee what there is:\n  berth hub %s list", err, what)
	}
	return err
}
