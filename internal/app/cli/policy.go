package cli

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
)

// The policies that a scope and a hub begin with.
const (
	scopeOwnerPolicy = "provisioningserviceowner"
	hubOwnerPolicy   = "iothubowner"
)

// A policyCommand is what the commands about policies share.
type policyCommand struct {
	*operator
	hub string // whose policies are meant; empty for the scope's
}

func newPolicy(t *terminal) *cobra.Command {
	c := parent("policy", "Say who may operate the service and its hubs", `Shared access policies: a name, some rights, and two keys, of which either opens the
service, so that one can be rolled while programs use the other. The policies of the
scope are for enrollments and administration; with --hub they are those of one of its
hubs, for devices' identities and twins there.

The rights of the scope are ServiceConfig, EnrollmentRead, EnrollmentWrite,
DeviceConnect, RegistrationStatusRead and RegistrationStatusWrite. Whoever has
ServiceConfig can make policies with all of them. The rights of a hub are RegistryRead,
RegistryWrite, ServiceConnect and DeviceConnect.`,
		`  berth policy list`)
	p := &policyCommand{operator: newOperator(t, c)}
	c.PersistentFlags().StringVar(&p.hub, "hub", "", "`host` of a linked hub, whose policies are meant (default: those of the scope)")
	c.AddCommand(p.list(), p.add(), p.set(), p.connection(), p.roll(), p.remove())
	return c
}

func (p *policyCommand) list() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List policies and their rights",
		Long:  `List policies and their rights. Keys are not shown.`,
		Example: `  berth policy list
  berth policy list --hub spare.example.com -o json`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := p.admin()
			if err != nil {
				return err
			}
			all, err := client.Policies(c.Context(), p.hub)
			if err != nil {
				return p.missing(err)
			}
			if p.json() {
				return p.printJSON(all)
			}
			rows := [][]string{{"NAME", "RIGHTS"}}
			for _, policy := range all {
				rows = append(rows, []string{policy.Name, strings.Join(policy.Rights, ", ")})
			}
			return p.table(rows)
		},
	}
}

func (p *policyCommand) add() *cobra.Command {
	var rights []string
	var out string
	c := &cobra.Command{
		Use:   "add NAME --right RIGHT",
		Short: "Make a policy",
		Long: `Make a policy with fresh keys. Give each program a policy of its own with the rights
that it needs, and roll or remove that when the program is gone.`,
		Example: `  berth policy add line-1 --right EnrollmentWrite --right RegistrationStatusRead --out line-1.connection
  berth policy add twins --hub spare.example.com --right RegistryRead,ServiceConnect`,
		Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			if len(rights) == 0 {
				return usageError{errors.New("add needs a right: --right EnrollmentRead")}
			}
			client, err := p.admin()
			if err != nil {
				return err
			}
			file, err := p.newSecretFile(out)
			if err != nil {
				return err
			}
			defer file.discard()
			policy, err := client.PutPolicy(c.Context(), p.hub, admin.PolicyKeys{Policy: admin.Policy{Name: args[0], Rights: rights}}, "")
			if err != nil {
				return p.missing(err)
			}
			if err := p.done("made policy %s", policy.Name); err != nil {
				return err
			}
			if file == nil {
				return p.done("Its connection string:\n  berth policy connection %s%s --out FILE", policy.Name, p.hubFlag())
			}
			keys, err := client.PolicyKeys(c.Context(), p.hub, policy.Name)
			if err != nil {
				return err
			}
			return file.put(keys.ConnectionString(p.host(client), access.Primary))
		},
	}
	rightFlag(c, &rights)
	outFlag(c, &out)
	return c
}

func (p *policyCommand) set() *cobra.Command {
	var rights []string
	c := &cobra.Command{
		Use:   "set NAME --right RIGHT",
		Short: "Give a policy other rights",
		Long: `Give a policy other rights, in place of those it has. Its keys stay. The last policy of
the scope with ServiceConfig keeps that: without it nobody could make another.`,
		Example: `  berth policy add line-1 --right EnrollmentWrite
  berth policy set line-1 --right EnrollmentRead,EnrollmentWrite`,
		Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			if len(rights) == 0 {
				return usageError{errors.New("set needs a right: --right EnrollmentRead")}
			}
			client, err := p.admin()
			if err != nil {
				return err
			}
			policy, err := client.PutPolicy(c.Context(), p.hub, admin.PolicyKeys{Policy: admin.Policy{Name: args[0], Rights: rights}}, "*")
			if err != nil {
				return p.missing(err)
			}
			return p.done("policy %s has %s", policy.Name, strings.Join(policy.Rights, ", "))
		},
	}
	rightFlag(c, &rights)
	return c
}

func (p *policyCommand) connection() *cobra.Command {
	var out string
	slot := access.Primary
	c := &cobra.Command{
		Use:   "connection [NAME] --out FILE",
		Short: "Write the connection string of a policy to a file",
		Long: `Write the connection string of a policy, which has its key, to a file that its owner
alone can read (mode 0600); --out - prints it. NAME may be left out for the policy with
all rights that a scope and a hub begin with.`,
		Example: `  berth policy connection --hub spare.example.com --out spare.connection
  berth policy connection provisioningserviceowner --key secondary --out second.connection`,
		Args: atMostOne("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			if out == "" {
				return usageError{errors.New("say where the secret goes: --out FILE, or --out - for standard output")}
			}
			client, err := p.admin()
			if err != nil {
				return err
			}
			file, err := p.newSecretFile(out)
			if err != nil {
				return err
			}
			defer file.discard()
			keys, err := client.PolicyKeys(c.Context(), p.hub, p.name(args))
			if err != nil {
				return p.missing(err)
			}
			return file.put(keys.ConnectionString(p.host(client), slot))
		},
	}
	outFlag(c, &out)
	slotFlag(c, &slot)
	return c
}

func (p *policyCommand) roll() *cobra.Command {
	var out string
	var slot access.Slot
	c := &cobra.Command{
		Use:   "roll NAME --key primary|secondary --out FILE",
		Short: "Put a fresh key in the place of one of a policy's two",
		Long: `Put a fresh key in the place of one of a policy's two, and write the connection string
with it to a file (mode 0600). What was there opens nothing from then on: move the
programs to the other key first.`,
		Example: `  berth policy roll provisioningserviceowner --key secondary --out second.connection`,
		Args:    exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case slot != access.Primary && slot != access.Secondary:
				return usageError{errors.New("say which key: --key primary or --key secondary")}
			case out == "":
				return usageError{errors.New("say where the fresh secret goes: --out FILE, or --out - for standard output")}
			}
			client, err := p.admin()
			if err != nil {
				return err
			}
			file, err := p.newSecretFile(out) // before the old key is gone
			if err != nil {
				return err
			}
			defer file.discard()
			keys, err := client.RollKey(c.Context(), p.hub, args[0], slot, "")
			if err != nil {
				return p.missing(err)
			}
			if err := file.put(keys.ConnectionString(p.host(client), slot)); err != nil {
				return err
			}
			return p.done("rolled the %s key of policy %s", slot, keys.Name)
		},
	}
	outFlag(c, &out)
	slotFlag(c, &slot)
	return c
}

func (p *policyCommand) remove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a policy",
		Long: `Remove a policy. Its keys open nothing from then on. The last policy of the scope with
ServiceConfig stays.`,
		Example: `  berth policy add line-1 --right EnrollmentWrite
  berth policy remove line-1`,
		Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := p.admin()
			if err != nil {
				return err
			}
			if err := client.DeletePolicy(c.Context(), p.hub, args[0], ""); err != nil {
				return p.missing(err)
			}
			return p.done("removed policy %s", args[0])
		},
	}
}

// name returns the policy meant.
func (p *policyCommand) name(args []string) string {
	switch {
	case len(args) > 0:
		return args[0]
	case p.hub != "":
		return hubOwnerPolicy
	}
	return scopeOwnerPolicy
}

// host returns where a policy is used.
func (p *policyCommand) host(c *admin.Client) string {
	if p.hub != "" {
		return p.hub
	}
	return c.Host()
}

// hubFlag is the flag --hub as it was given.
func (p *policyCommand) hubFlag() string {
	if p.hub == "" {
		return ""
	}
	return " --hub " + p.hub
}

// missing says where to look when something is not there.
func (p *policyCommand) missing(err error) error {
	refused, ok := errors.AsType[*client.Error](err)
	if !ok || refused.Status != http.StatusNotFound {
		return err
	}
	if p.hub != "" {
		return fmt.Errorf("%w\nSee what there is:\n  berth hub list\n  berth policy list --hub HOST", err)
	}
	return fmt.Errorf("%w\nSee what there is:\n  berth policy list", err)
}

func rightFlag(c *cobra.Command, rights *[]string) {
	c.Flags().StringSliceVar(rights, "right", nil, "a `right` of the policy; repeat for further ones, or separate them with commas")
	all := append(access.AllProvisioning.Names(), (access.AllHub &^ access.HubDeviceConnect).Names()...)
	complete(c, "right", all...)
}

func outFlag(c *cobra.Command, out *string) {
	c.Flags().StringVar(out, "out", "", "`file` for the connection string, made with mode 0600 or replaced; - is standard output")
}

func slotFlag(c *cobra.Command, slot *access.Slot) {
	c.Flags().StringVar((*string)(slot), "key", string(*slot), "which `key`: primary or secondary")
	complete(c, "key", string(access.Primary), string(access.Secondary))
}

// A secretFile is a file for a secret that is still to come.
type secretFile struct {
	terminal *terminal
	path     string
	half     *os.File // nil for standard output
}

// newSecretFile makes sure that path can be written before what it is for is
// done; - is standard output, and no path no file.
func (t *terminal) newSecretFile(path string) (*secretFile, error) {
	switch path {
	case "":
		return nil, nil
	case "-":
		return &secretFile{terminal: t}, nil
	}
	half, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // of mode 0600
	if err != nil {
		return nil, fmt.Errorf("--out: %w", err)
	}
	return &secretFile{t, path, half}, nil
}

// put writes the secret. The file appears whole or not at all.
func (s *secretFile) put(secret string) error {
	if s.half == nil {
		_, err := fmt.Fprintln(s.terminal.out, secret)
		return err
	}
	_, err := fmt.Fprintln(s.half, secret)
	if err = errors.Join(err, s.half.Sync(), s.half.Close()); err == nil {
		err = os.Rename(s.half.Name(), s.path)
	}
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return s.terminal.done("wrote %s (a secret)", s.path)
}

// discard removes what is left of a file that nothing came into.
func (s *secretFile) discard() {
	if s == nil || s.half == nil {
		return
	}
	s.half.Close()
	os.Remove(s.half.Name())
}
