package verifier_test

import (
	"database/sql"
	"fmt"
	"testing"
	"testing/fstest"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/sqldb/sqldbtest"
)

const benchBatch = 100

// onEngines runs a benchmark on a SQLite file and on PostgreSQL, which sync alike: what it says is a share of RawInsert on
// the same engine in the same run.
func onEngines(b *testing.B, bench func(*testing.B, *sqldb.DB)) {
	b.Helper()
	b.Run("file", func(b *testing.B) { bench(b, sqldbtest.File(b)) })
	b.Run("postgres", func(b *testing.B) { bench(b, sqldbtest.Postgres(b)) })
}

// BenchmarkIngest takes batches of 100 receipts in: signatures, rows, one durable commit each.
func BenchmarkIngest(b *testing.B) { onEngines(b, benchIngest) }

func benchIngest(b *testing.B, db *sqldb.DB) {
	w := newWorldOn(b, migrated(b, db))
	w.make()
	f := w.open(w.nodes[0], 1<<40)
	f.ack()
	sequence := int64(1)
	for b.Loop() {
		b.StopTimer()
		receipts := w.redeemMany(benchBatch)
		b.StartTimer()
		f.send(sequence, receipts...)
		if ack := f.ack(); ack == nil || len(ack.GetRejectedSequences()) > 0 {
			b.Fatalf("ack %v", ack)
		}
		sequence += benchBatch
	}
	b.ReportMetric(float64(b.N*benchBatch)/b.Elapsed().Seconds(), "purchases/s")
	close(f.in)
	check(b, f.end())
}

// BenchmarkRawInsert is the rival: 100 receipts as bare rows of one table with a primary key, one durable commit each.
func BenchmarkRawInsert(b *testing.B) { onEngines(b, benchRawInsert) }

func benchRawInsert(b *testing.B, db *sqldb.DB) {
	check(b, db.Migrate(b.Context(), fstest.MapFS{"00001_raw.sql": {Data: []byte(
		"-- +goose Up\nCREATE TABLE raw (id BLOB PRIMARY KEY, receipt TEXT NOT NULL);\n")}}))
	id := 0
	receipt := fmt.Sprintf("%0700d", 0)
	for b.Loop() {
		check(b, db.Write(b.Context(), func(tx *sql.Tx) error {
			for range benchBatch {
				id++
				if _, err := tx.ExecContext(b.Context(), `INSERT INTO raw (id, receipt) VALUES ($1, $2)`, fmt.Appendf(nil, "%016d", id), receipt); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	b.ReportMetric(float64(b.N*benchBatch)/b.Elapsed().Seconds(), "purchases/s")
}

// BenchmarkSaga drives purchases from the forwarded receipt to the placed order. The provider keeps its books in memory
// and answers at once, fulfillment is in process: it shows the verifier's own cost, not what a provider's latency does.
func BenchmarkSaga(b *testing.B) { onEngines(b, benchSaga) }

func benchSaga(b *testing.B, db *sqldb.DB) {
	w := newWorldOn(b, migrated(b, db))
	w.start()
	f := w.open(w.nodes[0], 1<<40)
	f.ack()
	sequence, placed := int64(1), 0
	for b.Loop() { // ten batches at a time, so that the loops have something to overlap
		b.StopTimer()
		receipts := w.redeemMany(10 * benchBatch)
		b.StartTimer()
		for i := 0; i < len(receipts); i += benchBatch {
			f.send(sequence, receipts[i:i+benchBatch]...)
			sequence += benchBatch
		}
		for placed += len(receipts); ; {
			w.f.mu.Lock()
			orders, news := len(w.f.orders), w.f.news
			w.f.mu.Unlock()
			if orders >= placed {
				break
			}
			<-news
		}
	}
	b.ReportMetric(float64(placed)/b.Elapsed().Seconds(), "purchases/s")
	close(f.in)
	check(b, f.end())
}

func (w *world) redeemMany(n int) []string {
	var receipts []string
	for range n {
		r, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		receipts = append(receipts, r)
	}
	return receipts
}
