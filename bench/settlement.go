package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"testing/fstest"
	"time"

	"golang.org/x/sync/errgroup"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/sqldb"
)

const (
	// rawBatch is how many rows of rawBytes the bare inserts put into a transaction: as many as the verifier takes in.
	rawBatch = 100
	rawBytes = 700 // about a receipt
	// rawWriters insert at the same time where the engine lets them.
	rawWriters = 8
)

// settler is one engine's contest.
type settler struct {
	settings
	engine
	raw      []float64 // rows per second
	ordered  []float64 // purchases per second
	bare     []float64 // purchases per second whose rows alone are stored
	ingested []float64 // purchases per second that are taken in
}

// measureSettlement compares purchases that go from the receipt to the order with rows that go into one table of the same
// engine.
func measureSettlement(ctx context.Context, s settings) (result section, err error) {
	found, missing, closeAll, err := openEngines(s)
	if err != nil {
		return section{}, err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	var engines []*settler
	for _, e := range found {
		engines = append(engines, &settler{settings: s, engine: e})
	}
	for round := range s.pick(3, 1) {
		for _, e := range engines {
			e.dir = filepath.Join(s.dir, fmt.Sprint(e.name, round))
			if err := e.round(ctx); err != nil {
				return section{}, fmt.Errorf("%s: %w", e.name, err)
			}
		}
	}
	t := table{header: []string{"engine", "bare inserts, rows/s", "purchases/s reaching ORDERED", "lowest to highest round", "share"}}
	taken := table{header: []string{"engine", "a purchase's rows alone, purchases/s", "taken in, purchases/s", "lowest to highest round", "share", "share of bare inserts"}}
	percent := func(a, b []float64) string { return fmt.Sprintf("%.1f %%", 100*ratio(a, b)) }
	for _, e := range engines {
		t.add(e.name, whole(median(e.raw)), whole(median(e.ordered)), spread(e.ordered, whole), percent(e.ordered, e.raw))
		taken.add(e.name, whole(median(e.bare)), whole(median(e.ingested)), spread(e.ingested, whole), percent(e.ingested, e.bare), percent(e.ingested, e.raw))
	}
	return section{tables: []table{t, taken}, aim: "Taken in: receipts from eight nodes' streams, each verified (two signatures) and stored as purchase, redemption, job and event, with " +
		"every index. Beside it the same four rows by the same store, from eight writers, with nothing verified and nothing asked. Aim: 80 % of it on SQLite, 70 % on PostgreSQL.", cannot: fmt.Sprintf("what a provider's latency does: the test provider answers at once, and keeps its own "+
		"books on the same engine. Node, verifier, fulfillment, provider and the engine share this machine's cores. Bare inserts are one table, "+
		"%d rows of %d bytes in one statement and one transaction, %d writers at a time on PostgreSQL; a purchase is about 20 rows in two "+
		"services.%s", rawBatch, rawBytes, rawWriters, missing)}, nil
}

func (e *settler) round(ctx context.Context) error {
	cfg, err := e.fresh(ctx)
	if err != nil {
		return err
	}
	w := &world{settles: true, database: cfg}
	if err := w.in(ctx, e.dir, func(w *world) error { return e.settle(ctx, w, e.pick(1000, 20)) }); err != nil {
		return err
	}
	if err := e.ingest(ctx, e.pick(80, 8)); err != nil {
		return err
	}
	return e.insert(ctx, cfg, e.pick(400, 4))
}

// settle lets the node accept n purchases while the verifier is away, then counts from the first that arrives there to
// the last that is ordered.
func (e *settler) settle(ctx context.Context, w *world, n int) error {
	drop, err := w.openDrop(ctx, mostUnits/10) // a lone node is lent an eighth
	if err != nil {
		return err
	}
	taps, err := w.taps(ctx, drop, n)
	if err != nil {
		return err
	}
	if _, err := closedLoop(ctx, callers, n, func(ctx context.Context, i int) error {
		_, err := w.node.RedeemOffer(ctx, taps[i])
		return err
	}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := w.verifier.WatchEvents(ctx, &verifierv1.WatchEventsRequest{})
	if err != nil {
		return err
	}
	w.back.Store(true)
	var first time.Time
	ordered := map[string]bool{} // by purchase
	for len(ordered) < n {
		m, err := events.Recv()
		if err != nil {
			return fmt.Errorf("watching purchases: %w", err)
		}
		for _, p := range m.GetPurchases() {
			if first.IsZero() {
				first = time.Now()
			}
			switch p.GetState() {
			case offerv1.PurchaseState_PURCHASE_STATE_ORDERED, offerv1.PurchaseState_PURCHASE_STATE_DELIVERED: // news of a delivery may be faster
				ordered[p.GetPurchaseId()] = true
			}
		}
	}
	e.ordered = append(e.ordered, float64(n)/time.Since(first).Seconds())
	return nil
}

// insert puts rows into a table of the same engine.
func (e *settler) insert(ctx context.Context, cfg sqldb.PostgresConfig, batches int) (err error) {
	db, err := openIn(ctx, cfg, e.dir, "raw", func(ctx context.Context, db *sqldb.DB) error {
		return db.Migrate(ctx, fstest.MapFS{"00001_raw.sql": {Data: []byte(
			"-- +goose Up\nCREATE TABLE raw (id BIGINT PRIMARY KEY, body BLOB NOT NULL);\n")}})
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	query := "INSERT INTO raw (id, body) VALUES " + sqldb.Values(rawBatch, 2)
	body := make([]byte, rawBytes)
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for writer := range e.writers {
		g.Go(func() error {
			for batch := writer; batch < batches; batch += e.writers {
				args := make([]any, 0, 2*rawBatch)
				for i := range rawBatch {
					args = append(args, batch*rawBatch+i, body)
				}
				if err := db.Write(ctx, func(tx *sql.Tx) error {
					_, err := tx.ExecContext(ctx, query, args...)
					return err
				}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	e.raw = append(e.raw, float64(batches*rawBatch)/time.Since(start).Seconds())
	return nil
}
