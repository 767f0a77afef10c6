package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
)

// mostStatements bounds what one connection keeps prepared: several times the texts that a service has, so that only
// texts that are built on the fly are ever turned away.
const mostStatements = 500

// Both ways to begin a transaction: the one writer's takes the lock at once, or it would fail where it first writes.
const (
	beginWriting = "BEGIN IMMEDIATE"
	beginReading = "BEGIN"
)

// openCaching opens a SQLite database whose connections keep their statements prepared, and begin transactions so. Parsing
// and planning cost several times as much as running a short statement does: a heartbeat or a grant spent three quarters of
// its time there.
func openCaching(dsn, begin string) (*sql.DB, error) {
	c, err := newConnector(dsn, begin)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}

func newConnector(dsn, begin string) (*cachingConnector, error) {
	plain, err := sql.Open("sqlite", dsn) // for its driver alone: it opens no connection
	if err != nil {
		return nil, err
	}
	return &cachingConnector{dsn: dsn, driver: plain.Driver(), begin: begin}, plain.Close()
}

type cachingConnector struct {
	dsn    string
	driver driver.Driver
	begin  string // see cachingConn
	// steady statements run to their end whatever becomes of their context.
	steady bool
}

// Connect implements driver.Connector.
func (c *cachingConnector) Connect(context.Context) (driver.Conn, error) {
	opened, err := c.driver.Open(c.dsn)
	if err != nil {
		return nil, err
	}
	conn, ok := opened.(fullConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("sqldb: %T cannot do all that is needed", opened), opened.Close())
	}
	return &cachingConn{fullConn: conn, idle: map[string]fullStmt{}, begin: c.begin, steady: c.steady}, nil
}

// Driver implements driver.Connector.
func (c *cachingConnector) Driver() driver.Driver { return c.driver }

// fullConn is what modernc.org/sqlite's connections can do, but for the calls without a prepared statement: those are
// cachingConn's own.
type fullConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type fullStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// cachingConn keeps one idle statement for each text. database/sql uses a connection from one goroutine at a time.
type cachingConn struct {
	fullConn
	idle   map[string]fullStmt
	begin  string // begins a transaction that may write
	steady bool
	closed func(*cachingConn) error // takes it back when it is closed; nil: it ends
}

// Prepare implements driver.Conn.
func (c *cachingConn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *cachingConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := c.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (c *cachingConn) prepared(ctx context.Context, query string) (*cachedStmt, error) {
	if s := c.idle[query]; s != nil {
		c.idle[query] = nil // while its rows are open, the same text needs another one
		return &cachedStmt{s, c, query}, nil
	}
	prepared, err := c.fullConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	s, ok := prepared.(fullStmt)
	if !ok {
		return nil, errors.Join(fmt.Errorf("sqldb: %T cannot do all that is needed", prepared), prepared.Close())
	}
	return &cachedStmt{s, c, query}, nil
}

// ExecContext implements driver.ExecerContext. Without it database/sql makes and ends a Stmt of its own around each call.
func (c *cachingConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	result, err := s.ExecContext(ctx, args)
	if cerr := s.Close(); cerr != nil {
		return nil, errors.Join(err, cerr)
	}
	return result, err
}

// QueryContext implements driver.QueryerContext, as ExecContext does.
func (c *cachingConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(ctx, args)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &cachedRows{rows, s}, nil
}

// cachedRows are the rows of one statement, which is free again when they are closed.
type cachedRows struct {
	driver.Rows
	stmt *cachedStmt
}

// Close implements driver.Rows.
func (r *cachedRows) Close() error { return errors.Join(r.Rows.Close(), r.stmt.Close()) }

// BeginTx implements driver.ConnBeginTx. The driver's own transactions parse each BEGIN and COMMIT anew.
func (c *cachingConn) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	begin := c.begin
	if options.ReadOnly {
		begin = beginReading
	}
	if err := c.run(ctx, begin); err != nil {
		return nil, err
	}
	return cachedTx{c}, nil
}

// run executes one of the statements that make transactions.
func (c *cachingConn) run(ctx context.Context, query string) error {
	_, err := c.ExecContext(ctx, query, nil)
	return err
}

// cachedTx is the transaction of its connection.
type cachedTx struct{ conn *cachingConn }

// Commit implements driver.Tx.
func (t cachedTx) Commit() error {
	err := t.conn.run(context.Background(), "COMMIT")
	if err != nil { // SQLite may still be in the transaction; database/sql takes it for ended. The commit's error tells more.
		_ = t.Rollback()
	}
	return err
}

// Rollback implements driver.Tx.
func (t cachedTx) Rollback() error { return t.conn.run(context.Background(), "ROLLBACK") }

// Close implements driver.Conn.
func (c *cachingConn) Close() error {
	if c.closed != nil {
		return c.closed(c)
	}
	return c.end()
}

func (c *cachingConn) end() error {
	var errs []error
	for _, s := range c.idle {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	clear(c.idle)
	return errors.Join(append(errs, c.fullConn.Close())...)
}

// cachedStmt goes back to its connection when it is closed.
type cachedStmt struct {
	fullStmt
	conn  *cachingConn
	query string
}

// ExecContext implements driver.StmtExecContext.
func (s *cachedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.fullStmt.ExecContext(s.conn.context(ctx), args)
}

// QueryContext implements driver.StmtQueryContext.
func (s *cachedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.fullStmt.QueryContext(s.conn.context(ctx), args)
}

// context is what a statement sees of its caller's.
func (c *cachingConn) context(ctx context.Context) context.Context {
	if c.steady {
		return withoutEnd(ctx)
	}
	return ctx
}

// withoutEnd is a context that has not ended and never will; one that has ended stays as it is.
func withoutEnd(ctx context.Context) context.Context {
	if ctx.Err() != nil {
		return ctx
	}
	return context.WithoutCancel(ctx)
}

// steadyReader begins no goroutine per query to watch its context.
type steadyReader struct{ db *sql.DB }

// QueryContext implements Querier.
func (r steadyReader) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return r.db.QueryContext(withoutEnd(ctx), query, args...)
}

// QueryRowContext implements Querier.
func (r steadyReader) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return r.db.QueryRowContext(withoutEnd(ctx), query, args...)
}

// Close implements driver.Stmt.
func (s *cachedStmt) Close() error {
	if idle, known := s.conn.idle[s.query]; idle != nil || !known && len(s.conn.idle) >= mostStatements {
		return s.fullStmt.Close()
	}
	s.conn.idle[s.query] = s.fullStmt
	return nil
}
