package admin

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
)

// maxBody is the longest body of a small thing that is read, in bytes.
const maxBody = 64 << 10

// tag returns the entity tag of what is made of members, keys among them: who
// has it learns nothing of them, and every server with the same secret makes the
// same one.
func (f front) tag(members ...string) (string, error) {
	key, err := f.Secrets.Derive([]byte("entity tags of administration"), sha256.Size)
	if err != nil {
		return "", fmt.Errorf("deriving the key of entity tags: %w", err)
	}
	h := hmac.New(sha256.New, key)
	for _, m := range members {
		fmt.Fprintf(h, "%d:%s", len(m), m)
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// answerTagged answers with a document whose entity tag etag is as bodies carry
// it.
func answerTagged(w http.ResponseWriter, etag string, document any) error {
	w.Header().Set("ETag", `"`+etag+`"`)
	return answer(w, document)
}
