package sqldb

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrBroken is what every Write answers after a failed commit of an embedded store.
var ErrBroken = errors.New("sqldb: an earlier commit failed; the process must restart")

// IsUnique tells a violated primary key or unique index.
func IsUnique(err error) bool {
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		return lite.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY || lite.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE
	}
	return postgresCode(err) == "23505"
}

// IsFull tells that a disk had no room for a transaction of SQLite, which undid it. SQLite says so of a write of the log,
// whose last frame makes the commit count, so nothing of it is durable; a log that was written whole and not synced, or an
// index of it that could not grow, are input/output errors (SQLITE_IOERR_*), after which nobody knows.
func IsFull(err error) bool {
	var lite *sqlite.Error
	return errors.As(err, &lite) && lite.Code()&0xff == sqlite3.SQLITE_FULL
}

// IsCorrupt tells that a file of SQLite is not as SQLite wrote it.
func IsCorrupt(err error) bool {
	var lite *sqlite.Error
	return errors.As(err, &lite) && (lite.Code()&0xff == sqlite3.SQLITE_CORRUPT || lite.Code()&0xff == sqlite3.SQLITE_NOTADB)
}

// IsUnavailable tells that the store cannot be used now: it is broken, its disk is full, or its server cannot be reached, is
// restarting or gives no answer in time. Of a Write that ends like this nobody knows whether it happened.
func IsUnavailable(err error) bool {
	if errors.Is(err, ErrBroken) || IsFull(err) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	var connect *pgconn.ConnectError
	var network *net.OpError
	if errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err) {
		return true
	}
	switch code := postgresCode(err); {
	case strings.HasPrefix(code, "08"): // connection exceptions
	case strings.HasPrefix(code, "53"): // out of memory, disk or connections
	case code == "57014": // statement_timeout
	case strings.HasPrefix(code, "57P"): // shutting down, crashed, starting up
	case code == "25P03": // idle in a transaction for too long
	case code == "25006": // read-only transaction: a server that is a standby now
	case strings.HasPrefix(code, "58"): // input or output failed under the server
	default:
		return false
	}
	return true
}

// IsUnstorable tells that a parameter is a text with a zero byte, which PostgreSQL keeps in no text.
func IsUnstorable(err error) bool { return postgresCode(err) == "22021" }

// retryable tells that the transaction lost against another one, and may win next time.
func retryable(err error) bool {
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		return lite.Code()&0xff == sqlite3.SQLITE_BUSY || lite.Code()&0xff == sqlite3.SQLITE_LOCKED
	}
	switch postgresCode(err) {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock not available
		return true
	}
	return false
}

// postgresCode is the server's SQLSTATE, or nothing.
func postgresCode(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}
