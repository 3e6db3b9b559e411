package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/provision"
)

func newHub(t *terminal) *cobra.Command {
	c := parent("hub", "Link hubs, and watch what devices send", `The hubs that devices are assigned to. Each linked hub lives in this server under a
host name of its own, with its own devices.`,
		`  berth hub list`)
	o := newOperator(t, c)
	c.AddCommand(newHubLink(o), newHubUnlink(o), newHubList(o), newHubTail(o))
	return c
}

func newHubLink(o *operator) *cobra.Command {
	link := provision.LinkedHub{}
	var noAllocation bool
	c := &cobra.Command{
		Use:   "link HOST",
		Short: "Let devices be assigned to a hub",
		Long: `Let devices be assigned to a hub, or change the weight of one that is linked. HOST is
the name that devices will connect to, with :port where it is not 443; the server's
certificate must have it (berth init --hub).

Under hashed allocation each hub gets a share of the devices by its weight, and a
hub that joins takes its share without moving others.`,
		Example: `  berth hub link hub2.example.com --weight 3
  berth hub link spare.example.com --no-allocation`,
		Args: exactly("HOST"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			link.Host, link.Allocation = args[0], !noAllocation
			if err := client.LinkHub(c.Context(), link); err != nil {
				return err
			}
			return o.done("linked %s\nPrograms that look after its devices need a connection string:\n  berth policy connection --hub %s --out FILE", args[0], args[0])
		},
	}
	c.Flags().IntVar(&link.Weight, "weight", 1, "share of the devices under hashed allocation, 1 to 1000")
	c.Flags().BoolVar(&noAllocation, "no-allocation", false, "only for enrollments that name this hub")
	return c
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
		Use:     "list",
		Short:   "List the linked hubs",
		Long:    `List the linked hubs with their weight under hashed allocation.`,
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
			rows := [][]string{{"HOST", "WEIGHT", "ALLOCATION"}}
			for _, h := range linked {
				allocation := "all enrollments"
				if !h.Allocation {
					allocation = "only where named"
				}
				rows = append(rows, []string{h.Host, strconv.Itoa(h.Weight), allocation})
			}
			return o.table(rows)
		},
	}
}

func newHubTail(o *operator) *cobra.Command {
	var s admin.Selection
	var limit int
	c := &cobra.Command{
		Use:   "tail [HOST]",
		Short: "Print what devices send to a hub, as it arrives",
		Long: `Print the telemetry that a hub keeps, oldest first, and go on with what arrives until
it is interrupted. Each line has the message's time, device, properties and body;
with -o json each is an object on a line of its own, with a sequence number that
--after goes on from.

HOST may be left out where one hub is linked.`,
		Example: `  berth hub tail
  berth hub tail --follow=false --limit 10
  berth hub tail --after 0 --limit 1 -o json`,
		Args: atMostOne("HOST"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			host, err := onlyHub(c.Context(), client, args)
			if err != nil {
				return err
			}
			return o.tail(c.Context(), client, host, s, limit)
		},
	}
	c.Flags().BoolVar(&s.Follow, "follow", true, "go on with what arrives")
	c.Flags().Uint64Var(&s.After, "after", 0, "begin after this sequence `number`")
	limitFlag(c, &limit)
	return c
}

// onlyHub returns the hub named, or the one there is.
func onlyHub(ctx context.Context, c *admin.Client, args []string) (string, error) {
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
	return "", usageError{fmt.Errorf("tail which hub? %s are linked", strings.Join(hosts, ", "))}
}

func (t *terminal) tail(ctx context.Context, c *admin.Client, host string, s admin.Selection, limit int) error {
	shown := 0
	for m, err := range c.Messages(ctx, host, s) {
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
