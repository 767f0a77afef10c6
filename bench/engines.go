package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/rimlight/rimlight/internal/pgtest"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// engine is one that the central stores can be on.
type engine struct {
	name    string
	writers int                                                 // that insert at the same time
	fresh   func(context.Context) (sqldb.PostgresConfig, error) // an empty database; without a URL: files
}

// openEngines finds what is installed here, and says what is missing.
func openEngines(settings) (engines []engine, missing string, closeAll func() error, err error) {
	engines = []engine{{name: "SQLite", writers: 1, fresh: func(context.Context) (sqldb.PostgresConfig, error) {
		return sqldb.PostgresConfig{}, nil
	}}}
	server, err := pgtest.New()
	switch {
	case errors.Is(err, pgtest.ErrNotInstalled):
		return engines, " PostgreSQL, which is not installed here.", func() error { return nil }, nil
	case err != nil:
		return nil, "", nil, err
	}
	return append(engines, engine{name: "PostgreSQL", writers: rawWriters, fresh: func(ctx context.Context) (sqldb.PostgresConfig, error) {
		url, err := server.Create(ctx)
		return sqldb.PostgresConfig{URL: url}, err
	}}), "", server.Close, nil
}

// open makes a store in an empty database, or in a file of its own in dir.
func (e engine) open(ctx context.Context, dir, name string, migrate func(context.Context, *sqldb.DB) error) (*sqldb.DB, error) {
	cfg, err := e.fresh(ctx)
	if err != nil {
		return nil, err
	}
	return openIn(ctx, cfg, dir, name, migrate)
}

func openIn(ctx context.Context, cfg sqldb.PostgresConfig, dir, name string, migrate func(context.Context, *sqldb.DB) error) (db *sqldb.DB, err error) {
	if cfg.Schema = name; cfg.URL != "" {
		db, err = sqldb.OpenPostgres(ctx, cfg)
	} else {
		db, err = sqldb.OpenSQLite(ctx, filepath.Join(dir, name+".db"))
	}
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("making the store %s: %w", name, err), db.Close())
	}
	return db, nil
}
