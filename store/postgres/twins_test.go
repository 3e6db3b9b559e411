package postgres

import (
	"context"
	"strings"
	"testing"

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
			{scanDevices, []any{"h", "", "~", "", 64}},
			{foundDevices, []any{"h", []string{"1", "2"}}},
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
