package enroll

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/iotest"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// The ways of an If-Match header: none, any, the current tag, another one.
func anyTag(string) bool { return true }
func is(tag string) func(string) bool {
	return func(current string) bool { return current == tag }
}

func TestChangeIsGuardedByTheEntityTag(t *testing.T) {
	stored := byKey(Individual, "pump-7")
	stored.ETag = "one"
	for _, c := range []struct {
		name   string
		old    *Entry
		match  func(string) bool
		change errs.Code // what Change and
		remove errs.Code // Remove answer; zero means that it is done
	}{
		{"create", nil, nil, 0, 404201},
		{"create what is there", stored, nil, 409201, 0},
		{"update what is not there", nil, is("one"), 404201, 404201},
		{"update anything that is not there", nil, anyTag, 404201, 404201},
		{"update with the current tag", stored, is("one"), 0, 0},
		{"update with any tag", stored, anyTag, 0, 0},
		{"update with an old tag", stored, is("zero"), 412000, 412000},
		{"update with an empty tag", stored, is(""), 412000, 412000},
	} {
		t.Run(c.name, func(t *testing.T) {
			next, err := Change(c.old, byKey(Individual, "pump-7"), c.match, now, rand.Reader)
			wantCode(t, "Change", err, c.change)
			if (next != nil) != (c.change == 0) {
				t.Errorf("Change returned %v and %v", next, err)
			}
			wantCode(t, "Remove", Remove(c.old, c.match), c.remove)
		})
	}
	if err := Remove(stored, nil); err != nil {
		t.Errorf("removing without a tag: %v", err)
	}
	_, err := Change(stored, byKey(Individual, "pump-7"), nil, now, rand.Reader)
	if got := errs.Public(err); got.Kind != errs.Conflict || got.Message != "Enrollment already exists." {
		t.Errorf("creating what is there: %v: %s", got.Kind, got.Message)
	}
}

func wantCode(t *testing.T, what string, err error, want errs.Code) {
	t.Helper()
	switch {
	case want == 0 && err != nil:
		t.Errorf("%s: %v", what, err)
	case want != 0 && (err == nil || errs.Public(err).Code != want):
		t.Errorf("%s: error %v, want code %d", what, err, want)
	}
}

func TestChangeStampsWhatItWrites(t *testing.T) {
	first, err := Change(nil, byKey(Individual, "pump-7"), nil, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if !first.Created.Equal(now) || !first.Updated.Equal(now) || len(first.ETag) != 36 {
		t.Errorf("created %v, updated %v, etag %q", first.Created, first.Updated, first.ETag)
	}
	later := now.Add(time.Hour)
	forged := byKey(Individual, "pump-7")
	forged.ETag, forged.Created, forged.Updated, forged.Disabled = "mine", now.AddDate(-1, 0, 0), now.AddDate(1, 0, 0), true
	second, err := Change(first, forged, is(first.ETag), later, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if !second.Created.Equal(now) || !second.Updated.Equal(later) {
		t.Errorf("created %v, updated %v; the first is to survive and the second to change", second.Created, second.Updated)
	}
	if second.ETag == first.ETag || second.ETag == "mine" || !second.Disabled {
		t.Errorf("etag %q after %q, disabled %v", second.ETag, first.ETag, second.Disabled)
	}
	if first.Disabled || forged.ETag != "mine" {
		t.Error("the arguments were changed")
	}
}

func TestChangeCompletesSymmetricKeys(t *testing.T) {
	a, b, c := key(1), key(2), key(3)
	none := device.SymmetricKey{}
	stored := byKey(Individual, "pump-7")
	stored.Attestation.SymmetricKey = &attest.SymmetricKeys{Primary: a, Secondary: b}
	otherwise := byCertificates(Individual, "pump-7", attest.ClientCertificates, certificate(t, "pump-7", false), nil)

	for _, k := range []struct {
		name               string
		old                *Entry
		given              *attest.SymmetricKeys
		primary, secondary device.SymmetricKey // zero means made afresh
	}{
		{"both given", nil, &attest.SymmetricKeys{Primary: a, Secondary: b}, a, b},
		{"both made", nil, &attest.SymmetricKeys{}, none, none},
		{"no member at all", nil, nil, none, none},
		{"the primary given", nil, &attest.SymmetricKeys{Primary: a}, a, none},
		{"the secondary given", nil, &attest.SymmetricKeys{Secondary: b}, none, b},
		{"both kept", stored, &attest.SymmetricKeys{}, a, b},
		{"both kept, no member at all", stored, nil, a, b},
		{"the primary replaced", stored, &attest.SymmetricKeys{Primary: c}, c, b},
		{"the secondary replaced", stored, &attest.SymmetricKeys{Secondary: c}, a, c},
		{"both replaced", stored, &attest.SymmetricKeys{Primary: c, Secondary: a}, c, a},
		{"made on the way from certificates", otherwise, &attest.SymmetricKeys{}, none, none},
	} {
		t.Run(k.name, func(t *testing.T) {
			next := byKey(Individual, "pump-7")
			next.Attestation.SymmetricKey = k.given
			var match func(string) bool
			if k.old != nil {
				match = anyTag
			}
			got, err := Change(k.old, next, match, now, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			keys := got.Attestation.SymmetricKey
			wantKey(t, "primary", keys.Primary, k.primary, a, b, c)
			wantKey(t, "secondary", keys.Secondary, k.secondary, a, b, c)
			if keys.Primary.Equal(keys.Secondary) {
				t.Error("the two keys are equal")
			}
			if k.given != nil && k.given == keys {
				t.Error("the caller's keys became the stored ones")
			}
		})
	}
	if !stored.Attestation.SymmetricKey.Primary.Equal(a) {
		t.Error("what was stored changed")
	}
}

// wantKey wants a key, or with a zero want one of 64 fresh bytes.
func wantKey(t *testing.T, slot string, got, want device.SymmetricKey, known ...device.SymmetricKey) {
	t.Helper()
	if !want.IsZero() {
		if !got.Equal(want) {
			t.Errorf("the %s key is another one", slot)
		}
		return
	}
	if len(got.Bytes()) != generatedKeySize {
		t.Errorf("the %s key has %d bytes", slot, len(got.Bytes()))
	}
	for _, k := range known {
		if got.Equal(k) {
			t.Errorf("the %s key was not made", slot)
		}
	}
}

// Clients read an enrollment, which shows certificates as descriptions, and
// write it back: an empty slot that is not nil means "as it was".
func TestChangeKeepsCertificates(t *testing.T) {
	one, two, three := certificate(t, "pump-7", false), certificate(t, "pump-7", false), certificate(t, "pump-7", false)
	unchanged := []byte{}
	of := func(primary, secondary []byte) *Entry {
		return byCertificates(Individual, "pump-7", attest.ClientCertificates, primary, secondary)
	}
	for _, c := range []struct {
		name               string
		old                *Entry
		next               *Entry
		primary, secondary []byte
		fault              string
	}{
		{"both unchanged", of(one, two), of(unchanged, unchanged), one, two, ""},
		{"the primary unchanged, the secondary new", of(one, nil), of(unchanged, two), one, two, ""},
		{"the primary new, the secondary unchanged", of(one, two), of(three, unchanged), three, two, ""},
		{"rolled", of(one, two), of(two, nil), two, nil, ""},
		{"the secondary removed", of(one, two), of(unchanged, nil), one, nil, ""},
		{"nothing is stored", nil, of(unchanged, nil), nil, nil, "attestation.x509.clientCertificates.primary: has no certificate, and none is stored to keep"},
		{"no secondary is stored", of(one, nil), of(unchanged, unchanged), nil, nil, "attestation.x509.clientCertificates.secondary: has no certificate, and none is stored to keep"},
		{"symmetric keys are stored", byKey(Individual, "pump-7"), of(unchanged, nil), nil, nil, "attestation.x509.clientCertificates.primary: has no certificate, and none is stored to keep"},
		{"certificates of another use are stored", byCertificates(Individual, "pump-7", attest.SigningCertificates, one, nil), of(unchanged, nil), nil, nil, "attestation.x509.clientCertificates.primary: has no certificate, and none is stored to keep"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var match func(string) bool
			if c.old != nil {
				match = anyTag
			}
			got, err := Change(c.old, c.next, match, now, rand.Reader)
			if c.fault != "" {
				if err == nil || err.Error() != c.fault || errs.KindOf(err) != errs.Invalid {
					t.Errorf("error %v, want %s", err, c.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			x := got.Attestation.X509
			if !bytes.Equal(x.Primary, c.primary) || !bytes.Equal(x.Secondary, c.secondary) {
				t.Error("other certificates are stored than were meant")
			}
			if c.next.Attestation.X509 == x {
				t.Error("the caller's certificates became the stored ones")
			}
		})
	}
}

// A TPM group is written back with the digests of its certificates and without
// the keys of its list.
func TestChangeKeepsWhatATPMGroupHas(t *testing.T) {
	one, two, three := certificate(t, "One", true), certificate(t, "Two", true), certificate(t, "Three", true)
	digest := func(der []byte) []byte { sum := sha256.Sum256(der); return sum[:] }
	stored := &attest.EKList{Digest: "AB", Count: 2}
	fresh := &attest.EKList{Digest: "CD", Count: 3, Keys: []byte("keys")}
	old := ofTPMs(attest.TPMGroup{Roots: [][]byte{one, two}, TestRoots: [][]byte{three}, List: stored})
	for _, c := range []struct {
		name      string
		old, next *Entry
		want      attest.TPMGroup
		fault     string
	}{
		{"as it was", old, ofTPMs(attest.TPMGroup{Roots: [][]byte{digest(one), digest(two)}, TestRoots: [][]byte{digest(three)}, List: &attest.EKList{}}),
			attest.TPMGroup{Roots: [][]byte{one, two}, TestRoots: [][]byte{three}, List: stored}, ""},
		{"one root replaced", old, ofTPMs(attest.TPMGroup{Roots: [][]byte{digest(two), three}}), attest.TPMGroup{Roots: [][]byte{two, three}}, ""},
		{"no list any more", old, ofTPMs(attest.TPMGroup{Roots: [][]byte{digest(one)}}), attest.TPMGroup{Roots: [][]byte{one}}, ""},
		{"another list", old, ofTPMs(attest.TPMGroup{List: fresh}), attest.TPMGroup{List: fresh}, ""},
		{"a list that claims to be another", old, ofTPMs(attest.TPMGroup{List: &attest.EKList{Digest: "EF", Count: 9}}), attest.TPMGroup{List: stored}, ""},
		{"a list to come", nil, ofTPMs(attest.TPMGroup{List: &attest.EKList{Digest: "EF", Count: 9}}), attest.TPMGroup{List: &attest.EKList{}}, ""},
		{"a root that is not stored", old, ofTPMs(attest.TPMGroup{Roots: [][]byte{digest(one), digest(three)}}), attest.TPMGroup{},
			"attestation.tpm.endorsementCertificates.roots[1]: has no certificate, and none with its sha256Thumbprint is stored to keep"},
		{"a test root for a root", old, ofTPMs(attest.TPMGroup{Roots: [][]byte{digest(three)}}), attest.TPMGroup{},
			"attestation.tpm.endorsementCertificates.roots[0]: has no certificate, and none with its sha256Thumbprint is stored to keep"},
		{"a root as intermediate", old, ofTPMs(attest.TPMGroup{Roots: [][]byte{one}, Intermediates: [][]byte{digest(one)}}), attest.TPMGroup{},
			"attestation.tpm.endorsementCertificates.intermediates[0]: has no certificate, and none with its sha256Thumbprint is stored to keep"},
		{"of a group of another kind", byKey(Group, "reel-1"), ofTPMs(attest.TPMGroup{Roots: [][]byte{digest(one)}}), attest.TPMGroup{},
			"attestation.tpm.endorsementCertificates.roots[0]: has no certificate, and none with its sha256Thumbprint is stored to keep"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var match func(string) bool
			if c.old != nil {
				match = anyTag
			}
			got, err := Change(c.old, c.next, match, now, rand.Reader)
			if c.fault != "" {
				if err == nil || err.Error() != c.fault || errs.KindOf(err) != errs.Invalid {
					t.Errorf("error %v, want %s", err, c.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if g := got.Attestation.TPMGroup; !reflect.DeepEqual(*g, c.want) || g == c.next.Attestation.TPMGroup {
				t.Errorf("it became %+v, want %+v", g, c.want)
			}
		})
	}
}

func TestChangeRefusesWhatIsNotValid(t *testing.T) {
	bad := byKey(Individual, "pump 7")
	got, err := Change(nil, bad, nil, now, rand.Reader)
	if got != nil || errs.KindOf(err) != errs.Invalid {
		t.Errorf("%v, %v", got, err)
	}
	old := byKey(Individual, "pump-7")
	old.ETag = "one"
	if _, err := Change(old, bad, is("zero"), now, rand.Reader); errs.KindOf(err) != errs.Precondition {
		t.Errorf("an old tag is told before what is wrong with the rest: %v", err)
	}
}

func TestChangeNeedsRandomness(t *testing.T) {
	broken := errors.New("no randomness")
	for _, have := range []int64{0, 64, 128, 140} { // none, one key, both, half an entity tag
		random := io.MultiReader(io.LimitReader(rand.Reader, have), iotest.ErrReader(broken))
		next := byKey(Individual, "pump-7")
		next.Attestation.SymmetricKey = nil
		if got, err := Change(nil, next, nil, now, random); !errors.Is(err, broken) || got != nil {
			t.Errorf("with %d random bytes: %v, %v", have, got, err)
		}
	}
}

func TestIDsAreComparedWithoutCase(t *testing.T) {
	if got := byKey(Individual, "Pump-7").Key(); got != "pump-7" {
		t.Errorf("the key is %q", got)
	}
}
