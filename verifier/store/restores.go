package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rimlight/rimlight/verifier/saga"
)

// lostEvents is more events than can have been lost with what the backup lacks. Cursors that nodes and other services
// have of those stay behind every new one.
const lostEvents = 1 << 32

// Restored notes that the store is an old copy: the next process reads the nodes' journals again before it acts.
func (tx *Tx) Restored(ctx context.Context, now int64) error {
	if _, err := tx.exec(ctx, "noting a restore",
		`INSERT INTO restores (restore_time, end_time) VALUES ($1, 0) ON CONFLICT DO NOTHING`, now); err != nil {
		return err
	}
	if _, err := tx.exec(ctx, "forgetting the last restore", `DELETE FROM reread_nodes`); err != nil {
		return err
	}
	_, err := tx.take(ctx, "event", lostEvents)
	return err
}

// Restore is the last time at which the store was restored; zeros: never.
type Restore struct {
	// Time and End are microseconds; End is 0 while journals are being read again.
	Time, End int64
}

// Restore reads it.
func (q Queries) Restore(ctx context.Context) (Restore, error) {
	var r Restore
	err := q.q.QueryRowContext(ctx, `SELECT restore_time, end_time FROM restores ORDER BY restore_time DESC LIMIT 1`).Scan(&r.Time, &r.End)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return r, fmt.Errorf("reading when the store was restored: %w", err)
	}
	return r, nil
}

// EndRestore says that every journal was read.
func (tx *Tx) EndRestore(ctx context.Context, now int64) error {
	_, err := tx.exec(ctx, "ending a restore", `UPDATE restores SET end_time = $1 WHERE end_time = 0`, now)
	return err
}

// Reread notes that a node's journal was read to its end.
func (tx *Tx) Reread(ctx context.Context, nodeID ID) error {
	_, err := tx.exec(ctx, "noting a journal as read", `INSERT INTO reread_nodes (node_id) VALUES ($1) ON CONFLICT DO NOTHING`, nodeID)
	return err
}

// RereadNodes lists the nodes of Reread.
func (q Queries) RereadNodes(ctx context.Context) ([]ID, error) {
	return collect(ctx, q.q, "listing journals that were read", func(r *sql.Rows, id *ID) error { return r.Scan(id) },
		`SELECT node_id FROM reread_nodes`)
}

// Unordered tells whether a purchase that was accepted before a time still waits for its unit, its money or its order.
func (q Queries) Unordered(ctx context.Context, before int64) (bool, error) {
	var some bool
	err := q.q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM purchases WHERE accept_time < $1 AND state IN ($2, $3, $4, $5))`,
		before, saga.Received, saga.UnitSettled, saga.ActionRequired, saga.Captured).Scan(&some)
	if err != nil {
		return false, fmt.Errorf("looking for purchases without an order: %w", err)
	}
	return some, nil
}
