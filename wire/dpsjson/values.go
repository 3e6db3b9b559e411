package dpsjson

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/berth-iot/berth/device"
)

// A Time is an instant as the service writes it: ISO 8601 in UTC with "Z" and up to seven fractional digits, no
// trailing zeros ("2022-08-31T22:02:50.5163352Z"). The zero Time is left out of answers.
type Time time.Time

// IsZero reports whether t is no time at all.
func (t Time) IsZero() bool { return time.Time(t).IsZero() }

// String returns t as it stands in a body.
func (t Time) String() string { return time.Time(t).UTC().Format("2006-01-02T15:04:05.9999999Z") }

// MarshalText returns t as it stands in a body.
func (t Time) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads an RFC 3339 time with any offset and any number of fractional digits. Without an offset, as
// .NET writes times of no stated kind, it is UTC.
func (t *Time) UnmarshalText(text []byte) error {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05"} {
		got, err := time.Parse(layout, string(text))
		if err != nil {
			continue
		}
		got = got.UTC()
		if got.Year() < 1 || got.Year() > 9999 {
			break // an offset took it out of the range that ISO 8601 writes in four digits
		}
		*t = Time(got)
		return nil
	}
	return errors.New("not an ISO 8601 time")
}

// An Object is the JSON text of an object that this package does not look into.
type Object []byte

// MarshalJSON returns o as it is, or null.
func (o Object) MarshalJSON() ([]byte, error) { return json.RawMessage(o).MarshalJSON() }

// UnmarshalJSON keeps the text of a JSON object. By the convention of encoding/json, null changes nothing.
func (o *Object) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	if len(b) == 0 || b[0] != '{' {
		return errors.New("not an object")
	}
	*o = append((*o)[:0], b...)
	return nil
}

// A Key is a symmetric key on its way to or from its owner, in a body as base64. Unlike the device.SymmetricKey in
// it, it can be serialised; like it, fmt does not show it. An empty string is no key.
type Key struct{ device.SymmetricKey }

// MarshalJSON returns the key in base64.
func (k Key) MarshalJSON() ([]byte, error) { return json.Marshal(k.Base64()) }

// UnmarshalText reads the base64 of 16 to 64 bytes.
func (k *Key) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*k = Key{}
		return nil
	}
	var err error
	k.SymmetricKey, err = device.ParseSymmetricKey(string(text))
	return err
}

// EncodeETag returns an entity tag as bodies carry it: the base64 of the opaque token in double quotes.
func EncodeETag(token string) string {
	return base64.StdEncoding.EncodeToString([]byte(`"` + token + `"`))
}

// MatchETag reports whether an If-Match header admits a resource whose body carries etag. Clients send back the
// member as they found it, the same in double quotes, the token that is encoded in it, or that in its quotes; "*"
// matches every resource that exists.
func MatchETag(ifMatch, etag string) bool {
	switch ifMatch {
	case "":
		return false
	case "*":
		return true
	case etag, `"` + etag + `"`:
		return etag != ""
	}
	quoted, err := base64.StdEncoding.DecodeString(etag)
	if err != nil || len(quoted) <= len(`""`) {
		return false
	}
	return ifMatch == string(quoted) || `"`+ifMatch+`"` == string(quoted)
}

// canonical reads one of an enumeration's values, in any case, into dst.
func canonical[T ~string](dst *T, text []byte, values ...T) error {
	var known []string
	for _, v := range values {
		if strings.EqualFold(string(text), string(v)) {
			*dst = v
			return nil
		}
		known = append(known, string(v))
	}
	return errors.New("not one of " + strings.Join(known, ", "))
}
