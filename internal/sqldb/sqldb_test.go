package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/sqldb/sqldbtest"
)

var migrations = fstest.MapFS{"00001_counter.sql": {Data: []byte(`-- +goose Up
CREATE TABLE counter (name TEXT PRIMARY KEY, n BIGINT NOT NULL);
INSERT INTO counter (name, n) VALUES ('a', 0);
CREATE TABLE parent (id BIGINT PRIMARY KEY);
CREATE TABLE child (parent BIGINT NOT NULL REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);
`)}}

func eachEngine(t *testing.T, run func(t *testing.T, db *sqldb.DB)) {
	t.Helper()
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		for range 2 { // the second time there is nothing to do
			if err := db.Migrate(t.Context(), migrations); err != nil {
				t.Fatal(err)
			}
		}
		run(t, db)
	})
}

func TestANewerStoreIsRefused(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *sqldb.DB) {
		newer := maps.Clone(migrations)
		newer["00002_more.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\nCREATE TABLE more (n BIGINT);\n")}
		if err := db.Migrate(t.Context(), newer); err != nil {
			t.Fatal(err)
		}
		if err := db.Migrate(t.Context(), migrations); !errors.Is(err, sqldb.ErrNewer) {
			t.Errorf("got %v, want ErrNewer", err)
		}
	})
}

func increment(ctx context.Context, db *sqldb.DB) error {
	return db.Write(ctx, func(tx *sql.Tx) error {
		var n int64
		if err := tx.QueryRowContext(ctx, "SELECT n FROM counter WHERE name = $1"+db.ForUpdate(), "a").Scan(&n); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "UPDATE counter SET n = $1 WHERE name = $2", n+1, "a")
		return err
	})
}

func count(t *testing.T, db *sqldb.DB) (n int) {
	t.Helper()
	if err := db.Read().QueryRowContext(t.Context(), "SELECT n FROM counter WHERE name = 'a'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWritersDoNotLoseUpdates(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *sqldb.DB) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 25 {
					if err := increment(t.Context(), db); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if got := count(t, db); got != 200 {
			t.Errorf("got %d, want 200", got)
		}
	})
}

func TestAFailingFunctionLeavesNothing(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *sqldb.DB) {
		boom := errors.New("boom")
		err := db.Write(t.Context(), func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(t.Context(), "UPDATE counter SET n = 99"); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) || count(t, db) != 0 {
			t.Errorf("got %v and count %d, want boom and 0", err, count(t, db))
		}
	})
}

func TestUniqueIsRecognised(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *sqldb.DB) {
		err := db.Write(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), "INSERT INTO counter (name, n) VALUES ($1, $2)", "a", 1)
			return err
		})
		if !sqldb.IsUnique(err) {
			t.Errorf("got %v, want a unique violation", err)
		}
		if sqldb.IsUnique(errors.New("other")) {
			t.Error("any error counts as a unique violation")
		}
	})
}

// A commit that fails leaves earlier commits in doubt: the store refuses everything afterwards and tells once.
func TestAFailedCommitBreaksTheStore(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *sqldb.DB) {
		if !db.Alone() {
			t.Skip("a server looks after its own disk; TestAServerThatGoesAway")
		}
		var told int
		db.OnBroken = func(error) { told++ }
		orphan := func(tx *sql.Tx) error { // a deferred constraint is checked by the commit itself
			_, err := tx.ExecContext(t.Context(), "INSERT INTO child (parent) VALUES (1)")
			return err
		}
		if err := db.Write(t.Context(), orphan); err == nil {
			t.Fatal("the commit succeeded")
		}
		if err := increment(t.Context(), db); !errors.Is(err, sqldb.ErrBroken) {
			t.Errorf("got %v, want %v", err, sqldb.ErrBroken)
		}
		if told != 1 {
			t.Errorf("told %d times, want once", told)
		}
	})
}

func TestOthersCannotReadADatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := sqldb.OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Migrate(t.Context(), migrations); err != nil { // so that there is a WAL
		t.Fatal(err)
	}
	for _, name := range []string{path, path + "-wal"} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v, want mode 0600", name, info.Mode(), err)
		}
	}
}

func TestAnImageIsACopyOfItsOwn(t *testing.T) {
	first, err := sqldb.OpenMemory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if err := first.Migrate(t.Context(), migrations); err != nil {
		t.Fatal(err)
	}
	b, err := first.Image(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		db, err := sqldb.OpenImage(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := increment(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		if n := count(t, db); n != 1 {
			t.Errorf("the copy counts %d, want 1", n)
		}
		err = db.Write(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), `INSERT INTO child (parent) VALUES (9)`)
			return err
		})
		if err == nil {
			t.Error("the copy does not hold its foreign keys")
		}
	}
}

// A full disk is no doubt about earlier commits: SQLite undid the transaction, and the next one finds room or does not.
func TestAFullStoreGoesOnWhenThereIsRoom(t *testing.T) {
	db, err := sqldb.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.OnBroken = func(err error) { t.Errorf("the store counts as broken: %v", err) }
	write := func(query string, args ...any) error {
		return db.Write(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), query, args...)
			return err
		})
	}
	if err := errors.Join(write("CREATE TABLE t (b BLOB NOT NULL)"), write("PRAGMA max_page_count = 20")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err = write("INSERT INTO t (b) VALUES ($1)", make([]byte, 1<<20))
		if !sqldb.IsFull(err) || !sqldb.IsUnavailable(err) {
			t.Errorf("got %v, want a full store", err)
		}
	}
	if err := errors.Join(write("PRAGMA max_page_count = 2000"), write("INSERT INTO t (b) VALUES ($1)", make([]byte, 1<<20))); err != nil {
		t.Error(err)
	}
}

func TestPiecesAreAllOfAListInOrder(t *testing.T) {
	for n := range 300 {
		all := make([]int, n)
		for i := range all {
			all[i] = i
		}
		var joined []int
		for piece := range sqldb.Pieces(all) {
			if k := len(piece); k > 64 || k&(k-1) != 0 {
				t.Errorf("of %d: a piece of %d", n, k)
			}
			joined = append(joined, piece...)
		}
		if !slices.Equal(joined, all) {
			t.Errorf("of %d: got %v", n, joined)
		}
	}
}
