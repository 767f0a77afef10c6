package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/rimlight/rimlight/fulfillment/orders"
	"github.com/rimlight/rimlight/internal/mutant"
)

// Details reads where an order goes. Empty when they are deleted: a node has them, or nobody needs them any more.
func (s *Store) Details(ctx context.Context, id ID) ([]byte, error) {
	var details []byte
	err := s.db.Read().QueryRowContext(ctx, `SELECT details FROM order_details WHERE order_id = $1`, id[:]).Scan(&details)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("reading the details of order %v: %w", id, err)
	}
	return details, nil
}

// remember keeps the order's refusals, and forgets its details when nobody else will need them.
func remember(ctx context.Context, tx *sql.Tx, old, o *Order) error {
	if old.State == orders.Leased && o.State == orders.Ready {
		if _, err := tx.ExecContext(ctx, `INSERT INTO order_refusals (order_id, worker) VALUES ($1, $2) ON CONFLICT DO NOTHING`, o.ID[:], old.Worker); err != nil {
			return err
		}
	}
	if (o.State == orders.Acked || o.State == orders.Dead) && !mutant.On(mutant.AddressKept) {
		_, err := tx.ExecContext(ctx, `DELETE FROM order_details WHERE order_id = $1`, o.ID[:])
		return err
	}
	return nil
}

// Routable lists physical orders whose time has come at now, longest waiting first: they wait for a node, or the time of
// the node that has them is over. After is the last one of the page before; nil: from the first.
func (s *Store) Routable(ctx context.Context, now time.Time, after *Order, limit int) ([]Order, error) {
	until, position := int64(math.MinInt64), int64(0)
	if after != nil {
		until, position = after.Until.UnixMicro(), after.Position
	}
	rows, err := s.db.Read().QueryContext(ctx, `SELECT `+orderColumns+` FROM orders o WHERE o.state < 4 AND o.sku <> '' AND o.until_us <= $1
		AND (o.until_us, o.position) > (CAST($2 AS BIGINT), CAST($3 AS BIGINT)) ORDER BY o.until_us, o.position LIMIT CAST($4 AS BIGINT)`,
		now.UnixMicro(), until, position, limit)
	found, err := collect(rows, err, func(rows *sql.Rows) (Order, error) { return scanOrder(rows) })
	if err != nil {
		return nil, fmt.Errorf("looking for orders to route: %w", err)
	}
	return found, nil
}

// NextRoutable is when, after now, a physical order's time comes; false: none is left whose time is still to come.
func (s *Store) NextRoutable(ctx context.Context, now time.Time) (time.Time, bool, error) {
	return s.nextOrder(ctx, `SELECT MIN(until_us) FROM orders WHERE state < 4 AND sku <> '' AND until_us > $1`, now.UnixMicro())
}

// Assigned lists orders that a node was given and has not accepted.
func (s *Store) Assigned(ctx context.Context, node string) ([]Order, error) {
	rows, err := s.db.Read().QueryContext(ctx, `SELECT `+orderColumns+` FROM orders o WHERE o.worker = $1 AND o.state = $2 AND o.sku <> '' ORDER BY o.position`,
		node, orders.Leased)
	found, err := collect(rows, err, func(rows *sql.Rows) (Order, error) { return scanOrder(rows) })
	if err != nil {
		return nil, fmt.Errorf("listing what a node was given: %w", err)
	}
	return found, nil
}

// Refusals lists the nodes that did not take an order.
func (s *Store) Refusals(ctx context.Context, id ID) ([]string, error) {
	rows, err := s.db.Read().QueryContext(ctx, `SELECT worker FROM order_refusals WHERE order_id = $1 ORDER BY worker`, id[:])
	found, err := collect(rows, err, func(rows *sql.Rows) (worker string, err error) { return worker, rows.Scan(&worker) })
	if err != nil {
		return nil, fmt.Errorf("reading the refusals of order %v: %w", id, err)
	}
	return found, nil
}

// Load is how much a node has to do.
type Load struct {
	// Open orders are on their way to it, or it works on them.
	Open int
	// Since a given time it was given so many, that it has not refused.
	Since int
}

// Loads counts what nodes have to do.
func (s *Store) Loads(ctx context.Context, since time.Time) (map[string]Load, error) {
	type row struct {
		worker string
		Load
	}
	rows, err := s.db.Read().QueryContext(ctx, `SELECT worker, SUM(CASE WHEN state IN ($1, $2, $3) THEN 1 ELSE 0 END), SUM(CASE WHEN assign_time_us > $4 THEN 1 ELSE 0 END)
		FROM orders WHERE sku <> '' AND worker <> '' AND (state IN ($1, $2, $3) OR assign_time_us > $4) GROUP BY worker`,
		orders.Leased, orders.Acked, orders.Cleared, since.UnixMicro())
	found, err := collect(rows, err, func(rows *sql.Rows) (r row, err error) { return r, rows.Scan(&r.worker, &r.Open, &r.Since) })
	if err != nil {
		return nil, fmt.Errorf("counting what nodes have to do: %w", err)
	}
	loads := make(map[string]Load, len(found))
	for _, r := range found {
		loads[r.worker] = r.Load
	}
	return loads, nil
}
