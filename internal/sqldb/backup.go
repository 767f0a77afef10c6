package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// backupMark is the application_id of a SQLite file that is a backup: "RLBK".
const backupMark = 0x524c424b

// ErrBackup means: the file is a backup, and what happened since it was made is not in it.
var ErrBackup = errors.New("sqldb: the file is a backup: it cannot be worked on before it is restored")

// ErrNoBackup means: the file to restore from is not one that Backup made.
var ErrNoBackup = errors.New("sqldb: the file is not a backup")

// ErrOtherBackup means: the backup is of another service's store.
var ErrOtherBackup = errors.New("sqldb: the file is a backup of another store")

// Backup copies the SQLite store at path to a new file, as one committed state, whether a process works on it meanwhile or
// not: to SQLite it is one more reader. The copy is synced and marked, so that no service takes it for its own store.
// An existing file is never replaced.
func Backup(ctx context.Context, path, to string) error {
	if err := backup(ctx, path, to); err != nil {
		return fmt.Errorf("backing %s up to %s: %w", path, to, err)
	}
	return nil
}

func backup(ctx context.Context, path, to string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	return create(to, func(partial *os.File) error {
		if err := onFile(path, func(db *sql.DB) error {
			_, err := db.ExecContext(ctx, `VACUUM INTO $1`, partial.Name())
			return err
		}); err != nil {
			return err
		}
		return setMark(ctx, partial.Name(), backupMark, nameOf(path))
	})
}

// nameOf is what a backup remembers of the file that it is a copy of: services' stores have names of their own.
func nameOf(path string) int {
	return int(int32(crc32.ChecksumIEEE([]byte(filepath.Base(path))))) //nolint:gosec // any number will do
}

// Restore makes a store of a backup: a new file at path, which prepare has finished with before it gets its name. What is
// damaged, or no backup, is refused, and so is a path where there is a store.
func Restore(ctx context.Context, from, path string, prepare func(*DB) error) error {
	if err := restore(ctx, from, path, prepare); err != nil {
		return fmt.Errorf("restoring %s from %s: %w", path, from, err)
	}
	return nil
}

func restore(ctx context.Context, from, path string, prepare func(*DB) error) error {
	for _, suffix := range []string{"-wal", "-shm"} { // of a lost store: SQLite would play it into the restored one
		if _, err := os.Stat(path + suffix); err == nil {
			return fmt.Errorf("%s: %w", path+suffix, os.ErrExist)
		}
	}
	return create(path, func(partial *os.File) error {
		source, err := os.Open(from)
		if err != nil {
			return err
		}
		_, err = io.Copy(partial, source)
		if err := errors.Join(err, source.Close()); err != nil {
			return err
		}
		if err := onFile(partial.Name(), func(db *sql.DB) error { return checkBackup(ctx, db, nameOf(path)) }); err != nil {
			return err
		}
		if err := setMark(ctx, partial.Name(), 0, 0); err != nil {
			return err
		}
		db, err := OpenSQLite(ctx, partial.Name())
		if err != nil {
			return err
		}
		return errors.Join(prepare(db), db.Close())
	})
}

func checkBackup(ctx context.Context, db *sql.DB, name int) error {
	mark, err := markOf(ctx, db)
	if err != nil {
		return err
	}
	if mark != backupMark {
		return ErrNoBackup
	}
	var of int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&of); err != nil {
		return fmt.Errorf("reading whose backup it is: %w", err)
	}
	if of != name {
		return ErrOtherBackup
	}
	var structure string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&structure); err != nil {
		return fmt.Errorf("checking it: %w", err)
	}
	if structure != "ok" {
		return fmt.Errorf("it is damaged: %s", structure)
	}
	return nil
}

func markOf(ctx context.Context, db *sql.DB) (int, error) {
	var mark int
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&mark); err != nil {
		return 0, fmt.Errorf("reading whose file it is: %w", err)
	}
	return mark, nil
}

func setMark(ctx context.Context, path string, mark, name int) error {
	return onFile(path, func(db *sql.DB) error {
		_, err := db.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", mark, name))
		return err
	})
}

// onFile opens a file as it is.
func onFile(path string, use func(*sql.DB) error) error {
	db, err := openCaching("file:"+path+"?mode=rw&_pragma=busy_timeout(5000)", beginReading)
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	return errors.Join(use(db), db.Close())
}

// create fills a file under another name, syncs it and gives it its own, unless there is one.
func create(path string, fill func(partial *os.File) error) (err error) {
	dir := filepath.Dir(path)
	partial, err := os.CreateTemp(dir, filepath.Base(path)+".partial-") // readable by its owner only
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, partial.Close(), os.Remove(partial.Name()))
	}()
	if err := fill(partial); err != nil {
		return err
	}
	if err := partial.Sync(); err != nil {
		return err
	}
	err = os.Link(partial.Name(), path) // unlike a renaming it replaces nothing
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s: %w", path, os.ErrExist)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
