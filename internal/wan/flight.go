package wan

import (
	"sync"
	"time"
)

// flight is one direction of a path: bytes in the order of writing, each with the time at which it arrives.
type flight struct {
	mu      sync.Mutex
	queue   []segment
	size    int           // bytes in queue
	last    time.Time     // the latest arrival so far: nothing overtakes it
	err     error         // what follows the last byte
	changed chan struct{} // closed and replaced at every change
}

type segment struct {
	data []byte
	due  time.Time
}

func newFlight() *flight { return &flight{changed: make(chan struct{})} }

// change wakes whoever waits. The caller holds mu.
func (f *flight) change() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// arrival is when something sent now arrives. The caller holds mu.
func (f *flight) arrival(delay time.Duration) time.Time {
	if due := time.Now().Add(delay); due.After(f.last) {
		f.last = due
	}
	return f.last
}

// put sends as many bytes as there is room for. With none, changed closes when that may be different.
func (f *flight) put(b []byte, delay time.Duration) (n int, changed <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return 0, nil, f.err
	}
	n = min(len(b), inFlight-f.size)
	if n > 0 {
		data := make([]byte, n)
		copy(data, b)
		f.queue = append(f.queue, segment{data: data, due: f.arrival(delay)})
		f.size += n
		f.change()
	}
	return n, f.changed, nil
}

// end sends an error as the last thing.
func (f *flight) end(err error, delay time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.arrival(delay)
	f.err = err
	f.change()
}

// take receives bytes, or the error behind them, once they are due and the path is not cut. Otherwise it says what to wait
// for: the time, when it is set, or the channel.
func (f *flight) take(b []byte, cut <-chan struct{}) (n int, due time.Time, changed <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	due = f.last
	if len(f.queue) > 0 {
		due = f.queue[0].due
	}
	switch {
	case len(f.queue) == 0 && f.err == nil:
		return 0, time.Time{}, f.changed, nil
	case cut != nil:
		return 0, time.Time{}, cut, nil
	case time.Now().Before(due):
		return 0, due, nil, nil
	case len(f.queue) == 0:
		return 0, time.Time{}, nil, f.err
	}
	head := &f.queue[0]
	n = copy(b, head.data)
	head.data = head.data[n:]
	f.size -= n
	if len(head.data) == 0 {
		f.queue = f.queue[1:]
	}
	f.change()
	return n, time.Time{}, nil, nil
}

// head is the next segment, which stays where it is; nil data when there is none.
func (f *flight) head() (data []byte, due time.Time, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.queue) == 0 {
		return nil, time.Time{}, f.changed
	}
	return f.queue[0].data, f.queue[0].due, nil
}

// pop forgets the head.
func (f *flight) pop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size -= len(f.queue[0].data)
	f.queue = f.queue[1:]
	f.change()
}

func (f *flight) empty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.queue) == 0
}

func (f *flight) lastDue() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// deadline is a point in time as a channel.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{}
}

func newDeadline() *deadline { return &deadline{passed: make(chan struct{})} }

// wait returns a channel that closes when the deadline has passed.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

// set moves the deadline; the zero time is never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.passed // the old timer fired: let it finish with its own channel
	}
	d.timer = nil
	select {
	case <-d.passed:
		d.passed = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	passed := d.passed
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { close(passed) })
	} else {
		close(passed)
	}
}
