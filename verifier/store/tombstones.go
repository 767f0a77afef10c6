package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/saga"
)

// Tombstone makes a lease one for which no redemption is a candidate any more. It stays so. Redemptions are admitted
// under the lock of their arrival numbers, and so is this: one that looked for a tombstone too early has committed, and
// LeaseOpen sees it.
func (tx *Tx) Tombstone(ctx context.Context, leaseID ID, now int64) error {
	if _, err := tx.TakeArrivals(ctx, 0); err != nil {
		return err
	}
	_, err := tx.exec(ctx, "storing a tombstone", `INSERT INTO tombstones (lease_id, tombstone_time) VALUES ($1, $2)
		ON CONFLICT (lease_id) DO NOTHING`, leaseID, now)
	return err
}

// Tombstoned tells which of many leases have one.
func (q Queries) Tombstoned(ctx context.Context, leaseIDs ...ID) (map[ID]bool, error) {
	dead := map[ID]bool{}
	for piece := range sqldb.Pieces(leaseIDs) {
		list, err := collect(ctx, q.q, "looking for tombstones", func(r *sql.Rows, id *ID) error { return r.Scan(id) },
			`SELECT lease_id FROM tombstones WHERE lease_id IN `+sqldb.Values(1, len(piece)), sqldb.Args(piece)...)
		if err != nil {
			return nil, err
		}
		for _, id := range list {
			dead[id] = true
		}
	}
	return dead, nil
}

// LeaseOpen tells whether a unit of the drop's lease may still be settled or released for somebody: a winner that waits
// for its unit, a spare, or a unit that is to be released.
func (q Queries) LeaseOpen(ctx context.Context, dropID, leaseID ID) (bool, error) {
	var open bool
	err := q.q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM purchases p JOIN candidates c ON c.token_id = p.token_id
		WHERE p.drop_id = $1 AND c.lease_id = $2 AND (c.state IN ($3, $4) OR c.state = $5 AND p.state = $6))`,
		dropID, leaseID, Spare, ToRelease, Winner, saga.Received).Scan(&open)
	if err != nil {
		return false, fmt.Errorf("looking for open redemptions of a lease: %w", err)
	}
	return open, nil
}
