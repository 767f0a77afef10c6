package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// QuarantinedLease is a lease that was put aside and is not closed.
type QuarantinedLease struct {
	ID, NodeID ID
	Epoch      int64
	Drop       Drop
	// Units are those that nobody has settled.
	Units uint32
	// Since is when it was put aside.
	Since time.Time
}

const quarantinedColumns = `l.lease_id, l.node_id, l.epoch, l.drop_id, l.quarantine_time_us,
	(SELECT COUNT(*) FROM units u WHERE u.lease_id = l.lease_id AND u.state = $1)`

func scanQuarantined(scan func(...any) error) (q QuarantinedLease, err error) {
	var id, node, drop []byte
	var since, units int64
	if err := scan(&id, &node, &q.Epoch, &drop, &since, &units); err != nil {
		return q, err
	}
	q.ID, q.NodeID, q.Drop.ID, q.Units, q.Since = ID(id), ID(node), ID(drop), uint32(units), fromMicros(since)
	return q, nil
}

// Quarantined lists leases in the order of their quarantine, after the one that was put aside at since with the id after.
func (s *Store) Quarantined(ctx context.Context, since time.Time, after ID, limit int) ([]QuarantinedLease, error) {
	from := int64(-1)
	if !since.IsZero() {
		from = since.UnixMicro()
	}
	// The state is no parameter: see ActiveLeases.
	rows, err := s.db.Read().QueryContext(ctx, `SELECT `+quarantinedColumns+` FROM leases l WHERE l.state = `+strconv.Itoa(quarantinedLease)+`
		AND (l.quarantine_time_us > $2 OR l.quarantine_time_us = $2 AND l.lease_id > $3)
		ORDER BY l.quarantine_time_us, l.lease_id LIMIT CAST($4 AS BIGINT)`, leased, from, after[:], limit)
	all, err := collect(rows, err, func(rows *sql.Rows) (QuarantinedLease, error) { return scanQuarantined(rows.Scan) })
	if err != nil {
		return nil, fmt.Errorf("listing quarantined leases: %w", err)
	}
	if err := withDrops(ctx, s.db.Read(), all); err != nil {
		return nil, fmt.Errorf("listing quarantined leases: %w", err)
	}
	return all, nil
}

// withDrops fills in the drops, of which only the ids are known.
func withDrops(ctx context.Context, q querier, leases []QuarantinedLease) error {
	drops := map[ID]Drop{}
	for i := range leases {
		d, known := drops[leases[i].Drop.ID]
		if !known {
			var err error
			if d, err = getDrop(ctx, q, leases[i].Drop.ID); err != nil {
				return err
			}
			drops[d.ID] = d
		}
		leases[i].Drop = d
	}
	return nil
}

// CloseLease closes a quarantined lease of which may agrees: in one transaction it is CLOSED and what is unsold is free,
// so nothing of it settles any more. freed counts the units; a repeat frees nothing. Errors: LeaseNotFoundError,
// LeaseInUseError for an ACTIVE lease, and what may said.
func (s *Store) CloseLease(ctx context.Context, id ID, may func(QuarantinedLease) error) (freed int, err error) {
	err = s.db.Write(ctx, func(tx *sql.Tx) error {
		freed = 0
		// Written before it is read: a close of the same lease at the same time comes before all of this or after it.
		n, err := affected(tx.ExecContext(ctx, `UPDATE leases SET state = $1 WHERE lease_id = $2 AND state = $3`, closedLease, id[:], quarantinedLease))
		if err != nil {
			return err
		}
		if n == 0 {
			return notQuarantined(ctx, tx, id)
		}
		q, err := scanQuarantined(tx.QueryRowContext(ctx, `SELECT `+quarantinedColumns+` FROM leases l WHERE l.lease_id = $2`, leased, id[:]).Scan)
		if err != nil {
			return err
		}
		if q.Drop, err = getDrop(ctx, tx, q.Drop.ID); err != nil {
			return err
		}
		if err := may(q); err != nil {
			return err
		}
		freed, err = affected(tx.ExecContext(ctx, `UPDATE units SET state = $1, lease_id = NULL WHERE lease_id = $2 AND state = $3`, free, id[:], leased))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("closing a lease: %w", err)
	}
	return freed, nil
}

// notQuarantined says why a lease is not; nil when it is CLOSED already.
func notQuarantined(ctx context.Context, tx *sql.Tx, id ID) error {
	var state int
	err := tx.QueryRowContext(ctx, `SELECT state FROM leases WHERE lease_id = $1`, id[:]).Scan(&state)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return &LeaseNotFoundError{id}
	case err != nil:
		return err
	case state == closedLease:
		return nil
	}
	return &LeaseInUseError{id}
}
