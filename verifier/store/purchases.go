package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"

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
	p.licence_key, p.outcome, p.charged_minor_units, p.stored_value_minor_units, p.presented_voucher, p.voucher_held,
	v.voucher_id, v.kind, v.minor_units, v.expire_time,
	(SELECT COALESCE(SUM(r.minor_units), 0) FROM refunds r WHERE r.token_id = p.token_id AND r.state = 2 AND r.make_good = 0)`

func scanPurchase(scan func(...any) error, p *Purchase, more ...any) error {
	var presented, voucherID []byte
	var kind, minorUnits, expire sql.NullInt64
	err := scan(append([]any{&p.TokenID, &p.PurchaseID, &p.Arrival, &p.DropID, &p.ViewerSessionID, &p.State, &p.Reason, &p.StateTime,
		&p.NodeID, &p.Serial, &p.LeaseID, &p.AcceptTime, &p.CurrencyCode, &p.MinorUnits, &p.PaymentReference, &p.Attempt, &p.IntentID,
		&p.LicenceKey, &p.Outcome, &p.Charged, &p.StoredValue, &presented, &p.VoucherHeld,
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

// OrderID names the order of a purchase: always the same, so that placing it twice is placing it once. It is a UUIDv8
// (RFC 9562, section 5.8) of a hash.
func OrderID(purchaseID ID) ID {
	sum := sha256.Sum256(append([]byte("order-id/v1\x00"), purchaseID[:]...))
	id := ID(sum[:16])
	id[6] = 0x80 | id[6]&0x0f
	id[8] = 0x80 | id[8]&0x3f
	return id
}

// InsertPurchase stores a new one.
func (tx *Tx) InsertPurchase(ctx context.Context, p *Purchase) error {
	_, err := tx.exec(ctx, "storing a purchase", `INSERT INTO purchases (token_id, purchase_id, arrival, drop_id, viewer_session_id,
		state, reason, state_time, node_id, serial, lease_id, accept_time, currency_code, minor_units, payment_reference, attempt,
		intent_id, licence_key, outcome, charged_minor_units, stored_value_minor_units, presented_voucher, voucher_held, order_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)`,
		p.TokenID, p.PurchaseID, p.Arrival, p.DropID, p.ViewerSessionID, p.State, p.Reason, p.StateTime, p.NodeID, p.Serial,
		p.LeaseID, p.AcceptTime, p.CurrencyCode, p.MinorUnits, p.PaymentReference, p.Attempt, p.IntentID, p.LicenceKey, p.Outcome,
		p.Charged, p.StoredValue, p.presented(), p.VoucherHeld, OrderID(p.PurchaseID))
	return err
}

func (p *Purchase) presented() any {
	if p.PresentedVoucher == (ID{}) {
		return nil
	}
	return p.PresentedVoucher
}

// UpdatePurchase stores p if the row is still in the state, and at the payment attempt, of old. ErrConflict.
func (tx *Tx) UpdatePurchase(ctx context.Context, old, p *Purchase) error {
	n, err := tx.exec(ctx, "changing a purchase", `UPDATE purchases SET state = $1, reason = $2, state_time = $3, node_id = $4,
		serial = $5, lease_id = $6, accept_time = $7, currency_code = $8, minor_units = $9, payment_reference = $10, attempt = $11,
		intent_id = $12, licence_key = $13, outcome = $14, charged_minor_units = $15, stored_value_minor_units = $16,
		presented_voucher = $17, voucher_held = $18
		WHERE token_id = $19 AND state = $20 AND attempt = $21`,
		p.State, p.Reason, p.StateTime, p.NodeID, p.Serial, p.LeaseID, p.AcceptTime, p.CurrencyCode, p.MinorUnits,
		p.PaymentReference, p.Attempt, p.IntentID, p.LicenceKey, p.Outcome, p.Charged, p.StoredValue, p.presented(), p.VoucherHeld,
		p.TokenID, old.State, old.Attempt)
	if err == nil && n != 1 {
		err = ErrConflict
	}
	return err
}

// SetIntent stores the intent of a payment attempt, once: compare-and-set on the attempt having none. ErrConflict.
func (tx *Tx) SetIntent(ctx context.Context, tokenID ID, attempt int, intentID string) error {
	n, err := tx.exec(ctx, "storing an intent", `UPDATE purchases SET intent_id = $1
		WHERE token_id = $2 AND attempt = $3 AND intent_id = ''`, intentID, tokenID, attempt)
	if err == nil && n != 1 {
		err = ErrConflict
	}
	return err
}

// EarlierOfViewer counts the purchases of the same viewer session and drop that arrived earlier and did not fail.
// The set of earlier arrivals is fixed and a failed purchase stays failed, so the count only shrinks: a purchase that
// is below the limit once stays below.
func (q Queries) EarlierOfViewer(ctx context.Context, p *Purchase) (int, error) {
	n := 0
	err := q.q.QueryRowContext(ctx, `SELECT COUNT(*) FROM purchases
		WHERE drop_id = $1 AND viewer_session_id = $2 AND arrival < $3 AND state NOT IN ($4, $5, $6)`,
		p.DropID, p.ViewerSessionID, p.Arrival, saga.Voucher, saga.Refused, saga.Refunded).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting a viewer's purchases: %w", err)
	}
	return n, nil
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
