// Package store is fulfillment's SQL: the catalogue, the escrow of serial-numbered stock, and the orders.
//
//	unit   FREE ──Grant──> LEASED(lease) ──Settle──> SOLD(K)        back to FREE: Return, Release
//	order  see fulfillment/orders; every change of state is an event with a cursor
//
// Invariants, each of them a key or a compare-and-set and not a promise of the callers:
//   - a unit is one row: it cannot be in two states, and FREE + LEASED + SOLD = units;
//   - K holds one unit at most (unique index), and none after its settled unit was released;
//   - a lease's set of serials never changes and its id is never reused, so a unit that left a lease never comes back to
//     it: whatever is late or repeated finds another lease id and changes nothing;
//   - a unit has one order at most that is not dead;
//   - revisions and cursors are drawn inside the transaction that uses them, so a reader that has seen n has seen all up to n.
//
// Every method is one transaction, or one read of a committed state. Times and ids are given; nothing here reads a clock
// or a random source. It knows no gRPC; its errors are in errors.go.
package store

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the schema up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("reading fulfillment's migrations: %w", err)
	}
	if err := db.Migrate(ctx, dir); err != nil {
		return fmt.Errorf("fulfillment's store: %w", err)
	}
	return nil
}

// ID is a UUID's 16 bytes.
type ID [16]byte

// String is the UUID's canonical text.
func (id ID) String() string { return ids.Text(id[:]) }

// ParseID reads a UUID in canonical text form.
func ParseID(text string) (ID, error) {
	b, err := ids.Bytes(text)
	if err != nil {
		return ID{}, err
	}
	return ID(b), nil
}

// Store is fulfillment's database. It is safe for concurrent use.
type Store struct {
	db        *counted
	supplies  memo[ID, Supply]
	leases    memo[holder, []ID]
	standings memo[holder, *standing]
}

// New wraps a migrated database. One that has Alone gets one Store.
func New(db *sqldb.DB) *Store { return &Store{db: &counted{DB: db}} }

// Shared tells that other replicas may change the store.
func (s *Store) Shared() bool { return !s.db.Alone() }

// The sequences of the table counters.
const (
	catalogRevision = "catalog_revision"
	orderCursor     = "order_cursor"
	nodeKey         = "node_key"
)

// draw takes n numbers of a sequence and returns the first.
func draw(ctx context.Context, tx *sql.Tx, sequence string, n int) (int64, error) {
	var last int64
	err := tx.QueryRowContext(ctx, `UPDATE counters SET value = value + $1 WHERE name = $2 RETURNING value`, n, sequence).Scan(&last)
	if err != nil {
		return 0, fmt.Errorf("drawing from %s: %w", sequence, err)
	}
	return last - int64(n) + 1, nil
}

// drawn is the last number of a sequence that was drawn.
func (s *Store) drawn(ctx context.Context, sequence string) (int64, error) {
	var last int64
	if err := s.db.Read().QueryRowContext(ctx, `SELECT value FROM counters WHERE name = $1`, sequence).Scan(&last); err != nil {
		return 0, fmt.Errorf("reading the counter %s: %w", sequence, err)
	}
	return last, nil
}

// collect reads all rows, and closes them: a connection held by open rows would starve the writer of a store in memory.
func collect[T any](rows *sql.Rows, err error, scan func(*sql.Rows) (T, error)) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, errors.Join(rows.Err(), rows.Close())
}

// each gives every row of a query to fn.
func each(ctx context.Context, q querier, fn func(*sql.Rows) error, query string, args ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	_, err = collect(rows, err, func(r *sql.Rows) (struct{}, error) { return struct{}{}, fn(r) })
	return err
}

// sortedIDs are the keys of m in one order.
func sortedIDs[T any](m map[ID]T) []ID {
	return slices.SortedFunc(maps.Keys(m), func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
}

func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }
