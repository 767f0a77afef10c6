package telemetry

import "sync"

// mostWaiting bounds what Waiting remembers: some megabytes.
const mostWaiting = 10_000

// Waiting remembers in memory the traces of things that wait in a store, as Durable wrote them. A restart forgets them, and
// so does one too many. The zero value is ready. Safe for concurrent use.
type Waiting[K comparable] struct {
	mu     sync.Mutex // guards traces
	traces map[K][]byte
}

// Put remembers a thing's trace; empty: that it has none.
func (w *Waiting[K]) Put(thing K, durable []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.traces == nil || len(w.traces) >= mostWaiting {
		w.traces = map[K][]byte{}
	}
	w.traces[thing] = durable
}

// Get is a thing's trace; known tells whether Put said anything.
func (w *Waiting[K]) Get(thing K) (durable []byte, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	durable, known = w.traces[thing]
	return durable, known
}

// Forget gives up what is over.
func (w *Waiting[K]) Forget(thing K) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.traces, thing)
}
