package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// BulkEnrollments does one thing to up to [dpsjson.MaxBulkItem] individual
// enrollments in one call: each succeeds or fails on its own. The answer has an
// element for every item, nil or the [client.Error] by which it was refused; the
// error is about the call as a whole.
//
// An update takes place if an item still has its ETag. Symmetric keys that are not
// given are generated or stay, as with [Client.CreateEnrollment] and
// [Client.UpdateEnrollment], and are not answered.
//
// The call is repeated after network errors and answers 429 and 5xx. It cannot
// take effect twice, but when the answer was lost that told of a success, the item
// is reported with status 409 (create), 412 (update) or 404 (delete).
func (c *Client) BulkEnrollments(ctx context.Context, mode dpsjson.BulkMode, items []dpsjson.IndividualEnrollment) ([]error, error) {
	o := dpsjson.BulkEnrollmentOperation{Mode: mode}
	var ids []string
	for _, e := range items {
		e.RegistrationState = nil
		if mode == dpsjson.BulkCreate {
			e.ETag = ""
		}
		o.Enrollments, ids = append(o.Enrollments, e), append(ids, e.RegistrationID)
	}
	return c.bulk(ctx, enrollments, o, ids)
}

// BulkGroups does one thing to up to [dpsjson.MaxBulkItem] enrollment groups, on
// the terms of [Client.BulkEnrollments].
func (c *Client) BulkGroups(ctx context.Context, mode dpsjson.BulkMode, items []dpsjson.EnrollmentGroup) ([]error, error) {
	o := dpsjson.BulkEnrollmentOperation{Mode: mode}
	var ids []string
	for _, g := range items {
		if mode == dpsjson.BulkCreate {
			g.ETag = ""
		}
		o.EnrollmentGroups, ids = append(o.EnrollmentGroups, g), append(ids, g.EnrollmentGroupID)
	}
	return c.bulk(ctx, groups, o, ids)
}

func (c *Client) bulk(ctx context.Context, collection string, o dpsjson.BulkEnrollmentOperation, ids []string) ([]error, error) {
	places, err := placesOf(ids)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("bulk %s: %w", o.Mode, err)
	}
	var result dpsjson.BulkEnrollmentOperationResult
	answer, err := c.call(ctx, rest.Request{Method: http.MethodPost, Path: collection, Body: body, Repeatable: true, MaxAnswer: maxAnswer})
	if err == nil {
		err = answer.JSON(&result)
	}
	if err == nil && !result.IsSuccessful && len(result.Errors) == 0 {
		err = errors.New("the service reports a failure and does not say of what")
	}
	if err != nil {
		return nil, fmt.Errorf("bulk %s: %w", o.Mode, err)
	}
	refusals := make([]error, len(ids))
	for _, e := range result.Errors {
		i, ok := places[strings.ToLower(e.RegistrationID+e.EnrollmentGroupID)] // one of them is set
		if !ok {
			return nil, fmt.Errorf("bulk %s: the service reports a failure of something that was not sent: %w", o.Mode, itemRefusal(e))
		}
		refusals[i] = itemRefusal(e)
	}
	return refusals, nil
}

// placesOf says where each ID stands. The service tells items apart by them
// alone, without case.
func placesOf(ids []string) (map[string]int, error) {
	if len(ids) == 0 || len(ids) > dpsjson.MaxBulkItem {
		return nil, fmt.Errorf("a bulk operation has 1 to %d items, and not %d", dpsjson.MaxBulkItem, len(ids))
	}
	places := make(map[string]int, len(ids))
	for i, id := range ids {
		key := strings.ToLower(id)
		if _, twice := places[key]; twice {
			return nil, fmt.Errorf("bulk operation: %.128q is in it twice", id)
		}
		places[key] = i
	}
	return places, nil
}

func itemRefusal(e dpsjson.BulkEnrollmentOperationError) *client.Error {
	code := errs.Code(e.ErrorCode)
	return &client.Error{Status: code.Status(), Code: code, Name: code.Name(), Message: rest.Printable(e.ErrorStatus, 512)}
}
