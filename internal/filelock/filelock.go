// Package filelock makes a file on disk one process's alone: two processes on one store or journal would each believe
// what they have in memory.
//
// It does not wait for a lock, and says nothing about goroutines of one process beyond refusing the second one.
package filelock

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Acquire takes the lock file for this process, making it if needed, until the file is closed. The kernel drops the lock
// with the process, however it ends, so a stale file never stops a start. The error names who holds it.
func Acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := holderOf(f)
		if cerr := f.Close(); cerr != nil {
			err = errors.Join(err, cerr)
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is locked by %s: one data directory serves one process", path, holder)
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("writing the lock: %w", err), f.Close())
	}
	return f, nil
}

func holderOf(f *os.File) string {
	raw, err := io.ReadAll(io.LimitReader(f, 20))
	if pid, perr := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil && perr == nil {
		return fmt.Sprintf("process %d", pid)
	}
	return "another process"
}
