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

// openCaching opens a SQLite database whose connections keep their statements prepared. Parsing and planning cost several
// times as much as running a short statement does: a heartbeat or a grant spent three quarters of its time there.
func openCaching(dsn string) (*sql.DB, error) {
	c, err := newConnector(dsn)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}

func newConnector(dsn string) (*cachingConnector, error) {
	plain, err := sql.Open("sqlite", dsn) // for its driver alone: it opens no connection
	if err != nil {
		return nil, err
	}
	return &cachingConnector{dsn: dsn, driver: plain.Driver()}, plain.Close()
}

type cachingConnector struct {
	dsn    string
	driver driver.Driver
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
	return &cachingConn{fullConn: conn, idle: map[string]fullStmt{}, steady: c.steady}, nil
}

// Driver implements driver.Connector.
func (c *cachingConnector) Driver() driver.Driver { return c.driver }

// fullConn is what modernc.org/sqlite's connections can do, but for the calls without a prepared statement: database/sql
// prepares one for each.
type fullConn interface {
	driver.Conn
	driver.ConnBeginTx
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
	steady bool
}

// Prepare implements driver.Conn.
func (c *cachingConn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *cachingConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if s, ok := c.idle[query]; ok {
		delete(c.idle, query) // while its rows are open, the same text needs another one
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

// Close implements driver.Conn.
func (c *cachingConn) Close() error {
	var errs []error
	for _, s := range c.idle {
		errs = append(errs, s.Close())
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
	if _, kept := s.conn.idle[s.query]; kept || len(s.conn.idle) >= mostStatements {
		return s.fullStmt.Close()
	}
	s.conn.idle[s.query] = s.fullStmt
	return nil
}
