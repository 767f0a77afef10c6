package store_test

import (
	"sync"
	"testing"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/sqldb/sqldbtest"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// Two replicas decide about thirty purchases that one card pays, all at the same time: as many as may, and the same again
// however often they are asked.
func TestAnInstrumentsShareIsExact(t *testing.T) {
	const limit, purchases = 3, 30
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		replicas := []*store.Store{migrated(t, db), store.New(db)}
		drop, card := store.ID{1}, store.ID{2}
		all := make([]store.Purchase, purchases)
		check(t, replicas[0].Write(t.Context(), func(tx *store.Tx) error {
			for i := range all {
				all[i] = store.Purchase{TokenID: store.ID{byte(i), 1}, PurchaseID: store.ID{byte(i)}, DropID: drop, State: saga.UnitSettled, CurrencyCode: "EUR"}
				if err := tx.InsertPurchase(t.Context(), &all[i]); err != nil {
					return err
				}
			}
			return nil
		}))
		decide := func(s *store.Store, p *store.Purchase) (over bool) {
			if err := s.Write(t.Context(), func(tx *store.Tx) (err error) {
				over, err = tx.CountInstrument(t.Context(), p, card, limit)
				return err
			}); err != nil {
				t.Error(err)
			}
			return over
		}
		over := make([]bool, purchases)
		var deciding sync.WaitGroup
		for i := range all {
			deciding.Go(func() { over[i] = decide(replicas[i%2], &all[i]) })
		}
		deciding.Wait()
		within := -1
		n := 0
		for i := range all {
			if !over[i] {
				n++
				within = i
			}
			if again := decide(replicas[0], &all[i]); again != over[i] {
				t.Errorf("purchase %d is over %v, and then %v", i, over[i], again)
			}
			stored, err := replicas[1].Read().InstrumentOver(t.Context(), all[i].TokenID)
			if err != nil || stored != over[i] {
				t.Errorf("purchase %d is over %v, the store says %v, %v", i, over[i], stored, err)
			}
		}
		if n != limit {
			t.Fatalf("%d purchases are within a share of %d", n, limit)
		}
		// One of them fails: there is room for one more, and not for two.
		check(t, replicas[0].Write(t.Context(), func(tx *store.Tx) error {
			failed := all[within]
			failed.State = saga.Refunded
			return tx.UpdatePurchase(t.Context(), &all[within], &failed)
		}))
		for i, want := range []bool{false, true} {
			p := store.Purchase{TokenID: store.ID{byte(i), 2}, PurchaseID: store.ID{byte(i), 2}, DropID: drop, State: saga.UnitSettled, CurrencyCode: "EUR"}
			check(t, replicas[0].Write(t.Context(), func(tx *store.Tx) error { return tx.InsertPurchase(t.Context(), &p) }))
			if got := decide(replicas[0], &p); got != want {
				t.Errorf("newcomer %d is over %v, want %v", i, got, want)
			}
		}
		// Money that is taken all the same counts.
		var denied *store.Purchase
		for i := range all {
			if over[i] {
				denied = &all[i]
			}
		}
		check(t, replicas[0].Write(t.Context(), func(tx *store.Tx) error { return tx.InstrumentPaid(t.Context(), denied, card) }))
		if is, err := replicas[0].Read().InstrumentOver(t.Context(), denied.TokenID); err != nil || is {
			t.Errorf("what paid is over its share: %v, %v", is, err)
		}
	})
}
