// Package sqldbtest opens an empty store of every engine, so that one suite holds them all to the same behaviour.
package sqldbtest

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/rimlight/rimlight/internal/pgtest"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// Each runs a test on each engine: a SQLite file, which syncs and has a pool of readers; SQLite in memory, which has one
// connection; and PostgreSQL, where transactions run side by side. It is skipped by name where PostgreSQL is not installed.
func Each(t *testing.T, test func(*testing.T, *sqldb.DB)) {
	t.Helper()
	for _, engine := range []struct {
		name string
		open func(testing.TB) *sqldb.DB
	}{{"file", File}, {"memory", Memory}, {"postgres", Postgres}} {
		t.Run(engine.name, func(t *testing.T) { test(t, engine.open(t)) })
	}
}

// File is an empty SQLite file.
func File(tb testing.TB) *sqldb.DB {
	tb.Helper()
	db, err := sqldb.OpenSQLite(tb.Context(), filepath.Join(tb.TempDir(), "test.db"))
	return opened(tb, db, err)
}

// Memory is an empty SQLite store in memory.
func Memory(tb testing.TB) *sqldb.DB {
	tb.Helper()
	db, err := sqldb.OpenMemory(tb.Context())
	return opened(tb, db, err)
}

// Postgres is an empty PostgreSQL schema.
func Postgres(tb testing.TB) *sqldb.DB {
	tb.Helper()
	return postgres(tb, pgtest.Database(tb))
}

// Template opens PostgreSQL schemas that were migrated already: once in the test process, and copied for each test. Keep
// it in a variable.
func Template(migrate func(context.Context, *sqldb.DB) error) func(testing.TB) *sqldb.DB {
	template := &pgtest.Template{Prepare: func(ctx context.Context, url string) error {
		db, err := sqldb.OpenPostgres(ctx, sqldb.PostgresConfig{URL: url, Schema: schema})
		if err != nil {
			return err
		}
		return errors.Join(migrate(ctx, db), db.Close())
	}}
	return func(tb testing.TB) *sqldb.DB {
		tb.Helper()
		return postgres(tb, template.Database(tb))
	}
}

const schema = "test"

func postgres(tb testing.TB, url string) *sqldb.DB {
	tb.Helper()
	db, err := sqldb.OpenPostgres(tb.Context(), sqldb.PostgresConfig{URL: url, Schema: schema})
	return opened(tb, db, err)
}

func opened(tb testing.TB, db *sqldb.DB, err error) *sqldb.DB {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("closing the store: %v", err)
		}
	})
	return db
}
