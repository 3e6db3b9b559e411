package hub_test

import (
	"encoding/json"
	"testing"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

func said(tags, desired string) hub.TwinChange {
	var c hub.TwinChange
	if tags != "" {
		c.Tags = json.RawMessage(tags)
	}
	if desired != "" {
		c.Desired = json.RawMessage(desired)
	}
	return c
}

func TestTwinChanges(t *testing.T) {
	// The twin before has tags {"site":"a"}, desired {"rate":1} and reported
	// {"up":1}, and versions 5, 3 and 4.
	for _, c := range []struct {
		name, tags, desired       string // what is said
		replace                   bool
		wantTags, wantDesired     string
		wantVersion, wantDesiredV int64
	}{
		{"patch of both", `{"site":"b","floor":2}`, `{"rate":null,"unit":"s"}`, false, `{"site":"b","floor":2}`, `{"unit":"s"}`, 6, 4},
		{"patch of tags", `{"floor":2}`, ``, false, `{"site":"a","floor":2}`, `{"rate":1}`, 6, 3},
		{"patch of desired", ``, `{"rate":2}`, false, `{"site":"a"}`, `{"rate":2}`, 6, 4},
		{"patch that changes nothing", `{"site":"a"}`, `{"rate":1,"x":null}`, false, `{"site":"a"}`, `{"rate":1}`, 5, 3},
		{"empty patch", ``, ``, false, `{"site":"a"}`, `{"rate":1}`, 5, 3},
		{"patch with null tags", `null`, ``, false, `{}`, `{"rate":1}`, 6, 3},
		{"replacement of both", `{"floor":2}`, `{"unit":"s","x":null}`, true, `{"floor":2}`, `{"unit":"s"}`, 6, 4},
		{"replacement of tags", `{"floor":2}`, ``, true, `{"floor":2}`, `{}`, 6, 4},
		{"replacement by nothing", ``, ``, true, `{}`, `{}`, 6, 4},
		{"replacement by the same", `{"site":"a"}`, ` {"rate": 1,"$version":1}`, true, `{"site":"a"}`, `{"rate":1}`, 5, 3},
	} {
		s, m := open(t)
		provision(t, s, first)
		change(t, m, hub.Place{Hub: host, ID: "d1"}, func(_ *hub.Identity, twin *hub.Twin) {
			twin.Reported = json.RawMessage(`{"up":1}`)
			twin.Version, twin.DesiredVersion, twin.ReportedVersion = 5, 3, 4
		})
		_, before := at(t, s, hub.Place{Hub: host, ID: "d1"})
		write := s.PatchTwin
		if c.replace {
			write = s.ReplaceTwin
		}
		d, got, err := write(t.Context(), owner, hub.Place{Hub: host, ID: "d1"}, said(c.tags, c.desired), is(before.ETag()))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if string(got.Tags) != c.wantTags || string(got.Desired) != c.wantDesired || string(got.Reported) != `{"up":1}` ||
			got.Version != c.wantVersion || got.DesiredVersion != c.wantDesiredV || got.ReportedVersion != 4 || d.ID != "d1" {
			t.Errorf("%s: %+v", c.name, got)
		}
		if moved := got.ETag() != before.ETag(); moved != (c.wantVersion != 5) {
			t.Errorf("%s: the entity tag went from %s to %s", c.name, before.ETag(), got.ETag())
		}
		if moved := got.DesiredUpdated.After(before.DesiredUpdated); moved != (c.wantDesiredV != 3) {
			t.Errorf("%s: desired was last updated at %s, then %s", c.name, before.DesiredUpdated, got.DesiredUpdated)
		}
		if _, kept := at(t, s, hub.Place{Hub: host, ID: "d1"}); string(kept.Tags) != c.wantTags || kept.ETag() != got.ETag() {
			t.Errorf("%s: kept %+v", c.name, kept)
		}
	}
}

func TestTwinChangesThatAreRefused(t *testing.T) {
	s, _ := open(t)
	provision(t, s, first)
	_, before := at(t, s, hub.Place{Hub: host, ID: "d1"})
	ctx, good := t.Context(), said(`{"floor":2}`, ``)
	reader := access.Caller{Policy: "registryReadWrite", Rights: access.RegistryRead | access.RegistryWrite}

	_, _, err := s.PatchTwin(ctx, reader, hub.Place{Hub: host, ID: "d1"}, good, nil)
	wantCode(t, "without ServiceConnect", err, errs.CodeUnauthorizedAccess)
	_, _, err = s.ReplaceTwin(ctx, reader, hub.Place{Hub: host, ID: "d1"}, good, nil)
	wantCode(t, "without ServiceConnect", err, errs.CodeUnauthorizedAccess)
	_, _, err = s.PatchTwin(ctx, owner, hub.Place{Hub: host, ID: "d2"}, good, nil)
	wantCode(t, "another device", err, errs.CodeDeviceNotFound)
	_, _, err = s.PatchTwin(ctx, owner, hub.Place{Hub: "hub2.example", ID: "d1"}, good, nil)
	wantCode(t, "another hub", err, errs.CodeDeviceNotFound)
	_, _, err = s.PatchTwin(ctx, owner, hub.Place{Hub: host, ID: "d1"}, good, is("stale"))
	wantCode(t, "stale", err, errs.CodePreconditionFailed)
	_, _, err = s.PatchTwin(ctx, owner, hub.Place{Hub: host, ID: "d1"}, said(`{"a b":1}`, ``), nil)
	wantCode(t, "bad name", err, errs.CodeArgumentInvalid)
	_, _, err = s.ReplaceTwin(ctx, owner, hub.Place{Hub: host, ID: "d1"}, said(`{}`, `[]`), nil)
	wantCode(t, "no object", err, errs.CodeArgumentInvalid)
	if _, after := at(t, s, hub.Place{Hub: host, ID: "d1"}); after.ETag() != before.ETag() || string(after.Tags) != string(before.Tags) {
		t.Errorf("a refused change was written: %+v", after)
	}
}
