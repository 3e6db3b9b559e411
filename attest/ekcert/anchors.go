package ekcert

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"time"
)

// The limits of a bundle.
const (
	MaxAnchors    = 10_000  // certificates
	MaxAnchorFile = 1 << 20 // bytes of one file
)

// An Anchor is a CA certificate of a bundle. It is input to a review: nothing
// becomes trusted because a bundle holds it.
type Anchor struct {
	Certificate *x509.Certificate
	// Root says that the certificate signs itself, or that the bundle keeps it in
	// a folder RootCA. Others are intermediates.
	Root bool
	// Test says that it is the CA of a software TPM, which no production policy
	// may pin.
	Test bool
	// Vendor is the name of the folder the bundle keeps it in, as a hint: a
	// bundle's folders prove nothing.
	Vendor string
	SHA256 [sha256.Size]byte // of the DER
	// Source is the name of the file and, from the second certificate of a file
	// on, # and its number.
	Source string
	// Notes are what a reviewer should know: a root that is signed by another CA,
	// a signature nobody can rely on any more.
	Notes []string
}

// A Skipped is something in a bundle that is no anchor, and why.
type Skipped struct {
	Source string `json:"source"`
	Reason string `json:"reason"`
}

// ParseAnchors reads a bundle of vendors' CA certificates: the names and contents
// of its files, in any order, each with one DER certificate or any number of PEM
// blocks. It knows the layout {Vendor}/RootCA/… and {Vendor}/IntermediateCA/… of
// Microsoft's TrustedTpm.cab; elsewhere the folder of a file is the vendor.
// Certificates that are no CA, that are not valid at now or that came before are
// skipped, and so are files without a certificate; each is reported. The anchors
// are sorted by Source. A bundle over the limits is an error.
func ParseAnchors(files iter.Seq2[string, []byte], now time.Time) ([]Anchor, []Skipped, error) {
	var all []Anchor
	var skipped []Skipped
	for file, content := range files {
		anchors, not := parseAnchorFile(file, content)
		all, skipped = append(all, anchors...), append(skipped, not...)
		if len(all)+len(skipped) > MaxAnchors {
			return nil, nil, fmt.Errorf("trust anchors: more than %d certificates", MaxAnchors)
		}
	}
	slices.SortStableFunc(all, func(a, b Anchor) int { return cmp.Compare(a.Source, b.Source) })

	anchors := all[:0]
	at := map[[sha256.Size]byte]int{} // index in anchors
	for _, a := range all {
		first, again := at[a.SHA256]
		reason := unfit(a.Certificate, now)
		if again {
			anchors[first].Root = anchors[first].Root || a.Root
			reason = "the same certificate as " + anchors[first].Source
		}
		if reason != "" {
			skipped = append(skipped, Skipped{a.Source, reason})
			continue
		}
		at[a.SHA256] = len(anchors)
		anchors = append(anchors, a)
	}
	slices.SortStableFunc(skipped, func(a, b Skipped) int { return cmp.Compare(a.Source, b.Source) })
	return anchors, skipped, nil
}

// parseAnchorFile returns every certificate of a file.
func parseAnchorFile(file string, content []byte) (anchors []Anchor, skipped []Skipped) {
	if len(content) > MaxAnchorFile {
		return nil, []Skipped{{file, fmt.Sprintf("%d bytes: more than %d", len(content), MaxAnchorFile)}}
	}
	n := 0
	add := func(der []byte, err error) {
		n++
		source := file
		if n > 1 {
			source = fmt.Sprintf("%s#%d", file, n)
		}
		var c *x509.Certificate
		if err == nil {
			c, err = x509.ParseCertificate(bytes.Clone(der))
		}
		if err != nil {
			skipped = append(skipped, Skipped{source, err.Error()})
			return
		}
		vendor, kind := place(file)
		anchors = append(anchors, Anchor{
			Certificate: c, Root: kind == rootFolder || selfSigned(c), Test: isTestCA(c),
			Vendor: vendor, SHA256: sha256.Sum256(c.Raw), Source: source, Notes: notes(c, kind),
		})
	}
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			add(nil, fmt.Errorf("a PEM block of type %q", block.Type))
			continue
		}
		add(block.Bytes, nil)
	}
	if n == 0 {
		der, rest, err := cut(content)
		if err != nil {
			err = errors.New("neither a DER nor a PEM certificate")
		} else if len(bytes.TrimSpace(rest)) > 0 {
			err = fmt.Errorf("%d bytes follow the certificate", len(rest))
		}
		add(der, err)
	}
	return anchors, skipped
}

// A folder is what the folder of a file says about the certificates in it.
type folder int

const (
	otherFolder folder = iota
	rootFolder
	intermediateFolder
)

// place reads the folders a file lies in.
func place(file string) (vendor string, kind folder) {
	dir := path.Dir(strings.ReplaceAll(file, `\`, "/"))
	switch strings.ToLower(path.Base(dir)) {
	case "rootca":
		dir, kind = path.Dir(dir), rootFolder
	case "intermediateca":
		dir, kind = path.Dir(dir), intermediateFolder
	}
	if vendor = path.Base(dir); vendor == "." || vendor == "/" {
		vendor = ""
	}
	return vendor, kind
}

// unfit says why c can be no anchor, or nothing.
func unfit(c *x509.Certificate, now time.Time) string {
	switch {
	case !isCA(c):
		return "not a CA certificate"
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return "a CA certificate whose key usage does not let it sign certificates"
	case len(c.UnhandledCriticalExtensions) > 0:
		return fmt.Sprintf("its critical extension %v means nothing to us", c.UnhandledCriticalExtensions[0])
	case weakKey(c) != "":
		return weakKey(c)
	case now.After(c.NotAfter):
		return "expired at " + c.NotAfter.UTC().Format(time.RFC3339)
	case now.Before(c.NotBefore):
		return "not valid before " + c.NotBefore.UTC().Format(time.RFC3339)
	}
	return ""
}

// selfSigned reports whether c is signed with its own key. That old roots do it
// with SHA-1 or worse is no harm: a root is trusted for being pinned, and its
// signature for nothing.
func selfSigned(c *x509.Certificate) bool {
	if !bytes.Equal(c.RawIssuer, c.RawSubject) {
		return false
	}
	err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	_, insecure := errors.AsType[x509.InsecureAlgorithmError](err)
	return err == nil || insecure
}

// notes are what a reviewer of an anchor should know.
func notes(c *x509.Certificate, kind folder) (notes []string) {
	if own := selfSigned(c); kind == rootFolder && !own {
		notes = append(notes, fmt.Sprintf("kept as a root, but issued by %q", c.Issuer))
	} else if kind == intermediateFolder && own {
		notes = append(notes, "kept as an intermediate, but signs itself")
	}
	if insecureSignature(c) {
		notes = append(notes, fmt.Sprintf("signed with %v, which proves nothing any more: good only as a pinned root", c.SignatureAlgorithm))
	}
	if isTestCA(c) {
		notes = append(notes, "the CA of a software TPM")
	}
	return notes
}
