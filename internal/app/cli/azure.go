package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/internal/app/cli/roster"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// A migration brings all enrollments of one service to another: from an Azure DPS
// to this server or, with out, the other way.
type migration struct {
	*operator
	transferOptions
	out              bool
	peerFile, peerCA string   // the other service
	mapHubs          []string // OLD=NEW
}

func newMoveIn(t *terminal) *cobra.Command {
	c := parent("import", "Take over a whole provisioning service", `Take over what a provisioning service elsewhere knows. For files there is berth
enrollment import.`,
		`  berth import azure-dps --from-connection-string-file azure.connection --dry-run`)
	m := &migration{operator: newOperator(t, c)}
	c.AddCommand(m.command("from", "Take over the enrollments of an Azure DPS", `Take over all enrollment groups and individual enrollments of an Azure IoT Hub Device
Provisioning Service, with their symmetric keys, so that devices which come here
instead are let in as before. Nothing is changed there. What is here already and the
same is left alone, so it can be done again at any time, also after an interrupt.

The connection string is that of a shared access policy with EnrollmentRead and
RegistrationStatusRead. Keys are copied and never shown. What cannot be taken over
is left out and reported, each with its reason:

  certificates   a service shows their fingerprints only; --certificates names a
                 directory with the PEM files
  hubs           an enrollment may name only hubs that are linked here; --map-hub
                 puts another in the place of each
  CAs            a group may name only CA certificates that are kept and verified
                 here, under the same name: see berth ca prove

Registration records cannot be written by anyone. How many devices have a home at
which hub is reported; they are assigned anew when they register here.`,
		`  berth import azure-dps --from-connection-string-file azure.connection --dry-run
  berth import azure-dps --from-connection-string-file azure.connection --map-hub contoso.azure-devices.net=hub.example.com -o json`))
	return c
}

func newMoveOut(t *terminal) *cobra.Command {
	c := parent("export", "Bring everything to another provisioning service", `Bring what this server knows to a provisioning service elsewhere. For files there is
berth enrollment export.`,
		`  berth export azure-dps --to-connection-string-file azure.connection --dry-run`)
	m := &migration{operator: newOperator(t, c), out: true}
	c.AddCommand(m.command("to", "Bring the enrollments to an Azure DPS", `Bring all enrollment groups and individual enrollments to an Azure IoT Hub Device
Provisioning Service, with their symmetric keys: berth import azure-dps the other way
round. Nothing is changed here. The policy needs EnrollmentRead and EnrollmentWrite
there. Certificates come from --certificates; groups of TPMs and expressions of custom
allocation stay, for Azure has none.`,
		`  berth export azure-dps --to-connection-string-file azure.connection --dry-run`))
	return c
}

func (m *migration) command(direction, short, long, example string) *cobra.Command {
	c := &cobra.Command{
		Use:   "azure-dps --" + direction + "-connection-string-file FILE",
		Short: short, Long: long, Example: example,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if m.peerFile == "" {
				return usageError{fmt.Errorf("which Azure DPS? --%s-connection-string-file FILE", direction)}
			}
			return m.run(c.Context())
		},
	}
	m.transferOptions.flags(c)
	f := c.Flags()
	f.StringVar(&m.peerFile, direction+"-connection-string-file", "", "`file` with the connection string of the Azure DPS; - is standard input")
	f.StringVar(&m.peerCA, direction+"-ca", "", "PEM `file` of the CA that vouches for the Azure DPS (default: the system's)")
	f.StringSliceVar(&m.mapHubs, "map-hub", nil, "put one hub in the place of another in enrollments that name it, as `OLD=NEW`; repeat for more")
	return c
}

func (m *migration) run(ctx context.Context) error {
	if err := m.check(); err != nil {
		return err
	}
	hubs, err := hubMap(m.mapHubs)
	if err != nil {
		return err
	}
	certificates, err := readRosterCertificates(m.certificates)
	if err != nil {
		return err
	}
	from, to, here, err := m.ends(ctx)
	if err != nil {
		return err
	}
	none := migrated{LeftOut: []roster.Fault{}}
	s := migrationSummary{DryRun: m.dryRun, Groups: none, Enrollments: none, Registrations: map[string]int{}}
	for _, part := range []struct {
		kind   entryKind
		result *migrated
	}{{group, &s.Groups}, {individual, &s.Enrollments}} {
		source := migrationSource{kind: part.kind, client: from, registrations: s.Registrations}
		found, err := source.read(ctx)
		if err != nil {
			return m.explain(err, !m.out)
		}
		for i := range found.Entries {
			e := &found.Entries[i].Enrollment
			hubs.rename(e)
			certificates.Complete(e.Attestation)
		}
		found.Check(m.fit(part.kind.kind, here))
		m.warnShared(found.SharedKeys())
		transfer, bar := m.transfer(part.kind, to), m.progress()
		transfer.Progress = bar.show
		part.result.LeftOut = found.Faults
		part.result.Report, err = transfer.Run(ctx, found.Entries)
		bar.end()
		if err != nil {
			return errors.Join(m.show(s), fmt.Errorf("%w\nThe same command goes on from there", m.explain(err, m.out)))
		}
	}
	return errors.Join(m.show(s), m.reportedUnless(!m.dryRun, s.leftOver()))
}

// A place is what enrollments that come here may name.
type place struct {
	hubs []string // the linked ones
	cas  []string // CA certificates that are kept and verified
}

// ends returns the two services and, where it can be asked, what there is at the
// one that is written to.
func (m *migration) ends(ctx context.Context) (from, to *service.Client, at place, err error) {
	connection, options, err := m.access()
	if err != nil {
		return nil, nil, at, err
	}
	options.Attempts = patientAttempts
	here, err := service.New(connection, options)
	if err != nil {
		return nil, nil, at, err
	}
	there, err := m.peer()
	if err != nil {
		return nil, nil, at, err
	}
	if m.out {
		return here, there, at, nil
	}
	at, err = lookAround(ctx, connection, options)
	return there, here, at, err
}

// peer returns the client for the Azure DPS.
func (m *migration) peer() (*service.Client, error) {
	text, err := m.read(m.peerFile)
	if err != nil {
		return nil, fmt.Errorf("reading the connection string of the Azure DPS: %w", err)
	}
	options := client.HTTP{Attempts: patientAttempts}
	if m.peerCA != "" {
		if options, err = m.trust(m.peerCA); err != nil {
			return nil, err
		}
		options.Attempts = patientAttempts
	}
	return service.New(string(bytes.TrimSpace(text)), options)
}

func lookAround(ctx context.Context, connection string, options client.HTTP) (here place, err error) {
	a, err := admin.New(connection, options)
	if err != nil {
		return here, err
	}
	linked, err := a.Hubs(ctx)
	if err != nil {
		return here, err
	}
	for _, h := range linked {
		here.hubs = append(here.hubs, h.Host)
	}
	kept, err := a.CACertificates(ctx)
	if err != nil {
		return here, err
	}
	for _, c := range kept {
		if c.Properties.IsVerified {
			here.cas = append(here.cas, c.Name)
		}
	}
	return here, nil
}

// explain says what to do about a server that nobody vouches for. For the other
// service that is not what the rest of the commands say.
func (m *migration) explain(err error, there bool) error {
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); !untrusted || !there {
		return err
	}
	direction := "from"
	if m.out {
		direction = "to"
	}
	return fmt.Errorf("%v\nName the CA that made the certificate, if that is no Azure: --%s-ca FILE", err, direction) // and no other remedy
}

// fit returns the check of what the destination would not take.
func (m *migration) fit(kind enroll.Kind, here place) func(entry) error {
	if m.out {
		return fitsAzure
	}
	return func(e entry) error {
		if err := checkEntry(kind, e, m.update); err != nil {
			return err
		}
		return here.has(e)
	}
}

// fitsAzure finds what only Berth has, and certificates that are not there to be
// sent.
func fitsAzure(e entry) error {
	if t := e.Attestation.TPM; t != nil && (t.EndorsementCertificates != nil || t.EndorsementKeyList != nil) {
		return errors.New("attestation.tpm: Azure has no groups of TPMs")
	}
	if d := e.CustomAllocationDefinition; d != nil && d.Expression != "" {
		return errors.New("customAllocationDefinition.expression: Azure has no expressions")
	}
	return checkWhole(e)
}

// has returns an error if e names what is not here.
func (p place) has(e entry) error {
	for _, host := range hostsOf(e) {
		if !slices.ContainsFunc(p.hubs, func(h string) bool { return strings.EqualFold(h, host) }) {
			return fmt.Errorf("names the hub %s, which is not linked here; --map-hub %s=HOST, or berth hub link", host, host)
		}
	}
	if e.Attestation == nil || e.Attestation.X509 == nil || e.Attestation.X509.CAReferences == nil {
		return nil
	}
	for _, name := range []string{e.Attestation.X509.CAReferences.Primary, e.Attestation.X509.CAReferences.Secondary} {
		if name != "" && !slices.ContainsFunc(p.cas, func(ca string) bool { return strings.EqualFold(ca, name) }) {
			return fmt.Errorf("attestation.x509.caReferences: names the CA certificate %s, which is not kept and verified here; berth ca prove %s", name, name)
		}
	}
	return nil
}

// hostsOf returns the hubs that an enrollment names.
func hostsOf(e entry) []string {
	if e.IoTHubHostName != "" {
		return append(slices.Clone(e.IoTHubs), e.IoTHubHostName)
	}
	return e.IoTHubs
}

// hubNames are new names of hubs by their old ones in lower case.
type hubNames map[string]string

func hubMap(pairs []string) (hubNames, error) {
	names := hubNames{}
	for _, pair := range pairs {
		from, to, ok := strings.Cut(pair, "=")
		if !ok || from == "" || to == "" {
			return nil, usageError{fmt.Errorf("--map-hub: %q is not OLD=NEW", pair)}
		}
		names[strings.ToLower(from)] = to
	}
	return names, nil
}

// rename changes the hubs in place that an enrollment lists.
func (n hubNames) rename(e *entry) {
	for i, host := range e.IoTHubs {
		e.IoTHubs[i] = n.of(host)
	}
	e.IoTHubHostName = n.of(e.IoTHubHostName)
}

func (n hubNames) of(host string) string { return cmp.Or(n[strings.ToLower(host)], host) }

// A migrationSource reads one kind of enrollments, with their keys, and counts the
// devices that have a home by their hubs.
type migrationSource struct {
	kind   entryKind
	client *service.Client

	mu            sync.Mutex // guards registrations
	registrations map[string]int
}

func (s *migrationSource) read(ctx context.Context) (*roster.Roster, error) {
	found := &roster.Roster{Kind: s.kind.kind, Faults: []roster.Fault{}}
	list := roster.WithKeys(ctx, s.kind.list(ctx, s.client), target{s.kind, s.client}.Attestation, prefetch)
	for e, err := range roster.Enrich(ctx, list, s.count, prefetch) {
		if err != nil {
			return nil, fmt.Errorf("reading the %ss: %w", s.kind.command, err)
		}
		found.Entries = append(found.Entries, roster.Entry{Enrollment: e})
	}
	return found, nil
}

// count counts the devices of an enrollment that are assigned.
func (s *migrationSource) count(ctx context.Context, e *entry) error {
	if s.kind.kind == enroll.Individual {
		state, err := s.client.RegistrationState(ctx, e.RegistrationID)
		if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status == http.StatusNotFound {
			return nil
		}
		if err == nil {
			s.add(state)
		}
		return err
	}
	for state, err := range s.client.RegistrationStates(ctx, e.RegistrationID) {
		if err != nil {
			return err
		}
		s.add(state)
	}
	return nil
}

func (s *migrationSource) add(state *dpsjson.RegistrationState) {
	if state.Status != dpsjson.Assigned {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registrations[state.AssignedHub]++
}

// migrated is what became of one kind of enrollments.
type migrated struct {
	roster.Report
	LeftOut []roster.Fault `json:"leftOut"`
}

// A migrationSummary is what a migration reports to programs.
type migrationSummary struct {
	DryRun        bool           `json:"dryRun"`
	Groups        migrated       `json:"groups"`
	Enrollments   migrated       `json:"enrollments"`
	Registrations map[string]int `json:"registrations"` // devices by the hub they are assigned to
}

func (m *migration) show(s migrationSummary) error {
	if m.json() {
		return m.printJSON(s)
	}
	created, updated := "CREATED", "UPDATED"
	if m.dryRun {
		created, updated = "TO CREATE", "TO UPDATE"
	}
	rows := [][]string{{"KIND", "FOUND", created, updated, "UNCHANGED", "CONFLICT", "REFUSED", "LEFT OUT"}}
	for _, part := range []struct {
		name string
		migrated
	}{{"groups", s.Groups}, {"enrollments", s.Enrollments}} {
		row := []string{part.name}
		for _, n := range []int{part.Total + len(part.LeftOut), part.Created, part.Updated, part.Unchanged,
			len(part.Conflicts), len(part.Refused), len(part.LeftOut)} {
			row = append(row, fmt.Sprint(n))
		}
		rows = append(rows, row)
	}
	if err := m.table(rows); err != nil {
		return err
	}
	for _, hub := range slices.Sorted(maps.Keys(s.Registrations)) {
		fmt.Fprintf(m.err, "%d device(s) are assigned to %s there, and are assigned anew when they register.\n", s.Registrations[hub], printable(hub))
	}
	return nil
}

// leftOver is the error for what did not come along, or nil.
func (s migrationSummary) leftOver() error {
	var all []error
	for _, part := range []struct {
		name string
		migrated
	}{{"group", s.Groups}, {"enrollment", s.Enrollments}} {
		if n := len(part.LeftOut); n > 0 {
			all = append(all, fmt.Errorf("%d %s(s) left out:\n%s", n, part.name, faultLines(part.LeftOut)))
		}
		if err := leftOver(part.Report); err != nil {
			all = append(all, fmt.Errorf("%s: %w", part.name, err))
		}
	}
	return errors.Join(all...)
}
