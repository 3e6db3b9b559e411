package admin

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/sqlite"
)

// A far is a sink whose far side is here.
type far struct{ refuses error }

func (f *far) Deliver(context.Context, []*hub.Message) error { return f.refuses }
func (f *far) Close() error                                  { return nil }

func dispatcher(store *sqlite.Store, f *far) *hub.Dispatcher {
	return hub.NewDispatcher(hub.DispatcherConfig{
		Name: "here", Stream: store, Routing: store, Positions: store, Now: time.Now, Random: rand.Reader,
		Kinds: map[string]hub.SinkKind{"far": {
			Check: func(hub.SinkConfig) error { return nil },
			Open:  func(hub.SinkConfig) (hub.Sink, error) { return f, nil },
		}},
		Wanted: func(func(string, hub.Source) bool) {}, Fault: func(error) {},
	})
}

const at2 = "/berth/v1/hubs/hub2.example"

func TestRoutesAndSinks(t *testing.T) {
	s := linked(t)
	s.want("GET", at2+"/routes", "", 200, "[]")
	s.want("GET", at2+"/sinks", "", 200, "[]")
	s.want("GET", at2+"/consumerGroups", "", 200, "[]")
	put := func(path, body, ifMatch string, status int) (etag string) {
		t.Helper()
		got, answer := s.sendIf("PUT", at2+path, body, ifMatch)
		if got != status {
			t.Fatalf("PUT %s %s: %d %s", path, body, got, answer)
		}
		var v struct{ ETag string }
		if err := json.Unmarshal([]byte(answer), &v); err != nil {
			t.Fatal(err)
		}
		return v.ETag
	}
	etag := put("/sinks/lake", `{"kind":"far","url":"https://lake.example/x?key=y","secret":"hush","settings":{"a":"b"},"batchWaitMilliseconds":250}`, "", 200)
	_, answer := s.send("GET", at2+"/sinks/lake", "", token(s.owner))
	if want := `"settings":{"a":"b"},"hasSecret":true,"batchSize":200,"batchWaitMilliseconds":250`; !strings.Contains(answer, want) || strings.Contains(answer, "hush") {
		t.Errorf("%s", answer)
	}
	put("/sinks/lake", `{"kind":"far","url":"https://lake.example/x"}`, `"`+etag+`x"`, 412)
	put("/sinks/lake", `{"kind":"far","url":"https://lake.example/y","settings":{"a":"b"}}`, `"`+etag+`"`, 200)
	if _, answer := s.send("GET", at2+"/sinks", "", token(s.owner)); !strings.Contains(answer, `"hasSecret":true`) {
		t.Errorf("the secret went: %s", answer)
	}
	for want, refusal := range map[string]error{`{"delivered":true,"took`: nil, `{"delivered":false,"error":"dry","took`: errors.New("dry")} {
		s.far.refuses = refusal
		if status, answer := s.send("POST", at2+"/sinks/lake/test", "", token(s.owner)); status != 200 || !strings.HasPrefix(answer, want) {
			t.Errorf("testing: %d %s, want %s", status, answer, want)
		}
	}

	put("/routes/all", `{"sink":"lake"}`, "", 200)
	s.arrive("hub2.example", "one", "two")
	_, answer = s.send("GET", at2+"/routes/all", "", token(s.owner))
	if want := `"name":"all","source":"DeviceMessages","condition":"true","sink":"lake","enabled":true,"health":{"sequence":0,"delivered":0,"lost":0,"lag":2,"oldestUnread":"2026-03-01T12:00:00.000005Z","reading":false}`; !strings.Contains(answer, want) {
		t.Errorf("%s", answer)
	}
	for _, bad := range []string{
		`{}`, `{"sink":"none"}`, `{"sink":"lake","condition":"a ="}`, `{"sink":"lake","source":"Telemetry"}`, `{"sink":"lake","x":1}`, `[]`, ``,
	} {
		s.refuses("PUT", at2+"/routes/r", bad, token(s.owner), 400, errs.Invalid)
	}
	s.refuses("PUT", at2+"/routes/Upper", `{"sink":"lake"}`, token(s.owner), 400, errs.Invalid)
	for _, bad := range []string{
		`{}`, `{"kind":"near","url":"https://a/"}`, `{"kind":"far"}`, `{"kind":"far","url":"/x"}`, `{"kind":"far","url":"https://a/","batchSize":1001}`,
		`{"kind":"far","url":"https://a/","batchWaitMilliseconds":10001}`, `{"kind":"far","url":"https://a/","batchWaitMilliseconds":9223372036854775807}`,
	} {
		s.refuses("PUT", at2+"/sinks/s", bad, token(s.owner), 400, errs.Invalid)
	}
	s.refuses("DELETE", at2+"/sinks/lake", "", token(s.owner), 409, errs.Conflict)
	s.want("DELETE", at2+"/routes/all", "", 204, "")
	s.want("DELETE", at2+"/sinks/lake", "", 204, "")
	for _, missing := range []string{"GET /routes/all", "DELETE /routes/all", "GET /sinks/lake", "DELETE /sinks/lake", "POST /sinks/lake/test", "DELETE /consumerGroups/g"} {
		method, path, _ := strings.Cut(missing, " ")
		s.refuses(method, at2+path, "", token(s.owner), 404, errs.NotFound)
	}
	s.refuses("GET", "/berth/v1/hubs/hub3.example/routes", "", token(s.owner), 404, errs.NotFound)
	weak := s.policy("weak", access.EnrollmentRead)
	s.refuses("GET", at2+"/routes", "", token(weak), 401, errs.Denied)
	s.refuses("PUT", at2+"/sinks/s", "{}", token(weak), 401, errs.Denied)
}

// One reader at a time reads for a group; the next one goes on behind what the
// first committed.
func TestConsumerGroups(t *testing.T) {
	s := linked(t)
	s.arrive("hub2.example", "one", "two", "three", "four")
	const path = at2 + "/messages?follow=true&group=billing"
	ctx, leave := context.WithCancel(t.Context())
	first, lines := s.follow(ctx, path+"&start=earliest")
	for _, want := range []string{"one", "two", "three"} {
		if !lines.Scan() || bodies(lines.Text()) != want {
			t.Fatalf("%q, want %s", lines.Text(), want)
		}
	}
	reader := first.Header.Get("Berth-Reader")
	commit := func(reader, sequence string, status int) {
		t.Helper()
		if got, answer := s.send("POST", at2+"/consumerGroups/billing/commit", `{"reader":"`+reader+`","sequence":`+sequence+`}`, token(s.owner)); got != status {
			t.Errorf("committing %s: %d %s", sequence, got, answer)
		}
	}
	commit(reader, "2", 204)
	commit(reader, "1", 204) // it does not go back
	commit(reader, "99", 400)
	commit("somebody", "3", 409)
	commit("", "3", 409)
	if _, answer := s.send("GET", at2+"/consumerGroups", "", token(s.owner)); !strings.Contains(answer, `"name":"billing","health":{"sequence":2,"delivered":0,"lost":0,"lag":2,`) || !strings.Contains(answer, `"reading":true`) {
		t.Error(answer)
	}
	s.refuses("DELETE", at2+"/consumerGroups/billing", "", token(s.owner), 409, errs.Conflict)
	s.refuses("GET", path+"&start=earliest", "", token(s.owner), 409, errs.Conflict)

	second, waiting := s.follow(t.Context(), path)
	if id := second.Header.Get("Berth-Reader"); id == "" || id == reader {
		t.Errorf("the second reader is %q", id)
	}
	leave()
	if !waiting.Scan() || bodies(waiting.Text()) != "three" {
		t.Fatalf("%q, want three", waiting.Text())
	}
	commit(reader, "4", 409)
	for _, query := range []string{"group=", "group=Upper", "group=a&after=1", "start=earliest", "group=a&start=yesterday", "since=now", "since=2026-01-01T00:00:00Z&after=1"} {
		s.refuses("GET", at2+"/messages?"+query, "", token(s.owner), 400, errs.Invalid)
	}
	if _, answer := s.send("GET", at2+"/messages?since=2026-03-01T12:00:00Z", "", token(s.owner)); bodies(answer) != "one two three four" {
		t.Error(answer)
	}
	if _, answer := s.send("GET", at2+"/messages?since=2026-03-01T12:00:01Z", "", token(s.owner)); answer != "" {
		t.Error(answer)
	}
	if _, answer := s.send("GET", at2+"/messages?group=other&start=earliest&limit=2", "", token(s.owner)); bodies(answer) != "one two" {
		t.Error(answer)
	}
	s.want("DELETE", at2+"/consumerGroups/other", "", 204, "")
}
