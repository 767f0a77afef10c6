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
	plain, err := sql.Open("sqlite", dsn) // for its driver alone: it opens no connection
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(&cachingConnector{dsn, plain.Driver()}), plain.Close()
}

type cachingConnector struct {
	dsn    string
	driver driver.Driver
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
	return &cachingConn{fullConn: conn, idle: map[string]fullStmt{}}, nil
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
	idle map[string]fullStmt
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

// Close implements driver.Stmt.
func (s *cachedStmt) Close() error {
	if _, kept := s.conn.idle[s.query]; kept || len(s.conn.idle) >= mostStatements {
		return s.fullStmt.Close()
	}
	s.conn.idle[s.query] = s.fullStmt
	return nil
}
