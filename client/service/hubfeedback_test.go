package service_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/wire/hubjson"
)

func TestFeedbackIsTakenAndGivenBack(t *testing.T) {
	var got []string
	batches := [][]string{{"m1", "m2"}, {"m3"}}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Method+" "+r.URL.Path)
		if r.Method != http.MethodGet || len(batches) == 0 {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		var records []map[string]string
		for _, id := range batches[0] {
			records = append(records, map[string]string{"originalMessageId": id, "statusCode": "Success", "deviceId": "d1"})
		}
		batches = batches[1:]
		w.Header().Set("ETag", `"lock-`+records[0]["originalMessageId"]+`"`)
		body, err := json.Marshal(records)
		if err != nil {
			t.Error(err)
		}
		answer(w, json.RawMessage(body))
	})
	hubBubble(t, h, func(t *testing.T, c *service.Hub) {
		var ids []string
		note := func(batch []hubjson.Feedback) error {
			for _, f := range batch {
				ids = append(ids, f.OriginalMessageID+" "+f.StatusCode)
			}
			return nil
		}
		if err := c.Feedback(t.Context(), note); err != nil || !slices.Equal(ids, []string{"m1 Success", "m2 Success", "m3 Success"}) {
			t.Errorf("%v, %v", ids, err)
		}
		batches = [][]string{{"m4"}, {"m5"}}
		fault := errors.New("full")
		if err := c.Feedback(t.Context(), func([]hubjson.Feedback) error { return fault }); !errors.Is(err, fault) {
			t.Error(err)
		}
	})
	want := []string{
		"GET /messages/serviceBound/feedback", "DELETE /messages/serviceBound/feedback/lock-m1",
		"GET /messages/serviceBound/feedback", "DELETE /messages/serviceBound/feedback/lock-m3",
		"GET /messages/serviceBound/feedback",
		"GET /messages/serviceBound/feedback", "POST /messages/serviceBound/feedback/lock-m4/abandon",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
