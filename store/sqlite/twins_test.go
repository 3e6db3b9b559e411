package sqlite

import (
	"strings"
	"testing"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
	"github.com/berth-iot/berth/store/storetest"
)

// Twins that a program wrote that knew no index are found by it once they are
// indexed.
func TestTwinsOfBeforeAreIndexed(t *testing.T) {
	s := openTest(t)
	storetest.TwinsAreIndexed(t, s, func() {
		err := s.write(t.Context(), func(t *tx) error {
			for _, statement := range []string{"DELETE FROM twin_value WHERE module = ''", "UPDATE device SET indexed = NULL"} {
				if err := t.exec(statement); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// However many rows there are, those are read that are wanted.
func TestTwinsAreFoundAlongIndexes(t *testing.T) {
	s := openTest(t)
	for sql, args := range map[string]int{
		selectFound(false, hub.AllMembers) + scanDevices: 5, selectFound(true, hub.AllMembers) + scanModules: 6,
		selectFound(false, hub.Members{}) + foundDevice: 2, selectFound(true, hub.Members{}) + foundModule: 3,
		selectTwinEntries: 6, countTwinEntries: 6, selectUnindexed: 1,
	} {
		err := s.read(t.Context(), func(c *conn) error {
			return c.each(func(r *record.Row) error {
				r.Number()
				r.Number()
				r.Number()
				step := r.Text()
				whole := strings.HasPrefix(step, "SCAN") && !strings.Contains(step, "unindexed") && !strings.HasPrefix(step, "SCAN (")
				if whole || strings.Contains(step, "TEMP B-TREE") {
					t.Errorf("%s: %s", sql, step)
				}
				return nil
			}, "EXPLAIN QUERY PLAN "+sql, make([]any, args)...)
		})
		if err != nil {
			t.Error(err)
		}
	}
}
