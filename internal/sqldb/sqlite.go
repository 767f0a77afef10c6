package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/pressly/goose/v3"
)

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
	write, err := openCaching("file:"+path+"?"+q.Encode(), beginWriting)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	err = assertDurable(ctx, write)
	if err == nil {
		err = refuseBackup(ctx, write)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), write.Close())
	}
	q.Add("_pragma", "query_only(ON)")
	read, err := openCaching("file:"+path+"?"+q.Encode(), beginReading)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s for reading: %w", path, err), write.Close())
	}
	read.SetMaxOpenConns(4)
	return newSQLite(write, read), nil
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

// refuseBackup keeps a service from going on where an old copy ended: it would do again what it did since.
func refuseBackup(ctx context.Context, db *sql.DB) error {
	mark, err := markOf(ctx, db)
	if err == nil && mark == backupMark {
		err = ErrBackup
	}
	return err
}

// OpenMemory makes a database that lives as long as the DB: for tests in virtual time, where a closed and reopened
// service is given the same DB again. Its statements do not end with their context: they take microseconds, and a
// goroutine each to watch it would cost as much.
func OpenMemory(context.Context) (*DB, error) {
	c, err := memoryConnector()
	if err != nil {
		return nil, fmt.Errorf("opening a database in memory: %w", err)
	}
	return newMemory(c), nil
}

func memoryConnector() (*cachingConnector, error) {
	c, err := newConnector("file::memory:?_pragma=foreign_keys(ON)", beginWriting)
	if err == nil {
		c.steady = true
	}
	return c, err
}

func newMemory(c driver.Connector) *DB {
	pool := sql.OpenDB(c)
	pool.SetMaxOpenConns(1) // every further connection would be another, empty database
	db := newSQLite(pool, pool)
	db.steady = true
	return db
}

// image is what modernc.org/sqlite's connections can do with a whole database.
type image interface {
	Serialize() ([]byte, error)
	Deserialize([]byte) error
}

// Image copies a database that OpenMemory made, so that many can begin as it is: migrating costs more than a short test.
func (db *DB) Image(ctx context.Context) (b []byte, err error) {
	err = db.raw(ctx, func(i image) error {
		b, err = i.Serialize()
		return err
	})
	return b, err
}

// OpenImage is OpenMemory with a copy of an Image.
func OpenImage(ctx context.Context, b []byte) (*DB, error) {
	db, err := OpenMemory(ctx)
	if err != nil {
		return nil, err
	}
	if err := db.raw(ctx, func(i image) error { return i.Deserialize(b) }); err != nil {
		return nil, errors.Join(fmt.Errorf("opening a database from its image: %w", err), db.Close())
	}
	return db, nil
}

func (db *DB) raw(ctx context.Context, do func(image) error) error {
	c, err := db.write.Conn(ctx)
	if err != nil {
		return err
	}
	err = c.Raw(func(conn any) error {
		i, ok := conn.(*cachingConn).fullConn.(image)
		if !ok {
			return fmt.Errorf("sqldb: %T has no images", conn)
		}
		return do(i)
	})
	return errors.Join(err, c.Close())
}

func newSQLite(write, read *sql.DB) *DB {
	return &DB{write: write, read: read, dialect: dialect{goose: goose.DialectSQLite3, alone: true}}
}
