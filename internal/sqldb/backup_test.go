package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rimlight/rimlight/internal/sqldb"
)

func openFile(t *testing.T, path string) *sqldb.DB {
	t.Helper()
	db, err := sqldb.OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Two rows that every transaction changes together are equal in a backup that was made meanwhile.
func TestABackupIsOneCommittedState(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	db := openFile(t, path)
	if err := db.Migrate(t.Context(), migrations); err != nil {
		t.Fatal(err)
	}
	both := func(statement string) error {
		return db.Write(t.Context(), func(tx *sql.Tx) error {
			for _, name := range []string{"x", "y"} {
				if _, err := tx.ExecContext(t.Context(), statement, name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := both("INSERT INTO counter (name, n) VALUES ($1, 0)"); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for ctx.Err() == nil {
			if err := both("UPDATE counter SET n = n + 1 WHERE name = $1"); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer writer.Wait()
	defer stop()
	for _, name := range []string{"1", "2", "3"} {
		backup, restored := filepath.Join(dir, "backup"+name), filepath.Join(dir, "restored"+name, "store.db")
		if err := os.Mkdir(filepath.Dir(restored), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := sqldb.Backup(t.Context(), path, backup); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(backup); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("got %v, %v, want a file for its owner alone", info, err)
		}
		if err := sqldb.Restore(t.Context(), backup, restored, func(*sqldb.DB) error { return nil }); err != nil {
			t.Fatal(err)
		}
		var x, y int
		if err := openFile(t, restored).Read().QueryRowContext(t.Context(),
			"SELECT (SELECT n FROM counter WHERE name = 'x'), (SELECT n FROM counter WHERE name = 'y')").Scan(&x, &y); err != nil || x != y {
			t.Errorf("backup %s: got %d and %d, %v", name, x, y, err)
		}
	}
}

func TestWhatIsNoRestore(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, sub := range []string{"new", "stale"} {
		if err := os.Mkdir(in(sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	db := openFile(t, in("store"))
	if err := db.Migrate(t.Context(), migrations); err != nil {
		t.Fatal(err)
	}
	if err := sqldb.Backup(t.Context(), in("store"), in("backup")); err != nil {
		t.Fatal(err)
	}
	if _, err := sqldb.OpenSQLite(t.Context(), in("backup")); !errors.Is(err, sqldb.ErrBackup) {
		t.Errorf("a service on a backup: got %v, want ErrBackup", err)
	}
	raw, err := os.ReadFile(in("backup"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"short": raw[:len(raw)/2], "text": []byte("hello"), "stale/store-wal": nil} {
		if err := os.WriteFile(in(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	nothing := func(*sqldb.DB) error { return nil }
	for rule, c := range map[string]struct {
		from, to string
		want     error // nil: any
	}{
		"a store is never replaced":                 {"backup", "store", fs.ErrExist},
		"a store that works is no backup":           {"store", "new/store", sqldb.ErrNoBackup},
		"half a backup is damaged":                  {"short", "new/store", nil},
		"text is no backup":                         {"text", "new/store", nil},
		"another store's log is not played into it": {"backup", "stale/store", fs.ErrExist},
		"a backup of another service's store":       {"backup", "new/other", sqldb.ErrOtherBackup},
		"a backup that is not there":                {"nowhere", "new/store", fs.ErrNotExist},
	} {
		err := sqldb.Restore(t.Context(), in(c.from), in(c.to), nothing)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", rule, err, c.want)
		}
	}
	if err := sqldb.Backup(t.Context(), in("store"), in("backup")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a backup over another: got %v", err)
	}
	if err := sqldb.Backup(t.Context(), in("nowhere"), in("other")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a backup of nothing: got %v", err)
	}
	failed := errors.New("no")
	if err := sqldb.Restore(t.Context(), in("backup"), in("new/store"), func(*sqldb.DB) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("got %v, want what prepare says", err)
	}
	if entries, err := os.ReadDir(in("new")); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
