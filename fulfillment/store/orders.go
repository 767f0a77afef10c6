package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rimlight/rimlight/fulfillment/orders"
	"github.com/rimlight/rimlight/internal/token"
)

// Order is one order as it is stored.
type Order struct {
	ID         ID
	PurchaseID string
	DropID     ID
	Serial     uint32
	orders.Order
	StateTime, PlaceTime time.Time
	// Position is its place in the order of placing.
	Position int64
	// LicenceKey is empty before DELIVERED.
	LicenceKey string
	// SKU is what nodes know the good by; empty: a digital order.
	SKU string
	// Region accepted the purchase; empty of a digital order.
	Region string
	// Reason is why it was last refused or given up.
	Reason orders.Reason
	// Tracking is empty before SHIPPED.
	Tracking string
	// AssignTime is when it was last given to a worker.
	AssignTime time.Time
}

// Physical tells that nodes work on it.
func (o Order) Physical() bool { return o.SKU != "" }

const orderColumns = `o.order_id, o.purchase_id, o.drop_id, o.serial, o.state, o.worker, o.attempt, o.until_us, o.state_time_us, o.place_time_us, o.position, o.licence_key,
	o.sku, o.region, o.reason, o.tracking, o.assign_time_us`

func scanOrder(row scanner, more ...any) (Order, error) {
	var o Order
	var id, drop []byte
	var until, state, place, assign int64
	err := row.Scan(append([]any{&id, &o.PurchaseID, &drop, &o.Serial, &o.State, &o.Worker, &o.Attempt, &until, &state, &place, &o.Position, &o.LicenceKey,
		&o.SKU, &o.Region, &o.Reason, &o.Tracking, &assign}, more...)...)
	if err != nil {
		return Order{}, err
	}
	o.ID, o.DropID = ID(id), ID(drop)
	o.Until, o.StateTime, o.PlaceTime, o.AssignTime = fromMicros(until), fromMicros(state), fromMicros(place), fromMicros(assign)
	return o, nil
}

func getOrder(ctx context.Context, q querier, id ID) (Order, error) {
	o, err := scanOrder(q.QueryRowContext(ctx, `SELECT `+orderColumns+` FROM orders o WHERE o.order_id = $1`, id[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return Order{}, &OrderNotFoundError{id}
	}
	if err != nil {
		return Order{}, fmt.Errorf("reading order %v: %w", id, err)
	}
	return o, nil
}

// GetOrder reads one order.
func (s *Store) GetOrder(ctx context.Context, id ID) (Order, error) {
	return getOrder(ctx, s.db.Read(), id)
}

// Placement is a new order: of the order only ID, PurchaseID, DropID, Serial and Region are read.
type Placement struct {
	Order
	// Details say where a physical order goes.
	Details []byte
}

// PlaceOrders stores new orders as READY, all or none. An order that is there already is left alone, ErrReplayed if it was
// for something else. The unit must be SOLD to the order's purchase, else UnitNotSoldError: that makes "one shipped order
// per unit" a fact of the escrow. Whether it is physical is its drop's word; a digital one keeps neither region nor details.
func (s *Store) PlaceOrders(ctx context.Context, placed []Placement, now time.Time) error {
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		skus := map[ID]string{}
		for _, o := range placed {
			before, err := getOrder(ctx, tx, o.ID)
			if err == nil {
				if before.PurchaseID != o.PurchaseID || before.DropID != o.DropID || before.Serial != o.Serial {
					return fmt.Errorf("order %v: %w", o.ID, ErrReplayed)
				}
				continue
			}
			if missing := (*OrderNotFoundError)(nil); !errors.As(err, &missing) {
				return err
			}
			if err := s.hold(ctx, tx, o.DropID, o.Serial); err != nil {
				return fmt.Errorf("order %v: %w", o.ID, err)
			}
			if _, known := skus[o.DropID]; !known {
				d, err := getDrop(ctx, tx, o.DropID)
				if missing := (*DropNotFoundError)(nil); errors.As(err, &missing) {
					return fmt.Errorf("order %v: %w", o.ID, &UnitNotSoldError{o.DropID, o.Serial})
				}
				if err != nil {
					return err
				}
				skus[o.DropID] = d.Terms.GetSku()
			}
			if o.SKU = skus[o.DropID]; !o.Physical() {
				o.Region, o.Details = "", nil
			}
			if err := placeOrder(ctx, tx, o, now); err != nil {
				return fmt.Errorf("order %v: %w", o.ID, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("placing orders: %w", err)
	}
	return nil
}

func placeOrder(ctx context.Context, tx *sql.Tx, o Placement, now time.Time) error {
	var k []byte
	var taken bool
	err := tx.QueryRowContext(ctx, `SELECT token_id, EXISTS (SELECT 1 FROM orders WHERE drop_id = $1 AND serial = $2 AND state <> $4)
		FROM units WHERE drop_id = $1 AND serial = $2 AND state = $3`, o.DropID[:], o.Serial, sold, orders.Dead).Scan(&k, &taken)
	if errors.Is(err, sql.ErrNoRows) || err == nil && (taken || token.PurchaseID(k) != o.PurchaseID) {
		return &UnitNotSoldError{o.DropID, o.Serial}
	}
	if err != nil {
		return err
	}
	o.Order.Order = orders.Order{State: orders.Ready, Until: now}
	if o.Position, err = draw(ctx, tx, orderCursor, 1); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO orders (order_id, purchase_id, drop_id, serial, state, worker, attempt, until_us, state_time_us, place_time_us, position, licence_key, sku, region)
		VALUES ($1, $2, $3, $4, $5, '', 0, $6, $6, $6, $7, '', $8, $9)`, o.ID[:], o.PurchaseID, o.DropID[:], o.Serial, o.State, now.UnixMicro(), o.Position, o.SKU, o.Region)
	if err != nil {
		return err
	}
	if o.Physical() {
		if _, err := tx.ExecContext(ctx, `INSERT INTO order_details (order_id, details) VALUES ($1, $2)`, o.ID[:], append([]byte{}, o.Details...)); err != nil {
			return err
		}
	}
	return insertEvent(ctx, tx, o.Position, o.Order, now)
}

func insertEvent(ctx context.Context, tx *sql.Tx, cursor int64, o Order, now time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO order_events (cursor, order_id, state, attempt, state_time_us) VALUES ($1, $2, $3, $4, $5)`,
		cursor, o.ID[:], o.State, o.Attempt, now.UnixMicro())
	return err
}

// Claimable lists digital orders that a worker may claim at now, longest waiting first.
func (s *Store) Claimable(ctx context.Context, now time.Time, limit int) ([]ID, error) {
	rows, err := s.db.Read().QueryContext(ctx, `SELECT order_id FROM orders WHERE state < 4 AND sku = '' AND until_us <= $1
		ORDER BY until_us, position LIMIT CAST($2 AS BIGINT)`, now.UnixMicro(), limit)
	found, err := collect(rows, err, func(rows *sql.Rows) (ID, error) {
		var id []byte
		if err := rows.Scan(&id); err != nil {
			return ID{}, err
		}
		return ID(id), nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for orders to claim: %w", err)
	}
	return found, nil
}

// NextClaimable is when the next digital order may be claimed; false: none is open.
func (s *Store) NextClaimable(ctx context.Context) (time.Time, bool, error) {
	return s.nextOrder(ctx, `SELECT MIN(until_us) FROM orders WHERE state < 4 AND sku = ''`)
}

func (s *Store) nextOrder(ctx context.Context, query string) (time.Time, bool, error) {
	var at sql.NullInt64
	if err := s.db.Read().QueryRowContext(ctx, query).Scan(&at); err != nil {
		return time.Time{}, false, fmt.Errorf("reading when the next order's time comes: %w", err)
	}
	return fromMicros(at.Int64), at.Valid, nil
}

// Step turns an order into what it becomes, by the rules of package orders. Its state, licence key, reason, tracking and
// times of assignment are stored.
type Step func(*Order) error

// Advance takes a step with each of the orders in one transaction, and returns those that took it. An order whose step is
// fenced (orders.ErrFenced) is left alone; any other error undoes all. The step may run more than once.
func (s *Store) Advance(ctx context.Context, list []ID, now time.Time, step Step) ([]Order, error) {
	var advanced []Order
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		advanced = nil
		for _, id := range list {
			o, err := advance(ctx, tx, id, now, step)
			if errors.Is(err, orders.ErrFenced) {
				continue
			}
			if err != nil {
				return fmt.Errorf("order %v: %w", id, err)
			}
			advanced = append(advanced, o)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("advancing orders: %w", err)
	}
	return advanced, nil
}

func advance(ctx context.Context, tx *sql.Tx, id ID, now time.Time, step Step) (Order, error) {
	old, err := getOrder(ctx, tx, id)
	if err != nil {
		return Order{}, err
	}
	o := old
	if err := step(&o); err != nil {
		return Order{}, err
	}
	if o.Order == old.Order { // a repeat
		return old, nil
	}
	// Where transactions run side by side, whoever was faster fences this step.
	n, err := affected(tx.ExecContext(ctx, `UPDATE orders SET state = $1, worker = $2, attempt = $3, until_us = $4, state_time_us = $5, licence_key = $6,
		reason = $7, tracking = $8, assign_time_us = $9 WHERE order_id = $10 AND state = $11 AND attempt = $12 AND worker = $13`,
		o.State, o.Worker, o.Attempt, o.Until.UnixMicro(), now.UnixMicro(), o.LicenceKey, o.Reason, o.Tracking, o.AssignTime.UnixMicro(),
		id[:], old.State, old.Attempt, old.Worker))
	if err != nil {
		return Order{}, err
	}
	if n == 0 {
		return Order{}, orders.ErrFenced
	}
	if o.Physical() {
		if err := remember(ctx, tx, &old, &o); err != nil {
			return Order{}, err
		}
	}
	cursor, err := draw(ctx, tx, orderCursor, 1)
	if err != nil {
		return Order{}, err
	}
	o.StateTime = now
	return o, insertEvent(ctx, tx, cursor, o, now)
}

// OrderQuery selects orders, newest first.
type OrderQuery struct {
	// DropID nil: all drops.
	DropID *ID
	// States empty: all states.
	States []orders.State
	// Before is the position of the last one of the page before; 0: from the beginning.
	Before int64
	Limit  int
}

// ListOrders answers a query.
func (s *Store) ListOrders(ctx context.Context, q OrderQuery) ([]Order, error) {
	var args []any
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	where := []string{"1 = 1"}
	if q.DropID != nil {
		where = append(where, "o.drop_id = "+arg(q.DropID[:]))
	}
	if len(q.States) > 0 {
		var places []string
		for _, state := range q.States {
			places = append(places, arg(int(state)))
		}
		where = append(where, "o.state IN ("+strings.Join(places, ", ")+")")
	}
	if q.Before > 0 {
		where = append(where, "o.position < "+arg(q.Before))
	}
	rows, err := s.db.Read().QueryContext(ctx, `SELECT `+orderColumns+` FROM orders o WHERE `+strings.Join(where, " AND ")+
		` ORDER BY o.position DESC LIMIT `+arg(q.Limit), args...)
	list, err := collect(rows, err, func(rows *sql.Rows) (Order, error) { return scanOrder(rows) })
	if err != nil {
		return nil, fmt.Errorf("listing orders: %w", err)
	}
	return list, nil
}

// Event is an order in a state that it came into.
type Event struct {
	Cursor int64
	Order  Order
}

// Events lists events after a cursor in the order of their commits.
func (s *Store) Events(ctx context.Context, after int64, limit int) ([]Event, error) {
	rows, err := s.db.Read().QueryContext(ctx, `SELECT `+orderColumns+`, e.cursor, e.state, e.attempt, e.state_time_us
		FROM order_events e JOIN orders o ON o.order_id = e.order_id WHERE e.cursor > $1 ORDER BY e.cursor LIMIT CAST($2 AS BIGINT)`, after, limit)
	events, err := collect(rows, err, func(rows *sql.Rows) (e Event, err error) {
		var state orders.State
		var attempt int
		var at int64
		if e.Order, err = scanOrder(rows, &e.Cursor, &state, &attempt, &at); err != nil {
			return e, err
		}
		if state != orders.Delivered {
			e.Order.LicenceKey = "" // the row has gone on since
		}
		if state != orders.Shipped {
			e.Order.Tracking = ""
		}
		e.Order.State, e.Order.Attempt, e.Order.StateTime = state, attempt, fromMicros(at)
		return e, nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading order events after %d: %w", after, err)
	}
	return events, nil
}

// LastEvent is the cursor of the last event.
func (s *Store) LastEvent(ctx context.Context) (int64, error) { return s.drawn(ctx, orderCursor) }
