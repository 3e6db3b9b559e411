package service_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// enrollmentsNamed returns enrollments with entity tags.
func enrollmentsNamed(ids ...string) (items []dpsjson.IndividualEnrollment) {
	for _, id := range ids {
		items = append(items, dpsjson.IndividualEnrollment{RegistrationID: id, ETag: "tag"})
	}
	return items
}

// bulkHandler reads a bulk operation and answers with failures.
func bulkHandler(t *testing.T, got *dpsjson.BulkEnrollmentOperation, failures ...dpsjson.BulkEnrollmentOperationError) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if *got, err = dpsjson.DecodeBulkEnrollmentOperation(body); err != nil {
			t.Error(err)
		}
		answer(w, dpsjson.NewBulkResult(failures))
	}
}

func TestEachItemOfABulkOperationHasItsOwnOutcome(t *testing.T) {
	var got dpsjson.BulkEnrollmentOperation
	exists := dpsjson.BulkEnrollmentOperationError{RegistrationID: "B", ErrorCode: 409201, ErrorStatus: "Enrollment already exists.\x1b"}
	bubble(t, bulkHandler(t, &got, exists), func(t *testing.T, c *service.Client) {
		refusals, err := c.BulkEnrollments(t.Context(), dpsjson.BulkCreate, enrollmentsNamed("a", "b", "c"))
		if err != nil || len(refusals) != 3 {
			t.Fatalf("%v, %v", refusals, err)
		}
		if refusals[0] != nil || refusals[2] != nil || status(refusals[1]) != 409 {
			t.Errorf("%v", refusals)
		}
		if want := "409201 EnrollmentConflict: Enrollment already exists."; refusals[1].Error() != want {
			t.Errorf("%q, want %q", refusals[1], want)
		}
		if got.Mode != dpsjson.BulkCreate || len(got.Enrollments) != 3 || got.Enrollments[0].ETag != "" {
			t.Errorf("%+v", got)
		}
		if _, err := c.BulkEnrollments(t.Context(), dpsjson.BulkUpdateIfMatchETag, enrollmentsNamed("a", "b")); err != nil || got.Enrollments[1].ETag != "tag" {
			t.Errorf("%+v, %v", got, err)
		}
	})
	gone := dpsjson.BulkEnrollmentOperationError{EnrollmentGroupID: "g2", ErrorCode: 404201}
	bubble(t, bulkHandler(t, &got, gone), func(t *testing.T, c *service.Client) {
		refusals, err := c.BulkGroups(t.Context(), dpsjson.BulkDelete, []dpsjson.EnrollmentGroup{{EnrollmentGroupID: "g1"}, {EnrollmentGroupID: "g2"}})
		if err != nil || refusals[0] != nil || status(refusals[1]) != 404 || len(got.EnrollmentGroups) != 2 {
			t.Errorf("%v, %v, %+v", refusals, err, got)
		}
	})
}

func TestBulkOperationsThatMakeNoSense(t *testing.T) {
	bubble(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was sent") }), func(t *testing.T, c *service.Client) {
		for _, ids := range [][]string{nil, {"a", "A"}, strings.Split("a b c d e f g h i j k", " ")} {
			if _, err := c.BulkEnrollments(t.Context(), dpsjson.BulkCreate, enrollmentsNamed(ids...)); err == nil {
				t.Errorf("%q passed", ids)
			}
		}
	})
}

func TestBulkAnswersThatAreNotBelieved(t *testing.T) {
	for name, body := range map[string]any{
		"of something else":     dpsjson.NewBulkResult([]dpsjson.BulkEnrollmentOperationError{{RegistrationID: "z", ErrorCode: 409201}}),
		"without saying what":   map[string]any{"isSuccessful": false},
		"with nothing in it":    map[string]any{},
		"that is not an object": []int{1},
	} {
		bubble(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, body) }), func(t *testing.T, c *service.Client) {
			if refusals, err := c.BulkEnrollments(t.Context(), dpsjson.BulkCreate, enrollmentsNamed("a")); err == nil {
				t.Errorf("%s: %v", name, refusals)
			}
		})
	}
}

func TestABulkOperationIsRepeated(t *testing.T) {
	n := 0
	bubble(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n++; n < 4 {
			w.Header().Set("Retry-After", "5")
			w.WriteHeader([]int{429, 503, 500}[n-1])
			return
		}
		answer(w, dpsjson.NewBulkResult(nil))
	}), func(t *testing.T, c *service.Client) {
		refusals, err := c.BulkEnrollments(t.Context(), dpsjson.BulkCreate, enrollmentsNamed("a"))
		if err != nil || fmt.Sprint(refusals) != "[<nil>]" || n != 4 {
			t.Errorf("%v, %v after %d calls", refusals, err, n)
		}
	})
}
