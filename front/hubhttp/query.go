package hubhttp

import (
	"encoding/json"
	"net/http"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
)

const (
	queryPath = "/devices/query"
	// maxQuery is the longest body with a query, in bytes.
	maxQuery = 64 << 10
	// usualPage is how many rows a client gets that does not say how many.
	usualPage = 100
)

// postQuery answers a query with a page of twins, or of the rows that it makes of
// them. Some clients take the type of the items from its header, and all of them
// go on while there is a continuation.
func (a api) postQuery(w http.ResponseWriter, r *rest.Request, caller access.Caller, host string) error {
	if err := rest.RequireJSON(r.Request); err != nil {
		return err
	}
	body, err := rest.ReadBody(w, r.Request, maxQuery)
	if err != nil {
		return err
	}
	var sent struct {
		Query *string `json:"query"` // read without case
	}
	if err := json.Unmarshal(body, &sent); err != nil || sent.Query == nil {
		return errs.New(errs.Invalid, errs.CodeFormatError, "The body is not a JSON object with a query")
	}
	size, err := rest.PageSize(r.Request, usualPage, hub.MaxPage)
	if err != nil {
		return err
	}
	page, err := a.Service.Query(r.Context(), caller, host, *sent.Query, size, r.Header.Get(rest.HeaderContinuation))
	if err != nil {
		return err
	}
	itemType, items := encodePage(page)
	rest.SetHeader(w.Header(), rest.HeaderItemType, itemType)
	if page.Continuation != "" {
		rest.SetHeader(w.Header(), rest.HeaderContinuation, page.Continuation)
	}
	return answerJSON(w, items)
}

// encodePage returns the items of a page and the type of them, which one client
// spells exactly so.
func encodePage(page hub.Page) (itemType string, items []any) {
	items = []any{} // an empty page is [], not null
	if !page.Whole {
		for _, row := range page.Rows {
			items = append(items, row)
		}
		return "Raw", items
	}
	for _, f := range page.Twins {
		items = append(items, encodeTwin(f.Identity, f.Twin, f.About))
	}
	return "Twin", items
}
