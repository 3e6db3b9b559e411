package postgres

import (
	"context"
	"testing"

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
