package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/wire/hubjson"
)

func newHubTwin(o *operator) *cobra.Command {
	c := parent("twin", "Read and change the twins of devices and modules", `A twin is the document of a device at its hub: tags, which are the operators', desired
properties, which the device is told, and what it reports. DEVICE/MODULE names that of
a module.`,
		`  berth hub twin show pump-7
  berth hub twin update pump-7 --desired '{"rate": 5}'`)
	h := newHubOperator(o, c)
	c.AddCommand(newHubTwinShow(h), newHubTwinWrite(h, false), newHubTwinWrite(h, true))
	return c
}

func newHubTwinShow(h *hubOperator) *cobra.Command {
	return &cobra.Command{
		Use:   "show DEVICE[/MODULE]",
		Short: "Show a twin",
		Long:  `Show a twin as JSON: its tags and its desired and reported properties with their metadata.`,
		Example: `  berth hub twin show pump-7
  berth hub twin show gate-1/filter`,
		Args: exactly("DEVICE"),
		RunE: func(c *cobra.Command, args []string) error {
			of, err := parseNamed(args[0])
			if err != nil {
				return err
			}
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			twin, err := readTwin(c.Context(), hub, of)
			if err != nil {
				return missingDevice(err)
			}
			return h.showTwin(twin)
		},
	}
}

func readTwin(ctx context.Context, hub *service.Hub, of named) (*hubjson.Twin, error) {
	if of.module != "" {
		return hub.ModuleTwin(ctx, of.device, of.module)
	}
	return hub.Twin(ctx, of.device)
}

// showTwin prints what operators work with of a twin. It is a document for people,
// too.
func (t *terminal) showTwin(twin *hubjson.Twin) error {
	return t.printJSON(struct {
		DeviceID        string          `json:"deviceId"`
		ConnectionState string          `json:"connectionState"`
		Version         int64           `json:"version"`
		ETag            string          `json:"etag"`
		Tags            json.RawMessage `json:"tags"`
		Desired         json.RawMessage `json:"desired"`
		Reported        json.RawMessage `json:"reported"`
	}{string(twin.DeviceID), twin.ConnectionState, twin.Version, twin.ETag, twin.Tags,
		json.RawMessage(twin.Properties.Desired), json.RawMessage(twin.Properties.Reported)})
}

// newHubTwinWrite is the command that merges into a twin, or that replaces it.
func newHubTwinWrite(h *hubOperator, replace bool) *cobra.Command {
	var tags, desired, etag string
	c := &cobra.Command{
		Use:   "update DEVICE[/MODULE]",
		Short: "Merge into a twin",
		Long: `Merge tags and desired properties into a twin: null removes a member, and what is not
said stays. A device that is connected is told at once. JSON is given as it is, or as
@FILE.`,
		Example: `  berth hub twin update pump-7 --tags '{"site": "north"}'
  berth hub twin update pump-7 --desired '{"rate": 5, "old": null}'
  berth hub twin update gate-1/filter --desired @filter.json --etag AAAAAAAAAAE=`,
		Args: exactly("DEVICE"),
	}
	if replace {
		c.Use, c.Short = "replace DEVICE[/MODULE]", "Write over a twin"
		c.Long = `Write over the tags and the desired properties of a twin. What the device reports stays.
A section that is not given stays as it is. JSON is given as it is, or as @FILE.`
		c.Example = `  berth hub twin replace pump-7 --desired '{"rate": 5}'`
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		of, err := parseNamed(args[0])
		if err != nil {
			return err
		}
		var change hubjson.TwinChange
		if change.Tags, err = h.jsonValue("tags", tags); err != nil {
			return err
		}
		if change.Desired, err = h.jsonValue("desired", desired); err != nil {
			return err
		}
		if change.Tags == nil && change.Desired == nil {
			return usageError{errors.New("what is to be changed? --tags JSON or --desired JSON")}
		}
		hub, err := h.open(c.Context())
		if err != nil {
			return err
		}
		write := patchTwin
		if replace {
			write = replaceTwin
		}
		twin, err := write(c.Context(), hub, of, change, etag)
		if err != nil {
			return missingDevice(err)
		}
		return h.showTwin(twin)
	}
	f := c.Flags()
	f.StringVar(&tags, "tags", "", "`JSON` object of tags, or @FILE")
	f.StringVar(&desired, "desired", "", "`JSON` object of desired properties, or @FILE")
	f.StringVar(&etag, "etag", "", "change it only if its entity `tag` is still this one")
	return c
}

func patchTwin(ctx context.Context, hub *service.Hub, of named, change hubjson.TwinChange, etag string) (*hubjson.Twin, error) {
	if of.module != "" {
		return hub.PatchModuleTwin(ctx, of.device, of.module, change, etag)
	}
	return hub.PatchTwin(ctx, of.device, change, etag)
}

// replaceTwin takes from the twin what the change does not say. Without a tag it
// goes by that of the twin that was read.
func replaceTwin(ctx context.Context, hub *service.Hub, of named, change hubjson.TwinChange, etag string) (*hubjson.Twin, error) {
	if change.Tags == nil || change.Desired == nil {
		was, err := readTwin(ctx, hub, of)
		if err != nil {
			return nil, err
		}
		if change.Tags == nil {
			change.Tags = was.Tags
		}
		if change.Desired == nil {
			if change.Desired, _, err = was.Properties.Desired.Split(); err != nil {
				return nil, err
			}
		}
		if etag == "" {
			etag = was.ETag
		}
	}
	if of.module != "" {
		return hub.ReplaceModuleTwin(ctx, of.device, of.module, change, etag)
	}
	return hub.ReplaceTwin(ctx, of.device, change, etag)
}

// jsonValue reads the value of a flag: JSON, or a file with it behind an at sign.
// It returns nil for nothing.
func (t *terminal) jsonValue(flag, text string) (json.RawMessage, error) {
	value := []byte(text)
	if file, ok := strings.CutPrefix(text, "@"); ok {
		var err error
		if value, err = t.read(file); err != nil {
			return nil, fmt.Errorf("--%s: %w", flag, err)
		}
	}
	value = bytes.TrimSpace(value)
	if len(value) == 0 {
		return nil, nil
	}
	if !json.Valid(value) {
		hint := ""
		if _, err := os.Stat(text); err == nil {
			hint = "; a file is named with an at sign: @" + text
		}
		return nil, usageError{fmt.Errorf("--%s is not JSON%s", flag, hint)}
	}
	return value, nil
}

func newHubMethod(o *operator) *cobra.Command {
	var payload string
	var timeout, connect time.Duration
	c := &cobra.Command{
		Use:   "method DEVICE[/MODULE] NAME",
		Short: "Call a direct method of a device or a module",
		Long: `Call a direct method of a device or a module that is connected, and print its answer:
a status of the device's own, and a JSON value. With --connect-timeout a device that is
not connected is waited for.`,
		Example: `  berth hub method pump-7 reboot
  berth hub method pump-7 setRate --payload '{"seconds": 5}' --timeout 10s
  berth hub method gate-1/filter ping --connect-timeout 1m -o json`,
		Args: exactly("DEVICE", "NAME"),
	}
	h := newHubOperator(o, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		of, err := parseNamed(args[0])
		if err != nil {
			return err
		}
		m := hubjson.Method{Name: args[1], ResponseTimeout: int(timeout / time.Second), ConnectTimeout: int(connect / time.Second)}
		if m.Payload, err = h.jsonValue("payload", payload); err != nil {
			return err
		}
		if timeout < 5*time.Second || timeout > 5*time.Minute || connect < 0 || connect > 5*time.Minute {
			return usageError{errors.New("--timeout takes 5s to 5m, and --connect-timeout up to 5m")}
		}
		hub, err := h.open(c.Context())
		if err != nil {
			return err
		}
		result, err := invoke(c.Context(), hub, of, m)
		if err != nil {
			return missingDevice(err)
		}
		if h.json() {
			return h.printJSON(result)
		}
		_, err = fmt.Fprintf(h.out, "%d %s\n", result.Status, printable(string(result.Payload)))
		return err
	}
	f := c.Flags()
	f.StringVar(&payload, "payload", "", "`JSON` value that the method gets, or @FILE")
	f.DurationVar(&timeout, "timeout", 30*time.Second, "how long the device may take to answer, 5s to 5m")
	f.DurationVar(&connect, "connect-timeout", 0, "how long to wait for a device that is not connected, up to 5m")
	return c
}

func invoke(ctx context.Context, hub *service.Hub, of named, m hubjson.Method) (hubjson.MethodResult, error) {
	if of.module != "" {
		return hub.InvokeModule(ctx, of.device, of.module, m)
	}
	return hub.Invoke(ctx, of.device, m)
}

func newHubQuery(o *operator) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:   "query TEXT",
		Short: "Ask the twins of a hub",
		Long: `Answer a query in the query language of IoT Hub, over the twins of devices or, with FROM
devices.modules, of modules. Each row is a JSON object on a line of its own; with -o
json all of them are one array.

= and IN on tags and properties find twins by an index, however many there are.`,
		Example: `  berth hub query "SELECT deviceId, properties.reported.version FROM devices WHERE tags.site = 'north'"
  berth hub query "SELECT tags.site AS site, COUNT() AS n FROM devices GROUP BY tags.site"
  berth hub query "SELECT * FROM devices.modules WHERE moduleId = 'filter'" --limit 10 -o json`,
		Args: exactly("TEXT"),
	}
	h := newHubOperator(o, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		hub, err := h.open(c.Context())
		if err != nil {
			return err
		}
		all, n := []json.RawMessage{}, 0
		for row, err := range hub.Query(c.Context(), args[0]) {
			if err != nil {
				return err
			}
			if h.json() {
				all = append(all, row)
			} else if _, err := fmt.Fprintln(h.out, printable(string(row))); err != nil {
				return err
			}
			if n++; n == limit {
				break
			}
		}
		if h.json() {
			return h.printJSON(all)
		}
		return nil
	}
	limitFlag(c, &limit)
	return c
}
