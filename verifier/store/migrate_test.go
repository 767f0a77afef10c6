package store_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/sqldb/sqldbtest"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// until is the migrations before a number.
func until(t *testing.T, number string) fstest.MapFS {
	t.Helper()
	files, err := filepath.Glob("migrations/*.sql")
	check(t, err)
	some := fstest.MapFS{}
	for _, f := range files {
		if name := filepath.Base(f); name < number {
			text, err := os.ReadFile(f)
			check(t, err)
			some[name] = &fstest.MapFile{Data: text}
		}
	}
	return some
}

// A store from before reports hold a drop's money by the drop reports what it reported then.
func TestOldRowsCountForTheirDrop(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		check(t, db.Migrate(t.Context(), until(t, "00010")))
		k, drop, voucher := store.ID{1}, store.ID{2}, store.ID{3}
		check(t, db.Write(t.Context(), func(tx *sql.Tx) error {
			for _, insert := range []struct {
				text string
				args []any
			}{
				{`INSERT INTO purchases (token_id, purchase_id, arrival, drop_id, viewer_session_id, state, reason, state_time, node_id, serial, lease_id,
					accept_time, currency_code, minor_units, payment_reference, attempt, intent_id, licence_key, outcome, charged_minor_units, stored_value_minor_units)
					VALUES ($1, $1, 1, $2, $1, $3, $4, 1, $1, 1, $1, 1, 'EUR', 500, '', 1, '', '', '', 300, 200)`,
					[]any{k, drop, saga.Refunded, saga.OrderFailed}},
				{`INSERT INTO ledger_transactions (purchase_id, kind, post_time) VALUES ($1, $2, 1)`, []any{k, ledger.KindCapture}},
				{`INSERT INTO ledger_postings (purchase_id, kind, line, account, currency_code, minor_units) VALUES ($1, $2, 0, $3, 'EUR', 300)`,
					[]any{k, ledger.KindCapture, ledger.ProviderReceivable}},
				{`INSERT INTO refunds (refund_id, request_id, token_id, minor_units, reason, make_good, state, create_time, state_time)
					VALUES ($1, 'r', $1, 300, '', 1, $2, 1, 1)`, []any{k, store.RefundDone}},
				{`INSERT INTO vouchers (token_id, voucher_id, kind, currency_code, minor_units, expire_time) VALUES ($1, $2, $3, 'EUR', 40, 0)`,
					[]any{k, voucher, store.StoredValue}},
				{`INSERT INTO voucher_uses (token_id, voucher_id, minor_units, state) VALUES ($1, $2, 200, 2)`, []any{k, voucher}},
			} {
				if _, err := tx.ExecContext(t.Context(), insert.text, insert.args...); err != nil {
					return err
				}
			}
			return nil
		}))
		s := migrated(t, db)
		got, err := s.Read().DropReport(t.Context(), drop)
		check(t, err)
		want := store.DropReport{
			Redeemed: 1, Refunded: 1, CurrencyCode: "EUR", Ledger: store.Money{Captured: 300},
			Purchases: store.Money{Captured: 300, Refunded: 300, VoucherIssued: 40, VoucherSpent: 200, Net: 160},
		}
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}
