package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rimlight/rimlight/fulfillment"
	"github.com/rimlight/rimlight/internal/filelock"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier"
)

// BackUp copies the store of a central service in a data directory to a new file, while the service runs or not.
func BackUp(ctx context.Context, dataDir, service, to string) error {
	return sqldb.Backup(ctx, filepath.Join(dataDir, service+".db"), to)
}

// Restore makes a store of a backup, of service verifier or fulfillment, or marks its schema in a PostgreSQL database that was
// brought back to a point in time (from is not used then). The next process on it asks the nodes, and fulfillment the verifier,
// what happened since before it acts.
func Restore(ctx context.Context, service, dataDir string, database sqldb.PostgresConfig, from string) (err error) {
	migrate, mark := verifier.Migrate, verifier.MarkRestored
	if service == "fulfillment" {
		migrate, mark = fulfillment.Migrate, fulfillment.MarkRestored
	}
	prepare := func(db *sqldb.DB) error {
		if err := migrate(ctx, db); err != nil {
			return err
		}
		return mark(ctx, db, time.Now())
	}
	if database.URL != "" {
		database.Schema = service
		db, err := sqldb.OpenPostgres(ctx, database)
		if err != nil {
			return err
		}
		return errors.Join(prepare(db), db.Close())
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	path := filepath.Join(dataDir, service+".db")
	lock, err := filelock.Acquire(path + ".lock")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	return sqldb.Restore(ctx, from, path, prepare)
}
