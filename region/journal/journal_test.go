package journal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/rimlight/rimlight/region/journal"
	"github.com/rimlight/rimlight/region/journal/journaltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	journaltest.Run(t, func(*testing.T) journaltest.Engine {
		disk := &journal.Disk{}
		return func(_ *testing.T, fault func(journal.Stage) error, queue int) journal.Journal {
			return disk.OpenMemory(journal.MemoryOptions{Fault: fault, QueueRecords: queue})
		}
	})
}

func TestSQLite(t *testing.T) {
	journaltest.Run(t, func(t *testing.T) journaltest.Engine {
		dir := t.TempDir()
		return func(t *testing.T, fault func(journal.Stage) error, queue int) journal.Journal {
			j, _ := open(t, dir, journal.Options{Fault: fault, QueueRecords: queue})
			return j
		}
	})
}

func open(t *testing.T, dir string, o journal.Options) (*journal.SQLite, journal.Identity) {
	t.Helper()
	j, id, err := journal.Open(t.Context(), dir, o)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	return j, id
}

func mustClose(t *testing.T, j journal.Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatalf("closing: %v", err)
	}
}

// filled makes a closed directory with 20 records.
func filled(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	j, _ := open(t, dir, journal.Options{})
	for i := range 20 {
		if _, err := journal.Append(t.Context(), j, fmt.Appendf(nil, "the record number %02d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, j)
	return dir
}

func TestFlippedBitStopsOpening(t *testing.T) {
	dir := filled(t)
	path := filepath.Join(dir, "journal.db")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, []byte("the record number 13"))
	if at < 0 {
		t.Fatal("the record is not in the file")
	}
	raw[at+4] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and it is not repaired
		_, _, err = journal.Open(t.Context(), dir, journal.Options{})
		var corrupt *journal.CorruptError
		if !errors.As(err, &corrupt) || corrupt.Sequence != 13 {
			t.Errorf("got %v, want record 13 to be corrupt", err)
		}
	}
}

// Damage that hides records from SQLite, and not only changes them, has a position, too.
func TestDamagedPageStopsOpening(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir, journal.Options{})
	for i := range 40 {
		if _, err := journal.Append(t.Context(), j, fmt.Appendf(nil, "the record number %02d %s", i+1, strings.Repeat("x", 1000))); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, j)
	path := filepath.Join(dir, "journal.db")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	at := bytes.Index(raw, []byte("the record number 20"))
	if at < 0 {
		t.Fatal("the record is not in the file")
	}
	raw[at/page*page] ^= 0xff // what kind of page it is
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var corrupt *journal.CorruptError
	if _, _, err = journal.Open(t.Context(), dir, journal.Options{}); !errors.As(err, &corrupt) || corrupt.Sequence <= 13 || corrupt.Sequence > 20 {
		t.Errorf("got %v, want one of the page's records", err)
	}
}

func TestTornTailLeavesAPrefix(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir, journal.Options{})
	for i := range 20 {
		if _, err := journal.Append(t.Context(), j, bytes.Repeat([]byte{byte(i)}, 2000)); err != nil {
			t.Fatal(err)
		}
	}
	wal, err := os.ReadFile(filepath.Join(dir, "journal.db-wal"))
	if err != nil {
		t.Fatal(err)
	}
	whole := copyDir(t, dir) // as the disk is while the process runs
	mustClose(t, j)
	last := -1
	for cut := 0; cut < len(wal); cut += len(wal)/10 + 7 {
		torn := copyDir(t, whole)
		if err := os.Truncate(filepath.Join(torn, "journal.db-wal"), int64(len(wal)-cut)); err != nil {
			t.Fatal(err)
		}
		j, _, err := journal.Open(t.Context(), torn, journal.Options{})
		if err != nil {
			continue // torn before the journal had its tables: refused, since the identity is there
		}
		n := 0
		if err := journal.Replay(context.Background(), j, 0, func(r journal.Record) error {
			if !bytes.Equal(r.Payload, bytes.Repeat([]byte{byte(n)}, 2000)) {
				t.Errorf("record %d is not what was written", r.Sequence)
			}
			n++
			return nil
		}); err != nil {
			t.Errorf("replaying: %v", err)
		}
		if cut == 0 && n != 20 || last >= 0 && n > last {
			t.Errorf("cut by %d bytes: got %d records after %d", cut, n, last)
		}
		last = n
		mustClose(t, j)
	}
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir, journal.Options{})
	_, _, err := journal.Open(t.Context(), dir, journal.Options{})
	if err == nil || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("got %v, want an error that names the holder", err)
	}
	mustClose(t, j)
	j, _ = open(t, dir, journal.Options{})
	mustClose(t, j)
}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	j, born := open(t, dir, journal.Options{MachineID: "one"})
	if _, err := journal.Append(t.Context(), j, []byte("a")); err != nil {
		t.Fatal(err)
	}
	mustClose(t, j)
	for _, name := range []string{"identity.json", "journal.db"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got mode %v, %v, want 0600", name, info, err)
		}
	}
	j, again := open(t, dir, journal.Options{MachineID: "one"})
	mustClose(t, j)
	if again.NodeID != born.NodeID || again.DiskID != born.DiskID || !bytes.Equal(again.Seed, born.Seed) {
		t.Error("a restart is another node")
	}
	j, moved := open(t, dir, journal.Options{MachineID: "two"})
	mustClose(t, j)
	if moved.NodeID != born.NodeID || moved.DiskID == born.DiskID {
		t.Error("on another machine it must be the same node with another disk")
	}
	j, other := open(t, t.TempDir(), journal.Options{MachineID: "one"})
	mustClose(t, j)
	if other.NodeID == born.NodeID || other.DiskID == born.DiskID {
		t.Error("two directories have one identity")
	}
}

func TestANodeComesBackOnANewDisk(t *testing.T) {
	j, lost := open(t, t.TempDir(), journal.Options{})
	mustClose(t, j)
	dir := t.TempDir()
	for range 2 { // the flag may stay
		j, again := open(t, dir, journal.Options{NodeID: lost.NodeID})
		mustClose(t, j)
		if again.NodeID != lost.NodeID || again.DiskID == lost.DiskID || bytes.Equal(again.Seed, lost.Seed) {
			t.Error("it must be the same node with another disk and another key")
		}
	}
	for name, id := range map[string]string{"another node's directory": "0190d5e6-0000-7000-8000-000000000001", "no id": "x"} {
		if j, _, err := journal.Open(t.Context(), dir, journal.Options{NodeID: id}); err == nil {
			mustClose(t, j)
			t.Errorf("%s: it opened", name)
		}
	}
}

func TestHalfADirectoryIsRefused(t *testing.T) {
	for name, lose := range map[string][]string{
		"a journal without its key":       {"identity.json"},
		"an identity without its journal": {"journal.db", "journal.db-wal", "journal.db-shm"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filled(t)
			for _, file := range lose {
				if err := os.Remove(filepath.Join(dir, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
			}
			if j, _, err := journal.Open(t.Context(), dir, journal.Options{}); err == nil {
				mustClose(t, j)
				t.Error("it opened")
			}
		})
	}
	t.Run("an identity with an empty journal, which stays empty", func(t *testing.T) {
		dir := filled(t)
		path := filepath.Join(dir, "journal.db")
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if j, _, err := journal.Open(t.Context(), dir, journal.Options{}); err == nil || !strings.Contains(err.Error(), "without its journal") {
				t.Errorf("got %v", err)
				if err == nil {
					mustClose(t, j)
				}
			}
		}
		if info, err := os.Stat(path); err != nil || info.Size() != 0 {
			t.Errorf("something was written: %v, %v", info, err)
		}
	})
	t.Run("another node's key", func(t *testing.T) {
		dir, other := filled(t), filled(t)
		if err := os.Rename(filepath.Join(other, "identity.json"), filepath.Join(dir, "identity.json")); err != nil {
			t.Fatal(err)
		}
		if j, _, err := journal.Open(t.Context(), dir, journal.Options{}); err == nil {
			mustClose(t, j)
			t.Error("it opened")
		}
	})
	t.Run("a first start that was cut short goes on", func(t *testing.T) {
		dir := t.TempDir()
		j, born := open(t, dir, journal.Options{})
		mustClose(t, j)
		if err := os.Remove(filepath.Join(dir, "identity.json")); err != nil {
			t.Fatal(err)
		}
		j, again := open(t, dir, journal.Options{})
		mustClose(t, j)
		if again.NodeID != born.NodeID {
			t.Error("it is another node")
		}
	})
}
