package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rimlight/rimlight/internal/sqldb"
)

// ErrRequestKnown means: a refund with this request id is there.
var ErrRequestKnown = errors.New("store: request known")

// RefundState is where a refund is; a rimlight.verifier.v1.RefundState: the numbers are the same.
type RefundState int

// The states of a refund.
const (
	RefundPending RefundState = 1
	RefundDone    RefundState = 2
	RefundFailed  RefundState = 3
)

// Refund is one row of refunds.
type Refund struct {
	RefundID   ID
	RequestID  string
	TokenID    ID
	MinorUnits int64
	Reason     string
	MakeGood   bool
	State      RefundState
	CreateTime int64
	StateTime  int64
	// PurchaseID and CurrencyCode are the purchase's.
	PurchaseID   ID
	CurrencyCode string
}

const refundColumns = `r.refund_id, r.request_id, r.token_id, r.minor_units, r.reason, r.make_good, r.state, r.create_time, r.state_time,
	p.purchase_id, p.currency_code FROM refunds r JOIN purchases p ON p.token_id = r.token_id`

func scanRefund(scan func(...any) error, r *Refund) error {
	return scan(&r.RefundID, &r.RequestID, &r.TokenID, &r.MinorUnits, &r.Reason, &r.MakeGood, &r.State, &r.CreateTime, &r.StateTime,
		&r.PurchaseID, &r.CurrencyCode)
}

// InsertRefund stores a pending refund and its job. ErrRequestKnown.
func (tx *Tx) InsertRefund(ctx context.Context, r *Refund) error {
	if _, err := tx.exec(ctx, "storing a refund", `INSERT INTO refunds (refund_id, request_id, token_id, minor_units, reason, make_good, state, create_time, state_time, drop_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, (SELECT p.drop_id FROM purchases p WHERE p.token_id = $3))`,
		r.RefundID, r.RequestID, r.TokenID, r.MinorUnits, r.Reason, r.MakeGood, RefundPending, r.CreateTime); err != nil {
		if sqldb.IsUnique(err) {
			return fmt.Errorf("%w: %w", ErrRequestKnown, err)
		}
		return err
	}
	return tx.AddJob(ctx, Job{Kind: RefundJob, TokenID: r.TokenID, LeaseID: r.RefundID}, r.CreateTime)
}

// EndRefund moves a pending refund to its end. ErrConflict when it has come to one.
func (tx *Tx) EndRefund(ctx context.Context, refundID ID, state RefundState, now int64) error {
	n, err := tx.exec(ctx, "ending a refund", `UPDATE refunds SET state = $1, state_time = $2 WHERE refund_id = $3 AND state = $4`,
		state, now, refundID, RefundPending)
	if err == nil && n != 1 {
		err = ErrConflict
	}
	return err
}

// RefundByID reads one. ErrNotFound.
func (q Queries) RefundByID(ctx context.Context, id ID) (Refund, error) {
	return q.refundBy(ctx, "refund_id", id)
}

// RefundByRequest reads one by the request that asked for it. ErrNotFound.
func (q Queries) RefundByRequest(ctx context.Context, requestID string) (Refund, error) {
	return q.refundBy(ctx, "request_id", requestID)
}

func (q Queries) refundBy(ctx context.Context, column string, value any) (Refund, error) {
	var r Refund
	err := scanRefund(q.q.QueryRowContext(ctx, `SELECT `+refundColumns+` WHERE r.`+column+` = $1`, value).Scan, &r)
	if errors.Is(err, sql.ErrNoRows) {
		return r, ErrNotFound
	}
	if err != nil {
		return r, fmt.Errorf("reading a refund: %w", err)
	}
	return r, nil
}

// RefundedOrPending is how much of a purchase's money went back or may still go.
func (q Queries) RefundedOrPending(ctx context.Context, tokenID ID) (int64, error) {
	var sum int64
	err := q.q.QueryRowContext(ctx, `SELECT COALESCE(SUM(minor_units), 0) FROM refunds WHERE token_id = $1 AND state <> $2`, tokenID, RefundFailed).Scan(&sum)
	if err != nil {
		return 0, fmt.Errorf("summing refunds: %w", err)
	}
	return sum, nil
}

// Refunds lists up to n refunds before a refund id, newest first: ids ascend with time. A nil purchase means all.
func (q Queries) Refunds(ctx context.Context, before ID, purchaseID *ID, n int) ([]Refund, error) {
	where, args := ` WHERE r.refund_id < $1`, []any{before, n}
	if purchaseID != nil {
		where, args = where+` AND p.purchase_id = $3`, append(args, *purchaseID)
	}
	return collect(ctx, q.q, "listing refunds", func(rows *sql.Rows, r *Refund) error { return scanRefund(rows.Scan, r) },
		`SELECT `+refundColumns+where+` ORDER BY r.refund_id DESC LIMIT CAST($2 AS BIGINT)`, args...)
}

// AddHint remembers a hint of the payment provider; false when it came before.
func (tx *Tx) AddHint(ctx context.Context, hintID string, now int64) (bool, error) {
	n, err := tx.exec(ctx, "storing a hint", `INSERT INTO payment_hints (hint_id, receive_time) VALUES ($1, $2) ON CONFLICT DO NOTHING`, hintID, now)
	return n == 1, err
}

// ForgetHints drops hints that came before a time.
func (tx *Tx) ForgetHints(ctx context.Context, before int64) error {
	_, err := tx.exec(ctx, "forgetting hints", `DELETE FROM payment_hints WHERE receive_time < $1`, before)
	return err
}

// TokenOfIntent finds the purchase whose current payment attempt has an intent. ErrNotFound.
func (q Queries) TokenOfIntent(ctx context.Context, intentID string) (ID, error) {
	var id ID
	err := q.q.QueryRowContext(ctx, `SELECT token_id FROM purchases WHERE intent_id = $1`, intentID).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return id, ErrNotFound
	}
	if err != nil {
		return id, fmt.Errorf("looking for an intent's purchase: %w", err)
	}
	return id, nil
}
