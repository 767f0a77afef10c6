package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
)

// Fence is a node's exclusion from one drop, or from all.
type Fence struct {
	NodeID ID
	// DropID is nil for every drop.
	DropID *ID
	// Role is who asked.
	Role string
	// Request is what was asked, kept with the fence. Its request id makes repeats.
	Request *fulfillmentv1.FenceNodeRequest
}

// Fenced is what a fence meets.
type Fenced struct {
	Region string
	// Alive: the node was seen lately.
	Alive bool
	Seen  time.Time
	Epoch int64
	// Leases are those that it puts aside.
	Leases []QuarantinedLease
}

// Fence puts the leases of a node aside and lends it nothing more, under its current epoch: docs/settlement.md 2.8. The
// same request again answers what is left of it; another one under its id gets ErrReplayed. Errors: NotJoinedError,
// DropNotFoundError.
func (s *Store) Fence(ctx context.Context, f Fence, now time.Time) (Fenced, error) {
	var out Fenced
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		var err error
		// Written before it is read: a Grant or a Join comes before all of this or after it.
		if _, err := tx.ExecContext(ctx, `UPDATE nodes SET seen_time_us = seen_time_us WHERE node_id = $1`, f.NodeID[:]); err != nil {
			return err
		}
		if out, err = fencedNode(ctx, tx, f, now); err != nil {
			return err
		}
		epoch, at, err := fencedBefore(ctx, tx, f)
		switch {
		case err != nil:
			return err
		case epoch != 0:
			out.Epoch, now = epoch, at
		default:
			if err := addFence(ctx, tx, f, out.Epoch, now); err != nil {
				return err
			}
			if _, err := quarantine(ctx, tx, f.NodeID, f.DropID, now); err != nil {
				return err
			}
		}
		out.Leases, err = leasesOf(ctx, tx, f, out.Epoch, quarantinedLease, &now)
		return err
	})
	if err != nil {
		return Fenced{}, fmt.Errorf("fencing a node: %w", err)
	}
	return out, nil
}

// RehearseFence is what a Fence would meet now.
func (s *Store) RehearseFence(ctx context.Context, f Fence, now time.Time) (Fenced, error) {
	out, err := fencedNode(ctx, s.db.Read(), f, now)
	if err == nil {
		out.Leases, err = leasesOf(ctx, s.db.Read(), f, out.Epoch, activeLease, nil)
	}
	if err != nil {
		return Fenced{}, fmt.Errorf("rehearsing a fence: %w", err)
	}
	return out, nil
}

func fencedNode(ctx context.Context, q querier, f Fence, now time.Time) (out Fenced, err error) {
	var seen int64
	err = q.QueryRowContext(ctx, `SELECT region, epoch, seen_time_us FROM nodes WHERE node_id = $1`, f.NodeID[:]).Scan(&out.Region, &out.Epoch, &seen)
	if errors.Is(err, sql.ErrNoRows) {
		return out, &NotJoinedError{f.NodeID}
	}
	if err != nil {
		return out, err
	}
	out.Seen = fromMicros(seen)
	out.Alive = now.Sub(out.Seen) < liveFor
	if f.DropID != nil {
		_, err = getDrop(ctx, q, *f.DropID)
	}
	return out, err
}

// fencedBefore is the epoch and the moment of the same request; epoch 0: it is new.
func fencedBefore(ctx context.Context, tx *sql.Tx, f Fence) (epoch int64, at time.Time, err error) {
	var raw []byte
	var us int64
	err = tx.QueryRowContext(ctx, `SELECT epoch, fence_time_us, request FROM fences WHERE request_id = $1`, f.Request.GetRequestId()).Scan(&epoch, &us, &raw)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, time.Time{}, nil
	}
	if err != nil {
		return 0, time.Time{}, err
	}
	first := &fulfillmentv1.FenceNodeRequest{}
	if err := proto.Unmarshal(raw, first); err != nil {
		return 0, time.Time{}, fmt.Errorf("decoding an earlier request: %w", err)
	}
	if !proto.Equal(first, f.Request) {
		return 0, time.Time{}, ErrReplayed
	}
	return epoch, fromMicros(us), nil
}

func addFence(ctx context.Context, tx *sql.Tx, f Fence, epoch int64, now time.Time) error {
	request, err := proto.Marshal(f.Request)
	if err != nil {
		return fmt.Errorf("encoding the request: %w", err)
	}
	var drop any // NULL
	if f.DropID != nil {
		drop = f.DropID[:]
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO fences (request_id, node_id, epoch, drop_id, role, fence_time_us, request)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, f.Request.GetRequestId(), f.NodeID[:], epoch, drop, f.Role, now.UnixMicro(), request)
	return err
}

// leasesOf lists the leases in a state that a fence is about, of one moment of quarantine if one is given, as far as
// anything of them is still leased.
func leasesOf(ctx context.Context, q querier, f Fence, epoch int64, state int, since *time.Time) ([]QuarantinedLease, error) {
	query := `SELECT l.lease_id, l.node_id, l.epoch, l.drop_id, COALESCE(l.quarantine_time_us, 0), COUNT(*)
		FROM leases l JOIN units u ON u.lease_id = l.lease_id AND u.state = $1 WHERE l.node_id = $2 AND l.epoch = $3 AND l.state = $4`
	args := []any{leased, f.NodeID[:], epoch, state}
	if f.DropID != nil {
		args = append(args, f.DropID[:])
		query += fmt.Sprintf(` AND l.drop_id = $%d`, len(args))
	}
	if since != nil {
		args = append(args, since.UnixMicro())
		query += fmt.Sprintf(` AND l.quarantine_time_us = $%d`, len(args))
	}
	rows, err := q.QueryContext(ctx, query+` GROUP BY l.lease_id, l.node_id, l.epoch, l.drop_id, l.quarantine_time_us ORDER BY l.lease_id`, args...)
	all, err := collect(rows, err, func(rows *sql.Rows) (QuarantinedLease, error) { return scanQuarantined(rows.Scan) })
	if err != nil {
		return nil, err
	}
	return all, withDrops(ctx, q, all)
}

// Fences are the drops that a node gets nothing of; all says: of none.
type Fences struct {
	all   bool
	drops map[ID]bool
}

// Bar tells whether the node gets nothing of a drop.
func (f Fences) Bar(drop ID) bool { return f.all || f.drops[drop] }

// Fences lists those of a node under an epoch.
func (s *Store) Fences(ctx context.Context, c Caller) (Fences, error) {
	return fencesOf(ctx, s.db.Read(), c)
}

func fencesOf(ctx context.Context, q querier, c Caller) (f Fences, err error) {
	rows, err := q.QueryContext(ctx, `SELECT drop_id FROM fences WHERE node_id = $1 AND epoch = $2`, c.NodeID[:], c.Epoch)
	drops, err := collect(rows, err, func(rows *sql.Rows) (drop []byte, err error) { return drop, rows.Scan(&drop) })
	if err != nil {
		return f, fmt.Errorf("looking for fences: %w", err)
	}
	f.drops = map[ID]bool{}
	for _, d := range drops {
		if d == nil {
			f.all = true
			continue
		}
		f.drops[ID(d)] = true
	}
	return f, nil
}

// PutAside lists the QUARANTINED leases of a node's epoch.
func (s *Store) PutAside(ctx context.Context, c Caller) (map[ID]bool, error) {
	// The state is no parameter: see ActiveLeases.
	rows, err := s.db.Read().QueryContext(ctx, fmt.Sprintf(`SELECT lease_id FROM leases WHERE node_id = $1 AND epoch = $2 AND state = %d`, quarantinedLease),
		c.NodeID[:], c.Epoch)
	leases, err := collect(rows, err, func(rows *sql.Rows) (id []byte, err error) { return id, rows.Scan(&id) })
	if err != nil {
		return nil, fmt.Errorf("listing a node's quarantined leases: %w", err)
	}
	aside := make(map[ID]bool, len(leases))
	for _, l := range leases {
		aside[ID(l)] = true
	}
	return aside, nil
}

// Retire is a Fence out of everything by the node's own process, and says how many leases it put aside. Errors: as Join's
// and Grant's of a caller that is not the node as it joined last.
func (s *Store) Retire(ctx context.Context, c Caller, now time.Time) (int, error) {
	request := &fulfillmentv1.FenceNodeRequest{RequestId: fmt.Sprintf("retired/%v/%d", c.NodeID, c.Epoch), NodeId: c.NodeID.String(), Reason: "retired"}
	f := Fence{NodeID: c.NodeID, Role: "service", Request: request}
	n := 0
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		n = 0
		if err := admit(ctx, tx, c, now); err != nil {
			return err
		}
		epoch, _, err := fencedBefore(ctx, tx, f)
		if err != nil || epoch != 0 {
			return err
		}
		if err := addFence(ctx, tx, f, c.Epoch, now); err != nil {
			return err
		}
		n, err = quarantine(ctx, tx, c.NodeID, nil, now)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("retiring a node: %w", err)
	}
	return n, nil
}
