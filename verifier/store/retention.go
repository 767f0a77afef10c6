package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/saga"
)

// cancelledOnly are tokens that were cancelled and that nobody ever redeemed. The reason is no parameter: the index has
// them alone, and a planner must see that.
var cancelledOnly = fmt.Sprintf(` FROM purchases p WHERE p.reason = %d AND NOT EXISTS (SELECT 1 FROM candidates c WHERE c.token_id = p.token_id)`, saga.Cancelled)

// NextForgettable is the first drop after another one, in the order of ids, that has something which Forget deletes once the
// drop is over. False: none has.
func (q Queries) NextForgettable(ctx context.Context, after ID) (next ID, found bool, err error) {
	for _, query := range []string{
		`SELECT p.drop_id` + cancelledOnly + ` AND p.drop_id > $1 ORDER BY p.drop_id LIMIT 1`,
		`SELECT drop_id FROM instruments WHERE drop_id > $1 ORDER BY drop_id LIMIT 1`,
	} {
		var drop ID
		err := q.q.QueryRowContext(ctx, query, after).Scan(&drop)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return ID{}, false, fmt.Errorf("looking for drops to forget of: %w", err)
		}
		if !found || bytes.Compare(drop[:], next[:]) < 0 {
			next, found = drop, true
		}
	}
	return next, found, nil
}

// Forget deletes up to limit rows each of what nobody needs of a drop that is over: tokens that were cancelled and never
// redeemed, with their events, and which instruments paid. It returns how many rows of either; 0: nothing is left, or
// something of the drop is open, and then all of it stays.
//
// A redemption that arrives is admitted under the lock of its arrival number, and so is this: a token that it meets is
// either kept, or new.
func (tx *Tx) Forget(ctx context.Context, dropID ID, limit int) (forgotten int64, err error) {
	if _, err := tx.TakeArrivals(ctx, 0); err != nil {
		return 0, err
	}
	open, err := tx.DropOpen(ctx, dropID)
	if err != nil || open {
		return 0, err
	}
	tokens, err := collect(ctx, tx.q, "listing cancelled tokens", func(r *sql.Rows, id *ID) error { return r.Scan(id) },
		`SELECT p.token_id`+cancelledOnly+` AND p.drop_id = $1 ORDER BY p.token_id LIMIT CAST($2 AS BIGINT)`, dropID, limit)
	if err != nil {
		return 0, err
	}
	for piece := range sqldb.Pieces(tokens) {
		in := sqldb.Values(1, len(piece))
		if _, err := tx.exec(ctx, "forgetting events", fmt.Sprintf(`DELETE FROM events WHERE reason = %d AND token_id IN %s`, saga.Cancelled, in), sqldb.Args(piece)...); err != nil {
			return 0, err
		}
		n, err := tx.exec(ctx, "forgetting cancelled tokens", `DELETE FROM purchases WHERE token_id IN `+in, sqldb.Args(piece)...)
		if err != nil {
			return 0, err
		}
		forgotten += n
	}
	uses, err := tx.exec(ctx, "forgetting uses of instruments", `DELETE FROM instrument_uses WHERE token_id IN
		(SELECT token_id FROM instrument_uses WHERE drop_id = $1 LIMIT CAST($2 AS BIGINT))`, dropID, limit)
	if err != nil || uses > 0 { // the instruments come after them
		return forgotten + uses, err
	}
	instruments, err := tx.exec(ctx, "forgetting instruments", `DELETE FROM instruments WHERE drop_id = $1 AND instrument IN
		(SELECT instrument FROM instruments WHERE drop_id = $1 LIMIT CAST($2 AS BIGINT))`, dropID, limit)
	return forgotten + instruments, err
}
