package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/provision"
)

func newHub(t *terminal) *cobra.Command {
	c := parent("hub", "Link hubs, watch what devices send, and send to devices", `The hubs that devices are assigned to. Each linked hub lives in this server under a
host name of its own, with its own devices.`,
		`  berth hub list`)
	o := newOperator(t, c)
	c.AddCommand(newHubLink(o), newHubUnlink(o), newHubList(o), newHubTail(o), newHubSend(o), newHubFeedback(o), newHubDevice(o), newHubModule(o), newHubTwin(o), newHubMethod(o), newHubQuery(o), newHubConfiguration(o), newHubRoute(o), newHubSink(o), newHubGroup(o))
	return c
}

func newHubLink(o *operator) *cobra.Command {
	link := admin.Link{}
	var noAllocation, dryRun bool
	var latency []string
	var connectionFile string
	c := &cobra.Command{
		Use:   "link HOST",
		Short: "Let devices be assigned to a hub",
		Long: `Let devices be assigned to a hub, or change the link to one. HOST is the name that
devices will connect to, with :port where it is not 443. The hub lives in this server,
whose certificate must have the name (berth certificate renew), or elsewhere, at Azure
or in another Berth server: then give the connection string of a shared access policy
of it with the rights RegistryRead, RegistryWrite and ServiceConnect, in a file. It is
tried out before anything is written, and kept until another one is given.

Under hashed allocation each hub gets a share of the devices by its weight. A hub that
joins takes its share of those that come; --dry-run says what that would be. Devices
that are registered stay where they are.

Under geoLatency allocation a device gets the hub with the lowest latency for the
address that it registers from, as --latency says. Of the networks that hold the
address the narrowest counts. A link keeps what it knows of latencies until others are
named; --latency '' forgets them.`,
		Example: `  berth hub link hub2.example.com --weight 3 --dry-run
  berth hub link hub2.example.com --weight 3
  berth hub link hub2.example.com --latency 10.0.0.0/8=5 --latency 0.0.0.0/0=80
  berth hub link spare.example.com --no-allocation
  berth hub link contoso.azure-devices.net --hub-connection-string-file contoso.connection --untested`,
		Args: exactly("HOST"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			link.Host, link.Allocation = args[0], !noAllocation
			if c.Flags().Changed("latency") {
				if link.Latency, err = parseLatency(latency); err != nil {
					return err
				}
			}
			if connectionFile != "" {
				b, err := o.read(connectionFile)
				if err != nil {
					return fmt.Errorf("--hub-connection-string-file: %w", err)
				}
				link.ConnectionString = string(bytes.TrimSpace(b))
			}
			if dryRun {
				linked, err := client.Hubs(c.Context())
				if err != nil {
					return err
				}
				return o.showShare(link, linked)
			}
			hub, err := client.LinkHub(c.Context(), link)
			if err != nil {
				return err
			}
			if hub.Kind == "linked" {
				return o.done("linked %s, which is elsewhere, by its policy %s", hub.Host, hub.Policy)
			}
			return o.done("linked %s\nPrograms that look after its devices need a connection string:\n  berth policy connection --hub %s --out FILE", args[0], args[0])
		},
	}
	c.Flags().IntVar(&link.Weight, "weight", 1, "share of the devices under hashed allocation, 1 to 1000")
	c.Flags().BoolVar(&noAllocation, "no-allocation", false, "only for enrollments that name this hub")
	c.Flags().StringSliceVar(&latency, "latency", nil, "`NETWORK=MS`, how many milliseconds devices of a network are away; repeat for more")
	c.Flags().StringVar(&connectionFile, "hub-connection-string-file", "", "`file` with the connection string of a hub elsewhere; - is standard input")
	c.Flags().BoolVar(&link.Untested, "untested", false, "do not try the connection string out")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what share of new devices the hub would get, and change nothing")
	return c
}

// parseLatency reads hints written as 10.0.0.0/8=5.
func parseLatency(hints []string) ([]provision.Latency, error) {
	found := []provision.Latency{}
	for _, hint := range hints {
		if hint == "" {
			continue
		}
		network, ms, ok := strings.Cut(hint, "=")
		var l provision.Latency
		var err error
		if l.Network, err = netip.ParsePrefix(network); err == nil && ok {
			l.Milliseconds, err = strconv.Atoi(ms)
		}
		if err != nil || !ok {
			return nil, usageError{fmt.Errorf("--latency: %q is not NETWORK=MS, such as 10.0.0.0/8=5", hint)}
		}
		found = append(found, l)
	}
	if err := provision.CheckLatency(found); err != nil {
		return nil, usageError{fmt.Errorf("--%w", err)}
	}
	return found, nil
}

// showShare says what linking h beside those that are linked would do.
func (t *terminal) showShare(h admin.Link, linked []admin.Hub) error {
	if h.Weight < 1 || h.Weight > 1000 {
		return usageError{errors.New("--weight must be 1 to 1000")}
	}
	var others []provision.LinkedHub
	for _, l := range linked {
		if !strings.EqualFold(l.Host, strings.TrimSuffix(h.Host, ":443")) {
			others = append(others, l.LinkedHub)
		}
	}
	share := 0.0
	if h.Allocation {
		share = provision.Share(h.Weight, others)
	}
	if t.json() {
		return t.printJSON(struct {
			Host  string  `json:"host"`
			Share float64 `json:"share"` // of new devices under hashed allocation, 0 to 1
		}{h.Host, share})
	}
	_, err := fmt.Fprintf(t.out, "%s would get %.1f%% of the devices that register for the first time, where the\nenrollment has hashed allocation and names no hubs. Devices that are registered stay.\n", h.Host, 100*share)
	return err
}

func newHubUnlink(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "unlink HOST",
		Short: "Assign no more devices to a hub",
		Long: `Assign no more devices to a hub, and stop answering under its name. Its devices and
their messages stay in the database and are there when it is linked again.`,
		Example: `  berth hub unlink spare.example.com`,
		Args:    exactly("HOST"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			if err := client.UnlinkHub(c.Context(), args[0]); err != nil {
				return unknownHub(err)
			}
			return o.done("unlinked %s", args[0])
		},
	}
}

func newHubList(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the linked hubs",
		Long: `List the linked hubs with their weight under hashed allocation, how many milliseconds
devices of a network are away under geoLatency, and of hubs elsewhere how they have
answered this server since it started. -o json has all of it.`,
		Example: `  berth hub list`,
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			linked, err := client.Hubs(c.Context())
			if err != nil {
				return err
			}
			if o.json() {
				return o.printJSON(linked)
			}
			rows := [][]string{{"HOST", "WEIGHT", "ALLOCATION", "LATENCY", "WHERE"}}
			for _, h := range linked {
				allocation := "all enrollments"
				if !h.Allocation {
					allocation = "only where named"
				}
				rows = append(rows, []string{h.Host, strconv.Itoa(h.Weight), allocation, latencyText(h.Latency), whereHub(h)})
			}
			return o.table(rows)
		},
	}
}

// whereHub says where a hub is, and how it is there.
func whereHub(h admin.Hub) string {
	if h.Kind == "local" {
		return "here"
	}
	where := "elsewhere, by policy " + h.Policy
	switch {
	case h.Health == nil || h.Health.Failures == 0 && h.Health.LastSuccess.IsZero():
		return where
	case h.Health.Failures == 0:
		return where + ": answers"
	}
	return printable(fmt.Sprintf("%s: %d failure(s), the last at %s: %s", where, h.Health.Failures, h.Health.LastErrorTime.UTC().Format(time.RFC3339), h.Health.LastError))
}

func latencyText(hints []provision.Latency) string {
	if len(hints) == 0 {
		return "-"
	}
	var texts []string
	for _, l := range hints {
		texts = append(texts, fmt.Sprintf("%s=%d", l.Network, l.Milliseconds))
	}
	return strings.Join(texts, " ")
}

func newHubTail(o *operator) *cobra.Command {
	var s admin.Selection
	var g admin.Group
	var limit int
	var fromBeginning bool
	var since string
	c := &cobra.Command{
		Use:   "tail [HOST]",
		Short: "Print what devices send to a hub, as it arrives",
		Long: `Print the telemetry that a hub keeps, oldest first, and go on with what arrives until
it is interrupted. Each line has the message's time, device, properties and body;
with -o json each is an object on a line of its own, with a sequence number that
--after goes on from.

With --group the server keeps how far it was printed: the next tail of that group goes
on there. One at a time reads for a group, and a second one waits until the first is
gone. A new group begins with what comes from now on, or else --from-beginning or
--since.

HOST may be left out where one hub is linked.`,
		Example: `  berth hub tail
  berth hub tail --since 10m
  berth hub tail --group billing --from-beginning -o json
  berth hub tail --follow=false --limit 10
  berth hub tail --after 0 --limit 1 -o json`,
		Args: atMostOne("HOST"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			host, err := onlyHub(c.Context(), client, args, "tail which hub?")
			if err != nil {
				return err
			}
			if s.Since, err = parseSince(since, time.Now()); err != nil {
				return err
			}
			if g.Name == "" {
				return o.tail(c.Context(), client.Messages(c.Context(), host, s), limit)
			}
			g.Follow = s.Follow
			switch {
			case fromBeginning:
				g.Start = "earliest"
			case since != "":
				g.Start = s.Since.UTC().Format(time.RFC3339)
			}
			return o.tail(c.Context(), client.ReadGroup(c.Context(), host, g), limit)
		},
	}
	c.Flags().BoolVar(&s.Follow, "follow", true, "go on with what arrives")
	c.Flags().Uint64Var(&s.After, "after", 0, "begin after this sequence `number`")
	c.Flags().StringVar(&since, "since", "", "begin with what came then or later: a `time`, such as 2026-03-01T12:00:00Z, or how long ago, such as 10m")
	c.Flags().StringVar(&g.Name, "group", "", "read for the consumer group of this `name`, from where it is")
	c.Flags().BoolVar(&fromBeginning, "from-beginning", false, "let a new group begin with the oldest message")
	c.MarkFlagsMutuallyExclusive("after", "since", "from-beginning")
	c.MarkFlagsMutuallyExclusive("after", "group")
	limitFlag(c, &limit)
	return c
}

// parseSince reads a time, or how long ago it was.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago > 0 {
		return now.Add(-ago), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usageError{fmt.Errorf("--since: %q is no time such as 2026-03-01T12:00:00Z, and not how long ago, such as 10m", text)}
	}
	return t, nil
}

// onlyHub returns the hub named, or the one there is; question is for where there
// are several.
func onlyHub(ctx context.Context, c *admin.Client, args []string, question string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	linked, err := c.Hubs(ctx)
	if err != nil {
		return "", err
	}
	switch len(linked) {
	case 0:
		return "", errors.New("no hub is linked\nLink one:\n  berth hub link HOST")
	case 1:
		return linked[0].Host, nil
	}
	var hosts []string
	for _, h := range linked {
		hosts = append(hosts, h.Host)
	}
	return "", usageError{fmt.Errorf("%s %s are linked", question, strings.Join(hosts, ", "))}
}

func (t *terminal) tail(ctx context.Context, messages iter.Seq2[*admin.Message, error], limit int) error {
	shown := 0
	for m, err := range messages {
		if ctx.Err() != nil {
			return nil // interrupted: that is how tail ends
		}
		if err != nil {
			return unknownHub(err)
		}
		if err := t.showMessage(m); err != nil {
			return err
		}
		if shown++; shown == limit {
			return nil
		}
	}
	return nil
}

func unknownHub(err error) error {
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status == http.StatusNotFound {
		return fmt.Errorf("%w\nSee what is linked:\n  berth hub list", err)
	}
	return err
}

// showMessage writes one line.
func (t *terminal) showMessage(m *admin.Message) error {
	if t.json() {
		line := struct {
			*admin.Message
			Body       *string `json:"body,omitempty"`
			BodyBase64 []byte  `json:"bodyBase64,omitempty"`
		}{Message: m}
		if text := string(m.Body); utf8.ValidString(text) {
			line.Body = &text
		} else {
			line.BodyBase64 = m.Body
		}
		e := json.NewEncoder(t.out)
		e.SetEscapeHTML(false)
		return e.Encode(line)
	}
	words := []string{m.EnqueuedTime.UTC().Format("2006-01-02T15:04:05.000Z"), string(m.DeviceID)}
	for _, name := range slices.Sorted(maps.Keys(m.Properties)) {
		words = append(words, printable(name+"="+m.Properties[name]))
	}
	body := base64.StdEncoding.EncodeToString(m.Body)
	if utf8.Valid(m.Body) {
		body = printable(string(m.Body))
	}
	_, err := fmt.Fprintln(t.out, strings.Join(append(words, body), "  "))
	return err
}
