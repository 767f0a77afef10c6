package journal

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// ErrSnapshot means: a snapshot is not as it was written, or does not belong to the records. Nothing is lost: the records are
// read instead.
var ErrSnapshot = errors.New("journal: snapshot unusable")

// Snapshot is what its writer wants to read instead of some records. It is never the truth: the records stay, and
// whoever doubts a snapshot reads them.
type Snapshot struct {
	After, Through int64 // the records that it stands for: those after the one, up to the other
	Payload        []byte
}

// digest binds a snapshot to its place and to the last record that it stands for.
func (s Snapshot) digest(record []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte("snapshot/v1\x00"))
	h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(s.After)), uint64(s.Through)))
	last := sha256.Sum256(record)
	h.Write(last[:])
	h.Write(s.Payload)
	return [sha256.Size]byte(h.Sum(nil))
}

// stored is a snapshot as an engine finds it again.
type stored struct {
	Snapshot
	digest []byte
	record []byte // the payload of record Through
	found  bool   // that record is there
}

// follow checks that a snapshot is whole and begins where the one before it ends.
func (s stored) follow(through int64) error {
	switch want := s.Snapshot.digest(s.record); {
	case s.After != through || s.Through <= s.After:
		return fmt.Errorf("%w: records %d to %d, after a snapshot up to record %d", ErrSnapshot, s.After+1, s.Through, through)
	case !s.found:
		return fmt.Errorf("%w: there is no record %d", ErrSnapshot, s.Through)
	case string(want[:]) != string(s.digest):
		return fmt.Errorf("%w: records %d to %d: its digest does not match", ErrSnapshot, s.After+1, s.Through)
	}
	return nil
}

// scrubPage is how many records Scrub reads between two pauses.
const scrubPage = 500

// Scrub reads the records up to a sequence, and looks at the engine's structure, with a rest after every 500 records. A
// node that started from snapshots has not read them: this finds what went wrong with them since. Errors: *CorruptError.
func Scrub(ctx context.Context, j Journal, through int64, rest time.Duration) error {
	if err := j.CheckStructure(ctx); err != nil {
		return err
	}
	for sequence := int64(0); sequence < through; {
		records, err := j.ReadAfter(ctx, sequence, int(min(scrubPage, through-sequence)))
		if err != nil {
			return err
		}
		if len(records) == 0 {
			return &CorruptError{Sequence: sequence + 1, Problem: "it is missing"}
		}
		sequence = records[len(records)-1].Sequence
		if sequence == through {
			break
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return fmt.Errorf("reading the journal again: %w", context.Cause(ctx))
		}
	}
	return nil
}

// save is SaveSnapshot: commit makes it durable. It runs beside the goroutine that commits records, and as carefully:
// after a failed fsync nobody knows what is on the disk, whatever it was for.
func (w *writer) save(commit func() error) error {
	w.mu.Lock()
	switch {
	case w.failure != nil:
		defer w.mu.Unlock()
		return w.failure
	case w.closed:
		defer w.mu.Unlock()
		return ErrClosed
	}
	w.saves.Add(1)
	w.mu.Unlock()
	defer w.saves.Done()
	err := w.at(BeforeCommit)
	if err == nil {
		err = commit()
	}
	if errors.Is(err, ErrNoSpace) || errors.Is(err, ErrSnapshot) {
		return err // undone; records have their own word about room
	}
	if err == nil {
		err = w.at(AfterCommit)
	}
	if err == nil {
		return nil
	}
	err = broken(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case errors.Is(err, ErrClosed): // the fault hook crashed the machine
		w.closed, w.dead = true, true
		w.signal()
	case w.failure == nil:
		w.failure = err
	}
	return err
}
