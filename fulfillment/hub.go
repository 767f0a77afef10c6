package fulfillment

import "sync"

// hub wakes everybody who waits for something to have changed. It carries no data, so nothing can queue up: whoever
// wakes reads the store. The zero value is ready.
type hub struct {
	mu   sync.Mutex // guards next
	next chan struct{}
}

// wait returns a channel that closes at the next poke. Take it before reading the store, or a change in between is missed.
func (h *hub) wait() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == nil {
		h.next = make(chan struct{})
	}
	return h.next
}

func (h *hub) poke() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next != nil {
		close(h.next)
		h.next = nil
	}
}
