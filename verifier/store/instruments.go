package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/verifier/saga"
)

// InstrumentOver tells whether it was decided that a purchase is beyond its instrument's share. No: it is not, or nobody
// has decided.
func (q Queries) InstrumentOver(ctx context.Context, tokenID ID) (bool, error) {
	n, err := q.count(ctx, `SELECT COUNT(*) FROM instrument_uses WHERE token_id = $1 AND is_over = 1`, tokenID)
	return n > 0, err
}

// CountInstrument decides, once, whether a purchase is beyond its instrument's share of the drop: of the others that the
// instrument pays, and that did not fail, there are limit. The instrument's row is held from before the count until the
// commit, so of two purchases that decide at the same time the second counts the first.
func (tx *Tx) CountInstrument(ctx context.Context, p *Purchase, instrument ID, limit int) (over bool, err error) {
	var before ID
	err = tx.q.QueryRowContext(ctx, `SELECT instrument, is_over FROM instrument_uses WHERE token_id = $1`, p.TokenID).Scan(&before, &over)
	if err == nil && before == instrument {
		return over, nil
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, fmt.Errorf("reading an instrument's use: %w", err)
	}
	if err := tx.holdInstrument(ctx, p.DropID, instrument); err != nil {
		return false, err
	}
	n, err := tx.count(ctx, `SELECT COUNT(*) FROM instrument_uses u JOIN purchases p ON p.token_id = u.token_id
		WHERE u.drop_id = $1 AND u.instrument = $2 AND u.is_over = 0 AND u.token_id <> $3 AND p.state NOT IN ($4, $5, $6)`,
		p.DropID, instrument, p.TokenID, saga.Voucher, saga.Refused, saga.Refunded)
	if err != nil {
		return false, err
	}
	over = n >= limit && !mutant.On(mutant.InstrumentUncounted)
	if over && mutant.On(mutant.InstrumentForgotten) {
		return over, nil
	}
	return over, tx.setInstrument(ctx, p, instrument, over)
}

// InstrumentPaid remembers that an instrument paid a purchase, whatever was decided: what is taken counts.
func (tx *Tx) InstrumentPaid(ctx context.Context, p *Purchase, instrument ID) error {
	if err := tx.holdInstrument(ctx, p.DropID, instrument); err != nil {
		return err
	}
	return tx.setInstrument(ctx, p, instrument, false)
}

// holdInstrument changes nothing of the row but who may change it.
func (tx *Tx) holdInstrument(ctx context.Context, dropID, instrument ID) error {
	_, err := tx.exec(ctx, "holding an instrument", `INSERT INTO instruments (drop_id, instrument) VALUES ($1, $2)
		ON CONFLICT (drop_id, instrument) DO UPDATE SET instrument = excluded.instrument`, dropID, instrument)
	return err
}

func (tx *Tx) setInstrument(ctx context.Context, p *Purchase, instrument ID, over bool) error {
	_, err := tx.exec(ctx, "storing an instrument's use", `INSERT INTO instrument_uses (token_id, drop_id, instrument, is_over) VALUES ($1, $2, $3, $4)
		ON CONFLICT (token_id) DO UPDATE SET instrument = excluded.instrument, is_over = excluded.is_over`, p.TokenID, p.DropID, instrument, over)
	return err
}
