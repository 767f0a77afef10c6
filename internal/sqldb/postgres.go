package sqldb

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// PostgresConfig says how to reach a store on a PostgreSQL server. Zero means the default, where there is one.
type PostgresConfig struct {
	// URL is postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full, several HOST:PORT separated by commas; what
	// it lacks comes from libpq's environment (PGPASSWORD, PGPASSFILE, PGSSLROOTCERT...). Required, and a secret: it
	// appears in no error and no log.
	URL string
	// Schema is the PostgreSQL schema that holds the store's tables, so that several stores share a database. It is made
	// if it does not exist. Required: lower-case letters, digits and underscores.
	Schema string
	// MaxConns bounds this process's connections: 2 to 500, default 16. All replicas' together must stay below the
	// server's max_connections. At half, calls wait for each other; at double, the server's processors switch more and do
	// no more: it does its best work at two to four a processor.
	MaxConns int
	// StatementTimeout ends a statement that takes too long, waits for locks included: default 10 s. At half, an audit of
	// a large store fails; at double, a server in trouble is noticed late. A server that says nothing for twice as long is
	// taken for gone, and its connections are given up. Migrations are not bound by it.
	StatementTimeout time.Duration
	// IdleTimeout is after what silence inside a transaction the server takes it for abandoned: default 5 s. A replica
	// that loses its power holds its locks for that long.
	IdleTimeout time.Duration
	// ConnectTimeout bounds making a connection: default 5 s.
	ConnectTimeout time.Duration
}

func (c PostgresConfig) withDefaults() PostgresConfig {
	if c.MaxConns == 0 {
		c.MaxConns = 16
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&c.StatementTimeout, 10 * time.Second}, {&c.IdleTimeout, 5 * time.Second}, {&c.ConnectTimeout, 5 * time.Second}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return c
}

var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// Validate reports all problems at once.
func (c PostgresConfig) Validate() error {
	c = c.withDefaults()
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.URL != "", "URL is missing")
	check(schemaName.MatchString(c.Schema), "Schema %q is not lower-case letters, digits and underscores", c.Schema)
	check(c.MaxConns >= 2 && c.MaxConns <= 500, "MaxConns %d is not in [2, 500]", c.MaxConns)
	check(c.StatementTimeout >= time.Millisecond, "StatementTimeout %v is not at least 1 ms", c.StatementTimeout)
	check(c.IdleTimeout >= time.Millisecond, "IdleTimeout %v is not at least 1 ms", c.IdleTimeout)
	check(c.ConnectTimeout > 0, "ConnectTimeout %v is not positive", c.ConnectTimeout)
	return errors.Join(errs...)
}

// OpenPostgres connects to a store on a PostgreSQL server, makes its schema if there is none, and refuses a server that
// does not sync commits. A server that cannot be reached is an error that IsUnavailable knows.
func OpenPostgres(ctx context.Context, c PostgresConfig) (*DB, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("the database's config: %w", err)
	}
	c = c.withDefaults()
	cc, err := pgx.ParseConfig(c.URL) // its errors hide the password
	if err != nil {
		return nil, fmt.Errorf("reading the database's URL: %w", err)
	}
	cc.ConnectTimeout = c.ConnectTimeout
	for name, value := range map[string]string{
		"application_name": "rimlight-" + c.Schema,
		"search_path":      c.Schema,
		// The stores are written for statements that see what others committed before each of them; see package doc.
		"default_transaction_isolation":       "read committed",
		"synchronous_commit":                  "on",
		"statement_timeout":                   millis(c.StatementTimeout),
		"idle_in_transaction_session_timeout": millis(c.IdleTimeout),
	} {
		cc.RuntimeParams[name] = value
	}
	patient := cc.Copy()
	patient.RuntimeParams["statement_timeout"] = "0"
	cc.DialFunc = impatient(cc.DialFunc, 2*c.StatementTimeout)
	pool := stdlib.OpenDB(*cc, stdlib.OptionAfterConnect(boolsAreIntegers))
	pool.SetMaxOpenConns(c.MaxConns)
	pool.SetMaxIdleConns(c.MaxConns)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	if err := prepareServer(ctx, pool, c.Schema); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the database: %w", err), pool.Close())
	}
	return &DB{write: pool, read: pool, dialect: dialect{
		goose: goose.DialectPostgres, migrations: byteaFS, unbounded: func() *sql.DB { return stdlib.OpenDB(*patient) },
		forUpdate: " FOR UPDATE", forShare: " FOR SHARE", skipLocked: " FOR UPDATE SKIP LOCKED",
	}}, nil
}

// impatient makes connections that end when an answer takes longer than limit: a server that lost its power, or stands
// still, does not say so, and TCP alone would wait for it for a quarter of an hour.
func impatient(dial pgconn.DialFunc, limit time.Duration) pgconn.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &impatientConn{conn, limit}, nil
	}
}

// impatientConn is read only while an answer is due.
type impatientConn struct {
	net.Conn
	limit time.Duration
}

// Read implements net.Conn. The deadline is not its own, it is set by whoever ends a statement.
func (c *impatientConn) Read(p []byte) (int, error) {
	late := time.AfterFunc(c.limit, func() { _ = c.Close() }) // Read says that it is closed
	defer late.Stop()
	return c.Conn.Read(p)
}

// boolsAreIntegers lets a Go bool be the parameter for an INTEGER, as SQLite does.
func boolsAreIntegers(_ context.Context, conn *pgx.Conn) error {
	m := conn.TypeMap()
	m.TryWrapEncodePlanFuncs = append(m.TryWrapEncodePlanFuncs, func(value any) (pgtype.WrappedEncodePlanNextSetter, any, bool) {
		b, ok := value.(bool)
		return &boolPlan{}, oneOrZero(b), ok
	})
	return nil
}

// boolPlan encodes a bool by the plan for an integer.
type boolPlan struct{ next pgtype.EncodePlan }

// SetNext implements pgtype.WrappedEncodePlanNextSetter.
func (p *boolPlan) SetNext(next pgtype.EncodePlan) { p.next = next }

// Encode implements pgtype.EncodePlan.
func (p *boolPlan) Encode(value any, buf []byte) ([]byte, error) {
	return p.next.Encode(oneOrZero(value.(bool)), buf) // the plan was made for a bool
}

func oneOrZero(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// prepareServer checks that commits are synced, and makes the schema.
func prepareServer(ctx context.Context, db *sql.DB, schema string) error {
	var fsync string
	if err := db.QueryRowContext(ctx, `SHOW fsync`).Scan(&fsync); err != nil {
		return fmt.Errorf("asking whether the server syncs: %w", err)
	}
	if fsync != "on" {
		return fmt.Errorf("the server runs with fsync %s, need on: a crash would lose what was promised", fsync)
	}
	var there bool
	if err := db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)`, schema).Scan(&there); err != nil || there {
		return err // who has the schema needs no right to make one
	}
	_, err := db.ExecContext(ctx, `CREATE SCHEMA IF NOT EXISTS `+schema)
	if err != nil && !IsUnique(err) { // another replica was faster
		return fmt.Errorf("making the schema %s: %w", schema, err)
	}
	return nil
}

var blobType = regexp.MustCompile(`\bBLOB\b`)

// byteaFS shows migrations in PostgreSQL's spelling of the one type that it calls otherwise.
func byteaFS(fsys fs.FS) fs.FS { return translated{fsys} }

type translated struct{ fs.FS }

// Open implements fs.FS.
func (t translated) Open(name string) (fs.File, error) {
	f, err := t.FS.Open(name)
	if err != nil || path.Ext(name) != ".sql" {
		return f, err
	}
	text, err := fs.ReadFile(t.FS, name)
	return &translatedFile{f, bytes.NewReader(blobType.ReplaceAll(text, []byte("BYTEA")))}, err
}

type translatedFile struct {
	fs.File
	text *bytes.Reader
}

// Read implements fs.File.
func (f *translatedFile) Read(p []byte) (int, error) { return f.text.Read(p) }
