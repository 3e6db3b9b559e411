// Package sas reads and makes Shared Access Signature tokens, the bearer credentials with which devices and services
// sign in to a provisioning service or a hub:
//
//	SharedAccessSignature sr={resource}&sig={signature}&se={expiry}[&skn={key name}]
//
// sr and sig are percent-encoded, se counts Unix seconds, and
//
//	sig = base64(HMAC-SHA256(key, sr + "\n" + se))
//
// over sr and se exactly as they stand in the token. Clients differ in the order of the fields, in whether and how
// they encode sr, in its letter case and in whether they send skn; a parsed [Token] therefore keeps the text that was
// signed and is checked against that, never against an encoding of our own.
//
// A token is good when three things hold, and a caller asks for all three: the right key signed it
// ([Token.SignedBy]), it names the right resource ([SameResource], [HostResource] or [Covers]), and it has not
// expired ([Token.Expired]).
package sas

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// MaxLen is the length in bytes of the longest token that [Parse] reads. A hub module's resource with every character
// percent-encoded stays well under half of it.
const MaxLen = 4096

// scheme starts every token. It is an HTTP authentication scheme, so its case does not matter (RFC 9110 §11.1).
const scheme = "SharedAccessSignature "

// lastExpiry is the last second of the year 9999, the last one that RFC 3339 can write.
const lastExpiry = 253402300799

// A Token is a parsed Shared Access Signature. Nothing in it has been verified yet. The zero Token is signed by no
// key and has expired.
type Token struct {
	Resource string    // what the token is for: sr, percent-decoded once, printable ASCII
	Expiry   time.Time // se; some clients count milliseconds, so anything after the year 9999 is its last second
	KeyName  string    // skn, percent-decoded; empty if the field was empty or absent

	signed string        // sr and se as sent, joined by the line feed that was signed with them
	mac    func() []byte // the signature is a bearer secret, and fmt cannot look into a func
}

// Parse reads a token. The fields may stand in any order; unknown ones are ignored, for nothing signs them. It
// refuses what no client sends and two readers could read differently: a field given twice, a field without "=",
// characters outside printable ASCII, an expiry that is not a plain decimal number, and a signature that is not the
// padded base64 of 32 bytes. No error repeats any part of the token.
func Parse(s string) (Token, error) {
	if len(s) > MaxLen {
		return Token{}, errors.New("sas: token is too long")
	}
	if len(s) < len(scheme) || !equalFold(s[:len(scheme)], scheme) {
		return Token{}, errors.New("sas: not a SharedAccessSignature")
	}
	f, err := split(s[len(scheme):])
	if err != nil {
		return Token{}, err
	}
	mac, err := decodeSignature(f.sig)
	if err != nil {
		return Token{}, err
	}
	resource, err := unescape("sr", f.sr)
	if err != nil {
		return Token{}, err
	}
	keyName, err := unescape("skn", f.skn)
	if err != nil {
		return Token{}, err
	}
	expiry, err := parseExpiry(f.se)
	if err != nil {
		return Token{}, err
	}
	return Token{
		Resource: resource,
		Expiry:   expiry,
		KeyName:  keyName,
		signed:   stringToSign(f.sr, f.se),
		mac:      func() []byte { return mac },
	}, nil
}

// fields are a token's parts, still encoded.
type fields struct{ sr, sig, se, skn string }

func split(s string) (fields, error) {
	var f fields
	var hasName bool
	for part := range strings.SplitSeq(s, "&") {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return fields{}, errors.New("sas: a field has no value")
		}
		var known *string
		switch name {
		case "sr":
			known = &f.sr
		case "sig":
			known = &f.sig
		case "se":
			known = &f.se
		case "skn":
			if hasName {
				return fields{}, errors.New("sas: skn is given twice")
			}
			f.skn, hasName = value, true
			continue
		default:
			continue
		}
		if value == "" {
			return fields{}, errors.New("sas: " + name + " is empty")
		}
		if *known != "" {
			return fields{}, errors.New("sas: " + name + " is given twice")
		}
		*known = value
	}
	switch {
	case f.sr == "":
		return fields{}, errors.New("sas: sr is missing")
	case f.sig == "":
		return fields{}, errors.New("sas: sig is missing")
	case f.se == "":
		return fields{}, errors.New("sas: se is missing")
	}
	return f, nil
}

func decodeSignature(sig string) ([]byte, error) {
	// Percent-decoding must leave "+" alone: it is a base64 digit, and a client may send it bare.
	text, err := unescape("sig", sig)
	if err != nil {
		return nil, err
	}
	mac, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("sas: sig is not base64")
	}
	if len(mac) != sha256.Size {
		return nil, errors.New("sas: sig is not an HMAC-SHA256")
	}
	return mac, nil
}

func parseExpiry(se string) (time.Time, error) {
	var seconds int64
	for _, c := range []byte(se) {
		if c < '0' || c > '9' {
			return time.Time{}, errors.New("sas: se is not a decimal number")
		}
		seconds = min(seconds*10+int64(c-'0'), lastExpiry)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// unescape percent-decodes the value of a field and refuses what is not printable ASCII, before or after.
func unescape(field, value string) (string, error) {
	text, err := url.PathUnescape(value)
	if err != nil {
		return "", errors.New("sas: " + field + " has a bad percent-encoding")
	}
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return "", errors.New("sas: " + field + " is not printable ASCII")
		}
	}
	return text, nil
}

func stringToSign(sr, se string) string { return sr + "\n" + se }

// SignedBy reports whether key signed the token, in time that does not depend on where the signatures differ. An
// empty key signs nothing: anyone could compute that signature.
func (t Token) SignedBy(key []byte) bool {
	if t.mac == nil || len(key) == 0 {
		return false
	}
	return hmac.Equal(sign(key, t.signed), t.mac())
}

func sign(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// Expired reports whether the token is past its expiry at now, by a clock that may run ahead of the signer's by skew.
func (t Token) Expired(now time.Time, skew time.Duration) bool {
	return !now.Before(t.Expiry.Add(skew))
}

// Sign makes a token for resource that is good until expiry, a whole second after 1970. keyName is the policy whose
// key signs, "registration" for a device that provisions; when it is empty, skn is left out, which a hub takes to
// mean the device's own key. The token is a secret until it expires.
func Sign(key []byte, resource string, expiry time.Time, keyName string) string {
	sr, se := escape(resource), strconv.FormatInt(expiry.Unix(), 10)
	return assemble(sr, se, sign(key, stringToSign(sr, se)), keyName)
}

// SignWith is [Sign] for a key that stays where it was made, such as in a TPM: mac returns the HMAC-SHA256 of msg under
// it.
func SignWith(mac func(msg []byte) ([]byte, error), resource string, expiry time.Time, keyName string) (string, error) {
	sr, se := escape(resource), strconv.FormatInt(expiry.Unix(), 10)
	sum, err := mac([]byte(stringToSign(sr, se)))
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	if len(sum) != sha256.Size {
		return "", fmt.Errorf("signing a token: the key made %d bytes, which is not an HMAC-SHA256", len(sum))
	}
	return assemble(sr, se, sum, keyName), nil
}

func assemble(sr, se string, mac []byte, keyName string) string {
	token := scheme + "sr=" + sr + "&sig=" + escape(base64.StdEncoding.EncodeToString(mac)) + "&se=" + se
	if keyName != "" {
		token += "&skn=" + escape(keyName)
	}
	return token
}

// escape percent-encodes s as ECMAScript's encodeURIComponent does. The escapes of net/url leave other characters
// alone, and some clients compare whole tokens.
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.!~*'()", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', hex[c>>4], hex[c&15]})
	}
	return b.String()
}
