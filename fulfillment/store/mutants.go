package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rimlight/rimlight/internal/mutant"
)

// breakGrant breaks rules of the escrow that a mutant breaks by doing more, not less. Builds without the tag mutants have
// nothing of it.
func breakGrant(ctx context.Context, tx *sql.Tx, req GrantRequest, leaseID *ID, now time.Time) error {
	if mutant.On(mutant.FreeByTimeout) {
		const silence = 12 * time.Second // longer than the stamp of a living node is ever old
		_, err := tx.ExecContext(ctx, `UPDATE units SET state = $1, lease_id = NULL WHERE state = $2 AND lease_id IN
			(SELECT l.lease_id FROM leases l JOIN nodes n ON n.node_id = l.node_id WHERE n.seen_time_us < $3)`,
			free, leased, now.Add(-silence).UnixMicro())
		if err != nil {
			return fmt.Errorf("freeing the silent: %w", err)
		}
	}
	if mutant.On(mutant.LeaseToppedUp) {
		var id []byte
		err := tx.QueryRowContext(ctx, `DELETE FROM leases WHERE lease_id = (SELECT MAX(lease_id) FROM leases
			WHERE drop_id = $1 AND node_id = $2 AND epoch = $3) RETURNING lease_id`, req.DropID[:], req.NodeID[:], req.Epoch).Scan(&id)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("topping a lease up: %w", err)
		}
		if err == nil {
			*leaseID = ID(id)
		}
	}
	return nil
}

// breakSettle is breakGrant for claims.
func breakSettle(ctx context.Context, tx *sql.Tx, claims []Claim) error {
	if !mutant.On(mutant.SettleAfterClosed) {
		return nil
	}
	for _, c := range claims {
		_, err := tx.ExecContext(ctx, `UPDATE units SET state = $1, lease_id = $2 WHERE drop_id = $3 AND serial = $4 AND state = $5
			AND EXISTS (SELECT 1 FROM leases WHERE lease_id = $2 AND state = $6)`, leased, c.LeaseID[:], c.DropID[:], c.Serial, free, closedLease)
		if err != nil {
			return fmt.Errorf("selling what was closed: %w", err)
		}
	}
	return nil
}
