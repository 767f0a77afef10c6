package filelock_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rimlight/rimlight/internal/filelock"
)

func TestALockIsHeldUntilItIsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(path, []byte("4711\n"), 0o600); err != nil { // left by a process that was killed
		t.Fatal(err)
	}
	lock, err := filelock.Acquire(path)
	if err != nil {
		t.Fatalf("a stale file must not stop a start: %v", err)
	}
	if _, err := filelock.Acquire(path); err == nil || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("the second: got %v, want the holder's id", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := filelock.Acquire(path)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}
