package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/saga"
)

// Purchase is one row of purchases, with its voucher. Times are microseconds UTC.
type Purchase struct {
	TokenID, PurchaseID     ID
	Arrival                 int64
	DropID, ViewerSessionID ID
	State                   saga.State
	Reason                  saga.Reason
	StateTime               int64
	// NodeID, Serial, LeaseID, AcceptTime, price and payment reference are the winning redemption's.
	NodeID           ID
	Serial           uint32
	LeaseID          ID
	AcceptTime       int64
	CurrencyCode     string
	MinorUnits       int64
	PaymentReference string
	// Attempt counts payment attempts from 1; IntentID is the current one's, once it is known.
	Attempt    int
	IntentID   string
	LicenceKey string
	Outcome    string
	// Charged is what the provider takes: the price, less what a voucher covers. StoredValue is what of that is money.
	Charged, StoredValue int64
	// Fee is what the provider keeps of what it took; 0 before.
	Fee int64
	// PresentedVoucher came with the winning redemption; zero: none. VoucherHeld: it is held for this purchase or spent.
	PresentedVoucher ID
	VoucherHeld      bool
	// Voucher makes the purchase good.
	Voucher *Voucher
	// Refunded is what went back after a refund by the shop.
	Refunded int64
}

const purchaseColumns = `p.token_id, p.purchase_id, p.arrival, p.drop_id, p.viewer_session_id, p.state, p.reason, p.state_time,
	p.node_id, p.serial, p.lease_id, p.accept_time, p.currency_code, p.minor_units, p.payment_reference, p.attempt, p.intent_id,
	p.licence_key, p.outcome, p.charged_minor_units, p.stored_value_minor_units, p.presented_voucher, p.voucher_held, p.fee_minor_units,
	v.voucher_id, v.kind, v.minor_units, v.expire_time,
	(SELECT COALESCE(SUM(r.minor_units), 0) FROM refunds r WHERE r.token_id = p.token_id AND r.state = 2 AND r.make_good = 0)`

func scanPurchase(scan func(...any) error, p *Purchase, more ...any) error {
	var presented, voucherID []byte
	var kind, minorUnits, expire sql.NullInt64
	err := scan(append([]any{&p.TokenID, &p.PurchaseID, &p.Arrival, &p.DropID, &p.ViewerSessionID, &p.State, &p.Reason, &p.StateTime,
		&p.NodeID, &p.Serial, &p.LeaseID, &p.AcceptTime, &p.CurrencyCode, &p.MinorUnits, &p.PaymentReference, &p.Attempt, &p.IntentID,
		&p.LicenceKey, &p.Outcome, &p.Charged, &p.StoredValue, &presented, &p.VoucherHeld, &p.Fee,
		&voucherID, &kind, &minorUnits, &expire, &p.Refunded}, more...)...)
	if err == nil && len(presented) == len(ID{}) {
		p.PresentedVoucher = ID(presented)
	}
	if err == nil && len(voucherID) == len(ID{}) {
		p.Voucher = &Voucher{VoucherID: ID(voucherID), Kind: VoucherKind(kind.Int64), MinorUnits: minorUnits.Int64, ExpireTime: expire.Int64}
	}
	return err
}

// Purchase reads one by token id. ErrNotFound.
func (q Queries) Purchase(ctx context.Context, tokenID ID) (Purchase, error) {
	return q.purchaseBy(ctx, "token_id", tokenID)
}

// PurchaseByPublicID reads one by purchase id. ErrNotFound.
func (q Queries) PurchaseByPublicID(ctx context.Context, purchaseID ID) (Purchase, error) {
	return q.purchaseBy(ctx, "purchase_id", purchaseID)
}

func (q Queries) purchaseBy(ctx context.Context, column string, value any) (Purchase, error) {
	var p Purchase
	lock := q.lock
	if lock != "" {
		lock += " OF p"
	}
	row := q.q.QueryRowContext(ctx, `SELECT `+purchaseColumns+` FROM purchases p LEFT JOIN vouchers v ON v.token_id = p.token_id
		WHERE p.`+column+` = $1`+lock, value)
	err := scanPurchase(row.Scan, &p)
	if errors.Is(err, sql.ErrNoRows) {
		return p, ErrNotFound
	}
	if err != nil {
		return p, fmt.Errorf("reading a purchase: %w", err)
	}
	return p, nil
}

// Purchases reads those of many token ids that are there.
func (q Queries) Purchases(ctx context.Context, tokenIDs []ID) (map[ID]*Purchase, error) {
	return q.purchasesBy(ctx, "token_id", tokenIDs, func(p *Purchase) ID { return p.TokenID })
}

// PurchasesByPublicID reads those of many purchase ids that are there.
func (q Queries) PurchasesByPublicID(ctx context.Context, purchaseIDs []ID) (map[ID]*Purchase, error) {
	return q.purchasesBy(ctx, "purchase_id", purchaseIDs, func(p *Purchase) ID { return p.PurchaseID })
}

func (q Queries) purchasesBy(ctx context.Context, column string, all []ID, id func(*Purchase) ID) (map[ID]*Purchase, error) {
	lock := q.lock
	if lock != "" {
		lock = " ORDER BY p." + column + lock + " OF p" // in one order, so that two transactions do not wait for each other
	}
	all = slices.SortedFunc(slices.Values(all), func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	all = slices.Compact(all)
	found := make(map[ID]*Purchase, len(all))
	for piece := range sqldb.Pieces(all) {
		list, err := collect(ctx, q.q, "reading purchases", func(r *sql.Rows, p *Purchase) error { return scanPurchase(r.Scan, p) },
			`SELECT `+purchaseColumns+` FROM purchases p LEFT JOIN vouchers v ON v.token_id = p.token_id WHERE p.`+column+` IN `+sqldb.Values(1, len(piece))+lock,
			sqldb.Args(piece)...)
		if err != nil {
			return nil, err
		}
		for i := range list {
			found[id(&list[i])] = &list[i]
		}
	}
	return found, nil
}

// TokensAfter lists token ids of purchases in their order.
func (q Queries) TokensAfter(ctx context.Context, after ID, limit int) ([]ID, error) {
	return collect(ctx, q.q, "listing purchases", func(r *sql.Rows, id *ID) error { return r.Scan(id) },
		`SELECT token_id FROM purchases WHERE token_id > $1 ORDER BY token_id LIMIT CAST($2 AS BIGINT)`, after, limit)
}

// OrderID names the order of a purchase: always the same, so that placing it twice is placing it once. It is a UUIDv8
// (RFC 9562, section 5.8) of a hash.
func OrderID(purchaseID ID) ID {
	sum := sha256.Sum256(append([]byte("order-id/v1\x00"), purchaseID[:]...))
	id := ID(sum[:16])
	id[6] = 0x80 | id[6]&0x0f
	id[8] = 0x80 | id[8]&0x3f
	return id
}

const (
	insertColumns   = 25
	insertPurchases = `INSERT INTO purchases (token_id, purchase_id, arrival, drop_id, viewer_session_id,
		state, reason, state_time, node_id, serial, lease_id, accept_time, currency_code, minor_units, payment_reference, attempt,
		intent_id, licence_key, outcome, charged_minor_units, stored_value_minor_units, presented_voucher, voucher_held, order_id,
		fee_minor_units) VALUES `
	updatePurchases = ` ON CONFLICT (token_id) DO UPDATE SET state = excluded.state, reason = excluded.reason, state_time = excluded.state_time,
		node_id = excluded.node_id, serial = excluded.serial, lease_id = excluded.lease_id, accept_time = excluded.accept_time,
		currency_code = excluded.currency_code, minor_units = excluded.minor_units, payment_reference = excluded.payment_reference,
		attempt = excluded.attempt, intent_id = excluded.intent_id, licence_key = excluded.licence_key, outcome = excluded.outcome,
		charged_minor_units = excluded.charged_minor_units, stored_value_minor_units = excluded.stored_value_minor_units,
		presented_voucher = excluded.presented_voucher, voucher_held = excluded.voucher_held, fee_minor_units = excluded.fee_minor_units
		WHERE purchases.state = $%d AND purchases.attempt = $%d`
)

func (p *Purchase) appendRow(args []any) []any {
	return append(args, p.TokenID, p.PurchaseID, p.Arrival, p.DropID, p.ViewerSessionID, p.State, p.Reason, p.StateTime, p.NodeID, p.Serial,
		p.LeaseID, p.AcceptTime, p.CurrencyCode, p.MinorUnits, p.PaymentReference, p.Attempt, p.IntentID, p.LicenceKey, p.Outcome,
		p.Charged, p.StoredValue, p.presented(), p.VoucherHeld, OrderID(p.PurchaseID), p.Fee)
}

// InsertPurchase stores a new one.
func (tx *Tx) InsertPurchase(_ context.Context, p *Purchase) error {
	tx.pending.inserts = append(tx.pending.inserts, *p)
	return nil
}

func (p *Purchase) presented() any {
	if p.PresentedVoucher == (ID{}) {
		return nil
	}
	return p.PresentedVoucher
}

// UpdatePurchase stores p, which this transaction has read or inserted, if the row is still in the state, and at the
// payment attempt, of old. ErrConflict.
func (tx *Tx) UpdatePurchase(_ context.Context, old, p *Purchase) error {
	same := func(other *Purchase) bool { return other.TokenID == p.TokenID }
	for i := range tx.pending.inserts {
		if other := &tx.pending.inserts[i]; same(other) {
			return replace(other, old, p)
		}
	}
	for i := range tx.pending.updates {
		if other := &tx.pending.updates[i].now; same(other) {
			return replace(other, old, p)
		}
	}
	tx.pending.updates = append(tx.pending.updates, update{at(old), *p})
	return nil
}

// replace is compare-and-set on a row that is pending itself.
func replace(row, old, p *Purchase) error {
	if at(row) != at(old) {
		return ErrConflict
	}
	*row = *p
	return nil
}

// SetIntent stores the intent of p's payment attempt, once: compare-and-set on the attempt having none. ErrConflict.
func (tx *Tx) SetIntent(ctx context.Context, p *Purchase, attempt int, intentID string) error {
	if p.Attempt != attempt || p.IntentID != "" {
		return ErrConflict
	}
	old := *p
	p.IntentID = intentID
	return tx.UpdatePurchase(ctx, &old, p)
}

// OfViewers lists, for each of many purchases, those of the same viewer session and drop that did not fail, itself
// included, in the order of arrival. The list of earlier arrivals is fixed and a failed purchase stays failed, so whoever is
// among the first so many once stays there.
func (q Queries) OfViewers(ctx context.Context, tokenIDs []ID) (map[ID][]ID, error) {
	type pair struct{ tokenID, other ID }
	others := make(map[ID][]ID, len(tokenIDs))
	for piece := range sqldb.Pieces(tokenIDs) {
		n := len(piece)
		list, err := collect(ctx, q.q, "listing viewers' purchases", func(r *sql.Rows, p *pair) error { return r.Scan(&p.tokenID, &p.other) },
			fmt.Sprintf(`SELECT p.token_id, e.token_id FROM purchases p JOIN purchases e ON e.drop_id = p.drop_id AND e.viewer_session_id = p.viewer_session_id
				WHERE p.token_id IN %s AND e.state NOT IN ($%d, $%d, $%d) ORDER BY e.arrival`, sqldb.Values(1, n), n+1, n+2, n+3),
			append(sqldb.Args(piece), saga.Voucher, saga.Refused, saga.Refunded)...)
		if err != nil {
			return nil, err
		}
		for _, p := range list {
			others[p.tokenID] = append(others[p.tokenID], p.other)
		}
	}
	return others, nil
}

// DropOpen tells whether the drop has a purchase that is not final, or a job.
func (q Queries) DropOpen(ctx context.Context, dropID ID) (bool, error) {
	n := 0
	err := q.q.QueryRowContext(ctx, `SELECT (SELECT COUNT(*) FROM purchases WHERE drop_id = $1 AND state NOT IN ($2, $3, $4, $5, $6))
		+ (SELECT COUNT(*) FROM jobs j JOIN purchases p ON p.token_id = j.token_id WHERE p.drop_id = $1)`,
		dropID, saga.Delivered, saga.Shipped, saga.Voucher, saga.Refused, saga.Refunded).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("looking for open purchases: %w", err)
	}
	return n > 0, nil
}
