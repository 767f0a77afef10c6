package store_test

import (
	"testing"
	"time"

	"github.com/rimlight/rimlight/internal/sqldb/sqldbtest"
	"github.com/rimlight/rimlight/verifier/store"
)

// A replica that admits a redemption has looked for the lease's tombstone; another replica's tombstone waits until the
// redemption is there to be seen. Otherwise the lease would be closed under a purchase that may still win its unit.
func TestATombstoneWaitsForRedemptionsBeingAdmitted(t *testing.T) {
	db := sqldbtest.Postgres(t)
	s := migrated(t, db)
	lease := store.ID{7}
	buried := make(chan error, 1)
	check(t, s.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.TakeArrivals(t.Context(), 1)
		check(t, err)
		if late, err := tx.Tombstoned(t.Context(), lease); err != nil || late[lease] {
			t.Errorf("got %v, %v before the tombstone", late, err)
		}
		go func() {
			buried <- s.Write(t.Context(), func(tx *store.Tx) error { return tx.Tombstone(t.Context(), lease, 1) })
		}()
		poll := time.NewTicker(5 * time.Millisecond)
		defer poll.Stop()
		for waiting := 0; waiting == 0; {
			select {
			case err := <-buried:
				buried <- err
				t.Error("the tombstone did not wait")
				return nil
			case <-poll.C:
			}
			check(t, db.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM pg_locks WHERE NOT granted`).Scan(&waiting))
		}
		return nil
	}))
	check(t, <-buried)
}
