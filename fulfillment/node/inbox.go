package node

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the inbox's schema up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("reading the inbox's migrations: %w", err)
	}
	if err := db.Migrate(ctx, dir); err != nil {
		return fmt.Errorf("the inbox: %w", err)
	}
	return nil
}

// state is where an order is in the inbox. Those marked * wait for fulfillment's answer.
type state int

const (
	taken    state = 1 // * may we have it?
	accepted state = 2 // to be packed
	packed   state = 3 // * may it leave?
	cleared  state = 4 // to be handed to the carrier
	shipped  state = 5 // * it left
	refused  state = 6 // * we will not
	done     state = 7
	lost     state = 8 // another's, or nobody's
)

// steps are what fulfillment has to answer in a state.
var steps = map[state]fulfillmentv1.WorkStep{
	taken: fulfillmentv1.WorkStep_WORK_STEP_ACCEPT, packed: fulfillmentv1.WorkStep_WORK_STEP_CLEAR,
	shipped: fulfillmentv1.WorkStep_WORK_STEP_SHIP, refused: fulfillmentv1.WorkStep_WORK_STEP_REJECT,
}

// entry is one order of the inbox.
type entry struct {
	Parcel
	drop, purchase string // what the details are sealed for
	attempt        uint32
	state          state
	reason         fulfillmentv1.RejectReason
	gone           bool
	trace          []byte // what package telemetry goes on from
}

// inbox is the node's memory.
type inbox struct{ db *sqldb.DB }

// identity reads who the node is, or makes it up at the first start.
func (b inbox) identity(ctx context.Context, now time.Time, random io.Reader) (id string, err error) {
	err = b.db.Write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO identity (one, node_id) VALUES (1, $1) ON CONFLICT DO NOTHING`, ids.NewV7(now, random)); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT node_id FROM identity`).Scan(&id)
	})
	if err != nil {
		return "", fmt.Errorf("reading who the node is: %w", err)
	}
	return id, nil
}

// take remembers an order durably. One that is there already keeps its label, and the fact that it left: a fulfillment
// that was restored from an old copy gives it again, and gets the old parcel's answers.
func (b inbox) take(ctx context.Context, a *fulfillmentv1.Assignment, reason fulfillmentv1.RejectReason, now time.Time) error {
	first := taken
	details := append([]byte{}, a.GetDeliveryDetails()...)
	if reason != 0 {
		first, details = refused, []byte{}
	}
	err := b.db.Write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO inbox (order_id, attempt, state, serial, sku, details, reason, tracking, gone, take_time_us, trace, drop_id, purchase_id)
			VALUES ($1, $2, $3, $4, $5, $6, $7, '', 0, $8, $9, $10, $11)
			ON CONFLICT (order_id) DO UPDATE SET attempt = excluded.attempt, state = excluded.state, details = excluded.details, reason = excluded.reason,
				trace = excluded.trace
			WHERE inbox.attempt < excluded.attempt`,
			a.GetOrderId(), a.GetAttempt(), first, a.GetSerial(), a.GetSku(), details, reason, now.UnixMicro(), a.GetTraceContext(), a.GetDropId(), a.GetPurchaseId())
		return err
	})
	if err != nil {
		return fmt.Errorf("taking order %s: %w", a.GetOrderId(), err)
	}
	return nil
}

// answer uses fulfillment's word on a step. A word on another attempt, or a step that is over, changes nothing.
func (b inbox) answer(ctx context.Context, a *fulfillmentv1.WorkAnswer) error {
	err := b.db.Write(ctx, func(tx *sql.Tx) error {
		e, err := scan(tx.QueryRowContext(ctx, `SELECT `+columns+` FROM inbox WHERE order_id = $1`, a.GetOrderId()))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if step, waits := steps[e.state]; !waits || step != a.GetStep() || e.attempt != a.GetAttempt() {
			return nil
		}
		return set(ctx, tx, e, after(e, a.GetDone()))
	})
	if err != nil {
		return fmt.Errorf("using an answer about order %s: %w", a.GetOrderId(), err)
	}
	return nil
}

// after is the entry that an answer makes of one that waits for it.
func after(e entry, yes bool) entry {
	switch {
	case e.state == refused, e.state == shipped && yes:
		e.state = done
	case !yes:
		e.state = lost
	case e.state == taken && e.Tracking == "":
		e.state = accepted
	case e.state == taken: // the label was made before
		e.state = packed
	case e.state == packed && !e.gone:
		e.state = cleared
	default: // packed, and it left before
		e.state = shipped
	}
	return e
}

// advance stores what work made of an entry, unless an answer was faster.
func (b inbox) advance(ctx context.Context, old, e entry) error {
	err := b.db.Write(ctx, func(tx *sql.Tx) error { return set(ctx, tx, old, e) })
	if err != nil {
		return fmt.Errorf("storing order %s: %w", e.OrderID, err)
	}
	return nil
}

func set(ctx context.Context, tx *sql.Tx, old, e entry) error {
	if e.state >= shipped { // nobody here needs to know any more where it goes
		e.Details = nil
	}
	_, err := tx.ExecContext(ctx, `UPDATE inbox SET state = $1, details = $2, reason = $3, tracking = $4, gone = $5
		WHERE order_id = $6 AND attempt = $7 AND state = $8`,
		e.state, append([]byte{}, e.Details...), e.reason, e.Tracking, e.gone, e.OrderID, old.attempt, old.state)
	return err
}

const columns = `order_id, attempt, state, serial, sku, details, reason, tracking, gone, trace, drop_id, purchase_id`

func scan(row interface{ Scan(...any) error }) (e entry, err error) {
	return e, row.Scan(&e.OrderID, &e.attempt, &e.state, &e.Serial, &e.SKU, &e.Details, &e.reason, &e.Tracking, &e.gone, &e.trace, &e.drop, &e.purchase)
}

// toSay lists what waits for fulfillment's answer.
func (b inbox) toSay(ctx context.Context) ([]entry, error) {
	return b.list(ctx, `state IN ($1, $2, $3, $4)`, -1, taken, packed, shipped, refused)
}

// toDo lists what waits for work, oldest first.
func (b inbox) toDo(ctx context.Context, limit int) ([]entry, error) {
	return b.list(ctx, `state IN ($1, $2)`, limit, accepted, cleared)
}

func (b inbox) list(ctx context.Context, where string, limit int, args ...any) (all []entry, err error) {
	rows, err := b.db.Read().QueryContext(ctx, `SELECT `+columns+` FROM inbox WHERE `+where+` ORDER BY take_time_us, order_id`, args...)
	if err != nil {
		return nil, fmt.Errorf("reading the inbox: %w", err)
	}
	defer rows.Close()
	for rows.Next() && len(all) != limit {
		e, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("reading the inbox: %w", err)
		}
		all = append(all, e)
	}
	return all, errors.Join(rows.Err(), rows.Close())
}
