package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// maxList is the longest list of endorsement keys that the server takes, in
// bytes, and listTimeout how long an upload may last.
const (
	maxList     = 64 << 20
	listTimeout = 5 * time.Minute
)

// A tpmGroup is what the command line says about the TPMs of a group.
type tpmGroup struct {
	roots, intermediates, testRoots []string // files
	manufacturers, models, firmware []string
	list                            string // file

	trust, testTrust bool
	vendors          []string
	changed          func(flag string) bool
}

func (g *tpmGroup) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringSliceVar(&g.roots, "tpm-roots", nil, "`file` with root certificates of TPM vendors, PEM or DER; repeat for more. TPMs with a certificate below one of them come in")
	f.StringSliceVar(&g.intermediates, "tpm-intermediates", nil, "`file` with vendors' certificates between the roots and the TPMs; repeat for more")
	f.StringArrayVar(&g.manufacturers, "tpm-manufacturer", nil, "`vendor` of the TPMs, INTC or id:494E5443; repeat for more (default: any)")
	f.StringArrayVar(&g.models, "tpm-model", nil, "`model` of the TPMs as their certificates name it; repeat for more (default: any)")
	f.StringArrayVar(&g.firmware, "tpm-firmware-oldest", nil, "oldest firmware as `vendor[/model]=version` in certificates, IFX/SLB9670=id:00070055; repeat for more")
	f.StringSliceVar(&g.testRoots, "test-roots", nil, "`file` with root certificates of software TPMs, whose keys anybody can copy: for test benches")
	f.BoolVar(&g.trust, "trust-store", false, "TPMs with a certificate below a vendor's root in the trust store come in; =false for no longer (see berth trust)")
	f.StringArrayVar(&g.vendors, "trust-vendor", nil, "`vendor` whose roots in the trust store count, as berth trust list names it; repeat for more (default: all)")
	f.BoolVar(&g.testTrust, "test-trust-store", false, "software TPMs below a root that berth trust import --test took in come in: for test benches")
	g.changed = f.Changed
	f.StringVar(&g.list, "tpm-list", "", "`file` with the endorsement keys of a reel, one a line or in a table's column endorsementKey. TPMs on it come in")
}

// asked reports whether a flag names TPMs.
func (g *tpmGroup) asked() bool {
	return g.list != "" || g.certificates()
}

func (g *tpmGroup) certificates() bool {
	return len(g.roots)+len(g.intermediates)+len(g.testRoots)+len(g.manufacturers)+len(g.models)+len(g.firmware)+len(g.vendors) > 0 ||
		g.changed != nil && (g.changed("trust-store") || g.changed("test-trust-store"))
}

// applyTPMGroup changes what flags were given for. The list's keys are uploaded
// afterwards: they may be more than a request of the service API holds.
func (t *terminal) applyTPMGroup(g tpmGroup, e *dpsjson.IndividualEnrollment) error {
	var now dpsjson.TPMAttestation
	if e.Attestation != nil && e.Attestation.TPM != nil {
		now = *e.Attestation.TPM
	}
	if g.list != "" {
		now.EndorsementKeyList = &dpsjson.EKList{}
	}
	if g.certificates() {
		if now.EndorsementCertificates == nil {
			now.EndorsementCertificates = &dpsjson.EKCertificates{}
		}
		if err := t.applyEKCertificates(g, now.EndorsementCertificates); err != nil {
			return err
		}
	}
	e.Attestation = &dpsjson.AttestationMechanism{Type: dpsjson.AttestationTPM, TPM: &now}
	return nil
}

func (t *terminal) applyEKCertificates(g tpmGroup, c *dpsjson.EKCertificates) error {
	for _, slot := range []struct {
		flag  string
		files []string
		slot  *[]dpsjson.X509Certificate
	}{
		{"--tpm-roots", g.roots, &c.Roots}, {"--tpm-intermediates", g.intermediates, &c.Intermediates}, {"--test-roots", g.testRoots, &c.TestRoots},
	} {
		if slot.files == nil {
			continue
		}
		anchors, err := t.readAnchors(slot.flag, slot.files)
		if err != nil {
			return err
		}
		*slot.slot = nil
		for _, a := range anchors {
			*slot.slot = append(*slot.slot, dpsjson.X509Certificate{Certificate: a.Certificate.Raw})
		}
	}
	if g.manufacturers != nil {
		c.Manufacturers = g.manufacturers
	}
	if g.models != nil {
		c.Models = g.models
	}
	if g.vendors != nil {
		c.Vendors = g.vendors
	}
	if g.changed("trust-store") {
		c.TrustStore = g.trust
	}
	if g.changed("test-trust-store") {
		c.TestTrustStore = g.testTrust
	}
	if g.firmware == nil {
		return nil
	}
	c.Firmware = nil
	for _, text := range g.firmware {
		vendor, oldest, ok := strings.Cut(text, "=")
		if !ok {
			return usageError{fmt.Errorf("--tpm-firmware-oldest: %q is not vendor=version or vendor/model=version", text)}
		}
		vendor, model, _ := strings.Cut(vendor, "/")
		c.Firmware = append(c.Firmware, dpsjson.FirmwareRule{Manufacturer: vendor, Model: model, Oldest: oldest})
	}
	return nil
}

// readAnchors reads CA certificates, all of which must be fit to be one.
func (t *terminal) readAnchors(flag string, files []string) ([]ekcert.Anchor, error) {
	contents := map[string][]byte{}
	for _, file := range files {
		b, err := t.read(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		contents[file] = b
	}
	anchors, skipped, err := ekcert.ParseAnchors(maps.All(contents), time.Now())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	var faults []error
	for _, s := range skipped {
		faults = append(faults, fmt.Errorf("%s: %s: %s", flag, s.Source, s.Reason))
	}
	for _, a := range anchors {
		if a.Test && flag == "--tpm-roots" {
			faults = append(faults, fmt.Errorf("%s: %s: the CA of a software TPM, whose keys anybody can copy; on a test bench it goes with --test-roots", flag, a.Source))
		}
	}
	return anchors, errors.Join(faults...)
}

// readList reads a list and finds its faults before anything is changed.
func (t *terminal) readList(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	from := t.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("--tpm-list: %w", err)
		}
		defer f.Close()
		from = f
	}
	b, err := io.ReadAll(io.LimitReader(from, maxList+1))
	if err != nil {
		return nil, fmt.Errorf("--tpm-list: reading %s: %w", file, err)
	}
	if len(b) > maxList {
		return nil, fmt.Errorf("--tpm-list: %s has more than %d bytes; the SHA-256 digests of the keys are shorter than the keys", file, maxList)
	}
	if _, err := ekcert.ParseList(bytes.NewReader(b)); err != nil {
		return nil, fmt.Errorf("--tpm-list: %s: %w", file, err)
	}
	return b, nil
}

// upload gives a group its list.
func (o *operator) upload(ctx context.Context, group string, list []byte) error {
	access, options, err := o.access()
	if err != nil {
		return err
	}
	options.Timeout = listTimeout
	c, err := admin.New(access, options)
	if err != nil {
		return err
	}
	if _, err := c.PutEndorsementKeys(ctx, group, list); err != nil {
		return fmt.Errorf("the group is as was asked, but for its list: %w\nTo try again:\n  berth group update %s --tpm-list FILE", err, group)
	}
	return nil
}

// trustRow says what of the trust store counts for a group.
func trustRow(c *dpsjson.EKCertificates) string {
	var counts []string
	if c.TrustStore {
		counts = append(counts, "vendors' roots")
	}
	if c.TestTrustStore {
		counts = append(counts, "roots of software TPMs")
	}
	row := strings.Join(counts, ", ")
	if row != "" && len(c.Vendors) > 0 {
		row += ", of " + strings.Join(c.Vendors, ", ")
	}
	return row
}

// tpmGroupRows show what a group asks of its TPMs.
func tpmGroupRows(m *dpsjson.TPMAttestation) [][]string {
	rows := [][]string{{"Attestation", "tpm"}}
	if c := m.EndorsementCertificates; c != nil {
		for i := range c.Roots {
			rows = append(rows, certificateRows("Root", &c.Roots[i])...)
		}
		for i := range c.TestRoots {
			rows = append(rows, certificateRows("Test root", &c.TestRoots[i])...)
		}
		if n := len(c.Intermediates); n > 0 {
			rows = append(rows, []string{"Intermediates", fmt.Sprint(n)})
		}
		for _, row := range [][]string{
			{"Trust store", trustRow(c)},
			{"Manufacturers", strings.Join(c.Manufacturers, ", ")},
			{"Models", strings.Join(c.Models, ", ")},
		} {
			if row[1] != "" {
				rows = append(rows, []string{row[0], printable(row[1])})
			}
		}
		for _, r := range c.Firmware {
			rows = append(rows, []string{"Oldest firmware", printable(strings.TrimRight(r.Manufacturer+" "+r.Model, " ") + ": " + r.Oldest)})
		}
	}
	if l := m.EndorsementKeyList; l != nil {
		rows = append(rows, []string{"Listed keys", fmt.Sprint(l.Count)})
		if l.SHA256 != "" {
			rows = append(rows, []string{"  SHA-256", l.SHA256})
		}
	}
	return rows
}
