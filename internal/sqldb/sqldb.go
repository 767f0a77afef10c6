// Package sqldb opens the stores of the central services and runs their transactions.
//
//	SQLite      a file that is one process's alone; in memory for tests in virtual time
//	PostgreSQL  a schema of a server that replicas share
//
// One SQL text serves both engines: $N parameters, integers for money (minor units), time (microseconds UTC) and
// booleans, BLOB for ids and protos (BYTEA is written in its place for PostgreSQL), INSERT .. ON CONFLICT, RETURNING. What
// remains different are the suffixes ForUpdate and SkipLocked, which are empty where there is one writer. Connections keep
// statements prepared; a statement's LIMIT is CAST($N AS BIGINT), since SQLite plans anew at each change of a bare parameter. In a transaction, read the rows of a query to their end before the next statement: PostgreSQL's
// connections do one thing at a time.
//
// Write runs a function in one transaction and repeats it when the engine asks for that, so the function must have no
// effects but its statements. SQLite has one writer at a time. On PostgreSQL transactions run side by side at READ
// COMMITTED: a row that was read may change before the transaction ends, unless ForUpdate holds it or the change is a
// compare-and-set. A row that two transactions insert at the same time makes one of them run again, and find it.
//
// A SQLite commit that fails for any reason but a constraint, a conflict or a full disk leaves the durability of earlier commits in
// doubt (a failed fsync may have dropped pages), so OnBroken is told and every later Write fails: the process must stop,
// and recover from what is on disk. A PostgreSQL server looks after its own disk; when it goes away in the middle of a
// commit nobody knows whether that happened, and the error is one that IsUnavailable knows.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// writeTries bounds the retry loop. A conflict needs another writer; SQLite has one at a time, PostgreSQL rarely needs three.
const writeTries = 10

// dialect is what the engines do not have in common.
type dialect struct {
	goose      goose.Dialect
	migrations func(fs.FS) fs.FS // translates them; nil: they are this engine's already
	unbounded  func() *sql.DB    // connections for migrations, which take the time they need; nil: the writer
	// What ends a SELECT, to hold its rows or to leave out those that others hold; empty where there is one writer.
	forUpdate, forShare, skipLocked string
	alone                           bool // one writer at a time, of one process
	steady                          bool // queries do not end with their context
}

// DB is one store.
type DB struct {
	dialect
	write, read *sql.DB
	broken      atomic.Bool
	// OnBroken, if set before first use, is told about the first failed commit. A process exits here.
	OnBroken func(error)
	// Fault, set before first use by tests only, is asked before every commit and after it; an error is a power cut there.
	Fault func(committed bool) error
}

// Reopen is the same database as another process has it that starts after this one died: for tests with OpenMemory.
// Only one of the two is closed.
func (db *DB) Reopen() *DB { return &DB{dialect: db.dialect, write: db.write, read: db.read} }

// Close releases the store.
func (db *DB) Close() error {
	if db.read == db.write {
		return db.write.Close()
	}
	return errors.Join(db.read.Close(), db.write.Close())
}

// ForUpdate ends a SELECT whose rows must not change before the transaction ends.
func (db *DB) ForUpdate() string { return db.forUpdate }

// ForShare is ForUpdate for rows that many transactions hold at the same time, none of them to change them.
func (db *DB) ForShare() string { return db.forShare }

// SkipLocked ends a SELECT that picks rows to take, whichever: those that another transaction holds are left out. Put the
// SELECT into a CTE that is AS MATERIALIZED: PostgreSQL may run a subquery with a LIMIT more than once, and take more.
func (db *DB) SkipLocked() string { return db.skipLocked }

// Alone tells that one process alone works on the store, so that what it finds claimed at its start is a dead one's.
func (db *DB) Alone() bool { return db.alone }

// Migrate brings the schema up to date from goose's numbered files in fsys. Replicas that start at the same time wait for
// each other.
func (db *DB) Migrate(ctx context.Context, fsys fs.FS) error {
	options := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true)}
	if db.migrations != nil {
		fsys = db.migrations(fsys)
	}
	if !db.alone {
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, uint64(migrateWait/time.Second)))
		if err != nil {
			return fmt.Errorf("preparing the migrations' lock: %w", err)
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	pool := db.write
	if db.unbounded != nil {
		pool = db.unbounded()
		defer func() { _ = pool.Close() }() // what was committed is committed
	}
	p, err := goose.NewProvider(db.goose, pool, fsys, options...)
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	have, know, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("reading which migrations were made: %w", err)
	}
	if have > know {
		return fmt.Errorf("%w: its schema has number %d, the last one known here is %d", ErrNewer, have, know)
	}
	return nil
}

// ErrNewer means: a newer version of the program wrote the store, and nobody here knows what its rows mean.
var ErrNewer = errors.New("sqldb: the store is a newer program's")

// migrateWait is how long a replica waits for another one's migrations.
const migrateWait = time.Minute

// Write runs fn in one transaction and commits it unless fn fails. fn may run more than once.
func (db *DB) Write(ctx context.Context, fn func(*sql.Tx) error) error {
	violated := false
	for try := 1; ; try++ {
		err := db.writeOnce(ctx, fn)
		// A unique key may be violated by a row that came between fn's reading and its writing. The second time fn sees
		// that row; if it fails again, it means it.
		first := !db.alone && !violated && IsUnique(err)
		violated = violated || first
		if err == nil || try == writeTries || ctx.Err() != nil || !first && !retryable(err) {
			return err
		}
	}
}

func (db *DB) writeOnce(ctx context.Context, fn func(*sql.Tx) error) error {
	if db.broken.Load() {
		return ErrBroken
	}
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	if err = fn(tx); err == nil {
		err = db.fault(false)
	}
	if err != nil {
		if rerr := tx.Rollback(); rerr != nil && !errors.Is(rerr, sql.ErrTxDone) {
			return errors.Join(err, fmt.Errorf("rolling back: %w", rerr))
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		if db.alone && !errors.Is(err, sql.ErrTxDone) && ctx.Err() == nil && !IsUnique(err) && !retryable(err) && !IsFull(err) {
			if !db.broken.Swap(true) && db.OnBroken != nil {
				db.OnBroken(err)
			}
		}
		return fmt.Errorf("committing: %w", err)
	}
	return db.fault(true)
}

func (db *DB) fault(committed bool) error {
	if db.Fault == nil {
		return nil
	}
	return db.Fault(committed)
}

// Querier reads.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Read is for statements that change nothing; each sees a committed state.
func (db *DB) Read() Querier {
	if db.steady {
		return steadyReader{db.read}
	}
	return db.read
}

// Values writes the rows of an INSERT of many, "($1,$2),($3,$4)": a statement each would cost a round trip each. SQLite
// takes 32,766 parameters in a statement, PostgreSQL 65,535.
func Values(rows, columns int) string {
	var b strings.Builder
	for i := range rows * columns {
		switch {
		case i == 0:
			b.WriteString("($")
		case i%columns == 0:
			b.WriteString("),($")
		default:
			b.WriteString(",$")
		}
		b.WriteString(strconv.Itoa(i + 1))
	}
	b.WriteByte(')')
	return b.String()
}

// mostRows bounds the rows of one statement.
const mostRows = 64

// Pieces cuts a list into what goes into one statement each: 64 rows, then smaller powers of two, so that few texts are
// planned and kept.
func Pieces[T any](all []T) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		for n := mostRows; len(all) > 0; {
			for n > len(all) {
				n /= 2
			}
			if !yield(all[:n]) {
				return
			}
			all = all[n:]
		}
	}
}

// Args makes parameters of a list.
func Args[T any](list []T) []any {
	all := make([]any, len(list))
	for i, item := range list {
		all[i] = item
	}
	return all
}
