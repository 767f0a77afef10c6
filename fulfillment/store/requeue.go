package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rimlight/rimlight/fulfillment/orders"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
)

// Requeue is an operator's word that a microfulfillment node is lost for good.
type Requeue struct {
	NodeID ID
	// Role is who asked.
	Role string
	// Request is what was asked, kept. Its request id makes repeats.
	Request *fulfillmentv1.RequeueOrdersRequest
}

// Requeued is what a Requeue meets.
type Requeued struct {
	// Seen is when the node last greeted, to about an hour; zero: it was forgotten.
	Seen time.Time
	// Ready orders wait for another node, Dead ones had been accepted, Cleared ones may have left.
	Ready, Dead, Cleared int
}

// Requeue takes the orders from a node by the rules of package orders, and forgets the node, so that no drop names its key.
// It counts the drops that did. The same request again answers the same; another one under its id gets ErrReplayed. A node
// that never was, or of which nothing is left, gets NotJoinedError.
func (s *Store) Requeue(ctx context.Context, r Requeue, now time.Time) (out Requeued, drops int, err error) {
	err = s.db.Write(ctx, func(tx *sql.Tx) error {
		before, repeat, err := requeuedBefore(ctx, tx, r)
		if err != nil || repeat {
			out = before
			return err
		}
		// As a greeting: a drop that is being planned is there when this is committed, or reads the depots after it.
		if _, err := tx.ExecContext(ctx, `UPDATE counters SET value = value WHERE name = $1`, catalogRevision); err != nil {
			return err
		}
		var olds, changed []Order
		if out, olds, changed, err = requeue(ctx, tx, r, s.db.ForUpdate(), now); err != nil {
			return err
		}
		if err := saveOrders(ctx, tx, olds, changed, now); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM depots WHERE node_id = $1`, r.NodeID.String()); err != nil {
			return err
		}
		return keepRequeue(ctx, tx, r, out, now)
	})
	if err == nil {
		drops, err = s.nameAllDepots(ctx)
	}
	if err != nil {
		return Requeued{}, 0, fmt.Errorf("taking a lost node's orders: %w", err)
	}
	return out, drops, nil
}

// RehearseRequeue is what a Requeue would meet now.
func (s *Store) RehearseRequeue(ctx context.Context, r Requeue, now time.Time) (Requeued, error) {
	out, _, _, err := requeue(ctx, s.db.Read(), r, "", now)
	if err != nil {
		return Requeued{}, fmt.Errorf("rehearsing a requeue: %w", err)
	}
	return out, nil
}

// requeue works out what becomes of a node's orders; hold is sqldb's ForUpdate, or nothing.
func requeue(ctx context.Context, q querier, r Requeue, hold string, now time.Time) (out Requeued, olds, changed []Order, err error) {
	node := r.NodeID.String()
	var seen int64
	err = q.QueryRowContext(ctx, `SELECT seen_time_us FROM depots WHERE node_id = $1`, node).Scan(&seen)
	forgotten := errors.Is(err, sql.ErrNoRows)
	if err != nil && !forgotten {
		return out, nil, nil, err
	}
	if !forgotten {
		out.Seen = fromMicros(seen)
	}
	rows, err := q.QueryContext(ctx, `SELECT order_id FROM orders WHERE worker = $1 AND state IN ($2, $3, $4) AND sku <> '' ORDER BY order_id`,
		node, orders.Leased, orders.Acked, orders.Cleared)
	list, err := collect(rows, err, func(rows *sql.Rows) (ID, error) {
		var id []byte
		if err := rows.Scan(&id); err != nil {
			return ID{}, err
		}
		return ID(id), nil
	})
	if err != nil {
		return out, nil, nil, err
	}
	if forgotten && len(list) == 0 {
		return out, nil, nil, &NotJoinedError{r.NodeID}
	}
	known, err := getOrders(ctx, q, list, hold)
	if err != nil {
		return out, nil, nil, err
	}
	for _, id := range list {
		old := known[id]
		o := old
		if old.State == orders.Cleared && old.Worker == node {
			out.Cleared++
		}
		if o.Order, err = orders.Requeue(old.Order, node, r.Request.GetIncludeCleared(), now); errors.Is(err, orders.ErrFenced) {
			continue
		} else if err != nil {
			return out, nil, nil, err
		}
		switch old.State {
		case orders.Leased:
			out.Ready++
		case orders.Acked:
			out.Dead++
		}
		o.Reason, o.StateTime = orders.Lost, now
		olds, changed = append(olds, old), append(changed, o)
	}
	return out, olds, changed, nil
}

// requeuedBefore is what the same request met.
func requeuedBefore(ctx context.Context, tx *sql.Tx, r Requeue) (out Requeued, repeat bool, err error) {
	var raw []byte
	var seen int64
	err = tx.QueryRowContext(ctx, `SELECT request, seen_time_us, requeued, dead, cleared FROM requeues WHERE request_id = $1`, r.Request.GetRequestId()).
		Scan(&raw, &seen, &out.Ready, &out.Dead, &out.Cleared)
	if errors.Is(err, sql.ErrNoRows) {
		return Requeued{}, false, nil
	}
	if err != nil {
		return Requeued{}, false, err
	}
	request, err := encodeRequeue(r)
	if err == nil && !slices.Equal(raw, request) {
		err = ErrReplayed
	}
	if seen != 0 {
		out.Seen = fromMicros(seen)
	}
	return out, true, err
}

func keepRequeue(ctx context.Context, tx *sql.Tx, r Requeue, out Requeued, now time.Time) error {
	request, err := encodeRequeue(r)
	if err != nil {
		return err
	}
	seen := int64(0)
	if !out.Seen.IsZero() {
		seen = out.Seen.UnixMicro()
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO requeues (request_id, node_id, role, requeue_time_us, request, seen_time_us, requeued, dead, cleared)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, r.Request.GetRequestId(), r.NodeID.String(), r.Role, now.UnixMicro(), request, seen, out.Ready, out.Dead, out.Cleared)
	return err
}

func encodeRequeue(r Requeue) ([]byte, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.Request)
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	return raw, nil
}
