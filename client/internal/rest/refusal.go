package rest

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"unicode"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/errs"
)

// maxBody is how many characters of a refusal are kept.
const maxBody = 2048

// Refusal makes an error of an answer. It knows the body of DPS,
//
//	{"errorCode":404201,"trackingId":"…","message":"…"}
//
// and the two of IoT Hub, of which the second carries the first kind as text:
//
//	{"Message":"ErrorCode:DeviceNotFound;d1","ExceptionMessage":"Tracking ID:…"}
//	{"Message":"{\"errorCode\":404103,\"trackingId\":\"…\",\"message\":\"…\"}"}
//
// and that of Berth's own API:
//
//	{"error":{"kind":"not found","code":404000,"message":"…","trackingId":"…"}}
func Refusal(a *Answer) *client.Error {
	e := &client.Error{Status: a.Status, Body: Printable(string(a.Body), maxBody), RetryAfter: retryAfter(a.Header)}
	body := errorBody(a.Body)
	if nested := strings.TrimSpace(body.message); strings.HasPrefix(nested, "{") {
		if inner := errorBody([]byte(nested)); inner != (fields{}) {
			body = inner
		}
	}
	e.Code, e.Message, e.TrackingID = body.code, body.message, body.trackingID
	if named, ok := strings.CutPrefix(body.message, "ErrorCode:"); ok {
		e.Name, e.Message, _ = strings.Cut(named, ";")
	}
	if e.Name == "" {
		e.Name = a.Header.Get("iothub-errorcode")
	}
	if e.TrackingID == "" {
		e.TrackingID = a.Header.Get("x-ms-request-id")
	}
	if e.Message == "" {
		e.Message = http.StatusText(a.Status)
	}
	e.Name, e.Message, e.TrackingID = Printable(e.Name, 64), Printable(e.Message, 512), Printable(e.TrackingID, 128)
	switch {
	case e.Name == "" && e.Code != 0 && e.Code.Name() != strconv.Itoa(int(e.Code)):
		e.Name = e.Code.Name()
	case e.Name != "" && e.Code == 0:
		e.Code = codeNamed(a.Status, e.Name)
	}
	return e
}

// fields are what an error body says, empty where it says nothing.
type fields struct {
	code                errs.Code
	message, trackingID string
}

// errorBody reads an error body without insisting on anything; encoding/json
// compares the names of members without case.
func errorBody(b []byte) fields {
	var raw struct {
		ErrorCode        json.RawMessage `json:"errorCode"`
		TrackingID       json.RawMessage `json:"trackingId"`
		Message          json.RawMessage `json:"message"`
		ExceptionMessage json.RawMessage `json:"exceptionMessage"`
		Error            struct {
			Code       json.RawMessage `json:"code"`
			TrackingID json.RawMessage `json:"trackingId"`
			Message    json.RawMessage `json:"message"`
		} `json:"error"`
	}
	var f fields
	if json.Unmarshal(b, &raw) != nil {
		return f
	}
	if own := raw.Error; own.Message != nil {
		raw.ErrorCode, raw.TrackingID, raw.Message = own.Code, own.TrackingID, own.Message
	}
	var code int
	if json.Unmarshal(raw.ErrorCode, &code) == nil && code > 0 && code < 1e6 {
		f.code = errs.Code(code)
	}
	f.message, f.trackingID = text(raw.Message), text(raw.TrackingID)
	if id, ok := strings.CutPrefix(text(raw.ExceptionMessage), "Tracking ID:"); ok && f.trackingID == "" {
		f.trackingID, _, _ = strings.Cut(id, "-TimeStamp:")
	}
	return f
}

func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// codeNamed returns the code with the given HTTP status and name, or zero.
func codeNamed(status int, name string) errs.Code {
	for c := errs.Code(status * 1000); c.Status() == status; c++ {
		if c.Name() == name {
			return c
		}
	}
	return 0
}

// Printable returns at most limit characters of s, a text from outside, with
// blanks where it has characters that a terminal might obey.
func Printable(s string, limit int) string {
	var b strings.Builder
	for _, r := range s {
		if limit--; limit < 0 {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(r) {
			r = ' '
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}
