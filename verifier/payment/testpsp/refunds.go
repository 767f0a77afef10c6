package testpsp

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/payment"
)

// slowRefund is how long a refund of tp_refund_slow is pending.
const slowRefund = 10 * time.Second

// Refund implements payment.Provider.
func (p *Provider) Refund(ctx context.Context, key string, r payment.RefundRequest) (payment.Refund, error) {
	if err := p.wait(ctx); err != nil {
		return payment.Refund{}, err
	}
	var answer payment.Refund
	var fault error
	err := p.db.Write(ctx, func(tx *sql.Tx) error {
		in, err := find(ctx, tx, "intent_id", r.IntentID, p.db.ForUpdate())
		if err != nil {
			return err
		}
		if fault = p.keepError(ctx, tx, key, "refund "+r.IntentID, in.Reference); fault != nil {
			return nil //nolint:nilerr // the error is the answer, and what keeps it is committed
		}
		var lost bool
		if fault, lost, err = disturbance(ctx, tx, in, "refund"); err != nil || fault != nil && !lost {
			return err
		}
		answer, err = p.refundOnce(ctx, tx, key, r, in)
		return err
	})
	p.hinted()
	if err = errors.Join(err, fault); err != nil {
		return payment.Refund{}, fmt.Errorf("testpsp: refund: %w", err)
	}
	return answer, nil
}

// refundOnce finds the refund of a key that is still known, or makes it.
func (p *Provider) refundOnce(ctx context.Context, tx *sql.Tx, key string, r payment.RefundRequest, in *intent) (payment.Refund, error) {
	now := p.cfg.Now()
	if _, err := tx.ExecContext(ctx, `UPDATE psp_refunds SET idem_key = idem_key || ' until ' || $1 WHERE idem_key = $2 AND create_time <= $3`,
		p.newID(), key, now.Add(-p.cfg.KeyTTL).UnixMicro()); err != nil {
		return payment.Refund{}, err
	}
	refunds, err := p.refunds(ctx, tx, r.IntentID)
	if err != nil {
		return payment.Refund{}, err
	}
	left := in.Request.MinorUnits
	for _, other := range refunds {
		if other.key == key {
			if other.RefundRequest != r {
				return payment.Refund{}, payment.ErrKeyReused
			}
			return other.Refund, nil
		}
		if other.State != payment.RefundFailed {
			left -= other.MinorUnits
		}
	}
	if in.State != payment.Succeeded || r.MinorUnits <= 0 || r.MinorUnits > left {
		return payment.Refund{}, payment.ErrNotRefundable
	}
	made := payment.Refund{RefundRequest: r, State: payment.RefundSucceeded}
	settles := now
	switch in.kind() {
	case RefRefundFails:
		made.State = payment.RefundFailed
	case RefRefundSlow:
		made.State, settles = payment.RefundPending, now.Add(slowRefund)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO psp_refunds (idem_key, refund_id, intent_id, minor_units, state, settle_time, create_time)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, key, r.RefundID, r.IntentID, r.MinorUnits, made.State, settles.UnixMicro(), now.UnixMicro()); err != nil {
		return payment.Refund{}, err
	}
	return made, p.hint(ctx, tx, r.IntentID, settles.Sub(now))
}

// Refunds implements payment.Provider.
func (p *Provider) Refunds(ctx context.Context, intentID string) ([]payment.Refund, error) {
	if err := p.wait(ctx); err != nil {
		return nil, err
	}
	if _, err := find(ctx, p.db.Read(), "intent_id", intentID, ""); err != nil {
		return nil, fmt.Errorf("testpsp: reading refunds: %w", err)
	}
	found, err := p.refunds(ctx, p.db.Read(), intentID)
	if err != nil {
		return nil, fmt.Errorf("testpsp: reading refunds: %w", err)
	}
	list := make([]payment.Refund, len(found))
	for i, r := range found {
		list[i] = r.Refund
	}
	return list, nil
}

// keyed is a refund with its key.
type keyed struct {
	payment.Refund
	key string
}

func (p *Provider) refunds(ctx context.Context, q sqldb.Querier, intentID string) ([]keyed, error) {
	rows, err := q.QueryContext(ctx, `SELECT idem_key, refund_id, minor_units, CASE WHEN state = $1 AND settle_time <= $2 THEN $3 ELSE state END
		FROM psp_refunds WHERE intent_id = $4 ORDER BY create_time, idem_key`,
		payment.RefundPending, p.cfg.Now().UnixMicro(), payment.RefundSucceeded, intentID)
	if err != nil {
		return nil, err
	}
	var list []keyed
	for rows.Next() {
		r := keyed{Refund: payment.Refund{RefundRequest: payment.RefundRequest{IntentID: intentID}}}
		if err := rows.Scan(&r.key, &r.RefundID, &r.MinorUnits, &r.State); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		list = append(list, r)
	}
	return list, errors.Join(rows.Err(), rows.Close())
}
