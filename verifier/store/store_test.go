package store_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/sqldb/sqldbtest"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

func open(t *testing.T) *store.Store {
	t.Helper()
	db, err := sqldb.OpenMemory(t.Context())
	check(t, err)
	t.Cleanup(func() { check(t, db.Close()) })
	return migrated(t, db)
}

func migrated(t *testing.T, db *sqldb.DB) *store.Store {
	t.Helper()
	check(t, store.Migrate(t.Context(), db))
	return store.New(db)
}

// onEach runs a test on every engine.
func onEach(t *testing.T, test func(*testing.T, *store.Store)) {
	t.Helper()
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) { test(t, migrated(t, db)) })
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func insert(ctx context.Context, tx *store.Tx, n byte) error {
	p := &store.Purchase{TokenID: store.ID{n}, PurchaseID: store.ID{n}, State: saga.Received, CurrencyCode: "EUR"}
	if err := tx.InsertPurchase(ctx, p); err != nil {
		return err
	}
	tx.Announce(p)
	return tx.AddJob(ctx, store.Job{Kind: store.SettleJob, TokenID: p.TokenID}, int64(n))
}

func TestSharedWritesStandAloneInOneCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		commits := 0
		var heard []store.Changed
		s.Committed = func(c store.Changes) {
			commits++
			heard = append(heard, c.Purchases...)
		}
		bad := errors.New("no")
		results := make(chan error, 10)
		release := make(chan struct{})
		go func() { // holds the store while the others gather
			results <- s.WriteShared(t.Context(), func(*store.Tx) error {
				<-release
				return nil
			})
		}()
		synctest.Wait()
		for n := byte(1); n <= 9; n++ {
			go func() {
				results <- s.WriteShared(t.Context(), func(tx *store.Tx) error {
					if err := insert(t.Context(), tx, n); err != nil {
						return err
					}
					if n%3 == 0 {
						return bad
					}
					return nil
				})
			}()
		}
		synctest.Wait()
		close(release)
		failed := 0
		for range 10 {
			switch err := <-results; {
			case errors.Is(err, bad):
				failed++
			case err != nil:
				t.Error(err)
			}
		}
		if failed != 3 || commits != 2 || len(heard) != 6 {
			t.Errorf("%d failed, %d commits, %d purchases heard of; want 3, 2, 6", failed, commits, len(heard))
		}
		for n := byte(1); n <= 9; n++ {
			_, err := s.Read().Purchase(t.Context(), store.ID{n})
			if want := n%3 == 0; errors.Is(err, store.ErrNotFound) != want {
				t.Errorf("purchase %d: %v", n, err)
			}
		}
		head, err := s.Read().EventHead(t.Context())
		check(t, err)
		events, err := s.Read().Events(t.Context(), 0, head, 100)
		check(t, err)
		if head != 6 || len(events) != 6 {
			t.Errorf("%d events up to %d: a change that failed left one", len(events), head)
		}
	})
}

func TestPrimaryKeyRefusesASecondPosting(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		tr, err := ledger.Capture("p", "EUR", 5, 0, 0)
		check(t, err)
		post := func() error {
			return s.Write(t.Context(), func(tx *store.Tx) error { return tx.Post(t.Context(), &store.Purchase{PurchaseID: store.ID{1}}, tr, 1) })
		}
		check(t, post())
		if err := post(); !errors.Is(err, store.ErrPosted) {
			t.Errorf("posting twice: %v", err)
		}
		tr.Postings[0].MinorUnits++
		tr.Kind = "other"
		if err := post(); !errors.Is(err, ledger.ErrUnbalanced) {
			t.Errorf("posting what does not balance: %v", err)
		}
	})
}

func TestCompareAndSet(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		check(t, s.Write(t.Context(), func(tx *store.Tx) error { return insert(t.Context(), tx, 1) }))
		set := func(attempt int, intent string) error {
			return s.Change(t.Context(), store.ID{1}, func(tx *store.Tx, p *store.Purchase) error { return tx.SetIntent(t.Context(), p, attempt, intent) })
		}
		if err := set(7, "a"); !errors.Is(err, store.ErrConflict) {
			t.Errorf("another attempt's intent: %v", err)
		}
		check(t, set(0, "a"))
		if err := set(0, "b"); !errors.Is(err, store.ErrConflict) {
			t.Errorf("a second intent: %v", err)
		}
		p, err := s.Read().Purchase(t.Context(), store.ID{1})
		check(t, err)
		old := p
		old.State = saga.Ordered
		if err := s.Write(t.Context(), func(tx *store.Tx) error { return tx.UpdatePurchase(t.Context(), &old, &p) }); !errors.Is(err, store.ErrConflict) {
			t.Errorf("a change from another state: %v", err)
		}
	})
}

func TestJobsAreClaimedOnceUntilTheirTime(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		claim := func(now, until int64) (jobs []store.Job) {
			check(t, s.Write(t.Context(), func(tx *store.Tx) (err error) {
				jobs, err = tx.Claim(t.Context(), store.SettleJob, now, until, 10)
				return err
			}))
			return jobs
		}
		check(t, s.Write(t.Context(), func(tx *store.Tx) error {
			return errors.Join(insert(t.Context(), tx, 1), insert(t.Context(), tx, 2))
		}))
		steps := []struct {
			name       string
			now, until int64
			want       int
		}{
			{"before they are due", 0, 50, 0},
			{"the first is due", 1, 50, 1},
			{"the second is due, the first is claimed", 2, 60, 1},
			{"both are claimed", 49, 60, 0},
			{"the first claim ended", 50, 90, 1},
		}
		for _, step := range steps {
			if jobs := claim(step.now, step.until); len(jobs) != step.want {
				t.Errorf("%s: %d jobs, want %d", step.name, len(jobs), step.want)
			}
		}
		jobs := claim(90, 99)
		if len(jobs) != 2 || jobs[0].Attempts+jobs[1].Attempts != 5 {
			t.Fatalf("after both claims ended: %+v", jobs)
		}
		check(t, s.Write(t.Context(), func(tx *store.Tx) error {
			return errors.Join(tx.Hurry(t.Context(), store.SettleJob, jobs[0].TokenID, 91), tx.Postpone(t.Context(), jobs[0], 99),
				tx.Finish(t.Context(), jobs[1]))
		}))
		if jobs := claim(91, 99); len(jobs) != 1 {
			t.Errorf("%d jobs: one that was hurried while claimed must not be put off", len(jobs))
		}
		before := claim(99, 120)
		if again := claim(120, 150); len(before) != 1 || len(again) != 1 {
			t.Fatalf("claimed %+v, and after that claim's end %+v", before, again)
		}
		check(t, s.Write(t.Context(), func(tx *store.Tx) error { return tx.Postpone(t.Context(), before[0], 121) }))
		if jobs := claim(121, 160); len(jobs) != 0 {
			t.Errorf("%d jobs: who claimed one before must not take it from who has it now", len(jobs))
		}
	})
}

// Alone, what is claimed at the start was claimed by a dead process; with replicas it may be a living one's.
func TestClaimsAreFreedAtTheStartOfTheOnlyProcess(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := migrated(t, db)
		var jobs []store.Job
		claim := func(now int64) {
			check(t, s.Write(t.Context(), func(tx *store.Tx) (err error) {
				jobs, err = tx.Claim(t.Context(), store.SettleJob, now, 50, 10)
				return err
			}))
		}
		check(t, s.Write(t.Context(), func(tx *store.Tx) error { return insert(t.Context(), tx, 1) }))
		claim(1)
		check(t, s.FreeClaims(t.Context(), 2))
		if claim(2); (len(jobs) == 1) != db.Alone() {
			t.Errorf("%d jobs at the start", len(jobs))
		}
	})
}

func TestCursorsAreNumberedWithoutGapsOverRollbacks(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		for n := byte(1); n <= 20; n++ {
			err := s.Write(t.Context(), func(tx *store.Tx) error {
				if err := insert(t.Context(), tx, n); err != nil {
					return err
				}
				if n%4 == 0 {
					return fmt.Errorf("no")
				}
				return nil
			})
			if (err != nil) != (n%4 == 0) {
				t.Fatal(err)
			}
		}
		events, err := s.Read().Events(t.Context(), 0, 1000, 1000)
		check(t, err)
		for i, e := range events {
			if e.Cursor != int64(i+1) {
				t.Fatalf("event %d has cursor %d", i+1, e.Cursor)
			}
		}
		if len(events) != 15 {
			t.Errorf("%d events, want 15", len(events))
		}
	})
}

// Two holders of one refund could make it under two keys, if the provider has forgotten the first: a hint waits.
func TestARefundThatIsHeldIsNotHurried(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	check(t, s.Write(ctx, func(tx *store.Tx) error {
		return errors.Join(insert(ctx, tx, 1), tx.AddJob(ctx, store.Job{Kind: store.RefundJob, TokenID: store.ID{1}, LeaseID: store.ID{9}}, 1))
	}))
	claim := func(kind store.Kind) (n int) {
		check(t, s.Write(ctx, func(tx *store.Tx) error {
			check(t, tx.Hurry(ctx, kind, store.ID{1}, 5))
			jobs, err := tx.Claim(ctx, kind, 5, 100, 10)
			n = len(jobs)
			return err
		}))
		return n
	}
	for kind, again := range map[store.Kind]int{store.RefundJob: 0, store.SettleJob: 1} {
		if first, second := claim(kind), claim(kind); first != 1 || second != again {
			t.Errorf("%s: claimed %d times at first and then %d times, want 1 and %d", kind, first, second, again)
		}
	}
}
