package journal

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Health is how a journal's disk is doing.
type Health struct {
	SyncP99   time.Duration // what 99 % of the last Syncs commits took at most, each with its fsync; 0 without any
	Syncs     int           // up to 1,024
	FreeBytes uint64        // for this process's user
	AllBytes  uint64
}

// keptSyncs is how many commits the figure is of: seconds of a busy node, the whole life of a quiet one.
const keptSyncs = 1024

// stopwatch remembers how long the last commits took.
type stopwatch struct {
	mu   sync.Mutex
	took []time.Duration
	next int // the oldest, once all places are taken
}

// time runs a commit.
func (s *stopwatch) time(commit func() error) error {
	begin := time.Now()
	err := commit()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.took) < keptSyncs {
		s.took = append(s.took, time.Since(begin))
	} else {
		s.took[s.next] = time.Since(begin)
		s.next = (s.next + 1) % keptSyncs
	}
	return err
}

// p99 is what 99 % of n commits took at most.
func (s *stopwatch) p99() (p99 time.Duration, n int) {
	s.mu.Lock()
	took := slices.Clone(s.took)
	s.mu.Unlock()
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	return took[(len(took)*99+99)/100-1], len(took)
}

// Health measures nothing anew: it tells what the commits took, and what the file system says.
func (s *SQLite) Health() (Health, error) {
	h := Health{}
	h.SyncP99, h.Syncs = s.syncs.p99()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(s.lock.Fd()), &fs); err != nil {
		return Health{}, fmt.Errorf("asking for the disk's space: %w", err)
	}
	h.FreeBytes, h.AllBytes = fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize)
	return h, nil
}
