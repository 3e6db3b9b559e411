package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/internal/app/cli/roster"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// An entry is an enrollment of either kind. A group comes as an individual
// enrollment that has the group's name: they share all other members.
type entry = dpsjson.IndividualEnrollment

// An entryKind is what the commands for individual enrollments and those for
// groups do not share.
type entryKind struct {
	kind     enroll.Kind
	command  string // "enrollment"
	argument string // "ID"

	create, update func(ctx context.Context, s *service.Client, e entry) (entry, error)
	read           func(ctx context.Context, s *service.Client, id string) (entry, error)
	keys           func(ctx context.Context, s *service.Client, id string) (*dpsjson.AttestationMechanism, error)
	remove         func(ctx context.Context, s *service.Client, id, etag string) error
	list           func(ctx context.Context, s *service.Client) iter.Seq2[entry, error]
	shape          func(entry) any // as the service API writes it
	decode         func([]byte) (entry, error)
	bulk           func(ctx context.Context, s *service.Client, mode dpsjson.BulkMode, items []entry) ([]error, error)
}

// settings are what the command line says about an enrollment besides its
// attestation.
type settings struct {
	deviceID, twin, reprovision string
	allocation                  allocationSettings
	hubs                        []string
	edge, enable, disable       bool
}

func (s *settings) flags(c *cobra.Command, kind enroll.Kind) {
	f := c.Flags()
	if kind == enroll.Individual {
		f.StringVar(&s.deviceID, "device-id", "", "the device's `name` at its hub (default: the registration ID)")
	}
	s.allocation.flags(c, f)
	f.StringSliceVar(&s.hubs, "hub", nil, "`host` of a linked hub that may be chosen; repeat for more (default: all that take part)")
	f.BoolVar(&s.edge, "edge", false, "the device is an edge gateway")
	f.StringVar(&s.twin, "initial-twin", "", `JSON `+"`file`"+` of the twin to start with: {"tags": {…}, "properties": {"desired": {…}}}`)
	f.StringVar(&s.reprovision, "reprovision", "", "when a device registers again, `what` becomes of it: migrate (its twin moves along), reset (its twin starts anew) or never (it stays where it is)")
	f.BoolVar(&s.enable, "enable", false, "let its devices register")
	f.BoolVar(&s.disable, "disable", false, "let none of its devices register")
	complete(c, "reprovision", "migrate", "reset", "never")
}

// applySettings changes in e what flags were given for.
func (t *terminal) applySettings(c *cobra.Command, s settings, e *entry) error {
	given := c.Flags().Changed
	if given("device-id") {
		e.DeviceID = s.deviceID
	}
	if err := t.applyAllocation(c, s.allocation, e); err != nil {
		return err
	}
	if given("hub") {
		e.IoTHubs, e.IoTHubHostName = s.hubs, ""
	}
	if given("edge") {
		e.Capabilities = &dpsjson.Capabilities{IoTEdge: s.edge}
	}
	if given("reprovision") {
		policy, ok := roster.Reprovisioning[s.reprovision]
		if !ok {
			return usageError{fmt.Errorf("--reprovision: %q is not known; migrate, reset and never are", s.reprovision)}
		}
		e.ReprovisionPolicy = &policy
	}
	switch {
	case s.enable && s.disable:
		return usageError{errors.New("--enable and --disable contradict each other")}
	case s.enable:
		e.ProvisioningStatus = dpsjson.ProvisioningEnabled
	case s.disable:
		e.ProvisioningStatus = dpsjson.ProvisioningDisabled
	}
	if given("initial-twin") {
		twin, err := t.readTwin(s.twin)
		if err != nil {
			return err
		}
		e.InitialTwin = twin
	}
	return nil
}

func (t *terminal) readTwin(file string) (*dpsjson.InitialTwin, error) {
	text, err := t.read(file)
	if err != nil {
		return nil, fmt.Errorf("--initial-twin: %w", err)
	}
	var twin dpsjson.InitialTwin
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err = d.Decode(&twin)
	if err == nil {
		if _, end := d.Token(); end != io.EOF {
			err = errors.New("there is more after the object")
		}
	}
	if err != nil {
		return nil, fmt.Errorf(`--initial-twin: %s does not hold {"tags": {…}, "properties": {"desired": {…}}}: %w`, file, err)
	}
	return &twin, nil
}

func (k entryKind) newCreate(o *operator, use, short, long, example string) *cobra.Command {
	a, s := attestation{kind: k.kind}, settings{}
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		Args: exactly(k.argument),
		RunE: func(c *cobra.Command, args []string) error {
			var e entry
			e.RegistrationID = args[0]
			if err := o.apply(a, &e, false); err != nil {
				return err
			}
			list, err := o.readList(a.group.list)
			if err != nil {
				return err
			}
			if err := o.applySettings(c, s, &e); err != nil {
				return err
			}
			client, err := o.service()
			if err != nil {
				return err
			}
			made, err := k.create(c.Context(), client, e)
			if err != nil {
				return k.explain(err, args[0])
			}
			if made, err = k.withList(c.Context(), o, client, made, list); err != nil {
				return err
			}
			if !o.json() && a.key && a.primaryKey == "" {
				fmt.Fprintf(o.err, "Keys were made; they are secret:\n  berth %s show %s --keys\n\n", k.command, args[0])
			}
			return o.showEntry(k, made)
		},
	}
	a.flags(c)
	s.flags(c, k.kind)
	return c
}

func (k entryKind) newShow(o *operator, short, long, example string) *cobra.Command {
	var keys string
	c := &cobra.Command{
		Use: "show " + k.argument, Short: short, Long: long, Example: example,
		Args: exactly(k.argument),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.service()
			if err != nil {
				return err
			}
			if c.Flags().Changed("keys") {
				m, err := k.keys(c.Context(), client, args[0])
				if err != nil {
					return k.explain(err, args[0])
				}
				return o.showKeys(args[0], m, keys)
			}
			e, err := k.read(c.Context(), client, args[0])
			if err != nil {
				return k.explain(err, args[0])
			}
			return o.showEntry(k, e)
		},
	}
	c.Flags().StringVar(&keys, "keys", "", "print the symmetric keys instead, which are secret: both, or the bare text of --keys=`primary` or --keys=secondary")
	c.Flags().Lookup("keys").NoOptDefVal = "both"
	complete(c, "keys", "both", "primary", "secondary")
	return c
}

func (k entryKind) newList(o *operator, short, long, example string) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "list", Short: short, Long: long, Example: example,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := o.service()
			if err != nil {
				return err
			}
			found, err := collect(k.list(c.Context(), client), limit)
			if err != nil {
				return err
			}
			return o.showEntries(k, found)
		},
	}
	limitFlag(c, &limit)
	return c
}

func (k entryKind) newUpdate(o *operator, short, long, example string) *cobra.Command {
	a, s := attestation{kind: k.kind}, settings{}
	var etag string
	c := &cobra.Command{
		Use: "update " + k.argument, Short: short, Long: long, Example: example,
		Args: exactly(k.argument),
		RunE: func(c *cobra.Command, args []string) error {
			if !anyGiven(c) {
				return usageError{fmt.Errorf("update: nothing to change was named; see berth %s update --help", k.command)}
			}
			list, err := o.readList(a.group.list)
			if err != nil {
				return err
			}
			client, err := o.service()
			if err != nil {
				return err
			}
			e, err := k.read(c.Context(), client, args[0])
			if err != nil {
				return k.explain(err, args[0])
			}
			if err := o.apply(a, &e, true); err != nil {
				return err
			}
			if err := o.applySettings(c, s, &e); err != nil {
				return err
			}
			if etag != "" {
				e.ETag = etag
			}
			changed, err := k.update(c.Context(), client, e)
			if err != nil {
				return k.explain(err, args[0])
			}
			if changed, err = k.withList(c.Context(), o, client, changed, list); err != nil {
				return err
			}
			return o.showEntry(k, changed)
		},
	}
	a.flags(c)
	s.flags(c, k.kind)
	c.Flags().StringVar(&etag, "etag", "", "change it only while it has this entity `tag` (default: the one just read; * is any)")
	return c
}

// withList uploads a group's list, where there is one to upload, and returns what
// the group e has become.
func (k entryKind) withList(ctx context.Context, o *operator, s *service.Client, e entry, list []byte) (entry, error) {
	if list == nil {
		return e, nil
	}
	if err := o.upload(ctx, e.RegistrationID, list); err != nil {
		return e, err
	}
	return k.read(ctx, s, e.RegistrationID)
}

func (k entryKind) newDelete(o *operator, short, long, example string) *cobra.Command {
	var etag string
	c := &cobra.Command{
		Use: "delete " + k.argument, Short: short, Long: long, Example: example,
		Args: exactly(k.argument),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.service()
			if err != nil {
				return err
			}
			if err := k.remove(c.Context(), client, args[0], etag); err != nil {
				return k.explain(err, args[0])
			}
			return o.done("deleted %s %s", k.command, args[0])
		},
	}
	c.Flags().StringVar(&etag, "etag", "", "delete it only while it has this entity `tag` (default: in any case)")
	return c
}

// anyGiven reports whether a flag names a change.
func anyGiven(c *cobra.Command) bool {
	given := false
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { given = given || f.Changed && f.Name != "etag" })
	return given
}

// explain says what to do about a refusal.
func (k entryKind) explain(err error, id string) error {
	refused, ok := errors.AsType[*client.Error](err)
	if !ok {
		return err
	}
	switch refused.Status {
	case http.StatusNotFound:
		return fmt.Errorf("%w\nSee what there is:\n  berth %s list", err, k.command)
	case http.StatusConflict:
		if strings.HasPrefix(refused.Message, "attestation.") { // it has something that another one has
			return err
		}
		return fmt.Errorf("%w\nTo change it:\n  berth %s update %s", err, k.command, id)
	}
	return err
}

// collect reads a listing to its end, or up to a limit that is not zero.
func collect[T any](items iter.Seq2[T, error], limit int) ([]T, error) {
	found := []T{}
	for item, err := range items {
		if err != nil {
			return nil, err
		}
		found = append(found, item)
		if len(found) == limit {
			break
		}
	}
	return found, nil
}

// showEntries lists enrollments.
func (t *terminal) showEntries(k entryKind, found []entry) error {
	if t.json() {
		shapes := make([]any, len(found))
		for i, e := range found {
			shapes[i] = k.shape(e)
		}
		return t.printJSON(shapes)
	}
	rows := [][]string{{k.argument, "ATTESTATION", "STATUS", "ALLOCATION", "HUBS", "UPDATED"}}
	for _, e := range found {
		rows = append(rows, []string{e.RegistrationID, string(attestationType(e)), string(status(e)), allocation(e), hubs(e), moment(e.LastUpdatedDateTimeUTC)})
	}
	return t.table(rows)
}

// showEntry shows an enrollment without its symmetric keys, which the service's
// answers to create and update hold.
func (t *terminal) showEntry(k entryKind, e entry) error {
	if a := e.Attestation; a != nil && a.SymmetricKey != nil {
		e.Attestation = &dpsjson.AttestationMechanism{Type: a.Type}
	}
	if t.json() {
		return t.printJSON(k.shape(e))
	}
	rows := [][]string{{"Registration ID", e.RegistrationID}}
	if k.kind == enroll.Group {
		rows = [][]string{{"Group", e.RegistrationID}}
	}
	rows = append(rows, []string{"Status", string(status(e))})
	rows = append(rows, attestationRows(e.Attestation)...)
	if e.DeviceID != "" {
		rows = append(rows, []string{"Device ID", e.DeviceID})
	}
	rows = append(rows, allocationRows(e)...)
	for _, row := range [][]string{
		{"Hubs", hubs(e)},
		{"Reprovisioning", reprovisioningWord(e.ReprovisionPolicy)},
		{"Edge", edge(e)},
		{"Initial twin", twinText(e.InitialTwin)},
		{"Registration", registrationText(e.RegistrationState)},
		{"Created", moment(e.CreatedDateTimeUTC)},
		{"Updated", moment(e.LastUpdatedDateTimeUTC)},
		{"ETag", e.ETag},
	} {
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	return t.table(rows)
}

func attestationRows(m *dpsjson.AttestationMechanism) [][]string {
	switch {
	case m == nil:
		return nil
	case m.TPM != nil && m.TPM.EndorsementKey == nil:
		return tpmGroupRows(m.TPM)
	case m.TPM != nil:
		rows := [][]string{{"Attestation", "tpm"}, {"Endorsement key", base64Text(m.TPM.EndorsementKey)}}
		if len(m.TPM.StorageRootKey) > 0 {
			rows = append(rows, []string{"Storage root key", base64Text(m.TPM.StorageRootKey)})
		}
		return rows
	}
	rows := [][]string{{"Attestation", string(m.Type)}}
	if pair := certificatesOf(m); pair != nil {
		rows = append(rows, certificateRows("Primary", pair.Primary)...)
		rows = append(rows, certificateRows("Secondary", pair.Secondary)...)
	}
	if m.X509 != nil && m.X509.CAReferences != nil {
		rows = append(rows, []string{"Primary CA", m.X509.CAReferences.Primary})
		if second := m.X509.CAReferences.Secondary; second != "" {
			rows = append(rows, []string{"Secondary CA", second})
		}
	}
	return rows
}

func certificateRows(slot string, c *dpsjson.X509Certificate) [][]string {
	if c == nil || c.Info == nil {
		return nil
	}
	return [][]string{
		{slot, fmt.Sprintf("%s, valid until %s", printable(c.Info.SubjectName), moment(c.Info.NotAfterUTC))},
		{"  SHA-256", c.Info.SHA256Thumbprint},
	}
}

// showKeys prints the symmetric keys of an enrollment.
func (t *terminal) showKeys(id string, m *dpsjson.AttestationMechanism, which string) error {
	if m.SymmetricKey == nil {
		return fmt.Errorf("%s has no symmetric keys: its attestation is %s", id, m.Type)
	}
	primary, secondary := m.SymmetricKey.PrimaryKey.Base64(), m.SymmetricKey.SecondaryKey.Base64()
	switch {
	case which != "both" && which != "primary" && which != "secondary":
		return usageError{fmt.Errorf("--keys: %q is not known; primary, secondary and both are", which)}
	case t.json():
		return t.printJSON(m)
	case which == "primary":
		_, err := fmt.Fprintln(t.out, primary)
		return err
	case which == "secondary":
		_, err := fmt.Fprintln(t.out, secondary)
		return err
	}
	return t.table([][]string{{"Primary key", primary}, {"Secondary key", secondary}})
}

func attestationType(e entry) dpsjson.AttestationType {
	if e.Attestation == nil {
		return dpsjson.AttestationNone
	}
	return e.Attestation.Type
}

func status(e entry) dpsjson.ProvisioningStatus {
	if e.ProvisioningStatus == "" {
		return dpsjson.ProvisioningEnabled
	}
	return e.ProvisioningStatus
}

func allocation(e entry) string {
	if e.AllocationPolicy == "" {
		return "default"
	}
	return string(e.AllocationPolicy)
}

func hubs(e entry) string {
	switch {
	case e.IoTHubHostName != "":
		return e.IoTHubHostName
	case len(e.IoTHubs) > 0:
		return strings.Join(e.IoTHubs, ", ")
	}
	return "any"
}

func edge(e entry) string {
	if e.Capabilities != nil && e.Capabilities.IoTEdge {
		return "yes"
	}
	return ""
}

func reprovisioningWord(p *dpsjson.ReprovisionPolicy) string {
	switch {
	case p == nil || p.UpdateHubAssignment && p.MigrateDeviceData:
		return "migrate"
	case p.UpdateHubAssignment:
		return "reset"
	}
	return "never"
}

func twinText(twin *dpsjson.InitialTwin) string {
	if twin == nil {
		return ""
	}
	b, err := json.Marshal(twin)
	if err != nil {
		return ""
	}
	return printable(string(b))
}

func registrationText(r *dpsjson.RegistrationState) string {
	switch {
	case r == nil || r.Status == "":
		return ""
	case r.Status == dpsjson.Assigned:
		return fmt.Sprintf("assigned to %s as %s, %s", r.AssignedHub, r.DeviceID, moment(r.LastUpdatedDateTimeUTC))
	case r.ErrorCode != 0:
		return fmt.Sprintf("%s, %s: %s (%d)", r.Status, moment(r.LastUpdatedDateTimeUTC), printable(r.ErrorMessage), r.ErrorCode)
	case r.LastUpdatedDateTimeUTC.IsZero():
		return string(r.Status)
	}
	return fmt.Sprintf("%s, %s", r.Status, moment(r.LastUpdatedDateTimeUTC))
}

// moment writes a time for people.
func moment(at dpsjson.Time) string {
	if at.IsZero() {
		return ""
	}
	return time.Time(at).UTC().Format(time.RFC3339)
}
