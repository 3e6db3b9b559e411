package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubjson"
)

func newHubConfiguration(o *operator) *cobra.Command {
	c := parent("configuration", "Configure many devices, and deploy to IoT Edge", `A configuration has content for the twins of those devices or modules that a condition
targets, and goes to those that come to be targeted later. Where several target one
device the one with the highest priority counts. A deployment is one for IoT Edge
devices: it has content for the twins of their modules.`,
		`  berth hub configuration create fast --content fast.json --target "tags.site = 'north'" --priority 10
  berth hub configuration list`)
	h := newHubOperator(o, c)
	c.AddCommand(newHubConfigurationCreate(h), newHubConfigurationShow(h), newHubConfigurationList(h), newHubConfigurationUpdate(h),
		newHubConfigurationDelete(h), newHubConfigurationApply(h))
	return c
}

// An aim is whom a configuration is for, as flags say it.
type aim struct {
	target   string
	priority int
	labels   []string
	metrics  []string
}

func (a *aim) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&a.target, "target", "", "`condition` of the devices that it is for, or * for all; of modules: FROM devices.modules WHERE ...")
	f.IntVar(&a.priority, "priority", 0, "`number`; of several the highest counts")
	f.StringArrayVar(&a.labels, "label", nil, "`name=value` that stands by it; repeat for more")
	f.StringArrayVar(&a.metrics, "metric", nil, "`name=query` whose rows are counted; repeat for up to 5")
}

// write writes over what the flags name.
func (a *aim) write(c *cobra.Command, to *hubjson.Configuration) error {
	f := c.Flags()
	if f.Changed("target") {
		to.TargetCondition = a.target
	}
	if f.Changed("priority") {
		to.Priority = a.priority
	}
	var err error
	if f.Changed("label") {
		if to.Labels, err = parseProperties(a.labels); err != nil {
			return err
		}
	}
	if f.Changed("metric") {
		to.Metrics = new(hubjson.Metrics)
		if to.Metrics.Queries, err = parseProperties(a.metrics); err != nil {
			return err
		}
	}
	return nil
}

func newHubConfigurationCreate(h *hubOperator) *cobra.Command {
	var a aim
	var content string
	c := &cobra.Command{
		Use:   "create ID",
		Short: "Create a configuration",
		Long: `Create a configuration. --content names a JSON file with one of deviceContent,
moduleContent and modulesContent, or the "content" of a deployment manifest of IoT Edge.
Content cannot be changed later: create another configuration with a higher priority.

  {"deviceContent": {"properties.desired.rate": {"seconds": 5}}}`,
		Example: `  berth hub configuration create fast --content fast.json --target "tags.site = 'north'" --priority 10
  berth hub configuration create base --content deployment.json --target '*'`,
		Args: exactly("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			made := hubjson.Configuration{ID: args[0]}
			var err error
			if made.Content, err = h.content(content); err != nil {
				return err
			}
			if err := a.write(c, &made); err != nil {
				return err
			}
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			put, err := hub.CreateConfiguration(c.Context(), made)
			if err != nil {
				return err
			}
			return h.showConfiguration(put)
		},
	}
	a.flags(c)
	contentFlag(c, &content)
	return c
}

func contentFlag(c *cobra.Command, content *string) {
	c.Flags().StringVar(content, "content", "", "JSON `file` with the content; - is standard input")
	// The only error is that there is no such flag.
	if err := c.MarkFlagRequired("content"); err != nil {
		panic(err)
	}
}

// content reads a file with content, or with that of a deployment manifest.
func (t *terminal) content(file string) (content hubjson.Content, err error) {
	b, err := t.read(file)
	if err != nil {
		return content, fmt.Errorf("--content: %w", err)
	}
	var manifest struct{ Content json.RawMessage }
	if err := json.Unmarshal(b, &manifest); err == nil && manifest.Content != nil {
		b = manifest.Content
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&content); err != nil {
		return content, fmt.Errorf("--content: %s has no content of a configuration: %w", file, err)
	}
	return content, nil
}

func newHubConfigurationShow(h *hubOperator) *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "Show one configuration, and how far it is",
		Long:    `Show one configuration with how many devices it targets, how many have it, and its own metrics.`,
		Example: `  berth hub configuration show fast`,
		Args:    exactly("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			found, err := hub.Configuration(c.Context(), args[0])
			if err != nil {
				return err
			}
			return h.showConfiguration(found)
		},
	}
}

func (t *terminal) showConfiguration(c *hubjson.Configuration) error {
	if t.json() {
		return t.printJSON(c)
	}
	rows := [][]string{
		{"ID", c.ID},
		{"Target", orDash(c.TargetCondition)},
		{"Priority", strconv.Itoa(c.Priority)},
		{"Content", contentKind(c.Content)},
	}
	for _, of := range []*hubjson.Metrics{c.SystemMetrics, c.Metrics} {
		if of == nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(of.Results)) {
			rows = append(rows, []string{name, strconv.Itoa(of.Results[name])})
		}
	}
	return t.table(append(rows, []string{"Created", c.CreatedTimeUTC}, []string{"ETag", c.ETag}))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func contentKind(c hubjson.Content) string {
	switch {
	case c.ModulesContent != nil:
		return "deployment of " + strconv.Itoa(len(c.ModulesContent)) + " module(s)"
	case c.ModuleContent != nil:
		return "for modules"
	}
	return "for devices"
}

func newHubConfigurationList(h *hubOperator) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the configurations",
		Long:    `List the configurations of a hub, with how many devices or modules they target and how many have them.`,
		Example: `  berth hub configuration list`,
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			all, err := hub.Configurations(c.Context())
			if err != nil {
				return err
			}
			if h.json() {
				return h.printJSON(all)
			}
			rows := [][]string{{"ID", "PRIORITY", "TARGETED", "APPLIED", "CONTENT", "TARGET"}}
			for _, found := range all {
				counted := map[string]int{}
				if found.SystemMetrics != nil {
					counted = found.SystemMetrics.Results
				}
				rows = append(rows, []string{found.ID, strconv.Itoa(found.Priority), strconv.Itoa(counted["targetedCount"]), strconv.Itoa(counted["appliedCount"]),
					contentKind(found.Content), orDash(found.TargetCondition)})
			}
			return h.table(rows)
		},
	}
}

func newHubConfigurationUpdate(h *hubOperator) *cobra.Command {
	var a aim
	c := &cobra.Command{
		Use:   "update ID",
		Short: "Change whom a configuration is for",
		Long: `Change what the flags name of a configuration: all but its content. The change is made
only if nobody else changed it meanwhile.`,
		Example: `  berth hub configuration update fast --target "tags.site IN ['north', 'south']"
  berth hub configuration update fast --priority 20`,
		Args: exactly("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			found, err := hub.Configuration(c.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.write(c, found); err != nil {
				return err
			}
			put, err := hub.UpdateConfiguration(c.Context(), *found)
			if err != nil {
				return err
			}
			return h.showConfiguration(put)
		},
	}
	a.flags(c)
	return c
}

func newHubConfigurationDelete(h *hubOperator) *cobra.Command {
	return &cobra.Command{
		Use:     "delete ID",
		Short:   "Delete one configuration",
		Long:    `Delete one configuration. What it set stays, until the one that counts next sets it.`,
		Example: `  berth hub configuration delete fast`,
		Args:    exactly("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			if err := hub.DeleteConfiguration(c.Context(), args[0], service.AnyETag); err != nil {
				return err
			}
			return h.done("deleted %s", args[0])
		},
	}
}

func newHubConfigurationApply(h *hubOperator) *cobra.Command {
	var content string
	c := &cobra.Command{
		Use:     "apply DEVICE",
		Short:   "Set the content of a deployment in one device",
		Long:    `Set content in the twins of one device and its modules, once. It makes modules that there are none of.`,
		Example: `  berth hub configuration apply gate-1 --content deployment.json`,
		Args:    exactly("DEVICE"),
		RunE: func(c *cobra.Command, args []string) error {
			of, err := h.content(content)
			if err != nil {
				return err
			}
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			if err := hub.ApplyContent(c.Context(), device.ID(args[0]), of); err != nil {
				return missingDevice(err)
			}
			return h.done("applied to %s", args[0])
		},
	}
	contentFlag(c, &content)
	return c
}
