// Package journal keeps what a region's node promised: an append-only sequence of records, durable before anybody hears
// of them.
//
//	Enqueue ──> bounded queue ──> one writer goroutine ──> one transaction, one fsync ──> Commit done
//	                              (takes all that waits: group commit)
//
// Invariants. Records are durable in the order of the Enqueue calls, so a crash leaves a prefix. Sequences begin at 1
// and have no gaps. A record is never changed, removed or repaired: a checksum that does not match stops Open and
// names the place. After a commit that failed nobody knows what is on disk, so the journal stays broken until the
// process restarts and reads it.
//
// A disk without room is the exception: the engine says so before a commit could be durable, and undoes it. Everything
// that is queued at that moment fails with it, since later records may build on earlier ones, and nothing is taken until
// Resume finds room.
//
// Beside the records lie snapshots: what their reader would otherwise have to work out from the records again. Each
// stands for a run of records, follows the one before it, and is bound by a digest to the last record of its run. They
// are no truth of their own: one that is not as it was written is refused, and the records are read. A reader that
// trusts snapshots has not read the records below them, so it lets Scrub do that afterwards.
//
// There are two engines behind one conformance suite (journaltest): a SQLite file in a locked data directory, which
// also holds the node's identity, and memory that loses what was not synced, for tests in virtual time.
//
// It does not know what a record means, and it does not survive the loss of its disk: receipts do, while clients keep
// them.
package journal

import (
	"context"
	"errors"
	"fmt"
)

// Errors of a journal.
var (
	// ErrFull: the queue holds as much as it may. Nothing was queued; try again after the disk caught up.
	ErrFull = errors.New("journal: queue full")
	// ErrNoSpace: the disk is full. Nothing of what was queued is durable, and nothing is taken before Resume.
	ErrNoSpace = errors.New("journal: no space left on the disk")
	// ErrBroken: a commit failed, now or before. What was queued may or may not be durable; the process must stop.
	ErrBroken = errors.New("journal: broken")
	// ErrClosed: Close was called, or the simulated machine crashed.
	ErrClosed = errors.New("journal: closed")
)

// CorruptError says where the journal does not hold what was written to it.
type CorruptError struct {
	Sequence int64  // the first record that is not as it was written
	Problem  string // what is wrong with it
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal: record %d is corrupt: %s", e.Sequence, e.Problem)
}

// Record is one entry.
type Record struct {
	Sequence int64 // its place, from 1 without gaps
	Payload  []byte
}

// Journal is what an engine offers. All methods are safe for concurrent use.
type Journal interface {
	// Enqueue takes records for the next commit and never blocks. They become durable together, in the order of the
	// calls. The payloads belong to the journal from here on. Errors: ErrFull, ErrNoSpace, ErrBroken, ErrClosed; then
	// nothing was queued.
	Enqueue(payloads ...[]byte) (*Commit, error)
	// ReadAfter gives up to limit durable records that follow a sequence, in order. Empty: there are none yet.
	ReadAfter(ctx context.Context, sequence int64, limit int) ([]Record, error)
	// Resume lets a journal take records again that ran out of space. Errors: ErrNoSpace while there is too little,
	// ErrBroken.
	Resume(ctx context.Context) error
	// SaveSnapshot makes a snapshot durable, which follows those up to its After; any that reach further are given up for
	// it. Errors: ErrNoSpace, after which records are taken as before, ErrSnapshot when there is no record Through,
	// ErrBroken, ErrClosed.
	SaveSnapshot(ctx context.Context, s Snapshot) error
	// ReadSnapshots hands the snapshots to fn in order, from the first record on without gaps, and stops at fn's first
	// error. Errors: ErrSnapshot at the first one that is not as it was written or does not belong to the records.
	ReadSnapshots(ctx context.Context, fn func(Snapshot) error) error
	// CheckStructure looks at what the engine keeps beside the records' bytes. Errors: *CorruptError.
	CheckStructure(ctx context.Context) error
	// Close commits what is queued, waits for it and releases the engine.
	Close() error
}

// Commit is the fate of one Enqueue call.
type Commit struct {
	done  chan struct{}
	first int64
	err   error
}

// Done is closed when the records are durable or the journal gave up on them.
func (c *Commit) Done() <-chan struct{} { return c.done }

// Result gives the first record's sequence. It may be called after Done only. Errors: ErrNoSpace, ErrBroken, ErrClosed.
func (c *Commit) Result() (int64, error) { return c.first, c.err }

// Append enqueues records and waits until they are durable; it returns the first one's sequence. When ctx ends first
// the records may still become durable.
func Append(ctx context.Context, j Journal, payloads ...[]byte) (int64, error) {
	c, err := j.Enqueue(payloads...)
	if err != nil {
		return 0, err
	}
	select {
	case <-c.Done():
		return c.Result()
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for the journal: %w", context.Cause(ctx))
	}
}

// replayPage bounds the memory that a replay holds at once.
const replayPage = 1000

// Replay hands every durable record after a sequence to fn, in order, and stops at fn's first error.
func Replay(ctx context.Context, j Journal, sequence int64, fn func(Record) error) error {
	for {
		records, err := j.ReadAfter(ctx, sequence, replayPage)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := fn(r); err != nil {
				return fmt.Errorf("replaying record %d: %w", r.Sequence, err)
			}
			sequence = r.Sequence
		}
		if len(records) < replayPage {
			return nil
		}
	}
}
