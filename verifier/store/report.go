package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/saga"
)

// Money is a drop's money as one side has it, minor units.
type Money struct{ Captured, Refunded, VoucherIssued, VoucherSpent, Net, Fees int64 }

// DropReport is what a drop's purchases came to. Redeemed is the sum of Settled, Vouchers, Refused, Refunded and those on
// their way; Declined and PriceLocks are some of Vouchers and Refused.
type DropReport struct {
	Redeemed, Settled, Vouchers, Refused, Refunded, Declined, PriceLocks uint32
	CurrencyCode                                                         string
	// Ledger sums postings; Purchases sums purchases, refunds and vouchers.
	Ledger, Purchases Money
}

// DropReport sums one drop in one statement, so that both sides are of the same instant while purchases go on. It
// reads indexes alone, and sums in their order before it tells sums apart: a row costs less the fewer questions it is
// asked, and what few rows are asked is asked of those. bench/README.md has what a million purchases take.
func (q Queries) DropReport(ctx context.Context, dropID ID) (DropReport, error) {
	var r DropReport
	err := q.q.QueryRowContext(ctx, `SELECT
			COALESCE((SELECT c.currency_code FROM purchases c WHERE c.drop_id = $1 AND c.reason <> $16 LIMIT 1), ''),
			p.redeemed, p.settled, p.vouchers, p.refused, p.refunded, d.declined, v.price_locks,
			l.captured, l.refunded, l.issued, l.spent, l.revenue, l.fees, p.charged + f.charged, b.refunded, v.issued, u.spent, p.fees
		FROM (SELECT COALESCE(SUM(s.purchases), 0) AS redeemed,
				COALESCE(SUM(CASE WHEN s.state IN ($2, $15) THEN s.purchases ELSE 0 END), 0) AS settled,
				COALESCE(SUM(CASE WHEN s.state = $3 THEN s.purchases ELSE 0 END), 0) AS vouchers,
				COALESCE(SUM(CASE WHEN s.state = $4 THEN s.purchases ELSE 0 END), 0) AS refused,
				COALESCE(SUM(CASE WHEN s.state = $5 THEN s.purchases ELSE 0 END), 0) AS refunded,
				COALESCE(SUM(CASE WHEN s.state IN (`+paidStates+`) THEN s.charged ELSE 0 END), 0) AS charged, COALESCE(SUM(s.fees), 0) AS fees
			FROM (SELECT p.state, COUNT(*) AS purchases, SUM(p.fee_minor_units) AS fees, SUM(p.charged_minor_units) AS charged
				FROM purchases p WHERE p.drop_id = $1 AND p.reason <> $16 GROUP BY p.state) AS s) AS p
		CROSS JOIN (SELECT COUNT(*) AS declined FROM purchases d WHERE d.drop_id = $1 AND d.state IN ($3, $4) AND d.reason IN ($6, $7)) AS d
		CROSS JOIN (SELECT COALESCE(SUM(f.charged_minor_units), 0) AS charged
			FROM purchases f WHERE f.drop_id = $1 AND f.state = $3 AND f.reason = $18) AS f
		CROSS JOIN (SELECT
				COALESCE(SUM(CASE WHEN l.account = $8 AND l.kind = $9 THEN l.units ELSE 0 END), 0) AS captured,
				COALESCE(SUM(CASE WHEN l.account = $8 AND l.kind <> $9 THEN -l.units ELSE 0 END), 0) AS refunded,
				COALESCE(SUM(CASE WHEN l.account = $10 AND l.kind = $11 THEN -l.units ELSE 0 END), 0) AS issued,
				COALESCE(SUM(CASE WHEN l.account = $10 AND l.kind <> $11 THEN l.units ELSE 0 END), 0) AS spent,
				COALESCE(SUM(CASE WHEN l.account = $12 THEN -l.units ELSE 0 END), 0) AS revenue,
				COALESCE(SUM(CASE WHEN l.account = $17 THEN l.units ELSE 0 END), 0) AS fees
			FROM (SELECT account, kind, SUM(minor_units) AS units FROM ledger_postings WHERE drop_id = $1
				GROUP BY account, currency_code, kind) AS l) AS l
		CROSS JOIN (SELECT COALESCE(SUM(r.minor_units), 0) AS refunded FROM refunds r WHERE r.drop_id = $1 AND r.state = $13) AS b
		CROSS JOIN (SELECT COALESCE(SUM(CASE WHEN v.kind = $14 THEN v.minor_units ELSE 0 END), 0) AS issued,
				COALESCE(SUM(CASE WHEN v.kind <> $14 THEN 1 ELSE 0 END), 0) AS price_locks
			FROM vouchers v WHERE v.drop_id = $1) AS v
		CROSS JOIN (SELECT COALESCE(SUM(p.stored_value_minor_units), 0) AS spent
			FROM voucher_uses u JOIN purchases p ON p.token_id = u.token_id WHERE u.drop_id = $1 AND u.state = 2) AS u`,
		dropID, saga.Delivered, saga.Voucher, saga.Refused, saga.Refunded, saga.PaymentDeclined, saga.PaymentWindowOver,
		ledger.ProviderReceivable, ledger.KindCapture, ledger.VoucherLiability, ledger.KindVoucher, ledger.ChannelRevenue, RefundDone, StoredValue, saga.Shipped, saga.Cancelled, ledger.PaymentFees, saga.OrderFailed).
		Scan(&r.CurrencyCode, &r.Redeemed, &r.Settled, &r.Vouchers, &r.Refused, &r.Refunded, &r.Declined, &r.PriceLocks,
			&r.Ledger.Captured, &r.Ledger.Refunded, &r.Ledger.VoucherIssued, &r.Ledger.VoucherSpent, &r.Ledger.Net, &r.Ledger.Fees,
			&r.Purchases.Captured, &r.Purchases.Refunded, &r.Purchases.VoucherIssued, &r.Purchases.VoucherSpent, &r.Purchases.Fees)
	if err != nil {
		return r, fmt.Errorf("summing a drop: %w", err)
	}
	r.Purchases.Net = r.Purchases.Captured - r.Purchases.Refunded - r.Purchases.VoucherIssued + r.Purchases.VoucherSpent
	return r, nil
}

// PurchaseQuery selects purchases, latest arrival first. Zero fields do not narrow.
type PurchaseQuery struct {
	DropID, OrderID *ID
	// PurchaseFrom and PurchaseTo bound the purchase id, both included.
	PurchaseFrom, PurchaseTo *ID
	State                    saga.State
	Reason                   saga.Reason
	Since                    int64 // of acceptance
	BeforeArrival            int64
	Limit                    int
}

// FindPurchases answers a query.
func (q Queries) FindPurchases(ctx context.Context, f PurchaseQuery) ([]Purchase, error) {
	where, args := []string{"1 = 1"}, []any{}
	narrow := func(given bool, condition string, value any) {
		if given {
			args = append(args, value)
			where = append(where, fmt.Sprintf("%s $%d", condition, len(args)))
		}
	}
	narrow(f.DropID != nil, "p.drop_id =", f.DropID)
	narrow(f.OrderID != nil, "p.order_id =", f.OrderID)
	narrow(f.PurchaseFrom != nil, "p.purchase_id >=", f.PurchaseFrom)
	narrow(f.PurchaseTo != nil, "p.purchase_id <=", f.PurchaseTo)
	narrow(f.State != 0, "p.state =", f.State)
	narrow(f.Reason != 0, "p.reason =", f.Reason)
	narrow(f.Since != 0, "p.accept_time >=", f.Since)
	narrow(f.BeforeArrival != 0, "p.arrival <", f.BeforeArrival)
	args = append(args, f.Limit)
	return collect(ctx, q.q, "finding purchases", func(r *sql.Rows, p *Purchase) error { return scanPurchase(r.Scan, p) },
		`SELECT `+purchaseColumns+` FROM purchases p LEFT JOIN vouchers v ON v.token_id = p.token_id WHERE `+strings.Join(where, " AND ")+
			fmt.Sprintf(` ORDER BY p.arrival DESC LIMIT CAST($%d AS BIGINT)`, len(args)), args...)
}
