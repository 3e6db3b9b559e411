package rest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/berth-iot/berth/hsm"
)

// Continuations turns positions in listings into the opaque tokens by which
// clients ask for the next page. A token is authenticated, so a listing only
// ever goes on from a position that it gave out, and every server with the same
// secret understands it.
type Continuations struct{ Secrets hsm.Deriver }

const continuationMAC = 16 // bytes

// Token returns the token for the place after position in the named listing.
// Name the tenant in it: a token is good for one listing.
func (c Continuations) Token(listing, position string) (string, error) {
	mac, err := c.mac(listing, position)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(append(mac, position...)), nil
}

// Position returns the position that a token stands for; no token is the
// beginning. A token that was not made for this listing gives an error of kind
// errs.Invalid.
func (c Continuations) Position(listing, token string) (string, error) {
	if token == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) < continuationMAC {
		return "", invalid(HeaderContinuation + " is not valid")
	}
	position := string(b[continuationMAC:])
	mac, err := c.mac(listing, position)
	if err != nil {
		return "", err
	}
	if !hmac.Equal(mac, b[:continuationMAC]) {
		return "", invalid(HeaderContinuation + " is not valid")
	}
	return position, nil
}

func (c Continuations) mac(listing, position string) ([]byte, error) {
	key, err := c.Secrets.Derive([]byte("continuation of "+listing), sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of continuation tokens: %w", err)
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(position))
	return h.Sum(nil)[:continuationMAC], nil
}
