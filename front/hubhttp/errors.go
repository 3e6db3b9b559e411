package hubhttp

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
)

// codes holds what a kind of error is called here when nobody said more.
var codes = map[errs.Kind]errs.Code{
	errs.Internal:     errs.CodeServerError,
	errs.Invalid:      errs.CodeBadRequest,
	errs.Denied:       errs.CodeUnauthorizedAccess,
	errs.Forbidden:    errs.CodeForbidden,
	errs.NotFound:     errs.CodeGenericNotFound,
	errs.NotAllowed:   errs.CodeMethodNotAllowed,
	errs.Conflict:     errs.CodeConflict,
	errs.Precondition: errs.CodePreconditionFailed,
	errs.TooLarge:     errs.CodeMessageTooLarge,
	errs.Unsupported:  errs.CodeUnsupportedMediaType,
	errs.Busy:         errs.CodeThrottling,
	errs.Unavailable:  errs.CodeServiceUnavailable,
}

// headerErrorCode repeats the name of the code in the body; some clients
// distrust an answer in which the two differ.
const headerErrorCode = "iothub-errorcode"

// An errorBody is the answer to a refused request. Clients cut the name of the
// code out of Message: it stands between the first colon and the first
// semicolon.
type errorBody struct {
	Message          string
	ExceptionMessage string
	ErrorMessage     string `json:",omitempty"` // what the module $edgeHub reads in place of Message
}

func (a api) refuse(w http.ResponseWriter, r *rest.Request, err error) {
	e := errs.Public(err)
	code := e.Code
	if code == 0 {
		code = codes[e.Kind]
	}
	if e.RetryAfter > 0 {
		rest.SetRetryAfter(w.Header(), e.RetryAfter)
	}
	rest.SetHeader(w.Header(), headerErrorCode, code.Name())
	answer := errorBody{
		Message:          "ErrorCode:" + code.Name() + ";" + e.Message,
		ExceptionMessage: "Tracking ID:" + string(r.TrackingID) + "-TimeStamp:" + a.Now().UTC().Format("01/02/2006 15:04:05"),
	}
	if strings.HasPrefix(r.Pattern, edgeHubPath) {
		answer.ErrorMessage = answer.Message
	}
	body, _ := json.Marshal(answer) // strings
	rest.WriteJSON(w, code.Status(), body)
}
