package dpshttp

import (
	"net/http"
	"strings"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/enroll/serviceapi"
	"github.com/berth-iot/berth/front/internal/dps"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// The page sizes of a query: what a client gets that names none, and the most
// it can ask for.
const (
	usualPage = 100
	mostPage  = 1000
)

// A listing is what a query goes through.
type listing struct {
	name     string // for continuation tokens
	itemType string // x-ms-item-type; one client compares it with case
	// page returns up to limit items after a key, each as its body, and their
	// keys.
	page func(provision.Page) (items []any, keys []device.RegistrationID, err error)
}

func (f front) queryEnrollments(kind enroll.Kind) func(http.ResponseWriter, serviceCall) error {
	itemType := "Enrollment"
	if kind == enroll.Group {
		itemType = "EnrollmentGroup"
	}
	return func(w http.ResponseWriter, call serviceCall) error {
		return f.query(w, call, listing{string(call.scope) + " " + itemType, itemType,
			func(p provision.Page) (items []any, keys []device.RegistrationID, err error) {
				entries, err := f.Enroller.Entries(call.Context(), call.caller, call.scope, kind, p)
				if err != nil {
					return nil, nil, err
				}
				for _, e := range entries {
					item, err := serviceapi.Body(e, serviceapi.HideKeys)
					if err != nil {
						return nil, nil, err
					}
					items, keys = append(items, item), append(keys, e.Key())
				}
				return items, keys, nil
			}})
	}
}

func (f front) queryRegistrations(w http.ResponseWriter, call serviceCall) error {
	group := strings.ToLower(call.id)
	return f.query(w, call, listing{string(call.scope) + " DeviceRegistration of " + group, "DeviceRegistration",
		func(p provision.Page) (items []any, keys []device.RegistrationID, err error) {
			records, err := f.Enroller.Registrations(call.Context(), call.caller, call.scope, call.id, p)
			if err != nil {
				return nil, nil, err
			}
			for _, r := range records {
				items, keys = append(items, dps.Record(r, call.apiVersion)), append(keys, r.Key)
			}
			return items, keys, nil
		}})
}

func (f front) query(w http.ResponseWriter, call serviceCall, l listing) error {
	b, err := readJSON(w, call.Request)
	if err != nil {
		return err
	}
	if err := checkQuery(b); err != nil {
		return err
	}
	size, err := rest.PageSize(call.Request.Request, usualPage, mostPage)
	if err != nil {
		return err
	}
	continuations := rest.Continuations{Secrets: f.Secrets}
	after, err := continuations.Position(l.name, call.Header.Get(rest.HeaderContinuation))
	if err != nil {
		return err
	}
	// One more than asked for tells whether there is a next page.
	items, keys, err := l.page(provision.Page{After: after, Limit: size + 1})
	if err != nil {
		return err
	}
	if len(items) > size {
		next, err := continuations.Token(l.name, string(keys[size-1]))
		if err != nil {
			return err
		}
		rest.SetHeader(w.Header(), rest.HeaderContinuation, next)
		items = items[:size]
	}
	if items == nil {
		items = []any{} // an empty listing is [], not null
	}
	rest.SetHeader(w.Header(), rest.HeaderItemType, l.itemType)
	return answer(w, http.StatusOK, items)
}

// checkQuery accepts every way to ask for everything: no body, an empty query,
// "*", as samples of the Node SDK have it, SELECT with any projection. It
// refuses a condition, because a client that got everything in spite of one
// might delete it.
func checkQuery(b []byte) error {
	spec, err := dpsjson.DecodeQuerySpecification(b)
	if err != nil {
		return invalid(err.Error())
	}
	if q := strings.TrimSpace(spec.Query); q == "" || q == "*" {
		return nil
	}
	words := strings.FieldsFunc(strings.ToUpper(spec.Query), func(r rune) bool { return r < 'A' || r > 'Z' })
	if len(words) == 0 || words[0] != "SELECT" {
		return invalid("query: must be SELECT * FROM the collection")
	}
	for _, word := range words {
		switch word {
		case "WHERE", "GROUP", "ORDER":
			return invalid("query: " + word + " is not known here")
		}
	}
	return nil
}
