package admin

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

const listPath = "/berth/v1/enrollmentGroups/reel/endorsementKeys"

// digests are n lines of a list.
func digests(n int) string {
	var b strings.Builder
	for i := range n {
		sum := sha256.Sum256(fmt.Append(nil, i))
		b.WriteString(hex.EncodeToString(sum[:]) + "\n")
	}
	return b.String()
}

// group makes a TPM group whose list nobody has filled.
func (s *server) group(id string) *enroll.Entry {
	s.Helper()
	e := &enroll.Entry{Scope: scope, Kind: enroll.Group, ID: id, Attestation: attest.Mechanism{
		Type: attest.TypeTPM, TPMGroup: &attest.TPMGroup{List: &attest.EKList{}}}}
	made, err := s.enroller.Put(s.Context(), access.Caller{Rights: access.AllProvisioning}, e, nil)
	if err != nil {
		s.Fatal(err)
	}
	return made
}

func TestLists(t *testing.T) {
	s := start(t)
	made := s.group("Reel")
	put := func(list string) (l listJSON) {
		t.Helper()
		status, answer := s.send("PUT", listPath, list, token(s.owner))
		if err := json.Unmarshal([]byte(answer), &l); status != 200 || err != nil {
			t.Fatalf("%d %s", status, answer)
		}
		return l
	}
	first := put("# a reel\r\n" + digests(3))
	stored, err := s.store.Entry(t.Context(), scope, enroll.Group, "reel")
	if err != nil || first.Count != 3 || first.SHA256 != stored.Attestation.TPMGroup.List.Digest || stored.ETag == made.ETag {
		t.Errorf("%+v, stored %+v, %v", first, stored.Attestation.TPMGroup.List, err)
	}
	if again := put("endorsementKey;date\n" + strings.ReplaceAll(digests(3), "\n", ";today\n")); again.SHA256 != first.SHA256 {
		t.Errorf("the same keys have another digest: %+v", again)
	}
	if more := put(digests(4)); more.Count != 4 || more.SHA256 == first.SHA256 {
		t.Errorf("%+v", more)
	}
}

func TestListsThatAreRefused(t *testing.T) {
	s := start(t)
	s.group("reel")
	weak := s.policy("weak", access.AllProvisioning&^access.EnrollmentWrite)
	s.refuses("PUT", listPath, digests(1), "", 401, errs.Denied)
	s.refuses("PUT", listPath, digests(1), token(weak), 401, errs.Denied)
	if status, answer := s.send("PUT", listPath, digests(1), token(s.policy("exact", access.EnrollmentWrite))); status != 200 {
		t.Errorf("with the right it takes: %d %s", status, answer)
	}
	s.refuses("GET", listPath, "", token(s.owner), 405, errs.NotAllowed)
	s.refuses("PUT", "/berth/v1/enrollmentGroups/other/endorsementKeys", digests(1), token(s.owner), 404, errs.NotFound)
	s.refuses("PUT", "/berth/v1/enrollmentGroups/no%20name/endorsementKeys", digests(1), token(s.owner), 400, errs.Invalid)
	for _, list := range []string{"", "\n# nothing\n", "pump-7\n", digests(2) + digests(1), strings.Repeat("a", 20<<10), "{}"} {
		s.refuses("PUT", listPath, list, token(s.owner), 400, errs.Invalid)
	}
	if _, answer := s.send("PUT", listPath, digests(2)+"pump-7\n"+digests(1), token(s.owner)); !strings.Contains(answer, "line 3: ") || !strings.Contains(answer, "line 4: the same key as in line 1") {
		t.Errorf("the faults are not named: %s", answer)
	}
	e := &enroll.Entry{Scope: scope, Kind: enroll.Group, ID: "keys", Attestation: attest.Mechanism{
		Type: attest.TypeSymmetricKey, SymmetricKey: &attest.SymmetricKeys{}}}
	if _, err := s.enroller.Put(t.Context(), access.Caller{Rights: access.AllProvisioning}, e, nil); err != nil {
		t.Fatal(err)
	}
	s.refuses("PUT", "/berth/v1/enrollmentGroups/keys/endorsementKeys", digests(1), token(s.owner), 400, errs.Invalid)
}

// A body over the limit is refused before it is read where it says its length,
// and cut off where it does not.
func TestListsHaveALimit(t *testing.T) {
	s := start(t)
	s.group("reel")
	for name, length := range map[string]int64{"said": maxList + 1, "not said": -1} {
		r := httptest.NewRequest("PUT", listPath, io.LimitReader(comments{}, maxList+1))
		r.ContentLength = length
		r.Host = host
		r.Header.Set("Authorization", token(s.owner))
		answer := httptest.NewRecorder()
		s.Server.Config.Handler.ServeHTTP(answer, r)
		if answer.Code != http.StatusRequestEntityTooLarge || answer.Header().Get("Connection") != "close" {
			t.Errorf("%s: %d %s", name, answer.Code, answer.Body)
		}
	}
}

// comments is a list without end and without a key.
type comments struct{}

func (comments) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '#'
		if i%64 == 63 {
			p[i] = '\n'
		}
	}
	return len(p), nil
}

func TestListsAreGuardedByTheEntityTag(t *testing.T) {
	s := start(t)
	old := s.group("reel").ETag
	put := func(ifMatch string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "PUT", s.URL+listPath, strings.NewReader(digests(2)))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		r.Header.Set("Authorization", token(s.owner))
		r.Header.Set("Content-Type", mediaType(listPath))
		r.Header.Set("If-Match", ifMatch)
		answer, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	if first, second, anyTag := put(`"`+old+`"`), put(`"`+old+`"`), put("*"); first != 200 || second != 412 || anyTag != 200 {
		t.Errorf("current tag %d, old tag %d, any tag %d", first, second, anyTag)
	}
}

// A hundred thousand keys are a matter of seconds at most: of one on a machine
// that does nothing else.
func TestListOfAReel(t *testing.T) {
	s := start(t)
	s.group("reel")
	list := digests(100_000)
	began := time.Now()
	if status, answer := s.send("PUT", listPath, list, token(s.owner)); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	took := time.Since(began)
	t.Logf("100,000 keys in %v", took)
	if took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}
