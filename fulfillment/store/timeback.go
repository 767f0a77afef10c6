package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rimlight/rimlight/fulfillment/catalog"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

// ErrSoldOut means: no unit of the drop is free or leased.
var ErrSoldOut = errors.New("store: nothing of the drop is left")

// Delay is what routers measured of a drop, for the record.
type Delay struct {
	Delay         time.Duration
	Cause, SlipID string
}

// GiveBack changes a drop's schedule because answers were late, and keeps why. give says what it becomes; a schedule that
// is as before changes nothing. Errors: DropNotFoundError, ErrSoldOut.
func (s *Store) GiveBack(ctx context.Context, id ID, why Delay, now time.Time, give func(catalog.Schedule) catalog.Schedule, sign SignTimeBack) (Drop, error) {
	var d Drop
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		var err error
		if d, err = getDropHeld(ctx, tx, id, s.db.ForUpdate()); err != nil {
			return err
		}
		schedule := give(d.Schedule)
		if schedule == d.Schedule {
			return nil
		}
		stock, err := levels(ctx, tx, []ID{id})
		if err != nil {
			return err
		}
		if l := stock[id]; l.Free+l.Leased+l.Quarantined == 0 {
			return ErrSoldOut
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO time_backs (drop_id, time_back_us, delay_us, cause, slip_id, grant_time_us) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT DO NOTHING`, id[:], schedule.TimeBack.Microseconds(), why.Delay.Microseconds(), why.Cause, why.SlipID, now.UnixMicro())
		if err != nil {
			return err
		}
		d.Reschedule(schedule)
		return reschedule(ctx, tx, d, now, sign)
	})
	if err != nil {
		return d, fmt.Errorf("giving time back: %w", err)
	}
	return d, nil
}

// Seed is fulfillment's own: fresh, unless there is one already.
func (s *Store) Seed(ctx context.Context, fresh []byte) ([]byte, error) {
	var seed []byte
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO own_seed (singleton, seed) VALUES (1, $1) ON CONFLICT DO NOTHING`, fresh); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT seed FROM own_seed WHERE singleton = 1`).Scan(&seed)
	})
	if err != nil {
		return nil, fmt.Errorf("reading fulfillment's seed: %w", err)
	}
	return seed, nil
}

// AddOwnKey keeps fulfillment's public key among the nodes', so that it goes wherever they go.
func (s *Store) AddOwnKey(ctx context.Context, key *offerv1.SigningKey) error {
	err := s.db.Write(ctx, func(tx *sql.Tx) error { return addKey(ctx, tx, nil, key) })
	if err != nil {
		return fmt.Errorf("keeping fulfillment's key: %w", err)
	}
	return nil
}
