// Package store is the verifier's SQL: purchases, their redemptions, jobs, events, vouchers, the ledger and keys.
//
// Reads come from Store.Read, changes from Store.Write, which runs one transaction. A transaction collects the events
// that it appends; they get their cursors in one step before the commit, from a counter row of the same transaction, so
// cursors become visible in commit order. After the commit Committed hears which purchases changed and which kinds of
// jobs were added; it is a hint for speed, every reader looks again after a while.
//
// One SQL text for SQLite and PostgreSQL; see package sqldb. The package knows rows, not rules: those are in saga.
package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/saga"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Errors of the store.
var (
	// ErrNotFound: no such row.
	ErrNotFound = errors.New("store: not found")
	// ErrConflict: the row is not any more what the change was decided on.
	ErrConflict = errors.New("store: lost a compare-and-set")
)

// ID is 16 bytes, as the store keeps every identifier.
type ID [16]byte

// ParseUUID reads a UUID in canonical form.
func ParseUUID(text string) (ID, error) {
	b, err := ids.Bytes(text)
	if err != nil {
		return ID{}, err
	}
	return ID(b), nil
}

// ParseHex reads 32 hex digits.
func ParseHex(text string) (ID, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(ID{}) {
		return ID{}, fmt.Errorf("reading an id: %d characters that are not 32 hex digits", len(text))
	}
	return ID(b), nil
}

// UUID is the canonical text form.
func (id ID) UUID() string { return ids.Text(id[:]) }

// Hex is 32 hex digits.
func (id ID) Hex() string { return hex.EncodeToString(id[:]) }

// Value implements driver.Valuer.
func (id ID) Value() (driver.Value, error) { return id[:], nil }

// Scan implements sql.Scanner.
func (id *ID) Scan(src any) error {
	b, ok := src.([]byte)
	if !ok || len(b) != len(id) {
		return fmt.Errorf("store: an id is %T", src)
	}
	copy(id[:], b)
	return nil
}

// Changes is what a commit did, for whoever waits for it.
type Changes struct {
	// Purchases got an event.
	Purchases []Changed
	// Jobs has the kinds of jobs that became due.
	Jobs []Kind
	// Keys tells that signing keys were added, Webhooks that one begins again.
	Keys, Webhooks bool
}

// Changed is a purchase and the state that it is in now.
type Changed struct {
	TokenID ID
	State   saga.State
}

// Store is the verifier's database.
type Store struct {
	db        *sqldb.DB
	writes    queue[func(*Tx) error]
	purchases queue[purchaseChange]
	// Committed, set before first use, is called after every commit. It must not block.
	Committed func(Changes)
	// Fault, set before first use by tests only, is asked before every commit and after it; an error is a crash there.
	Fault func(committed bool) error
}

// Migrate brings a database up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("reading the verifier's migrations: %w", err)
	}
	return db.Migrate(ctx, dir)
}

// New uses a migrated database.
func New(db *sqldb.DB) *Store {
	return &Store{db: db, writes: newQueue[func(*Tx) error](), purchases: newQueue[purchaseChange]()}
}

// Queries are the reads, over committed states or inside a transaction.
type Queries struct {
	q sqldb.Querier
	// lock ends the SELECT of a purchase inside a transaction. Whatever a transaction decides about a purchase, its
	// redemptions and its jobs, it reads the purchase first, so that two of them decide one after the other.
	lock string
}

// Read sees committed states.
func (s *Store) Read() Queries { return Queries{q: s.db.Read()} }

// Tx is a transaction: its reads and changes.
type Tx struct {
	Queries
	tx      *sql.Tx
	skip    string // ends a SELECT that picks rows to take
	pending pending
	spoiled error // what was pending could not be written
	events  []event
	changes Changes
}

func newTx(sqlTx *sql.Tx, lock, skip string) *Tx {
	tx := &Tx{tx: sqlTx, skip: skip}
	tx.Queries = Queries{reading{tx}, lock}
	return tx
}

// Write runs fn in one transaction. fn may run more than once, so its only effects are its statements.
func (s *Store) Write(ctx context.Context, fn func(*Tx) error) error {
	var changes Changes
	err := s.db.Write(ctx, func(sqlTx *sql.Tx) error {
		tx := newTx(sqlTx, s.db.ForUpdate(), s.db.SkipLocked())
		if err := tx.do(ctx, fn); err != nil {
			return err
		}
		if err := tx.flushEvents(ctx); err != nil {
			return err
		}
		changes = tx.changes
		return s.fault(false)
	})
	if err == nil {
		err = s.fault(true)
	}
	if err == nil && s.Committed != nil {
		s.Committed(changes)
	}
	return err
}

func (s *Store) fault(committed bool) error {
	if s.Fault == nil {
		return nil
	}
	return s.Fault(committed)
}

// do runs fn and writes what it left pending. What spoiled the transaction comes before what fn made of it.
func (tx *Tx) do(ctx context.Context, fn func(*Tx) error) error {
	err := fn(tx)
	if err == nil {
		err = tx.flush(ctx)
	}
	if tx.spoiled != nil {
		return tx.spoiled
	}
	return err
}

// exec changes rows, after what is pending was written.
func (tx *Tx) exec(ctx context.Context, what, query string, args ...any) (int64, error) {
	if err := tx.flush(ctx); err != nil {
		return 0, err
	}
	return tx.direct(ctx, what, query, args...)
}

func (tx *Tx) direct(ctx context.Context, what, query string, args ...any) (int64, error) {
	r, err := tx.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	n, err := r.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("%s: counting rows: %w", what, err)
	}
	return n, nil
}

// take gives out n numbers of a counter and returns the first.
func (tx *Tx) take(ctx context.Context, counter string, n int) (int64, error) {
	var last int64
	err := tx.q.QueryRowContext(ctx, `UPDATE counters SET value = value + $1 WHERE name = $2 RETURNING value`, n, counter).Scan(&last)
	if err != nil {
		return 0, fmt.Errorf("taking numbers of counter %s: %w", counter, err)
	}
	return last - int64(n) + 1, nil
}

// TakeArrivals gives out n arrival numbers and returns the first.
func (tx *Tx) TakeArrivals(ctx context.Context, n int) (int64, error) {
	return tx.take(ctx, "arrival", n)
}

func (q Queries) counter(ctx context.Context, name string) (int64, error) {
	var value int64
	if err := q.q.QueryRowContext(ctx, `SELECT value FROM counters WHERE name = $1`, name).Scan(&value); err != nil {
		return 0, fmt.Errorf("reading counter %s: %w", name, err)
	}
	return value, nil
}

// OrderCursor is where WatchOrders goes on.
func (q Queries) OrderCursor(ctx context.Context) (int64, error) {
	return q.counter(ctx, "order_cursor")
}

// SetOrderCursor remembers that everything up to it has been used. It never goes back.
func (tx *Tx) SetOrderCursor(ctx context.Context, cursor int64) error {
	_, err := tx.exec(ctx, "storing the order cursor",
		`UPDATE counters SET value = $1 WHERE name = 'order_cursor' AND value < $1`, cursor)
	return err
}

func (tx *Tx) added(kind Kind) {
	if !slices.Contains(tx.changes.Jobs, kind) {
		tx.changes.Jobs = append(tx.changes.Jobs, kind)
	}
}

// collect scans all rows of a query.
func collect[T any](ctx context.Context, q sqldb.Querier, what string, scan func(*sql.Rows, *T) error, query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	var all []T
	for rows.Next() {
		var item T
		if err := scan(rows, &item); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", what, err), rows.Close())
		}
		all = append(all, item)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return all, nil
}
