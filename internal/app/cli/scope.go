package cli

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/provision"
)

func newScope(t *terminal) *cobra.Command {
	c := parent("scope", "Serve several ID scopes, and set how each works", `The ID scopes of a server: tenants that share nothing but the server. Each has devices,
enrollments, hubs, policies, CA certificates and a trust store of its own, and host
names under which its operators call; its devices call any name of the server and say
the ID scope.

The server is made for one scope, whose operators make and remove the others. The
operators of each scope see and change that alone.`,
		`  berth scope list`)
	o := newOperator(t, c)
	c.AddCommand(newScopeAdd(o), newScopeList(o), newScopeShow(o), newScopeSet(o), newScopeConnection(o), newScopeRemove(o), newScopeSharedKeys(o))
	return c
}

// A scopeSettings is the flags by which a scope is set.
type scopeSettings struct {
	hosts                 []string
	allocation            string
	perAddress, perDevice string
	sharedKeys            string
}

func (s *scopeSettings) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringSliceVar(&s.hosts, "host", nil, "host `name` under which the scope's operators call; repeat for further names")
	f.StringVar(&s.allocation, "allocation-policy", "", "`policy` of enrollments that name none: hashed, geoLatency or static")
	f.StringVar(&s.perAddress, "per-address", "", "`rate` of the calls of one address, such as 2000/1s, or off; '' for the server's")
	f.StringVar(&s.perDevice, "per-device", "", "`rate` of the calls of one device; '' for the server's")
	f.StringVar(&s.sharedKeys, "shared-keys", "", "what becomes of enrollments with a `key` that another one has: warn or refuse")
	complete(c, "allocation-policy", string(enroll.Hashed), string(enroll.GeoLatency), string(enroll.Static))
	complete(c, "shared-keys", string(provision.WarnOfSharedKeys), string(provision.RefuseSharedKeys))
}

// change is what the flags that were given ask for. Limits come as a whole: of the
// other one now has the value.
func (s *scopeSettings) change(c *cobra.Command, now provision.Limits) admin.ScopeChange {
	var change admin.ScopeChange
	given := c.Flags().Changed
	if given("host") {
		change.Hosts = append([]string{}, s.hosts...)
	}
	if given("allocation-policy") {
		policy := enroll.AllocationPolicy(s.allocation)
		change.Allocation = &policy
	}
	if given("shared-keys") {
		policy := provision.SharedKeys(s.sharedKeys)
		change.SharedKeys = &policy
	}
	if given("per-address") {
		now.PerAddress = s.perAddress
	}
	if given("per-device") {
		now.PerDevice = s.perDevice
	}
	if given("per-address") || given("per-device") {
		change.Limits = &now
	}
	return change
}

func newScopeAdd(o *operator) *cobra.Command {
	var settings scopeSettings
	var id, out string
	c := &cobra.Command{
		Use:   "add --host NAME --out FILE",
		Short: "Make a scope",
		Long: `Make a scope, with an owner policy whose connection string is written to a file (mode
0600): hand it to the scope's operators. The names must lead to this server, and its
certificate must have them; the command says how.`,
		Example: `  berth scope add --host tenant.example.com --out tenant.connection`,
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case len(settings.hosts) == 0:
				return usageError{errors.New("a scope needs the name that its operators call: --host NAME")}
			case out == "":
				return usageError{errors.New("say where the scope's connection string goes: --out FILE, or --out - for standard output")}
			}
			client, err := o.admin()
			if err != nil {
				return err
			}
			file, err := o.newSecretFile(out)
			if err != nil {
				return err
			}
			defer file.discard()
			scope, policies, err := client.CreateScope(c.Context(), id, settings.change(c, provision.Limits{}))
			if err != nil {
				return err
			}
			owner := ownerOf(policies)
			if owner == nil {
				return fmt.Errorf("the server made the scope %s without a policy; ask for one: berth scope connection %s --out FILE", scope.IDScope, scope.IDScope)
			}
			if err := file.put(owner.ConnectionString(sameServer(client, scope.Hosts[0]), access.Primary)); err != nil {
				return err
			}
			return o.showNewScope(scope)
		},
	}
	settings.flags(c)
	c.Flags().StringVar(&id, "id-scope", "", "the `ID`, 0ne and eight hexadecimal digits (default: a fresh one)")
	outFlag(c, &out)
	return c
}

// ownerOf returns a policy that may do everything, or the first that there is.
func ownerOf(policies []admin.PolicyKeys) *admin.PolicyKeys {
	i := slices.IndexFunc(policies, func(p admin.PolicyKeys) bool { return strings.EqualFold(p.Name, scopeOwnerPolicy) })
	if i < 0 {
		i = slices.IndexFunc(policies, func(p admin.PolicyKeys) bool { return slices.Contains(p.Rights, access.ServiceConfig.String()) })
	}
	if i < 0 {
		return nil
	}
	return &policies[i]
}

// sameServer returns a host on the port by which the client reaches the server.
func sameServer(c *admin.Client, host string) string {
	if _, port, err := net.SplitHostPort(c.Host()); err == nil {
		return net.JoinHostPort(host, port)
	}
	return host
}

func (t *terminal) showNewScope(s *admin.Scope) error {
	if t.json() {
		return t.printJSON(s)
	}
	if _, err := fmt.Fprintf(t.out, "ID scope  %s\nHosts     %s\n", s.IDScope, strings.Join(s.Hosts, ", ")); err != nil {
		return err
	}
	return t.done("\nThe server's certificate needs the names. %s\nThen, as the scope's operator: berth hub link HOST --connection-string-file FILE", t.nextCertificate())
}

// nextCertificate says how the certificate gets new names.
func (t *terminal) nextCertificate() string {
	renew := "berth certificate renew --data " + t.data
	switch _, err := os.Stat(filepath.Join(t.data, app.CAKeyFile)); {
	case err == nil:
		return "Its CA is here:\n  " + renew
	default:
		return "Where its CA's key is:\n  " + renew + " --ca-key FILE\nor have the CA that you use make one with them."
	}
}

func newScopeList(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the scopes of the server",
		Long:    `List the scopes of the server. It is for operators of the scope that it is made for.`,
		Example: `  berth scope list`,
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			all, err := client.Scopes(c.Context())
			if err != nil {
				return err
			}
			if o.json() {
				return o.printJSON(all)
			}
			rows := [][]string{{"ID SCOPE", "HOSTS", "ALLOCATION", "SHARED KEYS", "LIMITS"}}
			for _, s := range all {
				rows = append(rows, []string{string(s.IDScope), scopeHosts(s), string(s.Allocation), string(s.SharedKeys), limitsText(s.Limits)})
			}
			return o.table(rows)
		},
	}
}

func scopeHosts(s admin.Scope) string {
	hosts := slices.Clone(s.Hosts)
	if s.Home {
		hosts = append([]string{"those of berth.toml"}, hosts...)
	}
	return strings.Join(hosts, ", ")
}

func limitsText(l provision.Limits) string {
	var parts []string
	if l.PerAddress != "" {
		parts = append(parts, "address "+l.PerAddress)
	}
	if l.PerDevice != "" {
		parts = append(parts, "device "+l.PerDevice)
	}
	if parts == nil {
		return "the server's"
	}
	return strings.Join(parts, ", ")
}

func newScopeShow(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "show [ID]",
		Short: "Show how a scope works",
		Long: `Show how a scope works: the one of the connection string, or another one of the
server, for operators of the scope that it is made for.`,
		Example: `  berth scope show
  berth scope show -o json`,
		Args: atMostOne("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			s, err := client.Scope(c.Context(), first(args))
			if err != nil {
				return noScope(err)
			}
			return o.showScope(s)
		},
	}
}

func (t *terminal) showScope(s *admin.Scope) error {
	if t.json() {
		return t.printJSON(s)
	}
	_, err := fmt.Fprintf(t.out, "ID scope           %s\nHosts              %s\nAllocation policy  %s\nShared keys        %s\nLimits             %s\n",
		s.IDScope, scopeHosts(*s), s.Allocation, s.SharedKeys, limitsText(s.Limits))
	return err
}

func newScopeSet(o *operator) *cobra.Command {
	var settings scopeSettings
	c := &cobra.Command{
		Use:   "set [ID]",
		Short: "Change how a scope works",
		Long: `Change how a scope works: the one of the connection string, or another one of the
server. Flags that are left out change nothing; --host names all there are to be. Hosts
and limits are for operators of the scope that the server is made for.`,
		Example: `  berth scope set --allocation-policy static
  berth scope set --per-device 5/10s --shared-keys refuse`,
		Args: atMostOne("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			now, err := client.Scope(c.Context(), first(args))
			if err != nil {
				return noScope(err)
			}
			change := settings.change(c, now.Limits)
			change.IfMatch = now.ETag
			s, err := client.ChangeScope(c.Context(), first(args), change)
			if err != nil {
				return noScope(err)
			}
			if err := o.done("changed the scope %s", s.IDScope); err != nil || !c.Flags().Changed("host") {
				return err
			}
			return o.done("The server's certificate needs the names. %s", o.nextCertificate())
		},
	}
	settings.flags(c)
	return c
}

func newScopeConnection(o *operator) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "connection ID --out FILE",
		Short: "Write the connection string of a scope's owner to a file",
		Long: `Write the connection string of the policy of a scope that has all rights to a file that
its owner alone can read (mode 0600); --out - prints it. A scope that nobody could
administer gets such a policy first. Programs should have policies of their own: as the
scope's operator, berth policy add.`,
		Example: `  berth scope add --id-scope 0ne0badcafe --host tenant.example.com --out tenant.connection
  berth scope connection 0ne0badcafe --out again.connection`,
		Args: exactly("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			if out == "" {
				return usageError{errors.New("say where the secret goes: --out FILE, or --out - for standard output")}
			}
			client, err := o.admin()
			if err != nil {
				return err
			}
			file, err := o.newSecretFile(out)
			if err != nil {
				return err
			}
			defer file.discard()
			scope, err := client.Scope(c.Context(), args[0])
			if err != nil {
				return noScope(err)
			}
			policies, err := client.ScopeKeys(c.Context(), args[0])
			if err != nil {
				return noScope(err)
			}
			owner := ownerOf(policies)
			if owner == nil {
				return fmt.Errorf("the scope %s has no policy that may administer it", scope.IDScope)
			}
			host := client.Host()
			if !scope.Home && len(scope.Hosts) > 0 {
				host = sameServer(client, scope.Hosts[0])
			}
			return file.put(owner.ConnectionString(host, access.Primary))
		},
	}
	outFlag(c, &out)
	return c
}

func newScopeRemove(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID",
		Short: "Remove a scope that is empty",
		Long: `Remove a scope with its policies, CA certificates and trust store. It must be empty
first: without enrollments, registration records and linked hubs, and without devices or
messages at hubs that were linked.`,
		Example: `  berth scope add --id-scope 0ne0badcafe --host tenant.example.com --out tenant.connection
  berth scope remove 0ne0badcafe`,
		Args: exactly("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			if err := client.DeleteScope(c.Context(), args[0]); err != nil {
				return noScope(err)
			}
			return o.done("removed the scope %s", args[0])
		},
	}
}

// first returns the argument that may be left out.
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func noScope(err error) error {
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status == http.StatusNotFound {
		return fmt.Errorf("%w\nSee what there is:\n  berth scope list", err)
	}
	return err
}

func newScopeSharedKeys(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "shared-keys",
		Short: "List enrollments that have a symmetric key in common",
		Long: `List the individual enrollments of the connection string's scope that have a symmetric
key in common, a line for each key, of which ten enrollments are named. Whoever opens one
of these devices can speak for the others: give each a key of its own. berth scope set
--shared-keys refuse keeps further ones out.`,
		Example: `  berth scope shared-keys
  berth scope shared-keys -o json`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			groups, more, err := client.SharedKeys(c.Context())
			if err != nil {
				return err
			}
			if o.json() {
				return o.printJSON(struct {
					Groups [][]string `json:"groups"`
					More   bool       `json:"more"`
				}{groups, more})
			}
			for _, g := range groups {
				fmt.Fprintln(o.out, strings.Join(g, " "))
			}
			if more {
				return o.done("there are more than these %d", len(groups))
			}
			return nil
		},
	}
}
