package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/verifier/saga"
)

// VoucherKind is a rimlight.offer.v1.VoucherKind: the numbers are the same.
type VoucherKind int32

// The kinds of vouchers.
const (
	PriceLock   VoucherKind = 1
	StoredValue VoucherKind = 2
)

// Voucher is one row of vouchers. A purchase has at most one.
type Voucher struct {
	VoucherID ID
	Kind      VoucherKind
	// MinorUnits is the price that it locks, or the money that it held at first, in the currency of its purchase.
	MinorUnits int64
	// ExpireTime in microseconds; 0: never.
	ExpireTime int64
}

// VoucherRecord is a voucher with where it came from and where it went.
type VoucherRecord struct {
	Voucher
	TokenID      ID
	PurchaseID   ID
	Reason       saga.Reason
	ChannelID    string
	Title        string // of the drop that it came from
	CurrencyCode string
	Remaining    int64
	IssueTime    int64
}

// InsertVoucher stores the voucher p.Voucher of a purchase, full.
func (tx *Tx) InsertVoucher(ctx context.Context, p *Purchase, channelID string, now int64) error {
	v := p.Voucher
	_, err := tx.exec(ctx, "storing a voucher", `INSERT INTO vouchers (token_id, voucher_id, kind, currency_code, minor_units, expire_time,
			remaining_minor_units, channel_id, viewer_session_id, issue_time, drop_id)
		VALUES ($1, $2, $3, $4, $5, $6, $5, $7, $8, $9, $10)`,
		p.TokenID, v.VoucherID, v.Kind, p.CurrencyCode, v.MinorUnits, v.ExpireTime, channelID, p.ViewerSessionID, now, p.DropID)
	return err
}

// PriceLocks counts the price locks that a viewer session got in a channel after a time. Where transactions run side by side,
// no other counts the session's before this one has ended: it may issue one.
func (tx *Tx) PriceLocks(ctx context.Context, session ID, channelID string, after int64) (int, error) {
	if tx.lock != "" {
		if _, err := tx.exec(ctx, "holding a viewer session", `INSERT INTO price_lock_turns (viewer_session_id) VALUES ($1)
			ON CONFLICT (viewer_session_id) DO UPDATE SET viewer_session_id = excluded.viewer_session_id`, session); err != nil {
			return 0, err
		}
	}
	return tx.count(ctx, `SELECT COUNT(*) FROM vouchers WHERE viewer_session_id = $1 AND channel_id = $2 AND issue_time > $3 AND kind = $4`,
		session, channelID, after, PriceLock)
}

const voucherColumns = `v.voucher_id, v.kind, v.minor_units, v.expire_time, v.token_id, p.purchase_id, p.reason, v.channel_id,
	COALESCE(d.title, ''), v.currency_code, v.remaining_minor_units, v.issue_time
	FROM vouchers v JOIN purchases p ON p.token_id = v.token_id LEFT JOIN drop_terms d ON d.drop_id = p.drop_id`

func scanVoucher(scan func(...any) error, v *VoucherRecord) error {
	return scan(&v.VoucherID, &v.Kind, &v.MinorUnits, &v.ExpireTime, &v.TokenID, &v.PurchaseID, &v.Reason, &v.ChannelID,
		&v.Title, &v.CurrencyCode, &v.Remaining, &v.IssueTime)
}

// VoucherByID reads one. ErrNotFound.
func (q Queries) VoucherByID(ctx context.Context, id ID) (VoucherRecord, error) {
	var v VoucherRecord
	err := scanVoucher(q.q.QueryRowContext(ctx, `SELECT `+voucherColumns+` WHERE v.voucher_id = $1`, id).Scan, &v)
	if errors.Is(err, sql.ErrNoRows) {
		return v, ErrNotFound
	}
	if err != nil {
		return v, fmt.Errorf("reading a voucher: %w", err)
	}
	return v, nil
}

// Vouchers lists up to n vouchers before a voucher id, newest first: ids ascend with time. A nil purchase means all.
func (q Queries) Vouchers(ctx context.Context, before ID, purchaseID *ID, openOnly bool, n int) ([]VoucherRecord, error) {
	where, args := ` WHERE v.voucher_id < $1`, []any{before, n}
	if purchaseID != nil {
		where, args = where+` AND p.purchase_id = $3`, append(args, *purchaseID)
	}
	if openOnly {
		where += ` AND v.remaining_minor_units > 0`
	}
	return collect(ctx, q.q, "listing vouchers", func(r *sql.Rows, v *VoucherRecord) error { return scanVoucher(r.Scan, v) },
		`SELECT `+voucherColumns+where+` ORDER BY v.voucher_id DESC LIMIT CAST($2 AS BIGINT)`, args...)
}

// VouchersByID lists the one voucher with an id, or nothing.
func (q Queries) VouchersByID(ctx context.Context, id ID) ([]VoucherRecord, error) {
	v, err := q.VoucherByID(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return []VoucherRecord{v}, err
}

// VoucherUsers lists the purchases that a voucher went into, in the order of their arrival.
func (q Queries) VoucherUsers(ctx context.Context, voucherID ID) ([]ID, error) {
	return collect(ctx, q.q, "listing a voucher's uses", func(r *sql.Rows, id *ID) error { return r.Scan(id) },
		`SELECT p.purchase_id FROM voucher_uses u JOIN purchases p ON p.token_id = u.token_id WHERE u.voucher_id = $1 ORDER BY p.arrival`, voucherID)
}

// HoldVoucher takes an amount off a voucher for a purchase, if so much is left. ErrConflict.
func (tx *Tx) HoldVoucher(ctx context.Context, voucherID, tokenID ID, minorUnits int64) error {
	off := minorUnits
	if mutant.On(mutant.VoucherSpentTwice) {
		off = 0
	}
	n, err := tx.exec(ctx, "holding a voucher", `UPDATE vouchers SET remaining_minor_units = remaining_minor_units - $1
		WHERE voucher_id = $2 AND remaining_minor_units >= $1`, off, voucherID)
	if err != nil {
		return err
	}
	if n != 1 {
		return ErrConflict
	}
	_, err = tx.exec(ctx, "holding a voucher", `INSERT INTO voucher_uses (token_id, voucher_id, minor_units, state, drop_id)
		VALUES ($1, $2, $3, 1, (SELECT p.drop_id FROM purchases p WHERE p.token_id = $1))`,
		tokenID, voucherID, minorUnits)
	return err
}

// SpendVoucher makes what a purchase holds of a voucher spent. Without a use it does nothing.
func (tx *Tx) SpendVoucher(ctx context.Context, tokenID ID) error {
	_, err := tx.exec(ctx, "spending a voucher", `UPDATE voucher_uses SET state = 2 WHERE token_id = $1`, tokenID)
	return err
}

// ReturnVoucher puts what a purchase took of a voucher back on it. Without a use it does nothing.
func (tx *Tx) ReturnVoucher(ctx context.Context, tokenID ID) error {
	var voucherID ID
	var minorUnits int64
	err := tx.q.QueryRowContext(ctx, `DELETE FROM voucher_uses WHERE token_id = $1 RETURNING voucher_id, minor_units`, tokenID).Scan(&voucherID, &minorUnits)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("returning a voucher: %w", err)
	}
	_, err = tx.exec(ctx, "returning a voucher", `UPDATE vouchers SET remaining_minor_units = remaining_minor_units + $1 WHERE voucher_id = $2`,
		minorUnits, voucherID)
	return err
}

// SetCharged remembers that the purchase's voucher is held, and what is left to charge. ErrConflict when it was held
// before, or the payment is past its first attempt's beginning.
func (tx *Tx) SetCharged(ctx context.Context, p *Purchase) error {
	n, err := tx.exec(ctx, "storing what is charged", `UPDATE purchases SET charged_minor_units = $1, stored_value_minor_units = $2, voucher_held = 1
		WHERE token_id = $3 AND state = $4 AND voucher_held = 0 AND intent_id = ''`, p.Charged, p.StoredValue, p.TokenID, saga.UnitSettled)
	if err == nil && n != 1 {
		err = ErrConflict
	}
	return err
}

// DropTerms is what the catalogue says of a drop.
type DropTerms struct {
	DropID           ID
	ChannelID, Title string
	MaxPerViewer     int
	// PerInstrument is how many purchases a payment instrument may pay; 0: any number.
	PerInstrument int
	// Physical: nodes send parcels, and need to know where to.
	Physical bool
}

// AddDropTerms stores a drop's terms; the first word stands.
func (tx *Tx) AddDropTerms(ctx context.Context, t DropTerms) error {
	_, err := tx.exec(ctx, "storing a drop's terms", `INSERT INTO drop_terms (drop_id, channel_id, title, max_per_viewer, physical,
			per_instrument_cap)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`, t.DropID, t.ChannelID, t.Title, t.MaxPerViewer, t.Physical, t.PerInstrument)
	return err
}

// DropTerms reads them. ErrNotFound.
func (q Queries) DropTerms(ctx context.Context, dropID ID) (DropTerms, error) {
	t := DropTerms{DropID: dropID}
	err := q.q.QueryRowContext(ctx, `SELECT channel_id, title, max_per_viewer, physical, per_instrument_cap FROM drop_terms WHERE drop_id = $1`, dropID).
		Scan(&t.ChannelID, &t.Title, &t.MaxPerViewer, &t.Physical, &t.PerInstrument)
	if errors.Is(err, sql.ErrNoRows) {
		return t, ErrNotFound
	}
	if err != nil {
		return t, fmt.Errorf("reading a drop's terms: %w", err)
	}
	return t, nil
}
