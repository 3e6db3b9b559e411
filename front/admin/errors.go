package admin

import (
	"encoding/json"
	"net/http"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
)

// codes holds what a kind of error is called here when nobody said more; it
// also decides the HTTP status.
var codes = map[errs.Kind]errs.Code{
	errs.Internal:     errs.CodeInternal,
	errs.Invalid:      errs.CodeBadRequest,
	errs.Denied:       errs.CodeUnauthorized,
	errs.Forbidden:    errs.CodeForbidden,
	errs.NotFound:     errs.CodeGenericNotFound,
	errs.NotAllowed:   errs.CodeMethodNotAllowed,
	errs.Conflict:     errs.CodeConflict,
	errs.Precondition: errs.CodePrecondition,
	errs.TooLarge:     errs.CodeTooLarge,
	errs.Unsupported:  errs.CodeUnsupportedMediaType,
	errs.Busy:         errs.CodeTooManyRequests,
	errs.Unavailable:  errs.CodeUnavailable,
}

type errorBody struct {
	Error errorJSON `json:"error"`
}

type errorJSON struct {
	Kind       string          `json:"kind"`
	Code       errs.Code       `json:"code"`
	Message    string          `json:"message"`
	TrackingID errs.TrackingID `json:"trackingId"`
}

func refuse(w http.ResponseWriter, r *rest.Request, err error) {
	e := errs.Public(err)
	code := e.Code
	if code == 0 {
		code = codes[e.Kind]
	}
	if e.RetryAfter > 0 {
		rest.SetRetryAfter(w.Header(), e.RetryAfter)
	}
	body, _ := json.Marshal(errorBody{errorJSON{e.Kind.String(), code, e.Message, r.TrackingID}}) // strings and a number
	rest.WriteJSON(w, code.Status(), body)
}
