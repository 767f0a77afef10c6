package store_test

import (
	"testing"
	"time"

	"github.com/rimlight/rimlight/internal/sqldb"
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
		waits(t, tx, db, buried, func() error {
			return s.Write(t.Context(), func(tx *store.Tx) error { return tx.Tombstone(t.Context(), lease, 1) })
		})
		return nil
	}))
	check(t, <-buried)
}

// waits begins another transaction and returns when the server says that it waits for tx; what it ends with comes to done.
func waits(t *testing.T, tx *store.Tx, db *sqldb.DB, done chan error, other func() error) {
	t.Helper()
	go func() { done <- other() }()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for waiting := 0; waiting == 0; {
		select {
		case err := <-done:
			done <- err
			t.Error("the other transaction did not wait")
			return
		case <-poll.C:
		}
		check(t, db.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM pg_locks WHERE NOT granted`).Scan(&waiting))
		_, err := tx.Tombstoned(t.Context(), store.ID{}) // a transaction that is silent for long is taken for abandoned
		check(t, err)
	}
}

// Two purchases of one session fail at the same time, at two replicas: the second counts the price lock that the first got.
func TestPriceLocksOfASessionAreCountedInTurn(t *testing.T) {
	db := sqldbtest.Postgres(t)
	s := migrated(t, db)
	session := store.ID{5}
	p := &store.Purchase{
		TokenID: store.ID{1}, PurchaseID: store.ID{2}, Arrival: 1, DropID: store.ID{3}, ViewerSessionID: session, CurrencyCode: "EUR", MinorUnits: 5,
	}
	check(t, s.Write(t.Context(), func(tx *store.Tx) error { return tx.InsertPurchase(t.Context(), p) }))
	p.Voucher = &store.Voucher{VoucherID: store.ID{4}, Kind: store.PriceLock, MinorUnits: 5}
	second := make(chan error, 1)
	var counted int
	check(t, s.Write(t.Context(), func(tx *store.Tx) error {
		if n, err := tx.PriceLocks(t.Context(), session, "demo", 0); err != nil || n != 0 {
			t.Errorf("counted %d, %v before the first", n, err)
		}
		waits(t, tx, db, second, func() error {
			return s.Write(t.Context(), func(tx *store.Tx) (err error) {
				counted, err = tx.PriceLocks(t.Context(), session, "demo", 0)
				return err
			})
		})
		return tx.InsertVoucher(t.Context(), p, "demo", 1)
	}))
	check(t, <-second)
	if counted != 1 {
		t.Errorf("the second purchase counted %d price locks, want the first one's", counted)
	}
}
