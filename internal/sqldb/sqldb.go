// Package sqldb opens the stores of the central services and runs their transactions.
//
// One SQL text serves every engine: $N parameters, integers for money (minor units) and time (microseconds UTC), blobs
// for ids, INSERT .. ON CONFLICT, RETURNING. SQLite is the engine today; PostgreSQL joins behind the same DB type.
//
// Write runs a function in one transaction and repeats it when the engine asks for that, so the function must have no
// effects but its statements. A commit that fails for any reason but a constraint or a conflict leaves the durability of
// earlier commits in doubt (a failed fsync may have dropped pages), so OnBroken is told and every later Write fails:
// the process must stop, and recover from what is on disk.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"sync/atomic"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrBroken is what every Write answers after a failed commit.
var ErrBroken = errors.New("sqldb: an earlier commit failed; the process must restart")

// writeTries bounds the retry loop. A conflict needs another writer; SQLite has one at a time, PostgreSQL rarely needs three.
const writeTries = 10

// DB is one store.
type DB struct {
	write, read *sql.DB
	broken      atomic.Bool
	// OnBroken, if set before first use, is told about the first failed commit. A process exits here.
	OnBroken func(error)
}

// OpenSQLite opens or makes a database file, which only its owner can read: WAL, synchronous FULL, one writer, four
// readers.
func OpenSQLite(ctx context.Context, path string) (*DB, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // SQLite gives its WAL the same mode
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	q := url.Values{"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(5000)", "foreign_keys(ON)"}}
	write, err := openCaching("file:" + path + "?_txlock=immediate&" + q.Encode())
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	if err := assertDurable(ctx, write); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), write.Close())
	}
	q.Add("_pragma", "query_only(ON)")
	read, err := openCaching("file:" + path + "?" + q.Encode())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s for reading: %w", path, err), write.Close())
	}
	read.SetMaxOpenConns(4)
	return &DB{write: write, read: read}, nil
}

// assertDurable refuses an engine that would not do what the pragmas ask (another build, a network file system).
func assertDurable(ctx context.Context, db *sql.DB) error {
	var journal string
	var sync int
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&journal); err != nil {
		return fmt.Errorf("asking for the journal mode: %w", err)
	}
	if err := db.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&sync); err != nil {
		return fmt.Errorf("asking for the sync mode: %w", err)
	}
	if journal != "wal" || sync != 2 {
		return fmt.Errorf("SQLite runs with journal_mode %s and synchronous %d, need wal and 2 (FULL)", journal, sync)
	}
	return nil
}

// OpenMemory makes a database that lives as long as the DB: for tests in virtual time, where a closed and reopened
// service is given the same DB again.
func OpenMemory(context.Context) (*DB, error) {
	db, err := openCaching("file::memory:?_txlock=immediate&_pragma=foreign_keys(ON)")
	if err != nil {
		return nil, fmt.Errorf("opening a database in memory: %w", err)
	}
	db.SetMaxOpenConns(1) // every further connection would be another, empty database
	return &DB{write: db, read: db}, nil
}

// Close releases the store.
func (db *DB) Close() error {
	if db.read == db.write {
		return db.write.Close()
	}
	return errors.Join(db.read.Close(), db.write.Close())
}

// Migrate brings the schema up to date from goose's numbered files in dir of fsys.
func (db *DB) Migrate(ctx context.Context, fsys fs.FS) error {
	p, err := goose.NewProvider(goose.DialectSQLite3, db.write, fsys, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	return nil
}

// Write runs fn in one transaction and commits it unless fn fails. fn may run more than once.
func (db *DB) Write(ctx context.Context, fn func(*sql.Tx) error) error {
	for try := 1; ; try++ {
		err := db.writeOnce(ctx, fn)
		if err == nil || !retryable(err) || try == writeTries || ctx.Err() != nil {
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
	if err := fn(tx); err != nil {
		if rerr := tx.Rollback(); rerr != nil && !errors.Is(rerr, sql.ErrTxDone) {
			return errors.Join(err, fmt.Errorf("rolling back: %w", rerr))
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		if !errors.Is(err, sql.ErrTxDone) && ctx.Err() == nil && !IsUnique(err) && !retryable(err) {
			if !db.broken.Swap(true) && db.OnBroken != nil {
				db.OnBroken(err)
			}
		}
		return fmt.Errorf("committing: %w", err)
	}
	return nil
}

// Querier reads.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Read is for statements that change nothing; each sees a committed state.
func (db *DB) Read() Querier { return db.read }

// IsUnique tells a violated primary key or unique index.
func IsUnique(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY || e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE)
}

func retryable(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_BUSY || e.Code()&0xff == sqlite3.SQLITE_LOCKED)
}
