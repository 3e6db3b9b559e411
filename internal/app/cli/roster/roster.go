// Package roster moves enrollments: out of a file into a provisioning service, and
// from one service into another. A roster is the list of who is to be let in.
//
// Everything is read and checked before anything is written ([Reader.Read] and
// [Roster.Check]); then a [Transfer] writes what is new, and can be interrupted and
// run again.
package roster

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// An Enrollment is an enrollment of either kind. A group comes as an individual
// enrollment that has the group's name: they share all other members.
type Enrollment = dpsjson.IndividualEnrollment

// An Entry is one enrollment of a roster and where it stood.
type Entry struct {
	Enrollment
	Line int // in the file, from 1; zero for what came out of a service
}

// A Fault is what is wrong with one entry. It holds no secret.
type Fault struct {
	Line           int    `json:"line,omitempty"`
	RegistrationID string `json:"registrationId,omitempty"` // or the group's name; empty where there is none to be read
	Reason         string `json:"reason"`
}

func (f Fault) String() string {
	var where []string
	if f.Line > 0 {
		where = append(where, fmt.Sprintf("line %d", f.Line))
	}
	if f.RegistrationID != "" {
		where = append(where, f.RegistrationID)
	}
	return strings.Join(append(where, f.Reason), ": ")
}

// A Roster is the entries of a file or of a service, and the faults of those that
// could not be read.
type Roster struct {
	Kind    enroll.Kind
	Entries []Entry
	Faults  []Fault
}

func (r *Roster) fault(line int, id, format string, args ...any) {
	r.Faults = append(r.Faults, Fault{line, shortID(id), fmt.Sprintf(format, args...)})
}

// shortID returns what of a text out of a file can be shown as an ID.
func shortID(id string) string {
	if _, err := device.ParseRegistrationID(id); err != nil {
		return ""
	}
	return id
}

// A Reader reads rosters.
type Reader struct {
	Kind enroll.Kind
	// Decode reads one line of JSON.
	Decode func([]byte) (Enrollment, error)
	// File returns the content of a file that a CSV row names.
	File func(name string) ([]byte, error)
	// Certificates are those that services show by their fingerprints only.
	Certificates Certificates
}

// Read reads CSV with a header, or JSON Lines if the first character is {. Faults
// of single lines are in the roster; the error is of reading itself.
func (r Reader) Read(from io.Reader) (*Roster, error) {
	roster := &Roster{Kind: r.Kind}
	in := bufio.NewReaderSize(from, 64<<10)
	if bom, _ := in.Peek(3); bytes.Equal(bom, []byte("\xef\xbb\xbf")) {
		in.Discard(3) // spreadsheets begin UTF-8 with a byte order mark
	}
	first, err := firstCharacter(in)
	switch {
	case errors.Is(err, io.EOF):
		return nil, errors.New("is empty")
	case err != nil:
		return nil, err
	case first == '{':
		err = r.readLines(in, roster)
	case r.Kind == enroll.Group:
		return nil, errors.New("is not JSON Lines; groups come in no other form")
	default:
		err = r.readCSV(in, roster)
	}
	if err != nil {
		return nil, err
	}
	return roster, nil
}

// firstCharacter looks for the first character that is not blank, without going
// past it.
func firstCharacter(in *bufio.Reader) (byte, error) {
	for n := 1; ; n++ {
		seen, err := in.Peek(n)
		if len(seen) < n {
			return 0, err
		}
		if c := seen[n-1]; !strings.ContainsRune(" \t\r\n", rune(c)) {
			return c, nil
		}
	}
}

// Check finds the faults that the entries have by themselves, those that check
// reports of each, and those they have together: an ID or an endorsement key
// twice. Entries with a fault leave the roster, and the faults are in the order of
// the lines.
func (r *Roster) Check(check func(Enrollment) error) {
	ids, chips := map[string]int{}, map[string]int{}
	r.Entries = slices.DeleteFunc(r.Entries, func(e Entry) bool {
		before := len(r.Faults)
		if err := check(e.Enrollment); err != nil {
			r.fault(e.Line, e.RegistrationID, "%s", err)
		}
		if first, twice := seenBefore(ids, strings.ToLower(e.RegistrationID), e.Line); twice {
			r.fault(e.Line, e.RegistrationID, "stands in line %d already", first)
		}
		if ek := endorsementKey(e.Enrollment); ek != "" {
			if first, twice := seenBefore(chips, ek, e.Line); twice {
				r.fault(e.Line, e.RegistrationID, "its endorsement key is that of line %d: one TPM is one device", first)
			}
		}
		return len(r.Faults) > before
	})
	slices.SortStableFunc(r.Faults, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
}

// seenBefore notes where key stands, and reports where it stood first.
func seenBefore(seen map[string]int, key string, line int) (first int, twice bool) {
	if first, twice = seen[key]; !twice {
		seen[key] = line
	}
	return first, twice
}

func endorsementKey(e Enrollment) string {
	if e.Attestation == nil || e.Attestation.TPM == nil {
		return ""
	}
	return string(e.Attestation.TPM.EndorsementKey)
}

// SharedKeys returns a fault for every entry with a symmetric key that an entry
// before it has as well: whoever has one of the devices can pose as the others.
func (r *Roster) SharedKeys() (faults []Fault) {
	type place struct {
		line int
		id   string
	}
	seen := map[string]place{}
	for _, e := range r.Entries {
		for key := range keysOf(e.Enrollment) {
			first, twice := seen[key]
			switch {
			case !twice:
				seen[key] = place{e.Line, e.RegistrationID}
			case first.id != e.RegistrationID:
				where := first.id
				if first.line > 0 {
					where = fmt.Sprintf("%s in line %d", first.id, first.line)
				}
				faults = append(faults, Fault{e.Line, e.RegistrationID, "shares a symmetric key with " + where})
			}
		}
	}
	return faults
}

// keysOf is the symmetric keys of an enrollment, by their digests.
func keysOf(e Enrollment) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		if e.Attestation == nil || e.Attestation.SymmetricKey == nil {
			return
		}
		for _, k := range []dpsjson.Key{e.Attestation.SymmetricKey.PrimaryKey, e.Attestation.SymmetricKey.SecondaryKey} {
			if k.IsZero() {
				continue
			}
			sum := sha256.Sum256(k.Bytes())
			if !yield(string(sum[:])) {
				return
			}
		}
	}
}

// Certificates are certificates by their SHA-256 thumbprints, upper-case
// hexadecimal.
type Certificates map[string][]byte

// Add takes in a certificate, DER.
func (c Certificates) Add(der []byte) {
	c[thumbprint(der)] = der
}

func thumbprint(der []byte) string {
	sum := sha256.Sum256(der)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// Complete puts certificates where an attestation shows only their fingerprints,
// and returns those that are missing.
func (c Certificates) Complete(m *dpsjson.AttestationMechanism) (missing []string) {
	for _, slot := range certificatesOf(m) {
		if slot.Info == nil || len(slot.Certificate) > 0 {
			continue
		}
		print := strings.ToUpper(slot.Info.SHA256Thumbprint)
		if der, ok := c[print]; ok {
			slot.Certificate, slot.Info = der, nil
			continue
		}
		missing = append(missing, print)
	}
	return missing
}

// certificatesOf returns all certificates of an attestation, to be changed in
// place.
func certificatesOf(m *dpsjson.AttestationMechanism) (all []*dpsjson.X509Certificate) {
	if m == nil {
		return nil
	}
	if m.X509 != nil {
		for _, pair := range []*dpsjson.X509Certificates{m.X509.ClientCertificates, m.X509.SigningCertificates} {
			if pair == nil {
				continue
			}
			for _, c := range []*dpsjson.X509Certificate{pair.Primary, pair.Secondary} {
				if c != nil {
					all = append(all, c)
				}
			}
		}
	}
	if m.TPM != nil && m.TPM.EndorsementCertificates != nil {
		c := m.TPM.EndorsementCertificates
		for _, list := range [][]dpsjson.X509Certificate{c.Roots, c.Intermediates, c.TestRoots} {
			for i := range list {
				all = append(all, &list[i])
			}
		}
	}
	return all
}
