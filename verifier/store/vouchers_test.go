package store_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// Two hundred purchases want one voucher at the same time, each in a transaction of its own that read the voucher before it
// takes of it: the sum of what they got is what it was worth, whatever stands between two transactions of the engine.
func TestAVoucherIsSpentOnceInTwoHundredTransactions(t *testing.T) {
	const (
		tries = 200
		worth = int64(1000)
		price = int64(300)
	)
	onEach(t, func(t *testing.T, s *store.Store) {
		voucher := store.ID{1, 1}
		id := func(n int) store.ID { return store.ID{2, byte(n >> 8), byte(n)} }
		check(t, s.Write(t.Context(), func(tx *store.Tx) error {
			for n := range tries {
				p := &store.Purchase{
					TokenID: id(n), PurchaseID: id(n), Arrival: int64(n + 1), State: saga.UnitSettled, CurrencyCode: "EUR", MinorUnits: price, PresentedVoucher: voucher,
				}
				if err := tx.InsertPurchase(t.Context(), p); err != nil {
					return err
				}
			}
			p := &store.Purchase{TokenID: id(0), CurrencyCode: "EUR", Voucher: &store.Voucher{VoucherID: voucher, Kind: store.StoredValue, MinorUnits: worth}}
			return tx.InsertVoucher(t.Context(), p, "demo", 1)
		}))
		var taken, users atomic.Int64
		var buying sync.WaitGroup
		for n := range tries {
			buying.Go(func() {
				for done := false; !done; {
					got, err := spend(t.Context(), s, id(n), voucher, price)
					if errors.Is(err, store.ErrConflict) {
						continue // another took of it in between: look again, as a job does
					}
					if err != nil {
						t.Error(err)
					}
					if done = true; got > 0 {
						taken.Add(got)
						users.Add(1)
					}
				}
			})
		}
		buying.Wait()
		v, err := s.Read().VoucherByID(t.Context(), voucher)
		check(t, err)
		held, err := s.Read().VoucherUsers(t.Context(), voucher)
		check(t, err)
		if taken.Load() != worth || v.Remaining != 0 || users.Load() != 4 || len(held) != 4 {
			t.Errorf("%d of %d were taken by %d purchases (%d hold it), %d are left", taken.Load(), worth, users.Load(), len(held), v.Remaining)
		}
	})
}

// spend takes what it can of a voucher for a purchase, as the verifier does.
func spend(ctx context.Context, s *store.Store, token, voucher store.ID, price int64) (take int64, err error) {
	err = s.Write(ctx, func(tx *store.Tx) error {
		v, err := tx.VoucherByID(ctx, voucher)
		if err != nil {
			return err
		}
		if take = min(v.Remaining, price); take == 0 {
			return nil
		}
		if err := tx.HoldVoucher(ctx, voucher, token, take); err != nil {
			return err
		}
		return tx.SetCharged(ctx, &store.Purchase{TokenID: token, Charged: price - take, StoredValue: take})
	})
	return take, err
}
