package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// reportAim is how long a drop's report may take at a million purchases.
const reportAim = 2 * time.Second

// question is what a shop asks of a full store.
type question struct {
	name string
	ask  func(context.Context, store.Queries, store.ID) error
}

// questions are the statements of a drop's report, of support's list and of each page of the audit.
var questions = []question{
	{"drops report", func(ctx context.Context, q store.Queries, drop store.ID) error {
		_, err := q.DropReport(ctx, drop)
		return err
	}},
	{"purchase find --drop, first page", func(ctx context.Context, q store.Queries, drop store.ID) error {
		_, err := q.FindPurchases(ctx, store.PurchaseQuery{DropID: &drop, Limit: 51})
		return err
	}},
	{"audit, its books and pages one after the other", func(ctx context.Context, q store.Queries, _ store.ID) error {
		_, err1 := q.SumDrops(ctx, store.ID{}, nil, 500)
		_, err2 := q.SumNodes(ctx, store.ID{}, 500)
		_, err3 := q.Balances(ctx)
		_, err4 := q.OpenStoredValue(ctx)
		_, err5 := q.SumChannels(ctx)
		_, err6 := q.Unbalanced(ctx)
		_, err7 := q.OpenJobs(ctx)
		return errors.Join(err1, err2, err3, err4, err5, err6, err7)
	}},
}

// measureReports fills a store of each engine with the purchases of one drop, and asks.
func measureReports(ctx context.Context, s settings) (result section, err error) {
	engines, missing, closeAll, err := openEngines(s)
	if err != nil {
		return section{}, err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	n := s.pick(1_000_000, 2000)
	t := table{header: []string{"question, s", "engine", "median", "lowest to highest"}}
	var aims []string
	for _, e := range engines {
		took, err := e.answer(ctx, s, n)
		if err != nil {
			return section{}, fmt.Errorf("%s: %w", e.name, err)
		}
		for i, q := range questions {
			t.add(q.name, e.name, decimals(median(took[i])), spread(took[i], decimals))
		}
		aims = append(aims, e.name+" "+verdict(median(took[0]), reportAim, decimals, "s"))
	}
	return section{
		tables: []table{t},
		aim: fmt.Sprintf("%d purchases of one drop, and nothing else in the store. Aim: the report of a drop within %s s: %s.",
			n, decimals(reportAim), strings.Join(aims, "; ")),
		cannot: "a store on a disk that is slower than this one's cache: the statements are asked one after the other and again, while nobody sells. The audit's rows from " +
			"fulfillment and the provider are not in it." + missing,
	}, nil
}

// decimals writes seconds of questions that may take milliseconds.
func decimals(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }

// answer fills a store and asks every question in turn, some rounds long.
func (e engine) answer(ctx context.Context, s settings, n int) (took [][]time.Duration, err error) {
	db, err := e.open(ctx, s.dir, "reports", verifier.Migrate)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	drop, err := newID()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := fill(ctx, db, drop, n); err != nil {
		return nil, err
	}
	fmt.Fprintf(s.log, "%s: %d purchases stored in %.0f s\n", e.name, n, time.Since(start).Seconds())
	took = make([][]time.Duration, len(questions))
	for range s.pick(5, 1) {
		for i, q := range questions {
			start := time.Now()
			if err := q.ask(ctx, store.New(db).Read(), drop); err != nil {
				return nil, fmt.Errorf("%s: %w", q.name, err)
			}
			took[i] = append(took[i], time.Since(start))
		}
	}
	return took, nil
}

// fillBatch is how many purchases go into a transaction.
const fillBatch = 1000

// fill stores n purchases as they are when a drop is settled: of a hundred 94 delivered, 4 declined with a voucher and 2
// refused, with redemptions and postings.
func fill(ctx context.Context, db *sqldb.DB, drop store.ID, n int) error {
	s := store.New(db)
	node, lease := store.ID{1}, store.ID{2}
	receipt, outcome := strings.Repeat("r", rawBytes), strings.Repeat("o", 300)
	for from := 0; from < n; from += fillBatch {
		err := s.Write(ctx, func(tx *store.Tx) error {
			arrival, err := tx.TakeArrivals(ctx, fillBatch)
			if err != nil {
				return err
			}
			for i := from; i < min(n, from+fillBatch); i++ {
				k, err := newID()
				if err != nil {
					return err
				}
				p := &store.Purchase{
					TokenID: k, PurchaseID: k, Arrival: arrival + int64(i-from), DropID: drop, ViewerSessionID: k, State: saga.Delivered, StateTime: 1,
					NodeID: node, Serial: uint32(i + 1), LeaseID: lease, AcceptTime: 1, CurrencyCode: "EUR", MinorUnits: 1900, Charged: 1900, Fee: 85,
					PaymentReference: "tp_ok", Attempt: 1, IntentID: k.Hex(), Outcome: outcome,
				}
				c := &store.Candidate{TokenID: k, NodeID: node, Serial: p.Serial, LeaseID: lease, Arrival: p.Arrival, State: store.Winner, Settled: true, Receipt: receipt}
				switch {
				case i%100 < 4:
					p.State, p.Reason, c.State = saga.Voucher, saga.PaymentDeclined, store.Released
				case i%100 < 6:
					p.State, p.Reason, c.State = saga.Refused, saga.ViewerLimit, store.Released
				}
				if err := errors.Join(tx.InsertPurchase(ctx, p), tx.InsertCandidate(ctx, c)); err != nil {
					return err
				}
				switch p.State {
				case saga.Voucher:
					p.Voucher = &store.Voucher{VoucherID: k, Kind: store.PriceLock, MinorUnits: p.MinorUnits, ExpireTime: 1}
					if err := tx.InsertVoucher(ctx, p, "bench", 1); err != nil {
						return err
					}
				case saga.Delivered:
					posted, err := ledger.Capture(k.Hex(), p.CurrencyCode, p.Charged, 0, p.Fee)
					if err != nil {
						return err
					}
					if err := tx.Post(ctx, p, posted, 1); err != nil {
						return err
					}
				}
				tx.Announce(p)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("storing purchases from %d on: %w", from, err)
		}
	}
	return nil
}

func newID() (store.ID, error) { return store.ParseUUID(ids.NewV7(time.Now(), rand.Reader)) }
