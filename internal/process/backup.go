package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rimlight/rimlight/internal/filelock"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier"
)

// BackUp copies the store of a central service in a data directory to a new file, while the service runs or not.
func BackUp(ctx context.Context, dataDir, service, to string) error {
	return sqldb.Backup(ctx, filepath.Join(dataDir, service+".db"), to)
}

// ErrNoRestore means: an old copy of fulfillment's store would sell again what was sold since.
var ErrNoRestore = errors.New("fulfillment cannot go on from an old copy: it would lend and sell units again that were sold since, " +
	"and rebuilding who has which unit from the verifier and the nodes is not built; see docs/operations.md")

// RestoreVerifier makes a verifier's store of a backup, or marks its schema in a PostgreSQL database that was brought
// back to a point in time (from is not used then). The next verifier on it reads its nodes' journals again before it acts.
func RestoreVerifier(ctx context.Context, dataDir string, database sqldb.PostgresConfig, from string) (err error) {
	prepare := func(db *sqldb.DB) error {
		if err := verifier.Migrate(ctx, db); err != nil {
			return err
		}
		return verifier.MarkRestored(ctx, db, time.Now())
	}
	if database.URL != "" {
		database.Schema = "verifier"
		db, err := sqldb.OpenPostgres(ctx, database)
		if err != nil {
			return err
		}
		return errors.Join(prepare(db), db.Close())
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	path := filepath.Join(dataDir, "verifier.db")
	lock, err := filelock.Acquire(path + ".lock")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	return sqldb.Restore(ctx, from, path, prepare)
}
