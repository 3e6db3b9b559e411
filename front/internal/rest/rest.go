// Package rest is what the HTTP fronts share: reading a request with care (its
// path, body, bearer token, api-version and page), answering it with the
// header names that clients compare byte for byte, and one edge that tracks,
// logs and recovers every request. It knows no service and no error body.
package rest

import (
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/sas"
)

// The header names that clients look up without canonicalising them, in the
// spelling they have on the wire. Set them with [SetHeader].
const (
	HeaderRequestID    = "x-ms-request-id"
	HeaderErrorCode    = "x-ms-error-code"
	HeaderContinuation = "x-ms-continuation"
	HeaderItemType     = "x-ms-item-type"
	HeaderMaxItemCount = "x-ms-max-item-count"
)

// SetHeader sets a header under exactly this name: some clients look names up
// in a case-sensitive dictionary, and [http.Header.Set] would rewrite
// x-ms-item-type to X-Ms-Item-Type.
func SetHeader(h http.Header, name, value string) { h[name] = []string{value} }

// SetRetryAfter sets Retry-After to d in whole seconds, at least one: clients
// parse a plain integer and nothing else.
func SetRetryAfter(h http.Header, d time.Duration) {
	seconds := max(1, int64((d+time.Second-1)/time.Second))
	h.Set("Retry-After", strconv.FormatInt(seconds, 10))
}

// WriteJSON answers with a JSON document.
func WriteJSON(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(body) // a failure means that the client is gone
}

// The longest path that is read, in bytes, and the most segments in it. The
// longest path of either service names a device and a module of 128 characters
// each, at worst percent-encoded.
const (
	maxPath     = 2048
	maxSegments = 16
)

// Segments splits the request's path at its slashes and percent-decodes each
// part once, so that an encoded slash stays inside its segment. One trailing
// slash is ignored. The error is of kind errs.Invalid.
func Segments(r *http.Request) ([]string, error) {
	path := r.URL.EscapedPath()
	if len(path) > maxPath {
		return nil, invalid("The path is too long")
	}
	path, ok := strings.CutPrefix(path, "/")
	if !ok {
		return nil, invalid("The path must start with a slash")
	}
	path = strings.TrimSuffix(path, "/")
	if path == "" {
		return nil, nil
	}
	if strings.Count(path, "/") >= maxSegments {
		return nil, invalid("The path has too many segments")
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		decoded, err := url.PathUnescape(s)
		if err != nil {
			return nil, invalid("The path has a bad percent-encoding")
		}
		if decoded == "" {
			return nil, invalid("The path has an empty segment")
		}
		segments[i] = decoded
	}
	return segments, nil
}

// Host returns the host the client asked for, in lower case and without the
// port, which some clients send even when it is 443. An IPv6 address comes
// without its brackets.
func Host(r *http.Request) string {
	host := strings.ToLower(r.Host)
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

// ReadBody reads a body of at most limit bytes; a longer one gives an error of
// kind errs.TooLarge and ends the connection. Any method may have a body: some
// clients send one with GET.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(w, limit)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, invalid("The body could not be read").WithCause(err)
	}
	if int64(len(body)) > limit {
		return nil, tooLarge(w, limit)
	}
	return body, nil
}

func tooLarge(w http.ResponseWriter, limit int64) error {
	w.Header().Set("Connection", "close") // rather than read the rest of it
	return errs.New(errs.TooLarge, errs.CodeTooLarge, "The body is longer than %d bytes", limit)
}

// RequireJSON returns an error of kind errs.Unsupported unless the body is
// declared to be JSON in UTF-8, or not declared at all.
func RequireJSON(r *http.Request) error {
	declared := r.Header.Get("Content-Type")
	switch declared {
	case "", "application/json", "application/json; charset=utf-8": // what nearly everybody sends
		return nil
	}
	media, params, err := mime.ParseMediaType(declared)
	charset, ok := params["charset"]
	if err != nil || media != "application/json" || ok && !strings.EqualFold(charset, "utf-8") {
		return errs.New(errs.Unsupported, errs.CodeUnsupportedMediaType, "The body must be application/json in UTF-8")
	}
	return nil
}

// Token returns the SAS token of the Authorization header, or nil when there is
// none. What stands there and is no SAS token gives an error of kind
// errs.Denied. Neither the token nor the error shows the signature.
func Token(r *http.Request) (*sas.Token, error) {
	values := r.Header.Values("Authorization")
	switch {
	case len(values) == 0 || len(values) == 1 && values[0] == "":
		return nil, nil
	case len(values) > 1:
		return nil, denied(fmt.Errorf("%d Authorization headers", len(values)))
	}
	token, err := sas.Parse(values[0])
	if err != nil {
		return nil, denied(err)
	}
	return &token, nil
}

// APIVersion returns the api-version of the query, a date as YYYY-MM-DD with
// an optional -preview. The error is of kind errs.Invalid.
func APIVersion(r *http.Request) (string, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", badVersion("The query cannot be parsed")
	}
	values := query["api-version"]
	if len(values) != 1 {
		return "", badVersion("The query must have one api-version")
	}
	date := strings.TrimSuffix(values[0], "-preview")
	if _, err := time.Parse(time.DateOnly, date); err != nil {
		return "", badVersion("The api-version must be YYYY-MM-DD or YYYY-MM-DD-preview")
	}
	return values[0], nil
}

// PageSize returns how many items of a listing the client wants at once: its
// x-ms-max-item-count, or usual when it sent none, and never more than most.
// The error is of kind errs.Invalid.
func PageSize(r *http.Request, usual, most int) (int, error) {
	value := r.Header.Get(HeaderMaxItemCount)
	if value == "" {
		return usual, nil
	}
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil || n == 0 {
		return 0, invalid(HeaderMaxItemCount + " must be a positive number")
	}
	return int(min(n, uint64(most))), nil
}

func invalid(message string) *errs.Error {
	return errs.New(errs.Invalid, errs.CodeBadRequest, "%s", message)
}

func badVersion(message string) error {
	return errs.New(errs.Invalid, errs.CodeInvalidProtocolVersion, "%s", message)
}

func denied(cause error) error {
	return errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "Unauthorized").WithCause(cause)
}
