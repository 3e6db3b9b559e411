package record

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm"
	"github.com/berth-iot/berth/store/internal/sealed"
)

const (
	// digestSize is the length of what finds a symmetric key again: HMAC-SHA256
	// (FIPS 198-1) of the scope and the key, cut off. It is long enough for two
	// keys never to have the same, and says nothing without the server's key.
	digestSize = 16
	// MaxSharers bounds how many enrollments with one key are named.
	MaxSharers = 10
)

// NewCodec returns a codec with the servers' key.
func NewCodec(key hsm.ServerKey) (Codec, error) {
	secret, err := key.Derive([]byte("digests of symmetric keys"), sha256.Size)
	if err != nil {
		return Codec{}, fmt.Errorf("deriving the key of digests: %w", err)
	}
	digest := func(scope device.IDScope, k device.SymmetricKey) []byte {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(scope))
		mac.Write([]byte{0})
		mac.Write(k.Bytes())
		return mac.Sum(nil)[:digestSize]
	}
	return Codec{Sealer: key, digest: digest}, nil
}

// KeyDigests returns the digests of keys in a scope, without doubles and in
// their order.
func (c Codec) KeyDigests(scope device.IDScope, keys attest.SymmetricKeys) (digests [][]byte) {
	for _, k := range []device.SymmetricKey{keys.Primary, keys.Secondary} {
		if !k.IsZero() {
			digests = append(digests, c.digest(scope, k))
		}
	}
	slices.SortFunc(digests, bytes.Compare)
	return slices.CompactFunc(digests, bytes.Equal)
}

// KeysInUse returns the digests of the keys that an enrollment, or nil, has for
// itself: keys of groups are not those of any device.
func (c Codec) KeysInUse(e *enroll.Entry) [][]byte {
	if e == nil || e.Kind != enroll.Individual || e.Attestation.SymmetricKey == nil {
		return nil
	}
	return c.KeyDigests(e.Scope, *e.Attestation.SymmetricKey)
}

// KeysWithout returns those digests that are not among the others.
func KeysWithout(digests, others [][]byte) [][]byte {
	return slices.DeleteFunc(slices.Clone(digests), func(d []byte) bool {
		return slices.ContainsFunc(others, func(o []byte) bool { return bytes.Equal(d, o) })
	})
}

// A KeyUse is which keys one enrollment has.
type KeyUse struct {
	Key     string // of the enrollment
	Digests [][]byte
}

// KeyUse reads the columns key and keys of an individual enrollment of scope.
// Keys that cannot be opened are left out: whoever reads the enrollment is told.
func (c Codec) KeyUse(scope device.IDScope) func(*Row) (KeyUse, error) {
	return func(r *Row) (KeyUse, error) {
		use := KeyUse{Key: r.Text()}
		keys, err := sealed.OpenKeys(c.Sealer, r.Blob(), "enrollment", string(scope), string(enroll.Individual), use.Key)
		if err == nil {
			use.Digests = c.KeyDigests(scope, keys)
		}
		return use, nil
	}
}

// KeyShared is the error for an enrollment with a symmetric key that those of
// the given IDs have too.
func KeyShared(ids []string) *errs.Error {
	names := strings.Join(ids, ", ")
	if len(ids) == MaxSharers {
		names += " and perhaps others"
	}
	return errs.New(errs.Conflict, errs.CodeEnrollmentConflict, "attestation.symmetricKey: has a key that is also in the enrollment of %s; each device needs keys of its own.", names)
}

// SelectSharers is the query for who shares keys: the digests that several
// enrollments have, each with all of them. Its argument stands
// for the scope: $1 or ?, as the engine marks parameters.
func SelectSharers(scope string) string {
	return `SELECT u.digest, e.id FROM (
			SELECT digest, min(key) AS first FROM symmetric_key_use WHERE scope = ` + scope + ` GROUP BY digest HAVING count(*) > 1
		) AS n
		JOIN symmetric_key_use AS u ON u.scope = ` + scope + ` AND u.digest = n.digest
		JOIN enrollment AS e ON e.scope = u.scope AND e.kind = 'individual' AND e.key = u.key
		ORDER BY n.first, n.digest, u.key`
}

// Sharers gathers the rows of SelectSharers.
type Sharers struct {
	groups [][]string
	digest []byte
}

// Read takes a row.
func (s *Sharers) Read(r *Row) error {
	digest, id := r.Blob(), r.Text()
	if s.digest == nil || !bytes.Equal(digest, s.digest) {
		s.groups, s.digest = append(s.groups, nil), digest
	}
	if last := len(s.groups) - 1; len(s.groups[last]) < MaxSharers {
		s.groups[last] = append(s.groups[last], id)
	}
	return nil
}

// Groups returns up to limit groups of IDs. Those who share both keys are one.
func (s *Sharers) Groups(limit int) (groups [][]string) {
	for _, g := range s.groups {
		if len(groups) >= limit {
			break
		}
		known := slices.ContainsFunc(groups, func(other []string) bool { return slices.Equal(g, other) })
		if len(g) > 1 && !known {
			groups = append(groups, g)
		}
	}
	return groups
}
