package cli

import (
	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubjson"
)

func newHubModule(o *operator) *cobra.Command {
	c := parent("module", "Work with the modules of a device", `The modules of a device have identities and twins of their own at its hub, and connect
by themselves. berth hub twin and berth hub method take DEVICE/MODULE.`,
		`  berth hub module list gate-1
  berth hub module create gate-1 filter`)
	h := newHubOperator(o, c)
	c.AddCommand(newHubModuleCreate(h), newHubModuleShow(h), newHubModuleList(h), newHubModuleDelete(h))
	return c
}

func newHubModuleCreate(h *hubOperator) *cobra.Command {
	var k credential
	var managedBy string
	c := &cobra.Command{
		Use:   "create DEVICE MODULE",
		Short: "Create a module of a device",
		Long: `Create a module of a device. The hub makes its symmetric keys unless flags say how it
proves itself; berth hub device connection DEVICE/MODULE writes what it needs to a
file.`,
		Example: `  berth hub module create gate-1 filter`,
		Args:    exactly("DEVICE", "MODULE"),
		RunE: func(c *cobra.Command, args []string) error {
			m := hubjson.Module{DeviceID: device.ID(args[0]), ModuleID: device.ID(args[1]), ManagedBy: managedBy}
			var err error
			if m.Authentication, err = k.authentication(h.terminal); err != nil {
				return err
			}
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			made, err := hub.CreateModule(c.Context(), m)
			if err != nil {
				return missingDevice(err)
			}
			return h.showModule(made, false)
		},
	}
	k.flags(c, false)
	c.Flags().StringVar(&managedBy, "managed-by", "", "`who` manages it, such as iotEdge")
	return c
}

func newHubModuleShow(h *hubOperator) *cobra.Command {
	var keys bool
	c := &cobra.Command{
		Use:     "show DEVICE MODULE",
		Short:   "Show one module",
		Long:    `Show the identity of one module. Symmetric keys are secret and shown with --keys alone.`,
		Example: `  berth hub module show gate-1 filter`,
		Args:    exactly("DEVICE", "MODULE"),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			m, err := hub.Module(c.Context(), device.ID(args[0]), device.ID(args[1]))
			if err != nil {
				return missingDevice(err)
			}
			return h.showModule(m, keys)
		},
	}
	c.Flags().BoolVar(&keys, "keys", false, "show the symmetric keys, too, which are secret")
	return c
}

func (t *terminal) showModule(m *hubjson.Module, keys bool) error {
	if !keys {
		m.Authentication.SymmetricKey = nil
	}
	if t.json() {
		return t.printJSON(m)
	}
	rows := [][]string{
		{"Device ID", string(m.DeviceID)},
		{"Module ID", string(m.ModuleID)},
		{"Connection", m.ConnectionState},
		{"Managed by", m.ManagedBy},
	}
	rows = append(rows, authenticationRows(m.Authentication)...)
	return t.table(append(rows, []string{"Generation", m.GenerationID}, []string{"ETag", m.ETag}))
}

func newHubModuleList(h *hubOperator) *cobra.Command {
	return &cobra.Command{
		Use:     "list DEVICE",
		Short:   "List the modules of a device",
		Long:    `List the modules of a device, ordered by ID.`,
		Example: `  berth hub module list gate-1`,
		Args:    exactly("DEVICE"),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			all, err := hub.Modules(c.Context(), device.ID(args[0]))
			if err != nil {
				return missingDevice(err)
			}
			rows := [][]string{{"MODULE", "CONNECTION", "MANAGED BY", "AUTHENTICATION"}}
			for i := range all {
				m := &all[i]
				m.Authentication.SymmetricKey = nil
				rows = append(rows, []string{string(m.ModuleID), m.ConnectionState, m.ManagedBy, string(m.Authentication.Type)})
			}
			if h.json() {
				return h.printJSON(all)
			}
			return h.table(rows)
		},
	}
}

func newHubModuleDelete(h *hubOperator) *cobra.Command {
	return &cobra.Command{
		Use:     "delete DEVICE MODULE",
		Short:   "Delete one module",
		Long:    `Delete one module with its twin. If it is connected it is cut off.`,
		Example: `  berth hub module delete gate-1 filter`,
		Args:    exactly("DEVICE", "MODULE"),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			if err := hub.DeleteModule(c.Context(), device.ID(args[0]), device.ID(args[1]), service.AnyETag); err != nil {
				return missingDevice(err)
			}
			return h.done("deleted %s/%s", args[0], args[1])
		},
	}
}
