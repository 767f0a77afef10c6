package testpsp

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rimlight/rimlight/verifier/payment"
)

// hintBatch bounds one delivery.
const hintBatch = 100

// hintRetry is the pause after a delivery that failed: real providers wait minutes.
const hintRetry = time.Second

// hint writes down that something happened to an intent, or will after a while.
func (p *Provider) hint(ctx context.Context, tx *sql.Tx, intentID string, after time.Duration) error {
	if p.cfg.HintDelay == 0 {
		return nil
	}
	id := "tph_" + p.newID()
	p.mu.Lock()
	due := []time.Duration{time.Duration(p.draw.Int64N(int64(p.cfg.HintDelay)))}
	if p.draw.Float64() < p.cfg.HintDuplicates {
		due = append(due, time.Duration(p.draw.Int64N(int64(p.cfg.HintDelay))))
	}
	p.mu.Unlock()
	for i, d := range due {
		if _, err := tx.ExecContext(ctx, `INSERT INTO psp_hints (hint_id, copy, intent_id, due_time) VALUES ($1, $2, $3, $4)`,
			id, i, intentID, p.cfg.Now().Add(after+d).UnixMicro()); err != nil {
			return err
		}
	}
	return nil
}

// hinted wakes Hints after a commit.
func (p *Provider) hinted() {
	select {
	case p.news <- struct{}{}:
	default: // it is awake
	}
}

// Hints implements payment.Hinter.
func (p *Provider) Hints(ctx context.Context, deliver func(context.Context, []payment.Hint) error) error {
	for {
		pause, err := p.deliverHints(ctx, deliver)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the caller stopped listening, which is how it ends
		}
		if err != nil {
			pause = hintRetry
		}
		var due <-chan time.Time
		var timer *time.Timer
		if pause >= 0 {
			timer = time.NewTimer(pause)
			due = timer.C
		}
		select {
		case <-due:
		case <-p.news:
		case <-ctx.Done():
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// deliverHints delivers what is due and says when the next hint is; negative: there is none.
func (p *Provider) deliverHints(ctx context.Context, deliver func(context.Context, []payment.Hint) error) (time.Duration, error) {
	for {
		rows, err := p.db.Read().QueryContext(ctx, `SELECT hint_id, copy, intent_id, due_time FROM psp_hints ORDER BY due_time, hint_id, copy LIMIT CAST($1 AS BIGINT)`, hintBatch)
		if err != nil {
			return 0, fmt.Errorf("testpsp: reading hints: %w", err)
		}
		now := p.cfg.Now()
		var hints []payment.Hint
		var copies []int
		next := time.Duration(-1)
		for rows.Next() {
			var h payment.Hint
			var n int
			var due int64
			if err := rows.Scan(&h.ID, &n, &h.IntentID, &due); err != nil {
				return 0, errors.Join(fmt.Errorf("testpsp: reading hints: %w", err), rows.Close())
			}
			if wait := time.UnixMicro(due).Sub(now); wait > 0 {
				next = wait
				break
			}
			hints, copies = append(hints, h), append(copies, n)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return 0, fmt.Errorf("testpsp: reading hints: %w", err)
		}
		if len(hints) == 0 {
			return next, nil
		}
		if err := deliver(ctx, hints); err != nil {
			return 0, fmt.Errorf("testpsp: delivering hints: %w", err)
		}
		if err := p.db.Write(ctx, func(tx *sql.Tx) error {
			for i, h := range hints {
				if _, err := tx.ExecContext(ctx, `DELETE FROM psp_hints WHERE hint_id = $1 AND copy = $2`, h.ID, copies[i]); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return 0, fmt.Errorf("testpsp: forgetting hints: %w", err)
		}
	}
}
