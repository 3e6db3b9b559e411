package cli

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// minPrint is how many digits of a thumbprint name a certificate, where no other
// begins with them.
const minPrint = 8

func newTrust(t *terminal) *cobra.Command {
	c := parent("trust", "Say which TPM vendors to believe", `The trust store: CA certificates of TPM vendors, for all enrollment groups that are
made with --trust-store. A TPM whose endorsement key has a certificate below one of
their roots comes in, if it passes the filters of the group.

Every import and every removal makes a version, which says when it was, who did it
and where the certificates came from.

Whoever has the key of one of these CAs can make TPMs that do not exist. Import
vendors that you buy from, and no others.`,
		`  berth trust list
  berth trust history`)
	o := newOperator(t, c)
	c.AddCommand(newTrustImport(o), newTrustList(o), newTrustShow(o), newTrustHistory(o), newTrustRemove(o))
	return c
}

// A trustImport is what the command line says about an import.
type trustImport struct {
	vendor, source string
	asRoot         []string
	test, dryRun   bool
}

func newTrustImport(o *operator) *cobra.Command {
	var i trustImport
	c := &cobra.Command{
		Use:   "import PATH...",
		Short: "Believe TPM vendors",
		Long: `Take CA certificates of TPM vendors into the trust store. PATH is a file, PEM or
DER, or a folder, with all folders below it. In folders VENDOR/RootCA and
VENDOR/IntermediateCA the vendor and the role are read off; elsewhere the folder
that a file is in is the vendor, unless --vendor says which. Such bundles are

  Debian's package ruby-tpm-key-attestation, in the folder lib/tpm/certificates of
  its gem: roots of the vendors
  Microsoft's TrustedTpm.cab: roots and intermediates; cabextract unpacks it

A bundle is input to a review: look at --dry-run first. What cannot be trusted is
told line by line: certificates that are no CA's, that expired, that are signed
with SHA-1 and are no roots, whose keys are short. Importing a bundle again changes
nothing, and a newer one adds what is new. Nothing is removed by an import.

A root is a certificate that signs itself, that a bundle keeps in a folder RootCA,
or that --as-root names. All else only helps to find a way to a root.

The CA of software TPMs, such as swtpm's, goes in with --test alone, and counts for
groups made with --test-trust-store alone.`,
		Example: `  berth trust import vendors --dry-run
  berth trust import vendors
  berth trust import vendor.pem --vendor Acme --source 'Acme, by courier'
  berth trust import swtpm.pem swtpm-issuer.pem --vendor bench --test`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{fmt.Errorf("%s takes the files or folders to import", c.CommandPath())}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return o.importTrust(c.Context(), i, args) },
	}
	f := c.Flags()
	f.StringVar(&i.vendor, "vendor", "", "whose certificates they are, whatever folders say; a `name` that groups and removals can use")
	f.StringVar(&i.source, "source", "", "where they come from, a `text` for the history (default: PATH)")
	f.StringArrayVar(&i.asRoot, "as-root", nil, "SHA-256 `thumbprint` of a certificate to be trusted as a root though it does not sign itself; repeat for more")
	f.BoolVar(&i.test, "test", false, "these are CAs of software TPMs, whose keys anybody can copy: for test benches")
	f.BoolVar(&i.dryRun, "dry-run", false, "say what would be done, and do nothing")
	return c
}

// importTrust reads what there is, lets the server judge, and tells what became
// of it.
func (o *operator) importTrust(ctx context.Context, i trustImport, paths []string) error {
	offer, skipped, err := i.read(ctx, paths)
	if err != nil {
		return err
	}
	if len(offer.Anchors) == 0 {
		o.tellSkipped(skipped)
		return errors.New("there is nothing to import: no file holds a CA certificate that can be trusted")
	}
	client, err := o.admin()
	if err != nil {
		return err
	}
	report, err := client.ImportTrust(ctx, offer, i.dryRun)
	if err != nil {
		return err
	}
	return o.tellImport(report, skipped)
}

// read collects what PATHs hold. A vendor that nothing names is a fault of the
// command line.
func (i trustImport) read(ctx context.Context, paths []string) (offer ekcert.Offer, skipped []ekcert.Skipped, err error) {
	offer = ekcert.Offer{Source: i.source, Test: i.test}
	if offer.Source == "" {
		offer.Source = strings.Join(paths, ", ")
	}
	pinned := map[string]bool{}
	for _, print := range i.asRoot {
		pinned[strings.ToUpper(print)] = true
	}
	var nobodys []string
	for _, path := range paths {
		anchors, not, err := readBundle(ctx, path)
		if err != nil {
			return offer, nil, err
		}
		skipped = append(skipped, not...)
		for _, a := range anchors {
			print := attest.Thumbprint(a.Certificate.Raw)
			next := ekcert.TrustAnchor{Certificate: a.Certificate.Raw, Root: a.Root || pinned[print], Vendor: a.Vendor, File: a.Source}
			delete(pinned, print)
			if i.vendor != "" {
				next.Vendor = i.vendor
			}
			if next.Vendor == "" {
				nobodys = append(nobodys, a.Source)
			}
			offer.Anchors = append(offer.Anchors, next)
		}
	}
	for print := range pinned {
		return offer, nil, usageError{fmt.Errorf("--as-root: no CA certificate that can be trusted has the SHA-256 thumbprint %s", printable(print))}
	}
	if len(nobodys) > 0 {
		return offer, nil, usageError{fmt.Errorf("no folder says whose certificates these are; name the vendor with --vendor: %s", printable(strings.Join(nobodys, ", ")))}
	}
	return offer, skipped, nil
}

func (t *terminal) tellSkipped(skipped []ekcert.Skipped) {
	for _, s := range skipped {
		fmt.Fprintf(t.err, "skipped %s: %s\n", printable(s.Source), printable(s.Reason))
	}
}

// tellImport shows what came in, and tells what did not and why.
func (t *terminal) tellImport(report *provision.TrustReport, skipped []ekcert.Skipped) error {
	if t.json() {
		return t.printJSON(struct {
			*provision.TrustReport
			Skipped []ekcert.Skipped `json:"skipped"`
		}{report, slices.Concat([]ekcert.Skipped{}, skipped)})
	}
	t.tellSkipped(skipped)
	count := map[ekcert.TrustResult]int{}
	rows := [][]string{{"VENDOR", "ROLE", "SUBJECT", "EXPIRES", "THUMBPRINT"}}
	for _, c := range report.Certificates {
		count[c.Result]++
		switch c.Result {
		case ekcert.TrustRefused:
			fmt.Fprintf(t.err, "refused %s: %s\n", printable(c.File), printable(c.Reason))
			continue
		case ekcert.TrustAdded:
			rows = append(rows, []string{printable(c.Vendor), role(c.TrustAnchor), printable(c.Subject), c.Expires.Format("2006-01-02"), c.Thumbprint[:2*minPrint]})
			for _, note := range c.Notes {
				fmt.Fprintf(t.err, "note %s: %s\n", printable(c.File), printable(note))
			}
		}
	}
	if len(rows) > 1 {
		if err := t.table(rows); err != nil {
			return err
		}
	}
	refused := count[ekcert.TrustRefused] + len(skipped)
	if count[ekcert.TrustAdded]+count[ekcert.TrustPresent] == 0 {
		return fmt.Errorf("nothing was imported: %d refused", refused)
	}
	did := fmt.Sprintf("version %d: added", report.Version)
	if report.DryRun {
		did = "nothing is changed; would be added:"
	} else if !report.Changed {
		did = fmt.Sprintf("version %d stays: added", report.Version)
	}
	return t.done("%s %d, there already %d, skipped or refused %d; SHA-256 of the set %s", did, count[ekcert.TrustAdded], count[ekcert.TrustPresent], refused, report.Digest)
}

// role says what an anchor is for.
func role(a ekcert.TrustAnchor) string {
	role := "intermediate"
	if a.Root {
		role = "root"
	}
	if a.Test {
		role = "test " + role
	}
	return role
}

func newTrustList(o *operator) *cobra.Command {
	var vendor string
	c := &cobra.Command{
		Use:   "list",
		Short: "List what is believed",
		Long: `List the certificates of the trust store, by vendor. SINCE is the version that
brought one; see berth trust history.`,
		Example: `  berth trust list
  berth trust list --vendor Acme
  berth trust list -o json`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			now, err := o.readTrust(c.Context())
			if err != nil {
				return err
			}
			if vendor != "" {
				now.Anchors = ofVendor(now.Anchors, vendor)
			}
			if o.json() {
				return o.printJSON(now)
			}
			return o.listTrust(now)
		},
	}
	c.Flags().StringVar(&vendor, "vendor", "", "those of one vendor, by `name`")
	return c
}

func (o *operator) readTrust(ctx context.Context) (*admin.Trust, error) {
	client, err := o.admin()
	if err != nil {
		return nil, err
	}
	return client.Trust(ctx)
}

func ofVendor(anchors []ekcert.TrustAnchor, vendor string) []ekcert.TrustAnchor {
	return slices.DeleteFunc(slices.Clone(anchors), func(a ekcert.TrustAnchor) bool { return !strings.EqualFold(a.Vendor, vendor) })
}

func (t *terminal) listTrust(now *admin.Trust) error {
	slices.SortStableFunc(now.Anchors, func(a, b ekcert.TrustAnchor) int {
		return strings.Compare(strings.ToLower(a.Vendor), strings.ToLower(b.Vendor))
	})
	rows := [][]string{{"VENDOR", "ROLE", "SUBJECT", "EXPIRES", "SINCE", "THUMBPRINT"}}
	for _, a := range now.Anchors {
		subject, expires := describeAnchor(a)
		rows = append(rows, []string{printable(a.Vendor), role(a), subject, expires, strconv.FormatInt(a.Added, 10), a.Thumbprint[:2*minPrint]})
	}
	if err := t.table(rows); err != nil {
		return err
	}
	if now.Version == 0 {
		return t.done("The trust store is empty: berth trust import PATH")
	}
	return t.done("version %d, SHA-256 of the set %s", now.Version, now.Digest)
}

// describeAnchor says of whom an anchor is and until when it counts.
func describeAnchor(a ekcert.TrustAnchor) (subject, expires string) {
	c, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		return "(cannot be read any more)", ""
	}
	return printable(c.Subject.String()), c.NotAfter.UTC().Format("2006-01-02")
}

func newTrustShow(o *operator) *cobra.Command {
	var asPEM bool
	c := &cobra.Command{
		Use:   "show THUMBPRINT|FILE",
		Short: "Show one certificate of the trust store",
		Long: `Show one certificate of the trust store: by its SHA-256 thumbprint, of which eight
digits do where they are the only ones, or by a file that holds it.`,
		Example: `  berth trust show vendor.pem
  berth trust show vendor.pem --pem`,
		Args: exactly("THUMBPRINT"),
		RunE: func(c *cobra.Command, args []string) error {
			now, err := o.readTrust(c.Context())
			if err != nil {
				return err
			}
			a, err := o.findAnchor(now.Trust, args[0])
			if err != nil {
				return err
			}
			switch {
			case asPEM:
				return pem.Encode(o.out, &pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate})
			case o.json():
				return o.printJSON(a)
			}
			return o.showAnchor(c.Context(), a)
		},
	}
	c.Flags().BoolVar(&asPEM, "pem", false, "print the certificate, PEM")
	return c
}

// findAnchor finds what a thumbprint, its beginning or a file means.
func (t *terminal) findAnchor(now ekcert.Trust, name string) (ekcert.TrustAnchor, error) {
	print := strings.ToUpper(strings.ReplaceAll(name, ":", ""))
	if strings.Trim(print, "0123456789ABCDEF") != "" || len(print) < minPrint {
		der, err := t.read(name)
		if err != nil {
			return ekcert.TrustAnchor{}, fmt.Errorf("%s is not a SHA-256 thumbprint, of which %d digits are the least, and not a file: %w", printable(name), minPrint, err)
		}
		if block, _ := pem.Decode(der); block != nil {
			der = block.Bytes
		}
		print = attest.Thumbprint(der)
	}
	var found []ekcert.TrustAnchor
	for _, a := range now.Anchors {
		if strings.HasPrefix(a.Thumbprint, print) {
			found = append(found, a)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return ekcert.TrustAnchor{}, fmt.Errorf("no certificate with the thumbprint %s is in the trust store; berth trust list shows what is", print)
	}
	return ekcert.TrustAnchor{}, fmt.Errorf("%s begins the thumbprints of %d certificates; give more digits", print, len(found))
}

func (o *operator) showAnchor(ctx context.Context, a ekcert.TrustAnchor) error {
	client, err := o.admin()
	if err != nil {
		return err
	}
	versions, err := client.TrustVersions(ctx)
	if err != nil {
		return err
	}
	rows := [][]string{{"Vendor", printable(a.Vendor)}, {"Role", role(a)}}
	if c, err := x509.ParseCertificate(a.Certificate); err == nil {
		rows = append(rows, [][]string{
			{"Subject", printable(c.Subject.String())}, {"Issuer", printable(c.Issuer.String())},
			{"Serial number", fmt.Sprintf("%X", c.SerialNumber)},
			{"Valid", c.NotBefore.UTC().Format("2006-01-02") + " to " + c.NotAfter.UTC().Format("2006-01-02")},
			{"Signature", c.SignatureAlgorithm.String()}, {"Key", c.PublicKeyAlgorithm.String()},
		}...)
	}
	rows = append(rows, []string{"SHA-256", a.Thumbprint}, []string{"SHA-1", attest.ThumbprintSHA1(a.Certificate)}, []string{"File", printable(a.File)})
	if i := slices.IndexFunc(versions, func(v ekcert.TrustVersion) bool { return v.Version == a.Added }); i >= 0 {
		v := versions[i]
		rows = append(rows, []string{"Since", fmt.Sprintf("version %d, %s, by %s, from %s", v.Version, moment(dpsjson.Time(v.Time)), printable(v.Policy), printable(v.Source))})
	}
	return o.table(rows)
}

func newTrustHistory(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "history",
		Short: "List what changed, and who changed it",
		Long: `List the versions of the trust store, newest first: when it was changed, by whom,
how many certificates came and went, and where they came from or why they went. A
digest is that of the certificates the change was about: the same bundle has the
same one on every server.`,
		Example: `  berth trust history`,
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			versions, err := client.TrustVersions(c.Context())
			if err != nil {
				return err
			}
			if o.json() {
				return o.printJSON(versions)
			}
			rows := [][]string{{"VERSION", "TIME", "BY", "ADDED", "REMOVED", "DIGEST", "SOURCE"}}
			for _, v := range versions {
				rows = append(rows, []string{strconv.FormatInt(v.Version, 10), moment(dpsjson.Time(v.Time)), printable(v.Policy),
					strconv.Itoa(v.Added), strconv.Itoa(v.Removed), v.Digest[:2*minPrint], printable(v.Source)})
			}
			return o.table(rows)
		},
	}
}

func newTrustRemove(o *operator) *cobra.Command {
	var vendor, source string
	var dryRun bool
	c := &cobra.Command{
		Use:   "remove (THUMBPRINT|FILE... | --vendor NAME)",
		Short: "Believe a vendor, or one of its CAs, no longer",
		Long: `Take certificates out of the trust store: by their SHA-256 thumbprints, of which
eight digits do where they are the only ones, by files that hold them, or all of a
vendor. The groups that go by them are named, with the number of devices that came
in through each: look at --dry-run first. A group that has pinned a certificate
itself (--tpm-roots) goes on trusting it.

Devices that are at home at a hub stay there. What they lose is the way back in:
they cannot register again until something else vouches for their TPMs.`,
		Example: `  berth trust remove vendor.pem --dry-run
  berth trust remove --vendor Acme --dry-run
  berth trust remove --vendor Acme --source 'no longer bought'`,
		Args: func(c *cobra.Command, args []string) error {
			if (len(args) == 0) == (vendor == "") {
				return usageError{fmt.Errorf("%s takes thumbprints, or --vendor", c.CommandPath())}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			now, err := o.readTrust(c.Context())
			if err != nil {
				return err
			}
			prints, err := o.toRemove(now.Trust, args, vendor)
			if err != nil {
				return err
			}
			client, err := o.admin()
			if err != nil {
				return err
			}
			report, err := client.RemoveTrust(c.Context(), prints, source, dryRun)
			if err != nil {
				return err
			}
			return o.tellRemoval(report)
		},
	}
	f := c.Flags()
	f.StringVar(&vendor, "vendor", "", "all certificates of one vendor, by `name`")
	f.StringVar(&source, "source", "", "why, a `text` for the history")
	f.BoolVar(&dryRun, "dry-run", false, "say who would lose what, and do nothing")
	return c
}

// toRemove returns the thumbprints that the command line means.
func (t *terminal) toRemove(now ekcert.Trust, names []string, vendor string) (prints []string, err error) {
	if vendor != "" {
		for _, a := range ofVendor(now.Anchors, vendor) {
			prints = append(prints, a.Thumbprint)
		}
		if prints == nil {
			return nil, fmt.Errorf("no certificate of %s is in the trust store; berth trust list shows what is", printable(vendor))
		}
		return prints, nil
	}
	for _, name := range names {
		a, err := t.findAnchor(now, name)
		if err != nil {
			return nil, err
		}
		prints = append(prints, a.Thumbprint)
	}
	return prints, nil
}

// tellRemoval shows what went, or would, and whom it concerns.
func (t *terminal) tellRemoval(report *provision.TrustReport) error {
	if t.json() {
		return t.printJSON(report)
	}
	rows := [][]string{{"VENDOR", "ROLE", "SUBJECT", "THUMBPRINT"}}
	for _, c := range report.Certificates {
		rows = append(rows, []string{printable(c.Vendor), role(c.TrustAnchor), printable(c.Subject), c.Thumbprint[:2*minPrint]})
	}
	if err := t.table(rows); err != nil {
		return err
	}
	fmt.Fprintln(t.out)
	if len(report.Groups) == 0 {
		fmt.Fprintln(t.out, "No enrollment group goes by them.")
	} else {
		rows = [][]string{{"GROUP", "LOSES", "KEEPS", "DEVICES"}}
		for _, g := range report.Groups {
			rows = append(rows, []string{printable(g.ID), strconv.Itoa(len(g.Loses)), strconv.Itoa(len(g.Keeps)), strconv.Itoa(g.Devices)})
		}
		if err := t.table(rows); err != nil {
			return err
		}
		fmt.Fprintln(t.out, "\nKEEPS are certificates that the group has pinned itself. DEVICES came in through the\ngroup: no more than these can lose their way back in.")
	}
	if report.DryRun {
		return t.done("nothing is changed; it would be version %d", report.Version+1)
	}
	return t.done("version %d: removed %d", report.Version, len(report.Certificates))
}
