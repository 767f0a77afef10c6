package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rimlight/rimlight/fulfillment/stock"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/mutant"
)

// States of a lease.
const (
	activeLease      = 1
	quarantinedLease = 2
	closedLease      = 3
)

// GrantRequest asks for stock.
type GrantRequest struct {
	RequestID, NodeID, DropID ID
	Epoch                     int64
	Wanted                    int
	// BootID is the process life that asks. A repeat from another one is fenced, not a repeat.
	BootID string
}

// Grant is the answer to a GrantRequest.
type Grant struct {
	// Lease is nil when nothing was free.
	Lease *fulfillmentv1.Lease
	// SoldOut: nothing was free or leased.
	SoldOut bool
	// Repeated: the answer was given before.
	Repeated bool
}

// Grant lends free units of a live drop to a node, under a lease id that the caller made. The same request gets the same
// answer for as long as its epoch is current; another one under its id gets ErrReplayed.
func (s *Store) Grant(ctx context.Context, req GrantRequest, leaseID ID, now time.Time) (Grant, error) {
	var g Grant
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		g = Grant{}
		if err := admit(ctx, tx, Caller{req.NodeID, req.Epoch, req.BootID}, now); err != nil {
			return err
		}
		fences, err := fencesOf(ctx, tx, Caller{NodeID: req.NodeID, Epoch: req.Epoch})
		if err != nil {
			return err
		}
		if fences.Bar(req.DropID) && !mutant.On(mutant.FenceIgnored) { // before a repeat: what was granted then is put aside
			return &FencedError{req.NodeID}
		}
		before, err := granted(ctx, tx, req)
		if err != nil {
			return err
		}
		if before != nil {
			g = *before
			return nil
		}
		hold := s.db.ForShare() // a drop settles before this or after it
		n, err := unmadeOf(ctx, tx, req.DropID)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("counting units without a row: %w", err)
		}
		if n > 0 {
			hold = s.db.ForUpdate() // one at a time makes units; there are never more to make later
		}
		d, err := getDropHeld(ctx, tx, req.DropID, hold)
		if err != nil {
			return err
		}
		if state := d.State(now); !state.Live() {
			return &NotLiveError{d.ID, state, d.OpenTime, d.CloseTime}
		}
		if err := breakGrant(ctx, tx, req, &leaseID, now); err != nil {
			return err
		}
		g, err = s.grant(ctx, tx, req, leaseID, now)
		return err
	})
	if err != nil {
		return Grant{}, fmt.Errorf("granting a lease: %w", err)
	}
	return g, nil
}

// granted is the answer that this request got before; nil when it is new.
func granted(ctx context.Context, tx *sql.Tx, req GrantRequest) (*Grant, error) {
	var node, drop, lease []byte
	first := GrantRequest{RequestID: req.RequestID, BootID: req.BootID}
	g := Grant{Repeated: true}
	err := tx.QueryRowContext(ctx, `SELECT g.node_id, g.epoch, g.drop_id, g.wanted_units, g.sold_out <> 0, l.lease
		FROM grant_requests g LEFT JOIN leases l ON l.lease_id = g.lease_id WHERE g.request_id = $1`, req.RequestID[:]).
		Scan(&node, &first.Epoch, &drop, &first.Wanted, &g.SoldOut, &lease)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if first.NodeID, first.DropID = ID(node), ID(drop); first != req {
		return nil, ErrReplayed
	}
	if lease != nil {
		g.Lease = &fulfillmentv1.Lease{}
		if err := proto.Unmarshal(lease, g.Lease); err != nil {
			return nil, fmt.Errorf("decoding a lease: %w", err)
		}
	}
	return &g, nil
}

func (s *Store) grant(ctx context.Context, tx *sql.Tx, req GrantRequest, leaseID ID, now time.Time) (Grant, error) {
	nodes, err := liveNodes(ctx, tx, now)
	if err != nil {
		return Grant{}, err
	}
	unmade, err := unmadeOf(ctx, tx, req.DropID)
	if err != nil {
		return Grant{}, fmt.Errorf("counting units without a row: %w", err)
	}
	// More free units than this would not make the lease larger, and counting 100,000 of them costs 30 ms.
	enough := stock.Enough(req.Wanted, nodes)
	var n int
	var anyLeased bool
	err = tx.QueryRowContext(ctx, `SELECT COUNT(*), EXISTS (SELECT 1 FROM units WHERE drop_id = $1 AND state = $3)
		FROM (SELECT serial FROM units WHERE drop_id = $1 AND state = $2 LIMIT CAST($4 AS BIGINT)) AS few`, req.DropID[:], free, leased, enough).Scan(&n, &anyLeased)
	if err != nil {
		return Grant{}, fmt.Errorf("counting free units: %w", err)
	}
	var g Grant
	var lease any // NULL
	if size := stock.Size(min(n+unmade, enough), req.Wanted, nodes); size > 0 {
		if err := makeUnits(ctx, tx, req.DropID, min(size-n, unmade)); err != nil {
			return Grant{}, err
		}
		if g.Lease, err = s.lend(ctx, tx, req, leaseID, size, now); err != nil {
			return Grant{}, err
		}
	} else {
		g.SoldOut = !anyLeased
	}
	if g.Lease != nil {
		lease = leaseID[:]
	}
	soldOut := 0
	if g.SoldOut {
		soldOut = 1
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO grant_requests (request_id, node_id, epoch, drop_id, wanted_units, lease_id, sold_out)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, req.RequestID[:], req.NodeID[:], req.Epoch, req.DropID[:], req.Wanted, lease, soldOut)
	return g, err
}

// lend takes the lowest free serials that no other grant is taking; nil if that leaves none.
func (s *Store) lend(ctx context.Context, tx *sql.Tx, req GrantRequest, leaseID ID, size int, now time.Time) (*fulfillmentv1.Lease, error) {
	rows, err := tx.QueryContext(ctx, `WITH lowest AS MATERIALIZED
			(SELECT serial FROM units WHERE drop_id = $3 AND state = $4 ORDER BY serial LIMIT CAST($5 AS BIGINT)`+s.db.SkipLocked()+`)
		UPDATE units SET state = $1, lease_id = $2 WHERE drop_id = $3 AND serial IN (SELECT serial FROM lowest) RETURNING serial`,
		leased, leaseID[:], req.DropID[:], free, size)
	serials, err := collect(rows, err, func(rows *sql.Rows) (n uint32, err error) { return n, rows.Scan(&n) })
	if err != nil {
		return nil, fmt.Errorf("taking free units: %w", err)
	}
	if len(serials) == 0 {
		return nil, nil
	}
	slices.Sort(serials) // RETURNING promises no order
	l := &fulfillmentv1.Lease{
		LeaseId: leaseID.String(), DropId: req.DropID.String(), NodeId: req.NodeID.String(), Epoch: req.Epoch, Serials: serials,
	}
	raw, err := proto.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encoding a lease: %w", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO leases (lease_id, drop_id, node_id, epoch, grant_time_us, lease) VALUES ($1, $2, $3, $4, $5, $6)`,
		leaseID[:], req.DropID[:], req.NodeID[:], req.Epoch, now.UnixMicro(), raw)
	if err != nil {
		return nil, fmt.Errorf("inserting a lease: %w", err)
	}
	return l, nil
}

// Return frees those of the serials that are still LEASED to the lease, and says how many they were.
func (s *Store) Return(ctx context.Context, c Caller, lease ID, serials []uint32, now time.Time) (freed int, err error) {
	err = s.db.Write(ctx, func(tx *sql.Tx) error {
		freed = 0
		if err := admit(ctx, tx, c, now); err != nil {
			return err
		}
		var drop []byte
		err := tx.QueryRowContext(ctx, `SELECT drop_id FROM leases WHERE lease_id = $1 AND node_id = $2 AND epoch = $3`, lease[:], c.NodeID[:], c.Epoch).Scan(&drop)
		if errors.Is(err, sql.ErrNoRows) {
			return &LeaseNotFoundError{lease}
		}
		if err != nil {
			return err
		}
		unlease, err := tx.PrepareContext(ctx, `UPDATE units SET state = $1, lease_id = NULL
			WHERE drop_id = $2 AND serial = $3 AND state = $4 AND lease_id = $5`)
		if err != nil {
			return err
		}
		defer unlease.Close()
		for _, serial := range serials {
			n, err := affected(unlease.ExecContext(ctx, free, drop, serial, leased, lease[:]))
			if err != nil {
				return err
			}
			freed += n
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("returning units: %w", err)
	}
	return freed, nil
}

// holder is a node in one of its epochs.
type holder struct {
	node  ID
	epoch int64
}

// ActiveLeases lists, oldest first, the ACTIVE leases of a node's epoch with a unit that is still LEASED, but for those that the
// caller knows. A settled drop has none, which keeps the search among the drops that matter.
func (s *Store) ActiveLeases(ctx context.Context, c Caller, known map[ID]bool, limit int) ([]*fulfillmentv1.Lease, error) {
	all, err := recall(&s.leases, s.db, holder{c.NodeID, c.Epoch}, func() ([]ID, error) { return s.activeLeases(ctx, c) })
	if err != nil {
		return nil, fmt.Errorf("listing a node's leases: %w", err)
	}
	var missing []*fulfillmentv1.Lease
	for _, id := range all {
		if known[id] || len(missing) == limit {
			continue
		}
		var raw []byte
		if err := s.db.Read().QueryRowContext(ctx, `SELECT lease FROM leases WHERE lease_id = $1`, id[:]).Scan(&raw); err != nil {
			return nil, fmt.Errorf("reading lease %v: %w", id, err)
		}
		l := &fulfillmentv1.Lease{}
		if err := proto.Unmarshal(raw, l); err != nil {
			return nil, fmt.Errorf("decoding a lease: %w", err)
		}
		missing = append(missing, l)
	}
	return missing, nil
}

func (s *Store) activeLeases(ctx context.Context, c Caller) ([]ID, error) {
	// The state is no parameter: leases have a partial index on it, so SQLite would plan this anew for every heartbeat.
	rows, err := s.db.Read().QueryContext(ctx, `SELECT l.lease_id FROM leases l JOIN drops d ON d.drop_id = l.drop_id
		WHERE l.node_id = $1 AND l.epoch = $2 AND l.state = `+strconv.Itoa(activeLease)+` AND d.settled_time_us IS NULL
		AND EXISTS (SELECT 1 FROM units u WHERE u.lease_id = l.lease_id AND u.state = $3)
		ORDER BY l.grant_time_us, l.lease_id`, c.NodeID[:], c.Epoch, leased)
	return collect(rows, err, func(rows *sql.Rows) (ID, error) {
		var id []byte
		if err := rows.Scan(&id); err != nil {
			return ID{}, err
		}
		return ID(id), nil
	})
}

func affected(r sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := r.RowsAffected()
	return int(n), err
}
