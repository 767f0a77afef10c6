package store

import (
	"context"
	"database/sql"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/saga"
)

type event struct {
	tokenID ID
	state   saga.State
	reason  saga.Reason
	time    int64
}

// Event is a change of a purchase.
type Event struct {
	Cursor int64
	// State, Reason and Time are what the purchase came into, and when in microseconds.
	State  saga.State
	Reason saga.Reason
	Time   int64
	// Now is the purchase as it is at the time of reading.
	Now Purchase
}

// Announce appends an event for the purchase as it is.
func (tx *Tx) Announce(p *Purchase) {
	tx.events = append(tx.events, event{p.TokenID, p.State, p.Reason, p.StateTime})
	tx.changes.Purchases = append(tx.changes.Purchases, Changed{p.TokenID, p.State})
}

// eventsPerInsert keeps a statement below SQLite's 32,766 parameters with a wide margin.
const eventsPerInsert = 200

// flushEvents numbers and stores the transaction's events.
func (tx *Tx) flushEvents(ctx context.Context) error {
	if len(tx.events) == 0 {
		return nil
	}
	cursor, err := tx.take(ctx, "event", len(tx.events))
	if err != nil {
		return err
	}
	for rest := tx.events; len(rest) > 0; {
		batch := rest[:min(len(rest), eventsPerInsert)]
		rest = rest[len(batch):]
		args := make([]any, 0, 5*len(batch))
		for _, e := range batch {
			args = append(args, cursor, e.tokenID, e.state, e.reason, e.time)
			cursor++
		}
		if _, err := tx.exec(ctx, "appending events",
			`INSERT INTO events (cursor, token_id, state, reason, event_time) VALUES `+sqldb.Values(len(batch), 5), args...); err != nil {
			return err
		}
	}
	return nil
}

// EventHead is the last cursor given out.
func (q Queries) EventHead(ctx context.Context) (int64, error) { return q.counter(ctx, "event") }

// Events lists up to n events after a cursor and not after head, oldest first.
func (q Queries) Events(ctx context.Context, after, head int64, n int) ([]Event, error) {
	return q.events(ctx, "", n, after, head)
}

// EventsOfNode lists those of purchases of which the node accepted a redemption, the winner or not.
func (q Queries) EventsOfNode(ctx context.Context, nodeID ID, after, head int64, n int) ([]Event, error) {
	return q.events(ctx, ` AND EXISTS (SELECT 1 FROM candidates c WHERE c.token_id = e.token_id AND c.node_id = $4)`, n, after, head, nodeID)
}

func (q Queries) events(ctx context.Context, where string, n int, after, head int64, more ...any) ([]Event, error) {
	return collect(ctx, q.q, "listing events", func(r *sql.Rows, e *Event) error {
		return scanPurchase(r.Scan, &e.Now, &e.Cursor, &e.State, &e.Reason, &e.Time)
	}, `SELECT `+purchaseColumns+`, e.cursor, e.state, e.reason, e.event_time
		FROM events e JOIN purchases p ON p.token_id = e.token_id LEFT JOIN vouchers v ON v.token_id = p.token_id
		WHERE e.cursor > $1 AND e.cursor <= $2`+where+` ORDER BY e.cursor LIMIT CAST($3 AS BIGINT)`, append([]any{after, head, n}, more...)...)
}
