package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rimlight/rimlight/fulfillment/orders"
	"github.com/rimlight/rimlight/internal/sqldb"
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
	// Trace is what package telemetry goes on from; empty: nobody traced the purchase.
	Trace []byte
}

// Physical tells that nodes work on it.
func (o Order) Physical() bool { return o.SKU != "" }

const orderColumns = `o.order_id, o.purchase_id, o.drop_id, o.serial, o.state, o.worker, o.attempt, o.until_us, o.state_time_us, o.place_time_us, o.position, o.licence_key,
	o.sku, o.region, o.reason, o.tracking, o.assign_time_us, o.trace`

func scanOrder(row scanner, more ...any) (Order, error) {
	var o Order
	var id, drop []byte
	var until, state, place, assign int64
	err := row.Scan(append([]any{&id, &o.PurchaseID, &drop, &o.Serial, &o.State, &o.Worker, &o.Attempt, &until, &state, &place, &o.Position, &o.LicenceKey,
		&o.SKU, &o.Region, &o.Reason, &o.Tracking, &assign, &o.Trace}, more...)...)
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

// getOrders reads those of many that are there; hold is sqldb's ForUpdate, or nothing.
func getOrders(ctx context.Context, q querier, list []ID, hold string) (map[ID]Order, error) {
	found := make(map[ID]Order, len(list))
	sorted := slices.SortedFunc(slices.Values(list), func(a, b ID) int { return bytes.Compare(a[:], b[:]) }) // held in one order
	for some := range sqldb.Pieces(slices.Compact(sorted)) {
		args := make([]any, len(some))
		for i := range some {
			args[i] = some[i][:]
		}
		if err := each(ctx, q, func(r *sql.Rows) error {
			o, err := scanOrder(r)
			found[o.ID] = o
			return err
		}, `SELECT `+orderColumns+` FROM orders o WHERE o.order_id IN `+sqldb.Values(1, len(some))+` ORDER BY o.order_id`+hold, args...); err != nil {
			return nil, fmt.Errorf("reading orders: %w", err)
		}
	}
	return found, nil
}

// GetOrder reads one order.
func (s *Store) GetOrder(ctx context.Context, id ID) (Order, error) {
	return getOrder(ctx, s.db.Read(), id)
}

// Placement is a new order: of the order only ID, PurchaseID, DropID, Serial, Region and Trace are read.
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
		fresh, err := s.freshOrders(ctx, tx, placed)
		if err != nil {
			return err
		}
		skus := map[ID]string{}
		for i := range fresh {
			o := &fresh[i]
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
			o.Order.Order = orders.Order{State: orders.Ready, Until: now}
			o.PlaceTime = now
		}
		if err := s.checkSold(ctx, tx, fresh); err != nil {
			return err
		}
		return insertOrders(ctx, tx, fresh, now)
	})
	if err != nil {
		return fmt.Errorf("placing orders: %w", err)
	}
	return nil
}

// freshOrders are those that are not there yet, each once.
func (s *Store) freshOrders(ctx context.Context, tx *sql.Tx, placed []Placement) ([]Placement, error) {
	list := make([]ID, len(placed))
	for i, o := range placed {
		list[i] = o.ID
	}
	known, err := getOrders(ctx, tx, list, "")
	if err != nil {
		return nil, err
	}
	var fresh []Placement
	for _, o := range placed {
		before, there := known[o.ID]
		if !there {
			known[o.ID] = o.Order
			fresh = append(fresh, o)
			continue
		}
		if before.PurchaseID != o.PurchaseID || before.DropID != o.DropID || before.Serial != o.Serial {
			return nil, fmt.Errorf("order %v: %w", o.ID, ErrReplayed)
		}
	}
	return fresh, nil
}

// checkSold holds the units of new orders, and refuses one that is not sold to its order's purchase, or has an order.
func (s *Store) checkSold(ctx context.Context, tx *sql.Tx, fresh []Placement) error {
	keys := make([]unitKey, len(fresh))
	serials := map[ID][]uint32{}
	for i, o := range fresh {
		keys[i] = unitKey{o.DropID, o.Serial}
		serials[o.DropID] = append(serials[o.DropID], o.Serial)
	}
	units, err := s.holdUnits(ctx, tx, keys)
	if err != nil {
		return err
	}
	taken := map[unitKey]bool{}
	for drop, list := range serials {
		for some := range sqldb.Pieces(list) {
			n := len(some)
			if err := each(ctx, tx, func(r *sql.Rows) error {
				p := unitKey{drop: drop}
				err := r.Scan(&p.serial)
				taken[p] = true
				return err
			}, fmt.Sprintf(`SELECT serial FROM orders WHERE serial IN %s AND drop_id = $%d AND state <> 5`, sqldb.Values(1, n), n+1),
				append(sqldb.Args(some), drop[:])...); err != nil {
				return err
			}
		}
	}
	for i, o := range fresh {
		u := units[keys[i]]
		if u.state != sold || taken[keys[i]] || token.PurchaseID(u.token) != o.PurchaseID {
			return fmt.Errorf("order %v: %w", o.ID, &UnitNotSoldError{o.DropID, o.Serial})
		}
		taken[keys[i]] = true
	}
	return nil
}

func insertOrders(ctx context.Context, tx *sql.Tx, fresh []Placement, now time.Time) error {
	if len(fresh) == 0 {
		return nil
	}
	position, err := draw(ctx, tx, orderCursor, len(fresh))
	if err != nil {
		return err
	}
	placed := make([]Order, len(fresh))
	for i, o := range fresh {
		placed[i], placed[i].Position = o.Order, position+int64(i)
	}
	for some := range sqldb.Pieces(placed) {
		if _, err := tx.ExecContext(ctx, insertOrder+sqldb.Values(len(some), orderFields), orderRows(some, now)...); err != nil {
			return err
		}
	}
	for _, o := range fresh {
		if !o.Physical() {
			continue
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO order_details (order_id, details) VALUES ($1, $2)`, o.ID[:], append([]byte{}, o.Details...)); err != nil {
			return err
		}
	}
	return insertEvents(ctx, tx, position, placed, now)
}

const (
	orderFields = 18
	insertOrder = `INSERT INTO orders (order_id, purchase_id, drop_id, serial, state, worker, attempt, until_us, state_time_us, place_time_us, position,
		licence_key, sku, region, reason, tracking, assign_time_us, trace) VALUES `
)

// orderRows are the parameters of insertOrder, of orders that came into their state at now.
func orderRows(list []Order, now time.Time) []any {
	args := make([]any, 0, len(list)*orderFields)
	for i := range list {
		o := &list[i]
		args = append(args, o.ID[:], o.PurchaseID, o.DropID[:], o.Serial, o.State, o.Worker, o.Attempt, o.Until.UnixMicro(), now.UnixMicro(),
			o.PlaceTime.UnixMicro(), o.Position, o.LicenceKey, o.SKU, o.Region, o.Reason, o.Tracking, o.assigned(), o.Trace)
	}
	return args
}

// assigned is 0 for an order that no worker has had.
func (o Order) assigned() int64 {
	if o.AssignTime.IsZero() {
		return 0
	}
	return o.AssignTime.UnixMicro()
}

// insertEvents stores that orders came into their states, under cursors from one on.
func insertEvents(ctx context.Context, tx *sql.Tx, cursor int64, list []Order, now time.Time) error {
	for some := range sqldb.Pieces(list) {
		args := make([]any, 0, 5*len(some))
		for i := range some {
			args = append(args, cursor, some[i].ID[:], some[i].State, some[i].Attempt, now.UnixMicro())
			cursor++
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO order_events (cursor, order_id, state, attempt, state_time_us) VALUES `+
			sqldb.Values(len(some), 5), args...); err != nil {
			return err
		}
	}
	return nil
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

func (s *Store) nextOrder(ctx context.Context, query string, args ...any) (time.Time, bool, error) {
	var at sql.NullInt64
	if err := s.db.Read().QueryRowContext(ctx, query, args...).Scan(&at); err != nil {
		return time.Time{}, false, fmt.Errorf("reading when the next order's time comes: %w", err)
	}
	return fromMicros(at.Int64), at.Valid, nil
}

// Step turns an order into what it becomes, by the rules of package orders. Its state, licence key, reason, tracking and
// times of assignment are stored.
type Step func(*Order) error

// Advance takes a step with each of the orders in one transaction, and returns those that took it. An order whose step is
// fenced (orders.ErrFenced) is left alone; any other error undoes all. The step may run more than once. The orders are held
// meanwhile: of two who step at the same time, the second sees what the first did.
func (s *Store) Advance(ctx context.Context, list []ID, now time.Time, step Step) ([]Order, error) {
	var advanced []Order
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		known, err := getOrders(ctx, tx, list, s.db.ForUpdate())
		if err != nil {
			return err
		}
		advanced = nil
		var olds, changed []Order
		for _, id := range list {
			old, there := known[id]
			if !there {
				return fmt.Errorf("order %v: %w", id, &OrderNotFoundError{id})
			}
			o := old
			if err := step(&o); errors.Is(err, orders.ErrFenced) {
				continue
			} else if err != nil {
				return fmt.Errorf("order %v: %w", id, err)
			}
			if o.Order != old.Order { // else a repeat
				o.StateTime = now
				olds, changed = append(olds, old), append(changed, o)
			}
			advanced = append(advanced, o)
		}
		return saveOrders(ctx, tx, olds, changed, now)
	})
	if err != nil {
		return nil, fmt.Errorf("advancing orders: %w", err)
	}
	return advanced, nil
}

// saveOrders stores steps of orders that this transaction holds, and their events.
func saveOrders(ctx context.Context, tx *sql.Tx, olds, changed []Order, now time.Time) error {
	if len(changed) == 0 {
		return nil
	}
	for some := range sqldb.Pieces(changed) {
		if _, err := tx.ExecContext(ctx, insertOrder+sqldb.Values(len(some), orderFields)+` ON CONFLICT (order_id) DO UPDATE SET
			state = excluded.state, worker = excluded.worker, attempt = excluded.attempt, until_us = excluded.until_us,
			state_time_us = excluded.state_time_us, licence_key = excluded.licence_key, reason = excluded.reason,
			tracking = excluded.tracking, assign_time_us = excluded.assign_time_us`, orderRows(some, now)...); err != nil {
			return err
		}
	}
	for i := range changed {
		if !changed[i].Physical() {
			continue
		}
		if err := remember(ctx, tx, &olds[i], &changed[i]); err != nil {
			return fmt.Errorf("order %v: %w", changed[i].ID, err)
		}
	}
	cursor, err := draw(ctx, tx, orderCursor, len(changed))
	if err != nil {
		return err
	}
	return insertEvents(ctx, tx, cursor, changed, now)
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
		var keys []string
		for _, state := range q.States {
			keys = append(keys, arg(int(state)))
		}
		where = append(where, "o.state IN ("+strings.Join(keys, ", ")+")")
	}
	if q.Before > 0 {
		where = append(where, "o.position < "+arg(q.Before))
	}
	rows, err := s.db.Read().QueryContext(ctx, `SELECT `+orderColumns+` FROM orders o WHERE `+strings.Join(where, " AND ")+
		` ORDER BY o.position DESC LIMIT CAST(`+arg(q.Limit)+` AS BIGINT)`, args...)
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
