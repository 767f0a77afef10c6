package journal

import (
	"errors"
	"fmt"
	"sync"
)

// Stage is a moment in a commit at which a test may let the machine fail.
type Stage int

// The stages of a commit.
const (
	BeforeCommit Stage = iota // nothing of the batch is durable
	AfterCommit               // all of it is, and nobody has heard
	LookForRoom               // Resume is about to see whether there is any
)

// defaultQueueRecords is about a third of a second of redemptions at the measured rate; beyond that a viewer is better
// served by another region than by the queue's end.
const defaultQueueRecords = 4096

// writer is the part that both engines share: the queue, the one goroutine that commits, and the broken state.
type writer struct {
	commit func(first int64, payloads [][]byte) error // makes records durable, all or none
	fault  func(Stage) error                          // may be nil; see Options.Fault
	limit  int

	wake    chan struct{}  // holds one token when there is work or an end
	stopped chan struct{}  // closed when the goroutine ended
	saves   sync.WaitGroup // snapshots on their way; added to under mu while not closed

	mu      sync.Mutex
	queue   []queued
	waiting int   // records in queue
	closed  bool  // no more Enqueue
	dead    bool  // and no more commits: the machine crashed
	failure error // set once by the first failed commit
	noSpace error // set by a commit for which there was no room, until resume
	last    int64 // the last durable sequence
}

type queued struct {
	payloads [][]byte
	commit   *Commit
}

func newWriter(last int64, limit int, fault func(Stage) error, commit func(int64, [][]byte) error) *writer {
	if limit <= 0 {
		limit = defaultQueueRecords
	}
	w := &writer{
		commit: commit, fault: fault, limit: limit, last: last,
		wake: make(chan struct{}, 1), stopped: make(chan struct{}),
	}
	go w.run() // close and crash wait for it
	return w
}

// Enqueue implements Journal.
func (w *writer) Enqueue(payloads ...[]byte) (*Commit, error) {
	c := &Commit{done: make(chan struct{})}
	if len(payloads) == 0 {
		close(c.done)
		return c, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.failure != nil:
		return nil, w.failure
	case w.closed:
		return nil, ErrClosed
	case w.noSpace != nil:
		return nil, w.noSpace
	case w.waiting+len(payloads) > w.limit && w.waiting > 0: // a batch larger than the queue goes alone
		return nil, ErrFull
	}
	w.queue = append(w.queue, queued{payloads, c})
	w.waiting += len(payloads)
	w.signal()
	return c, nil
}

func (w *writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run commits whatever has gathered while the last commit was under way.
func (w *writer) run() {
	defer close(w.stopped)
	defer w.lose()
	for range w.wake {
		for {
			batch, first, more := w.take()
			if !more {
				return
			}
			if len(batch) == 0 {
				break
			}
			w.settle(batch, first, w.attempt(batch, first))
		}
	}
}

// take empties the queue. more is false when the goroutine must end.
func (w *writer) take() (batch []queued, first int64, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead || (w.closed && len(w.queue) == 0) {
		return nil, 0, false
	}
	batch, w.queue, w.waiting = w.queue, nil, 0
	return batch, w.last + 1, true
}

func (w *writer) attempt(batch []queued, first int64) error {
	w.mu.Lock()
	failure := w.failure
	w.mu.Unlock()
	if failure != nil {
		return failure
	}
	var payloads [][]byte
	for _, q := range batch {
		payloads = append(payloads, q.payloads...)
	}
	err := w.at(BeforeCommit)
	if err == nil {
		err = w.commit(first, payloads)
	}
	if errors.Is(err, ErrNoSpace) {
		return err
	}
	if err == nil {
		err = w.at(AfterCommit)
	}
	return broken(err)
}

// broken makes an error of the engine one that says what it means. A power cut of a simulated machine stays what it is.
func broken(err error) error {
	if err == nil || errors.Is(err, ErrClosed) || errors.Is(err, ErrBroken) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

func (w *writer) at(s Stage) error {
	if w.fault == nil {
		return nil
	}
	return w.fault(s)
}

// settle tells everybody in the batch.
func (w *writer) settle(batch []queued, first int64, err error) {
	w.mu.Lock()
	if w.dead && err == nil {
		err = ErrClosed // durable, but the machine is gone before it could say so
	}
	switch {
	case err == nil:
	case errors.Is(err, ErrClosed): // the fault hook crashed the machine
		w.closed, w.dead = true, true
	case errors.Is(err, ErrNoSpace):
		w.noSpace = err
		batch = append(batch, w.queue...)
		w.queue, w.waiting = nil, 0
	case w.failure == nil:
		w.failure = err
	}
	for _, q := range batch {
		q.commit.first, q.commit.err = first, err
		first += int64(len(q.payloads))
	}
	if err == nil {
		w.last = first - 1
	}
	w.mu.Unlock()
	for _, q := range batch {
		close(q.commit.done)
	}
}

// resume is Resume: check tells whether the engine has room, and which record is its last.
func (w *writer) resume(check func() (last int64, err error)) error {
	w.mu.Lock()
	failure, noSpace := w.failure, w.noSpace
	w.mu.Unlock()
	if failure != nil || noSpace == nil {
		return failure
	}
	var last int64
	err := w.at(LookForRoom)
	if err == nil {
		last, err = check() // nothing is written meanwhile
	}
	if errors.Is(err, ErrNoSpace) {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && last != w.last {
		err = fmt.Errorf("record %d is the last one, and it should be %d", last, w.last)
	}
	if err != nil {
		w.failure = broken(err)
		return w.failure
	}
	w.noSpace = nil
	return nil
}

// lose tells those who were queued when the machine crashed.
func (w *writer) lose() {
	w.mu.Lock()
	lost := w.queue
	w.queue, w.waiting = nil, 0
	w.mu.Unlock()
	for _, q := range lost {
		q.commit.err = ErrClosed
		close(q.commit.done)
	}
}

// close refuses new records, lets the queue drain and waits for the goroutine.
func (w *writer) close() { w.end(false) }

// crash ends the goroutine as a power cut does: what is queued is lost.
func (w *writer) crash() { w.end(true) }

func (w *writer) end(dead bool) {
	w.mu.Lock()
	w.closed = true
	w.dead = w.dead || dead
	w.signal()
	w.mu.Unlock()
	<-w.stopped
	w.saves.Wait()
}
