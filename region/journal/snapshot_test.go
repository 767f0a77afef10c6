package journal_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/region/journal"
)

// snapped is a closed directory with 20 records and a snapshot of the first 15.
func snapped(t *testing.T) string {
	t.Helper()
	dir := filled(t)
	j, _ := open(t, dir, journal.Options{})
	err := j.SaveSnapshot(t.Context(), journal.Snapshot{Through: 15, Payload: []byte("what fifteen records mean")})
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, j)
	return dir
}

// flip changes a bit of the journal's file, in a text.
func flip(t *testing.T, dir, text string) {
	t.Helper()
	path := filepath.Join(dir, "journal.db")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, []byte(text))
	if at < 0 {
		t.Fatalf("%q is not in the file", text)
	}
	raw[at+4] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func nothing(journal.Snapshot) error { return nil }

func TestFlippedBitBehindASnapshotIsFoundByScrub(t *testing.T) {
	dir := snapped(t)
	flip(t, dir, "the record number 13")
	j, _ := open(t, dir, journal.Options{})
	defer mustClose(t, j)
	if err := j.ReadSnapshots(t.Context(), nothing); err != nil {
		t.Errorf("the snapshot is whole: %v", err)
	}
	var corrupt *journal.CorruptError
	if err := journal.Scrub(t.Context(), j, 15, 0); !errors.As(err, &corrupt) || corrupt.Sequence != 13 {
		t.Errorf("got %v, want record 13 to be corrupt", err)
	}
}

func TestFlippedBitAfterASnapshotStopsOpening(t *testing.T) {
	dir := snapped(t)
	flip(t, dir, "the record number 17")
	var corrupt *journal.CorruptError
	if _, _, err := journal.Open(t.Context(), dir, journal.Options{}); !errors.As(err, &corrupt) || corrupt.Sequence != 17 {
		t.Errorf("got %v, want record 17 to be corrupt", err)
	}
}

// The record where a snapshot ends is in its digest, too.
func TestFlippedBitUnderASnapshot(t *testing.T) {
	for _, text := range []string{"what fifteen records mean", "the record number 15"} {
		dir := snapped(t)
		flip(t, dir, text)
		j, _, err := journal.Open(t.Context(), dir, journal.Options{})
		var corrupt *journal.CorruptError
		if errors.As(err, &corrupt) && corrupt.Sequence == 15 {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		if err := j.ReadSnapshots(t.Context(), nothing); !errors.Is(err, journal.ErrSnapshot) {
			t.Errorf("%s: got %v, want ErrSnapshot", text, err)
		}
		n := 0
		if err := journal.Replay(context.Background(), j, 0, func(journal.Record) error { n++; return nil }); err != nil || n != 20 {
			t.Errorf("%s: %d records, %v: all of them are there", text, n, err)
		}
		mustClose(t, j)
	}
}

// A damaged page may hide the newest records, whose serials would be sold again. With a snapshot nobody looks at the
// table's structure before the node sells.
func TestHiddenRecordsStopOpening(t *testing.T) {
	for name, dir := range map[string]string{"no snapshot": filled(t), "a snapshot": snapped(t)} {
		for _, first := range []int64{18, 12} { // behind the snapshot, and with the record where it ends
			db, err := sqldb.OpenSQLite(t.Context(), filepath.Join(dir, "journal.db"))
			if err != nil {
				t.Fatal(err)
			}
			err = db.Write(t.Context(), func(tx *sql.Tx) error {
				_, err := tx.ExecContext(t.Context(), "DELETE FROM record WHERE sequence >= $1", first)
				return err
			})
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
			var corrupt *journal.CorruptError
			if _, _, err := journal.Open(t.Context(), dir, journal.Options{}); !errors.As(err, &corrupt) || corrupt.Sequence != first {
				t.Errorf("%s: got %v, want record %d to be missing", name, err, first)
			}
		}
	}
}
