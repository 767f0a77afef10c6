package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Template makes databases in memory that all begin with the same schema and rows, for thousands of short tests: one that
// was closed is emptied and handed out again with the statements that it has prepared. Migrating takes half as long as a
// small world does, and preparing its statements a fifteenth. It is safe for concurrent use.
type Template struct {
	connector *cachingConnector
	image     []byte
	// The statements that bring a connection back to the image.
	keep, reset []string

	mu    sync.Mutex // guards spare
	spare []*cachingConn
}

// NewTemplate takes what prepare makes of an empty database.
func NewTemplate(ctx context.Context, prepare func(context.Context, *DB) error) (_ *Template, err error) {
	db, err := OpenMemory(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := prepare(ctx, db); err != nil {
		return nil, err
	}
	connector, err := memoryConnector()
	if err != nil {
		return nil, err
	}
	t := &Template{connector: connector}
	if t.image, err = db.Image(ctx); err != nil {
		return nil, err
	}
	tables, err := childrenLast(ctx, db.read)
	if err != nil {
		return nil, fmt.Errorf("reading the tables of a template: %w", err)
	}
	for _, table := range slices.Backward(tables) {
		t.reset = append(t.reset, fmt.Sprintf("DELETE FROM main.%q", table))
	}
	for _, table := range tables {
		var rows bool
		if err := db.read.QueryRowContext(ctx, fmt.Sprintf("SELECT EXISTS (SELECT 1 FROM %q)", table)).Scan(&rows); err != nil {
			return nil, fmt.Errorf("reading the table %s of a template: %w", table, err)
		}
		if !rows {
			continue
		}
		t.keep = append(t.keep, fmt.Sprintf("CREATE TEMP TABLE %q AS SELECT * FROM main.%q", "first "+table, table))
		t.reset = append(t.reset, fmt.Sprintf("INSERT INTO main.%q SELECT * FROM temp.%q", table, "first "+table))
	}
	return t, nil
}

// childrenLast lists the tables, each after those that it references.
func childrenLast(ctx context.Context, db *sql.DB) ([]string, error) {
	var tables []string
	rows, err := db.QueryContext(ctx, `WITH RECURSIVE
		tables (name) AS (SELECT name FROM sqlite_schema WHERE type = 'table'),
		deeper (name, depth) AS (
			SELECT name, 0 FROM tables
			UNION SELECT t.name, d.depth + 1 FROM tables t JOIN pragma_foreign_key_list(t.name) f ON f."table" <> t.name JOIN deeper d ON d.name = f."table")
		SELECT name FROM deeper GROUP BY name ORDER BY MAX(depth), name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return nil, err
		}
		tables = append(tables, table)
	}
	return tables, errors.Join(rows.Err(), rows.Close())
}

// Open makes a database, as OpenMemory does. Close gives it back.
func (t *Template) Open(ctx context.Context) (*DB, error) {
	conn, err := t.clean(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening a database from its template: %w", err)
	}
	return newMemory(&templateConnector{driver: t.connector.driver, conn: conn}), nil
}

// clean is a connection whose database is the template's.
func (t *Template) clean(ctx context.Context) (*cachingConn, error) {
	t.mu.Lock()
	last := len(t.spare) - 1
	if last >= 0 {
		conn := t.spare[last]
		t.spare = t.spare[:last]
		t.mu.Unlock()
		return conn, nil
	}
	t.mu.Unlock()
	opened, err := t.connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	conn := opened.(*cachingConn) // Connect makes no others
	conn.closed = t.takeBack
	if err := conn.fullConn.(image).Deserialize(t.image); err != nil {
		return nil, errors.Join(err, conn.end())
	}
	if err := conn.runAll(ctx, t.keep); err != nil {
		return nil, errors.Join(err, conn.end())
	}
	return conn, nil
}

// takeBack empties a database for the next one, or gives it up.
func (t *Template) takeBack(conn *cachingConn) error {
	if err := conn.runAll(context.Background(), t.reset); err != nil {
		return errors.Join(fmt.Errorf("emptying a database: %w", err), conn.end())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spare = append(t.spare, conn)
	return nil
}

func (c *cachingConn) runAll(ctx context.Context, queries []string) error {
	tx, err := c.BeginTx(ctx, driver.TxOptions{})
	if err != nil {
		return err
	}
	for _, query := range queries {
		if err := c.run(ctx, query); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

// templateConnector has one connection, since another one would be another database.
type templateConnector struct {
	driver driver.Driver
	conn   *cachingConn
	used   bool
}

// Connect implements driver.Connector.
func (c *templateConnector) Connect(context.Context) (driver.Conn, error) {
	if c.used {
		return nil, errors.New("sqldb: a database in memory has lost its connection")
	}
	c.used = true
	return c.conn, nil
}

// Driver implements driver.Connector.
func (c *templateConnector) Driver() driver.Driver { return c.driver }
