package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/front/dpshttp"
	"github.com/berth-iot/berth/internal/app/cli/roster"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/wire/dpsjson"
)

const (
	// patientAttempts is how often a call is made that nobody waits for: a
	// service that asks for time is given it.
	patientAttempts = 10

	defaultParallel = 8
	maxParallel     = 64

	// maxFaults is how many faults are shown to a person.
	maxFaults = 20
)

// A transferOptions is what the flags say about writing many enrollments.
type transferOptions struct {
	dryRun, update, allowShared bool
	parallel                    int
	certificates                string // directory or file
}

func (f *transferOptions) flags(c *cobra.Command) {
	s := c.Flags()
	s.BoolVar(&f.dryRun, "dry-run", false, "write nothing, and say what would be done")
	s.BoolVar(&f.update, "update", false, "change enrollments that are there already and different; otherwise they are conflicts")
	s.IntVar(&f.parallel, "parallel", defaultParallel, "calls at a `time`, 1 to 64; each holds ten enrollments")
	s.StringVar(&f.certificates, "certificates", "", "`directory` of PEM files, or one of them, with certificates that a service shows by their fingerprints only")
}

func (f *transferOptions) check() error {
	if f.parallel < 1 || f.parallel > maxParallel {
		return usageError{fmt.Errorf("--parallel: %d is not between 1 and %d", f.parallel, maxParallel)}
	}
	return nil
}

// A fileImport is the import of a file.
type fileImport struct {
	*operator
	transferOptions
	kind       entryKind
	file       string
	resumeFile string
}

func newEnrollmentImport(o *operator) *cobra.Command {
	i := &fileImport{operator: o, kind: individual}
	c := i.command("Enroll many devices from a file", `Enroll every device of a file, or of standard input (-). Everything is read and
checked before the first one is written, and each fault named by its line.

The file is JSON Lines, an individual enrollment of the service API each as berth
enrollment export writes them, or CSV whose first line names its columns:

  registrationId        the device's name; the only column that must be there
  deviceId              its name at the hub, if that is another
  attestation           symmetricKey, tpm or x509; may be left out where the
                        columns below tell
  primaryKey            symmetric keys, base64; the service makes those that are
  secondaryKey          missing
  endorsementKey        of the TPM: TPM2B_PUBLIC, base64
  storageRootKey        of the TPM, to pin it as well
  certificate           the device's own, base64 or the name of its PEM file, which
  secondaryCertificate  starts from the directory of the roster
  allocationPolicy      hashed, geoLatency or static
  iotHubs               hosts of linked hubs, separated by blanks
  iotEdge               true or false
  tags, desired         JSON objects to start the twin with
  provisioningStatus    enabled or disabled
  reprovision           migrate, reset or never

What is there already and the same is left alone, so a file can be imported again.
An import that was interrupted goes on where it was: FILE.journal remembers what is
done, until all is.

Two lines with one registration ID or one endorsement key are a fault, and so is a
symmetric key that several devices share, unless --allow-shared-keys accepts it.`,
		`  berth enrollment import devices.csv --dry-run
  berth enrollment import devices.csv
  berth enrollment import devices.csv --update -o json
  berth enrollment import devices.jsonl --resume-file night-shift.journal`)
	c.Flags().BoolVar(&i.allowShared, "allow-shared-keys", false, "accept that devices share a symmetric key, so that each can pose as the other")
	return c
}

func newGroupImport(o *operator) *cobra.Command {
	i := &fileImport{operator: o, kind: group}
	return i.command("Make groups from a file", `Make the enrollment groups of a file, or of standard input (-): JSON Lines, as berth
group export writes them. All else is as with berth enrollment import.`,
		`  berth group import groups.jsonl --dry-run
  berth group import groups.jsonl`)
}

func (i *fileImport) command(short, long, example string) *cobra.Command {
	c := &cobra.Command{
		Use: "import FILE", Short: short, Long: long, Example: example,
		Args: exactly("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			i.file = args[0]
			return i.run(c.Context())
		},
	}
	i.transferOptions.flags(c)
	c.Flags().StringVar(&i.resumeFile, "resume-file", "", "`file` that remembers what is done (default: FILE.journal; none for standard input)")
	return c
}

func (i *fileImport) run(ctx context.Context) error {
	if err := i.check(); err != nil {
		return err
	}
	entries, err := i.read()
	if err != nil {
		return err
	}
	connection, client, err := i.patient()
	if err != nil {
		return err
	}
	t := i.transfer(i.kind, client)
	if t.Journal, err = i.journal(connection); err != nil {
		return err
	}
	began, bar := time.Now(), i.progress()
	t.Progress = bar.show
	report, err := t.Run(ctx, entries)
	bar.end()
	took := time.Since(began)
	if t.Journal != nil {
		if err == nil {
			err = t.Journal.Remove()
		} else {
			err = errors.Join(err, t.Journal.Close())
		}
	}
	return errors.Join(i.show(report, took, err != nil), i.verdict(ctx, report, err))
}

// read reads the file and finds its faults.
func (i *fileImport) read() ([]roster.Entry, error) {
	certificates, err := readRosterCertificates(i.certificates)
	if err != nil {
		return nil, err
	}
	in, dir := i.in, "."
	if i.file != "-" {
		f, err := os.Open(i.file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in, dir = f, filepath.Dir(i.file)
	}
	reader := roster.Reader{Kind: i.kind.kind, Decode: i.kind.decode, Certificates: certificates, File: beside(dir)}
	r, err := reader.Read(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", i.file, err)
	}
	r.Check(func(e entry) error { return checkEntry(i.kind.kind, e, i.update) })
	shared := r.SharedKeys()
	if i.allowShared {
		i.warnShared(shared)
	} else {
		r.Faults = append(r.Faults, shared...)
	}
	if len(r.Faults) == 0 {
		return r.Entries, nil
	}
	if i.json() {
		if err := i.printJSON(map[string][]roster.Fault{"faults": r.Faults}); err != nil {
			return nil, err
		}
	}
	text := fmt.Sprintf("%s has %d fault(s), and nothing was written:\n%s", i.file, len(r.Faults), faultLines(r.Faults))
	if len(shared) > 0 && !i.allowShared && i.kind.kind == enroll.Individual {
		text += "\nWhoever has one of the devices that share a key can pose as the others; --allow-shared-keys accepts that."
	}
	return nil, errors.New(text)
}

func (t *terminal) warnShared(shared []roster.Fault) {
	if len(shared) > 0 {
		fmt.Fprintf(t.err, "Warning: %d device(s) share a symmetric key with another; each can pose as the other.\n", len(shared))
	}
}

// faultLines writes the first faults, one a line.
func faultLines(faults []roster.Fault) string {
	var lines []string
	for _, f := range faults[:min(len(faults), maxFaults)] {
		lines = append(lines, "  "+printable(f.String()))
	}
	if more := len(faults) - maxFaults; more > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", more))
	}
	return strings.Join(lines, "\n")
}

// checkEntry finds what this service would refuse.
func checkEntry(kind enroll.Kind, e entry, update bool) error {
	if err := dpshttp.CheckEnrollment(kind, e); err != nil {
		return err
	}
	if update {
		return nil // what is only named can be what is there
	}
	return checkWhole(e)
}

// checkWhole finds an enrollment that names a certificate by its fingerprint or a
// list by its digest. It can be compared with one that is there; made of it, an
// enrollment would let in nobody.
func checkWhole(e entry) error {
	if missing := (roster.Certificates{}).Complete(e.Attestation); len(missing) > 0 {
		return fmt.Errorf("the certificate with SHA-256 %s is named and not there; --certificates DIR has it?", missing[0])
	}
	if t := e.Attestation.TPM; t != nil && t.EndorsementKeyList != nil && t.EndorsementKeyList.Count > len(t.EndorsementKeyList.Keys) {
		return errors.New("its list of endorsement keys is named and not there; berth group create --tpm-list makes the group from the file of its reel")
	}
	return nil
}

// beside reads files that a roster in dir names.
func beside(dir string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return readBounded(name)
	}
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxFile)
	}
	return b, err
}

// readRosterCertificates reads the PEM files of a directory, or one file.
func readRosterCertificates(place string) (roster.Certificates, error) {
	found := roster.Certificates{}
	if place == "" {
		return found, nil
	}
	files := []string{place}
	if entries, err := os.ReadDir(place); err == nil {
		files = nil
		for _, e := range entries {
			if slices.Contains([]string{".pem", ".crt", ".cer"}, strings.ToLower(filepath.Ext(e.Name()))) {
				files = append(files, filepath.Join(place, e.Name()))
			}
		}
	}
	for _, file := range files {
		text, err := readBounded(file)
		if err != nil {
			return nil, fmt.Errorf("--certificates: %w", err)
		}
		chain, err := pki.ParseCertificates(text)
		if err != nil {
			return nil, fmt.Errorf("--certificates: %s: %w", file, err)
		}
		for _, c := range chain {
			found.Add(c.Raw)
		}
	}
	return found, nil
}

// patient returns the connection string and a client that gives the service the
// time it asks for.
func (o *operator) patient() (connection string, c *service.Client, err error) {
	connection, options, err := o.access()
	if err != nil {
		return "", nil, err
	}
	options.Attempts = patientAttempts
	c, err = service.New(connection, options)
	return connection, c, err
}

// A target is a service as a transfer sees it.
type target struct {
	kind   entryKind
	client *service.Client
}

func (t target) Bulk(ctx context.Context, mode dpsjson.BulkMode, items []entry) ([]error, error) {
	return t.kind.bulk(ctx, t.client, mode, items)
}

func (t target) Read(ctx context.Context, id string) (entry, error) {
	return t.kind.read(ctx, t.client, id)
}

func (t target) Attestation(ctx context.Context, id string) (*dpsjson.AttestationMechanism, error) {
	return t.kind.keys(ctx, t.client, id)
}

func (f *transferOptions) transfer(kind entryKind, client *service.Client) roster.Transfer {
	return roster.Transfer{To: target{kind, client}, Update: f.update, DryRun: f.dryRun, Parallel: f.parallel}
}

// journal opens the journal. Where it would be by itself and cannot be written, the
// import does without.
func (i *fileImport) journal(connection string) (*roster.Journal, error) {
	name := i.resumeFile
	switch {
	case i.dryRun:
		return nil, nil
	case name == "" && i.file == "-":
		return nil, nil
	case name == "":
		name = i.file + ".journal"
	}
	j, err := roster.OpenJournal(name, connection, i.kind.kind)
	if i.resumeFile == "" && errors.Is(err, os.ErrPermission) {
		fmt.Fprintf(i.err, "No journal is kept: %v; --resume-file names another place.\n", err)
		return nil, nil
	}
	return j, err
}

// An importSummary is what an import reports to programs.
type importSummary struct {
	DryRun   bool `json:"dryRun"`
	Complete bool `json:"complete"` // all of the file was dealt with
	roster.Report
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"perSecond"`
}

func (i *fileImport) show(r roster.Report, took time.Duration, stopped bool) error {
	rate := float64(r.Done()-r.Resumed) / max(took.Seconds(), 1e-3)
	if i.json() {
		return i.printJSON(importSummary{i.dryRun, !stopped && r.Done() == r.Total, r, took.Seconds(), rate})
	}
	words := []string{"created", "updated", "unchanged", "refused"}
	if i.dryRun {
		words = []string{"to create", "to update", "unchanged", "refused"}
	}
	_, err := fmt.Fprintf(i.out, "%d of %d: %d %s, %d %s, %d %s, %d done before, %d in conflict, %d %s; %.1f s, %.0f/s\n",
		r.Done(), r.Total, r.Created, words[0], r.Updated, words[1], r.Unchanged, words[2], r.Resumed,
		len(r.Conflicts), len(r.Refused), words[3], took.Seconds(), rate)
	return err
}

// verdict is the error of an import that did not do all it was asked to.
func (i *fileImport) verdict(ctx context.Context, r roster.Report, err error) error {
	again := "the same command goes on from there"
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("stopped after %d of %d; %s", r.Done(), r.Total, again)
	case err != nil:
		return fmt.Errorf("%w\nThat was after %d of %d; %s", err, r.Done(), r.Total, again)
	}
	return i.reportedUnless(!i.dryRun, leftOver(r))
}

// reportedUnless is how a command ends that could not do everything, which is a
// failure unless it was a dry run: that was to find out.
func (t *terminal) reportedUnless(failure bool, err error) error {
	if err == nil || failure {
		return err
	}
	_, err = fmt.Fprintln(t.err, err)
	return err
}

// leftOver is the error for what a service did not take, or nil.
func leftOver(r roster.Report) error {
	var parts []string
	if n := len(r.Conflicts); n > 0 {
		parts = append(parts, fmt.Sprintf("%d in conflict; --update changes them:\n%s", n, faultLines(r.Conflicts)))
	}
	if n := len(r.Refused); n > 0 {
		parts = append(parts, fmt.Sprintf("%d refused:\n%s", n, faultLines(r.Refused)))
	}
	if parts == nil {
		return nil
	}
	return errors.New(strings.Join(parts, "\n"))
}

// A progressBar tells somebody at a terminal how far a transfer is.
type progressBar struct {
	to           io.Writer // nil where nobody looks
	began, shown time.Time
}

func (t *terminal) progress() *progressBar {
	p := &progressBar{began: time.Now()}
	if f, ok := t.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.to = f
	}
	return p
}

func (p *progressBar) show(r roster.Report) {
	const often = 100 * time.Millisecond
	now := time.Now()
	if p.to == nil || now.Sub(p.shown) < often {
		return
	}
	p.shown = now
	fmt.Fprintf(p.to, "\r\x1b[K%d of %d, %.0f/s", r.Done(), r.Total, float64(r.Done()-r.Resumed)/now.Sub(p.began).Seconds())
}

func (p *progressBar) end() {
	if p.to != nil {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}
