package postgres

import (
	"context"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
	"github.com/berth-iot/berth/store/storetest"
)

// Twins that a program wrote that knew no index are found by it once they are
// indexed.
func TestTwinsOfBeforeAreIndexed(t *testing.T) {
	s := openTest(t)
	storetest.TwinsAreIndexed(t, s, func() {
		err := s.transact(t.Context(), func(_ context.Context, t *tx) error {
			t.write("DELETE FROM twin_value WHERE module = ''")
			t.write("UPDATE device SET indexed = NULL")
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// An older program changes what few devices are without a word in the index or a
// new version of the twin. They are found once they are indexed again, as
// docs/operate.md has it.
func TestWhatAnOlderProgramDisabledIsFound(t *testing.T) {
	s := openTest(t)
	write := func(sql string) {
		t.Helper()
		err := s.transact(t.Context(), func(_ context.Context, t *tx) error { t.write(sql); return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	service := hub.New(hub.Config{Registry: s, Now: time.Now, Random: rand.Reader})
	if err := service.Provision(t.Context(), hub.Provisioning{Hub: "h", DeviceID: "pump-1", Thumbprint: strings.Repeat("A", 64)}); err != nil {
		t.Fatal(err)
	}
	found := func(condition string) int {
		t.Helper()
		page, err := service.Query(t.Context(), access.Caller{Policy: "iothubowner", Rights: access.AllHub}, "h", "SELECT deviceId FROM devices WHERE "+condition, 10, "")
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Rows)
	}
	write("UPDATE device SET disabled = true, iot_edge = true")
	if found("status = 'disabled'") != 0 || found("capabilities.iotEdge = true") != 0 {
		t.Error("it is found: the index need not be made again")
	}
	write("UPDATE device SET indexed = NULL WHERE disabled OR iot_edge")
	for _, indexed := range []bool{false, true} {
		if found("status = 'disabled'") != 1 || found("capabilities.iotEdge = true") != 1 {
			t.Errorf("it is not found (indexed: %v)", indexed)
		}
		if err := service.IndexTwins(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// However many rows there are, those are read that are wanted, also while the
// database knows nothing about them.
func TestTwinsAreFoundAlongIndexes(t *testing.T) {
	s := openTest(t)
	run := func(sql string, args ...any) (steps []string) {
		t.Helper()
		err := s.query(t.Context(), func(r *record.Row) error { steps = append(steps, r.Text()); return nil }, sql, args...)
		if err != nil {
			t.Fatal(err)
		}
		return steps
	}
	run(`INSERT INTO device (hub, id, generation_id, etag, disabled, status_reason, iot_edge, authentication, primary_thumbprint, secondary_thumbprint, twin_version, tags, indexed)
		SELECT 'h', i::text, '', '', false, '', false, 'sas', '', '', 2, '{"some":"text"}', 2 FROM generate_series(1, 5000) i`)
	run(`INSERT INTO twin_value SELECT i % 3, '\x01', i::text, '' FROM generate_series(1, 5000) i`)
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			run("ANALYZE")
		}
		for _, q := range []struct {
			sql  string
			args []any
		}{
			{selectUnindexed, []any{1}},
			{selectTwinEntries, []any{1, []byte{1}, "", "", []byte{1}, 64}},
			{countTwinEntries, []any{1, []byte{1}, "", "", []byte{1}, 1000}},
			{selectFound(false, hub.AllMembers) + scanDevices, []any{"h", "", "~", "", 64}},
			{selectFound(false, hub.AllMembers) + foundDevices, []any{"h", []string{"1", "2"}}},
			{deleteTwinEntries, []any{[]int64{1}, [][]byte{{1}}, "1", ""}},
		} {
			for _, step := range run("EXPLAIN "+q.sql, q.args...) {
				if strings.Contains(step, "Seq Scan") || strings.Contains(step, "Bitmap") && strings.Contains(q.sql, "LIMIT") || strings.Contains(step, "Sort") {
					t.Errorf("%s: %s (analyzed: %v)", q.sql, step, analyzed)
				}
			}
		}
	}
}
