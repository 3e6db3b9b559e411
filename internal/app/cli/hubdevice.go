package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubjson"
)

func newHubDevice(o *operator) *cobra.Command {
	c := parent("device", "Work with the identities of devices at a hub", `The devices that a hub knows. Devices that register get their identities by
themselves; these commands are for looking at them, for shutting one out, and for
devices that are made by hand.`,
		`  berth hub device list
  berth hub device show pump-7
  berth hub device update pump-7 --disable --reason 'stolen'`)
	h := newHubOperator(o, c)
	c.AddCommand(newHubDeviceCreate(h), newHubDeviceShow(h), newHubDeviceList(h), newHubDeviceUpdate(h), newHubDeviceDelete(h), newHubDeviceConnection(h))
	return c
}

// A credential is how an identity is to prove itself, as flags say it.
type credential struct {
	primaryKeyFile, secondaryKeyFile       string
	primaryThumbprint, secondaryThumbprint string
	ca, none                               bool
}

func (k *credential) flags(c *cobra.Command, ofDevice bool) {
	f := c.Flags()
	f.StringVar(&k.primaryKeyFile, "primary-key-file", "", "`file` with the primary symmetric key in base64 (default: the hub makes both)")
	f.StringVar(&k.secondaryKeyFile, "secondary-key-file", "", "`file` with the secondary symmetric key in base64")
	f.StringVar(&k.primaryThumbprint, "primary-thumbprint", "", "SHA-256 or SHA-1 `thumbprint` of its own certificate, in hexadecimal, in place of keys")
	f.StringVar(&k.secondaryThumbprint, "secondary-thumbprint", "", "`thumbprint` of its next certificate")
	if ofDevice {
		f.BoolVar(&k.ca, "certificate-authority", false, "a certificate with the device ID as its common name, from a CA that the scope has verified (berth ca list)")
		f.BoolVar(&k.none, "no-credential", false, "none of its own: what speaks for it has a policy with DeviceConnect")
	}
	for _, key := range []string{"primary-key-file", "secondary-key-file"} {
		for _, thumbprint := range []string{"primary-thumbprint", "secondary-thumbprint"} {
			c.MarkFlagsMutuallyExclusive(key, thumbprint)
		}
	}
	if !ofDevice {
		return
	}
	c.MarkFlagsMutuallyExclusive("certificate-authority", "no-credential")
	for _, own := range []string{"primary-key-file", "secondary-key-file", "primary-thumbprint", "secondary-thumbprint"} {
		c.MarkFlagsMutuallyExclusive(own, "certificate-authority")
		c.MarkFlagsMutuallyExclusive(own, "no-credential")
	}
}

// authentication reads the files.
func (k *credential) authentication(t *terminal) (a hubjson.Authentication, err error) {
	a.Type = hubjson.SAS
	switch {
	case k.primaryThumbprint != "" || k.secondaryThumbprint != "":
		a.Type = hubjson.SelfSigned
		a.X509Thumbprint = &hubjson.Thumbprints{PrimaryThumbprint: k.primaryThumbprint, SecondaryThumbprint: k.secondaryThumbprint}
		return a, nil
	case k.ca:
		a.Type = hubjson.CertificateAuthority
		return a, nil
	case k.none:
		a.Type = hubjson.None
		return a, nil
	}
	var keys hubjson.SymmetricKeys
	for _, of := range []struct {
		flag, file string
		key        *hubjson.Key
	}{{"primary-key-file", k.primaryKeyFile, &keys.PrimaryKey}, {"secondary-key-file", k.secondaryKeyFile, &keys.SecondaryKey}} {
		if of.file == "" {
			continue
		}
		b, err := t.read(of.file)
		if err != nil {
			return a, fmt.Errorf("--%s: %w", of.flag, err)
		}
		if of.key.SymmetricKey, err = device.ParseSymmetricKey(strings.TrimSpace(string(b))); err != nil {
			return a, fmt.Errorf("--%s: the key %w", of.flag, err)
		}
		a.SymmetricKey = &keys
	}
	return a, nil
}

func newHubDeviceCreate(h *hubOperator) *cobra.Command {
	var k credential
	var disabled, edge bool
	var parentScope string
	c := &cobra.Command{
		Use:   "create DEVICE",
		Short: "Create a device",
		Long: `Create the identity of a device that does not register. The hub makes its symmetric
keys unless flags say how it proves itself; berth hub device connection writes what the
device needs to a file.`,
		Example: `  berth hub device create pump-9
  berth hub device create pump-8 --primary-thumbprint 9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08
  berth hub device create gate-1 --edge`,
		Args: exactly("DEVICE"),
		RunE: func(c *cobra.Command, args []string) error {
			d := hubjson.Device{DeviceID: device.ID(args[0]), Status: hubjson.Enabled, Capabilities: hubjson.Capabilities{IoTEdge: edge}}
			if disabled {
				d.Status = hubjson.Disabled
			}
			if parentScope != "" {
				d.ParentScopes = []string{parentScope}
			}
			var err error
			if d.Authentication, err = k.authentication(h.terminal); err != nil {
				return err
			}
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			made, err := hub.CreateDevice(c.Context(), d)
			if err != nil {
				return err
			}
			return h.showIdentity(made, false)
		},
	}
	k.flags(c, true)
	c.Flags().BoolVar(&disabled, "disabled", false, "do not let it in yet")
	c.Flags().BoolVar(&edge, "edge", false, "it is an IoT Edge device, with the modules $edgeAgent and $edgeHub")
	c.Flags().StringVar(&parentScope, "parent-scope", "", "device `scope` of the IoT Edge device that it is a child of")
	return c
}

func newHubDeviceShow(h *hubOperator) *cobra.Command {
	var keys bool
	c := &cobra.Command{
		Use:   "show DEVICE",
		Short: "Show one device",
		Long:  `Show the identity of one device. Symmetric keys are secret and shown with --keys alone.`,
		Example: `  berth hub device show pump-7
  berth hub device show pump-7 --keys -o json`,
		Args: exactly("DEVICE"),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			d, err := hub.Device(c.Context(), device.ID(args[0]))
			if err != nil {
				return missingDevice(err)
			}
			return h.showIdentity(d, keys)
		},
	}
	c.Flags().BoolVar(&keys, "keys", false, "show the symmetric keys, too, which are secret")
	return c
}

func (t *terminal) showIdentity(d *hubjson.Device, keys bool) error {
	if !keys {
		d.Authentication.SymmetricKey = nil
	}
	if t.json() {
		return t.printJSON(d)
	}
	rows := [][]string{
		{"Device ID", string(d.DeviceID)},
		{"Status", strings.TrimSpace(string(d.Status) + " " + d.StatusReason)},
		{"Connection", d.ConnectionState},
		{"Last activity", otherText(d, "lastActivityTime")},
		{"Messages waiting", otherText(d, "cloudToDeviceMessageCount")},
		{"IoT Edge", strconv.FormatBool(d.Capabilities.IoTEdge)},
	}
	if d.DeviceScope != "" {
		rows = append(rows, []string{"Device scope", d.DeviceScope})
	}
	rows = append(rows, authenticationRows(d.Authentication)...)
	return t.table(append(rows, []string{"Generation", d.GenerationID}, []string{"ETag", d.ETag}))
}

func authenticationRows(a hubjson.Authentication) [][]string {
	rows := [][]string{{"Authentication", string(a.Type)}}
	if x := a.X509Thumbprint; x != nil && x.PrimaryThumbprint != "" {
		rows = append(rows, []string{"Primary thumbprint", x.PrimaryThumbprint}, []string{"Secondary thumbprint", x.SecondaryThumbprint})
	}
	if k := a.SymmetricKey; k != nil && !k.PrimaryKey.IsZero() {
		rows = append(rows, []string{"Primary key", k.PrimaryKey.Base64()}, []string{"Secondary key", k.SecondaryKey.Base64()})
	}
	return rows
}

// otherText is a member of an identity that has no name of its own here. The first
// instant of all is never.
func otherText(d *hubjson.Device, name string) string {
	text := strings.Trim(string(d.Other[name]), `"`)
	if strings.HasPrefix(text, "0001-01-01") {
		return "never"
	}
	return text
}

func newHubDeviceList(h *hubOperator) *cobra.Command {
	var where string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the devices",
		Long: `List the devices of a hub, ordered by ID unless --where picks some of them: a condition
in the query language of IoT Hub, over tags, properties and what the hub knows. berth
hub query answers any query.`,
		Example: `  berth hub device list
  berth hub device list --where "tags.site = 'north' AND connectionState = 'Connected'"
  berth hub device list --where "status = 'disabled'" --limit 20 -o json`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			text := "SELECT * FROM devices"
			if where != "" {
				text += " WHERE " + where
			}
			return h.list(c.Context(), hub, text, limit, []string{"DEVICE", "STATUS", "CONNECTION", "LAST ACTIVITY", "AUTHENTICATION"}, func(row json.RawMessage) ([]string, error) {
				var d struct {
					DeviceID, Status, ConnectionState, LastActivityTime, AuthenticationType string
				}
				if err := json.Unmarshal(row, &d); err != nil {
					return nil, fmt.Errorf("reading the answer: %w", err)
				}
				if strings.HasPrefix(d.LastActivityTime, "0001-01-01") {
					d.LastActivityTime = "never"
				}
				return []string{d.DeviceID, d.Status, d.ConnectionState, d.LastActivityTime, d.AuthenticationType}, nil
			})
		},
	}
	c.Flags().StringVar(&where, "where", "", "`condition` that the devices satisfy")
	limitFlag(c, &limit)
	return c
}

// list shows the rows of a query, each of which cells makes a row of the table.
func (h *hubOperator) list(ctx context.Context, hub *service.Hub, text string, limit int, heading []string, cells func(json.RawMessage) ([]string, error)) error {
	rows, found := [][]string{heading}, []json.RawMessage{}
	for row, err := range hub.Query(ctx, text) {
		if err != nil {
			return err
		}
		if h.json() {
			found = append(found, row)
		} else if made, err := cells(row); err == nil {
			rows = append(rows, made)
		} else {
			return err
		}
		if limit > 0 && len(rows)-1+len(found) >= limit {
			break
		}
	}
	if h.json() {
		return h.printJSON(found)
	}
	return h.table(rows)
}

func newHubDeviceUpdate(h *hubOperator) *cobra.Command {
	var k credential
	var enable, disable bool
	var reason string
	c := &cobra.Command{
		Use:   "update DEVICE",
		Short: "Change one device",
		Long: `Change what the flags name of one device; all else stays. A device that is disabled is
cut off at once, with its modules. The change is made only if nobody else changed it
meanwhile.`,
		Example: `  berth hub device update pump-7 --disable --reason stolen
  berth hub device update pump-7 --enable
  berth hub device update pump-7 --secondary-key-file next.key`,
		Args: exactly("DEVICE"),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			d, err := hub.Device(c.Context(), device.ID(args[0]))
			if err != nil {
				return missingDevice(err)
			}
			switch {
			case enable:
				d.Status, d.StatusReason = hubjson.Enabled, ""
			case disable:
				d.Status = hubjson.Disabled
			}
			if c.Flags().Changed("reason") {
				d.StatusReason = reason
			}
			if err := k.change(h.terminal, c, &d.Authentication); err != nil {
				return err
			}
			changed, err := hub.UpdateDevice(c.Context(), *d)
			if err != nil {
				return err
			}
			return h.showIdentity(changed, false)
		},
	}
	k.flags(c, true)
	c.Flags().BoolVar(&enable, "enable", false, "let it in again")
	c.Flags().BoolVar(&disable, "disable", false, "do not let it in any more, and cut it off")
	c.Flags().StringVar(&reason, "reason", "", "`text` that stands by the status, up to 128 characters")
	c.MarkFlagsMutuallyExclusive("enable", "disable")
	return c
}

// change writes over what the flags name of how an identity proves itself.
func (k *credential) change(t *terminal, c *cobra.Command, a *hubjson.Authentication) error {
	said, err := k.authentication(t)
	if err != nil {
		return err
	}
	switch {
	case said.SymmetricKey != nil && a.SymmetricKey != nil && a.Type == hubjson.SAS:
		if c.Flags().Changed("primary-key-file") {
			a.SymmetricKey.PrimaryKey = said.SymmetricKey.PrimaryKey
		}
		if c.Flags().Changed("secondary-key-file") {
			a.SymmetricKey.SecondaryKey = said.SymmetricKey.SecondaryKey
		}
	case said.X509Thumbprint != nil && a.X509Thumbprint != nil && a.Type == hubjson.SelfSigned:
		if c.Flags().Changed("primary-thumbprint") {
			a.X509Thumbprint.PrimaryThumbprint = said.X509Thumbprint.PrimaryThumbprint
		}
		if c.Flags().Changed("secondary-thumbprint") {
			a.X509Thumbprint.SecondaryThumbprint = said.X509Thumbprint.SecondaryThumbprint
		}
	case said.SymmetricKey != nil, said.Type != hubjson.SAS:
		*a = said
	}
	return nil
}

func newHubDeviceDelete(h *hubOperator) *cobra.Command {
	return &cobra.Command{
		Use:   "delete DEVICE",
		Short: "Delete one device",
		Long: `Delete one device with its twin, its modules and the messages to it. If it is connected
it is cut off. A device that is enrolled gets a new identity when it registers again.`,
		Example: `  berth hub device delete pump-7`,
		Args:    exactly("DEVICE"),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			if err := hub.DeleteDevice(c.Context(), device.ID(args[0]), service.AnyETag); err != nil {
				return missingDevice(err)
			}
			return h.done("deleted %s", args[0])
		},
	}
}

func newHubDeviceConnection(h *hubOperator) *cobra.Command {
	var out string
	slot := access.Primary
	c := &cobra.Command{
		Use:   "connection DEVICE[/MODULE] --out FILE",
		Short: "Write the connection string of a device or a module to a file",
		Long: `Write the connection string that a device's SDK takes, which has its key, to a file that
its owner alone can read (mode 0600); --out - prints it. For a device with a certificate
it has no secret.`,
		Example: `  berth hub device connection pump-7 --out pump-7.connection`,
		Args:    exactly("DEVICE"),
		RunE: func(c *cobra.Command, args []string) error {
			of, err := parseNamed(args[0])
			if err != nil {
				return err
			}
			if out == "" {
				return usageError{errors.New("say where the secret goes: --out FILE, or --out - for standard output")}
			}
			hub, err := h.open(c.Context())
			if err != nil {
				return err
			}
			a, err := authenticationOf(c.Context(), hub, of)
			if err != nil {
				return missingDevice(err)
			}
			file, err := h.newSecretFile(out)
			if err != nil {
				return err
			}
			defer file.discard()
			text, err := deviceConnection(hub.Host(), of, a, slot)
			if err != nil {
				return err
			}
			return file.put(text)
		},
	}
	outFlag(c, &out)
	slotFlag(c, &slot)
	return c
}

func authenticationOf(ctx context.Context, hub *service.Hub, of named) (hubjson.Authentication, error) {
	if of.module != "" {
		m, err := hub.Module(ctx, of.device, of.module)
		if err != nil {
			return hubjson.Authentication{}, err
		}
		return m.Authentication, nil
	}
	d, err := hub.Device(ctx, of.device)
	if err != nil {
		return hubjson.Authentication{}, err
	}
	return d.Authentication, nil
}

// deviceConnection is the connection string as SDKs read it.
func deviceConnection(host string, of named, a hubjson.Authentication, slot access.Slot) (string, error) {
	text := "HostName=" + host + ";DeviceId=" + string(of.device)
	if of.module != "" {
		text += ";ModuleId=" + string(of.module)
	}
	switch {
	case a.Type == hubjson.SelfSigned, a.Type == hubjson.CertificateAuthority:
		return text + ";x509=true", nil
	case a.SymmetricKey == nil:
		return "", fmt.Errorf("%s has no key: its authentication is %s", of.device, a.Type)
	case slot == access.Secondary:
		return text + ";SharedAccessKey=" + a.SymmetricKey.SecondaryKey.Base64(), nil
	}
	return text + ";SharedAccessKey=" + a.SymmetricKey.PrimaryKey.Base64(), nil
}
