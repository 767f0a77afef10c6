package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// A transaction keeps what it decided until the end, and yet reads it.
func TestATransactionReadsWhatItDecided(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		ctx, k := t.Context(), store.ID{1}
		job := store.Job{Kind: store.PayJob, TokenID: k}
		check(t, s.Write(ctx, func(tx *store.Tx) error {
			if err := insert(ctx, tx, 1); err != nil {
				return err
			}
			old, err := tx.Purchase(ctx, k)
			if err != nil {
				return err
			}
			next := old
			next.State, next.Attempt = saga.UnitSettled, 1
			check(t, tx.UpdatePurchase(ctx, &old, &next))
			after := next
			after.State = saga.Captured
			check(t, tx.UpdatePurchase(ctx, &next, &after))
			if err := tx.UpdatePurchase(ctx, &next, &after); !errors.Is(err, store.ErrConflict) {
				t.Errorf("the same change twice: %v", err)
			}
			for _, change := range []error{tx.AddJob(ctx, job, 5), tx.Finish(ctx, job), tx.AddJob(ctx, job, 7)} {
				check(t, change)
			}
			return tx.InsertCandidate(ctx, &store.Candidate{TokenID: k, State: store.Winner, Receipt: "r"})
		}))
		p, err := s.Read().Purchase(ctx, k)
		check(t, err)
		due, some, err := s.Read().NextDue(ctx, store.PayJob)
		check(t, err)
		if p.State != saga.Captured || p.Attempt != 1 || !some || due != 7 {
			t.Errorf("state %v, attempt %d, a job due at %d (%t)", p.State, p.Attempt, due, some)
		}
	})
}

// However many rows go together, each is its own purchase's.
func TestManyRowsAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		var all []store.ID
		check(t, s.Write(ctx, func(tx *store.Tx) error {
			all = nil
			for n := byte(1); n <= 100; n++ {
				all = append(all, store.ID{n})
				if err := insert(ctx, tx, n); err != nil {
					return err
				}
			}
			return nil
		}))
		check(t, s.Write(ctx, func(tx *store.Tx) error {
			found, err := tx.Purchases(ctx, append(all, store.ID{200}, all[0]))
			if err != nil {
				return err
			}
			for _, p := range found {
				old := *p
				p.LicenceKey = fmt.Sprint(p.TokenID[0])
				if p.TokenID[0]%2 == 0 {
					p.State = saga.Refused
				}
				if err := errors.Join(tx.UpdatePurchase(ctx, &old, p), tx.Finish(ctx, store.Job{Kind: store.SettleJob, TokenID: p.TokenID})); err != nil {
					return err
				}
			}
			return nil
		}))
		found, err := s.Read().Purchases(ctx, all)
		check(t, err)
		jobs, err := s.Read().OpenJobs(ctx)
		check(t, err)
		if len(found) != 100 || jobs != 0 {
			t.Fatalf("%d purchases, %d jobs", len(found), jobs)
		}
		for id, p := range found {
			if p.TokenID != id || p.LicenceKey != fmt.Sprint(id[0]) || (p.State == saga.Refused) != (id[0]%2 == 0) {
				t.Errorf("purchase %d: %+v", id[0], p)
			}
		}
	})
}

// Whoever tells a restored fulfillment what became of units reads purchases page by page, and every seal.
func TestEverythingIsReadInPages(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		ctx, journal := t.Context(), store.Journal{NodeID: store.ID{1}, Name: "a disk"}
		check(t, s.Write(ctx, func(tx *store.Tx) error {
			for n := byte(1); n <= 7; n++ {
				if err := insert(ctx, tx, n); err != nil {
					return err
				}
			}
			return errors.Join(tx.Acknowledge(ctx, store.Journal{NodeID: store.ID{2}, Name: "another"}, 5), tx.Seal(ctx, journal, 9, 3))
		}))
		var read []store.ID
		for page := []store.ID{{}}; len(page) > 0; read = append(read, page...) {
			var err error
			page, err = s.Read().TokensAfter(ctx, page[len(page)-1], 3)
			check(t, err)
		}
		if len(read) != 7 || read[0] != (store.ID{1}) || read[6] != (store.ID{7}) {
			t.Errorf("read %v", read)
		}
		seals, err := s.Read().Seals(ctx)
		check(t, err)
		if len(seals) != 1 || seals[0] != (store.SealedEpoch{NodeID: journal.NodeID, Epoch: 3}) {
			t.Errorf("seals %v", seals)
		}
		found, err := s.Read().PurchasesByPublicID(ctx, []store.ID{{3}, {200}})
		check(t, err)
		if len(found) != 1 || found[store.ID{3}] == nil {
			t.Errorf("found %v", found)
		}
	})
}

// Changes that wait for each other share a commit; one that fails does not take the others with it.
func TestAChangeThatFailsStandsAlone(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		check(t, s.Write(ctx, func(tx *store.Tx) error {
			return errors.Join(insert(ctx, tx, 1), insert(ctx, tx, 2), insert(ctx, tx, 3))
		}))
		bad := errors.New("no")
		var changes sync.WaitGroup
		for n := byte(1); n <= 4; n++ {
			changes.Go(func() {
				err := s.Change(ctx, store.ID{n}, func(tx *store.Tx, p *store.Purchase) error {
					if err := tx.SetIntent(ctx, p, 0, fmt.Sprint("pi_", n)); n != 2 || err != nil {
						return err
					}
					return bad
				})
				if n == 2 && !errors.Is(err, bad) || n == 4 && !errors.Is(err, store.ErrNotFound) || n%2 == 1 && err != nil {
					t.Errorf("change %d: %v", n, err)
				}
			})
		}
		changes.Wait()
		for n := byte(1); n <= 3; n++ {
			p, err := s.Read().Purchase(ctx, store.ID{n})
			check(t, err)
			if (p.IntentID != "") != (n != 2) {
				t.Errorf("purchase %d has intent %q", n, p.IntentID)
			}
		}
	})
}

// A row that is refused late is still what the transaction fails with, and nothing runs after it.
func TestARefusedRowSpoilsTheTransaction(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		twice := func(tx *store.Tx) error {
			if err := errors.Join(insert(ctx, tx, 1), insert(ctx, tx, 1)); err != nil {
				return err
			}
			if _, err := tx.Purchase(ctx, store.ID{1}); err == nil {
				t.Error("the transaction goes on")
			}
			_, err := tx.TakeArrivals(ctx, 1)
			return err
		}
		for name, write := range map[string]func(context.Context, func(*store.Tx) error) error{"alone": s.Write, "shared": s.WriteShared} {
			if err := write(ctx, twice); !sqldb.IsUnique(err) || errors.Is(err, context.Canceled) {
				t.Errorf("%s: got %v, want what refused the row", name, err)
			}
		}
		if _, err := s.Read().Purchase(ctx, store.ID{1}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the purchase: %v", err)
		}
	})
}
