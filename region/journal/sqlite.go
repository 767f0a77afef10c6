package journal

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/rimlight/rimlight/internal/sqldb"
)

// schemaVersion is SQLite's user_version of the file. Another number refuses to open: a journal is never migrated in
// place, since nothing may rewrite a record.
const schemaVersion = 2

const schema = `
CREATE TABLE record (sequence INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, payload BLOB NOT NULL) STRICT;
CREATE TABLE birth (node_id TEXT NOT NULL, disk BLOB NOT NULL) STRICT;
CREATE TABLE tip (sequence INTEGER NOT NULL) STRICT;
INSERT INTO tip (sequence) VALUES (0);
CREATE TABLE snapshot (through INTEGER PRIMARY KEY, begins INTEGER NOT NULL, digest BLOB NOT NULL, payload BLOB NOT NULL) STRICT;`

// castagnoli is CRC32C, which processors compute at memory speed.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum covers the place as well as the bytes, so that two records that changed places are found.
func checksum(sequence int64, payload []byte) uint32 {
	place := binary.BigEndian.AppendUint64(nil, uint64(sequence))
	return crc32.Update(crc32.Checksum(place, castagnoli), castagnoli, payload)
}

// SQLite is the durable engine: one append-only table in a WAL with synchronous FULL. Which record is the last one is
// kept a second time, on a page of its own, so that a damaged page of the table cannot hide the newest records. A bit that flips in the log itself
// looks like a torn tail to SQLite, which drops what follows; the node finds that when the verifier has more than the
// journal (region.ErrJournalBehind).
type SQLite struct {
	*writer
	syncs *stopwatch
	db    *sqldb.DB
	dir   string
	lock  *os.File
}

// birth ties the journal to the identity beside it.
type birth struct {
	nodeID string
	disk   []byte
}

// openFile opens or makes the database, reads what no snapshot stands for, and refuses it when a record is not as it was
// written.
func openFile(ctx context.Context, path string, newBirth func() birth) (db *sqldb.DB, b birth, last int64, err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // SQLite gives its WAL the same mode
	if err != nil {
		return nil, birth{}, 0, fmt.Errorf("making the journal: %w", err)
	}
	if err := file.Close(); err != nil {
		return nil, birth{}, 0, fmt.Errorf("making the journal: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, birth{}, 0, err
	}
	if db, err = sqldb.OpenSQLite(ctx, path); err != nil {
		return nil, birth{}, 0, fmt.Errorf("opening the journal: %w", err)
	}
	if b, err = prepare(ctx, db, newBirth); err == nil {
		last, err = verify(ctx, db)
	}
	if err != nil {
		return nil, birth{}, 0, errors.Join(err, db.Close())
	}
	return db, b, last, nil
}

// prepare makes the tables at the first start and reads the birth at every other.
func prepare(ctx context.Context, db *sqldb.DB, newBirth func() birth) (birth, error) {
	var version int
	if err := db.Read().QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return birth{}, fmt.Errorf("reading the journal's version: %w", err)
	}
	var b birth
	switch version {
	case 0:
		b = newBirth()
		err := db.Write(ctx, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, schema); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "INSERT INTO birth (node_id, disk) VALUES ($1, $2)", b.nodeID, b.disk); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion))
			return err
		})
		if err != nil {
			return birth{}, fmt.Errorf("making the journal's tables: %w", err)
		}
	case schemaVersion:
		if err := db.Read().QueryRowContext(ctx, "SELECT node_id, disk FROM birth").Scan(&b.nodeID, &b.disk); err != nil {
			return birth{}, fmt.Errorf("reading the journal's birth: %w", err)
		}
	default:
		return birth{}, fmt.Errorf("the journal has version %d, this program reads %d", version, schemaVersion)
	}
	return b, nil
}

// verify reads every record that follows the snapshots, and the one where they end. Without one it reads all, and checks
// the structure; otherwise that is for Scrub, while the node works. That the newest records are there is never left for
// later: a serial that was sold could be sold again.
func verify(ctx context.Context, db *sqldb.DB) (last int64, err error) {
	var tip, snapshots int64
	err = db.Read().QueryRowContext(ctx, `SELECT (SELECT sequence FROM tip), COALESCE((SELECT MAX(s.through) FROM snapshot s
		JOIN record r ON r.sequence = s.through), 0)`).Scan(&tip, &snapshots)
	if err != nil {
		return 0, fmt.Errorf("looking for the journal's end: %w", err)
	}
	var structural error
	if snapshots == 0 {
		structural = checkStructure(ctx, db)
	}
	last = max(snapshots-1, 0)
	for {
		records, err := readAfter(ctx, db, last, replayPage)
		if err != nil {
			return 0, err
		}
		if len(records) > 0 {
			last = records[len(records)-1].Sequence
		}
		if len(records) < replayPage {
			break
		}
	}
	if structural != nil {
		return 0, structural
	}
	if last != tip {
		return 0, &CorruptError{Sequence: last + 1, Problem: fmt.Sprintf("it is missing, like all up to record %d", tip)}
	}
	return last, nil
}

// checkStructure names the first record that cannot be reached, since a structure's damage has no place of its own. Where
// all can, it is the one behind them.
func checkStructure(ctx context.Context, db *sqldb.DB) error {
	var structure string
	if err := db.Read().QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&structure); err != nil {
		return fmt.Errorf("checking the journal's structure: %w", err)
	}
	if structure == "ok" {
		return nil
	}
	for last := int64(0); ; {
		records, err := readAfter(ctx, db, last, replayPage)
		if err != nil {
			return err
		}
		if len(records) == 0 {
			return &CorruptError{Sequence: last + 1, Problem: structure}
		}
		last = records[len(records)-1].Sequence
	}
}

func readAfter(ctx context.Context, db *sqldb.DB, sequence int64, limit int) (records []Record, err error) {
	rows, err := db.Read().QueryContext(ctx,
		"SELECT sequence, checksum, payload FROM record WHERE sequence > $1 ORDER BY sequence LIMIT $2", sequence, limit)
	if err != nil {
		return nil, fmt.Errorf("reading the journal after record %d: %w", sequence, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var r Record
		var sum int64
		if err := rows.Scan(&r.Sequence, &sum, &r.Payload); err != nil {
			return nil, &CorruptError{Sequence: sequence + 1, Problem: err.Error()}
		}
		if r.Sequence != sequence+1 {
			return nil, &CorruptError{Sequence: sequence + 1, Problem: "it is missing"}
		}
		if sum != int64(checksum(r.Sequence, r.Payload)) {
			return nil, &CorruptError{Sequence: r.Sequence, Problem: "its checksum does not match"}
		}
		sequence = r.Sequence
		records = append(records, r)
	}
	err = rows.Err()
	if sqldb.IsCorrupt(err) {
		return nil, &CorruptError{Sequence: sequence + 1, Problem: err.Error()}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the journal after record %d: %w", sequence, err)
	}
	return records, nil
}

// write is the writer goroutine's transaction: every record of a batch, one fsync.
func write(db *sqldb.DB, first int64, payloads [][]byte) error {
	ctx := context.Background() // a commit is not given up halfway
	err := db.Write(ctx, func(tx *sql.Tx) error {
		insert, err := tx.PrepareContext(ctx, "INSERT INTO record (sequence, checksum, payload) VALUES ($1, $2, $3)")
		if err != nil {
			return fmt.Errorf("preparing: %w", err)
		}
		for i, p := range payloads {
			sequence := first + int64(i)
			if p == nil {
				p = []byte{} // nil would be NULL
			}
			if _, err := insert.ExecContext(ctx, sequence, int64(checksum(sequence, p)), p); err != nil {
				return errors.Join(fmt.Errorf("appending record %d: %w", sequence, err), insert.Close())
			}
		}
		_, err = tx.ExecContext(ctx, "UPDATE tip SET sequence = $1", first+int64(len(payloads))-1)
		return errors.Join(err, insert.Close())
	})
	if sqldb.IsFull(err) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// roomFile is written and removed to see whether there is room; it is larger than a busy second's group commits, so that
// a disk with a few blocks left does not make the node come and go.
const (
	roomFile  = "room"
	roomBytes = 1 << 20
)

// Resume implements Journal.
func (s *SQLite) Resume(ctx context.Context) error {
	return s.resume(func() (last int64, err error) {
		if err := findRoom(filepath.Join(s.dir, roomFile)); err != nil {
			return 0, err
		}
		err = s.db.Read().QueryRowContext(ctx, "SELECT COALESCE(MAX(sequence), 0) FROM record").Scan(&last)
		return last, err
	})
}

// findRoom writes a file, which no figure of the file system replaces: quotas and reserved blocks are not in it.
func findRoom(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.Write(bytes.Repeat([]byte("room"), roomBytes/4))
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// SaveSnapshot implements Journal. It goes into the file of the records: one file is one state, whenever it is copied.
func (s *SQLite) SaveSnapshot(ctx context.Context, snapshot Snapshot) error {
	return s.save(func() error {
		ctx := context.WithoutCancel(ctx) // a commit is not given up halfway
		err := s.db.Write(ctx, func(tx *sql.Tx) error {
			var record []byte
			err := tx.QueryRowContext(ctx, "SELECT payload FROM record WHERE sequence = $1", snapshot.Through).Scan(&record)
			if errors.Is(err, sql.ErrNoRows) || err == nil && snapshot.Through <= snapshot.After {
				return fmt.Errorf("%w: there is no record %d after record %d", ErrSnapshot, snapshot.Through, snapshot.After)
			}
			if err != nil {
				return fmt.Errorf("reading record %d: %w", snapshot.Through, err)
			}
			if _, err := tx.ExecContext(ctx, "DELETE FROM snapshot WHERE through > $1", snapshot.After); err != nil {
				return fmt.Errorf("giving older snapshots up: %w", err)
			}
			digest := snapshot.digest(record)
			_, err = tx.ExecContext(ctx, "INSERT INTO snapshot (through, begins, digest, payload) VALUES ($1, $2, $3, $4)",
				snapshot.Through, snapshot.After, digest[:], snapshot.Payload)
			return err
		})
		if sqldb.IsFull(err) {
			err = fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
		return err
	})
}

// ReadSnapshots implements Journal.
func (s *SQLite) ReadSnapshots(ctx context.Context, fn func(Snapshot) error) (err error) {
	rows, err := s.db.Read().QueryContext(ctx, `SELECT s.begins, s.through, s.digest, s.payload, r.payload FROM snapshot s
		LEFT JOIN record r ON r.sequence = s.through ORDER BY s.through`)
	if err != nil {
		return fmt.Errorf("reading snapshots: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for through := int64(0); rows.Next(); {
		var kept stored
		if err := rows.Scan(&kept.After, &kept.Through, &kept.digest, &kept.Payload, &kept.record); err != nil {
			return fmt.Errorf("%w: %w", ErrSnapshot, err)
		}
		kept.found = kept.record != nil
		if err := kept.follow(through); err != nil {
			return err
		}
		if err := fn(kept.Snapshot); err != nil {
			return err
		}
		through = kept.Through
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	return nil
}

// CheckStructure implements Journal.
func (s *SQLite) CheckStructure(ctx context.Context) error { return checkStructure(ctx, s.db) }

// ReadAfter implements Journal.
func (s *SQLite) ReadAfter(ctx context.Context, sequence int64, limit int) ([]Record, error) {
	return readAfter(ctx, s.db, sequence, limit)
}

// Close implements Journal, and lets another process have the directory.
func (s *SQLite) Close() error {
	s.close()
	return errors.Join(s.db.Close(), s.lock.Close())
}
