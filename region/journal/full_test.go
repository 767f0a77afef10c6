//go:build linux

package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rimlight/rimlight/region/journal"
)

// smallDisk mounts a file system of 12 MiB in memory: three times the log at which SQLite copies it to the table.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=12m"); err != nil {
		t.Skipf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	return dir
}

// fill takes what is left of a disk, and gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range []int{1 << 18, 4096} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, block))
		}
	}
	if cerr := f.Close(); cerr != nil || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v, %v", err, cerr)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// A disk fills at any moment of a commit: in the middle of a batch, at its end, while the log is copied to the table.
func TestOnAFullDiskNothingIsHalfWritten(t *testing.T) {
	dir := smallDisk(t)
	j, _ := open(t, dir, journal.Options{})
	var kept [][]byte
	filled := 0
	for round := range 40 {
		free := fill(t, dir)
		for i := 0; ; i++ {
			record := bytes.Repeat(fmt.Appendf(nil, "round %d record %d;", round, i), 1+(round*37+i*11)%200)
			batch := [][]byte{record}
			for range (round + i) % 7 {
				batch = append(batch, record)
			}
			_, err := journal.Append(t.Context(), j, batch...)
			if err == nil {
				kept = append(kept, batch...)
				continue
			}
			if !errors.Is(err, journal.ErrNoSpace) {
				t.Fatalf("round %d, record %d: got %v, want ErrNoSpace", round, i, err)
			}
			filled++
			break
		}
		if err := j.Resume(t.Context()); !errors.Is(err, journal.ErrNoSpace) {
			t.Fatalf("round %d: resuming on a full disk: got %v, want ErrNoSpace", round, err)
		}
		free()
		if err := j.Resume(t.Context()); errors.Is(err, journal.ErrNoSpace) {
			break // the journal itself fills the disk
		} else if err != nil {
			t.Fatal(err)
		}
		if round%10 == 9 { // and what a new process reads is what was acknowledged
			mustClose(t, j)
			j, _ = open(t, dir, journal.Options{})
		}
	}
	mustClose(t, j)
	j, _ = open(t, dir, journal.Options{})
	defer mustClose(t, j)
	i := 0
	if err := journal.Replay(t.Context(), j, 0, func(r journal.Record) error {
		if i >= len(kept) || !bytes.Equal(r.Payload, kept[i]) {
			return fmt.Errorf("it is not what was acknowledged as number %d of %d", i+1, len(kept))
		}
		i++
		return nil
	}); err != nil {
		t.Error(err)
	}
	if i != len(kept) || filled < 5 {
		t.Errorf("%d records of %d are there after %d full disks", i, len(kept), filled)
	}
}
