package fulfillment

import (
	"context"
	"sync"
	"time"
)

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

// followEvery is how soon news of another replica is noticed: with the time that a change takes to a node, within the
// second that a drop's pause may take. It costs two reads of a row.
const followEvery = 250 * time.Millisecond

// follow wakes those who wait for what another replica changed, until ctx ends. Both numbers are drawn in the transaction
// that they number, so what they count is visible.
func (s *Service) follow(ctx context.Context) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	var revision, event int64
	failing := false
	for {
		r, err := s.store.Revision(ctx)
		if err == nil && r != revision {
			revision = r
			s.catalog.poke()
		}
		e := event
		if err == nil {
			e, err = s.store.LastEvent(ctx)
		}
		if err == nil && e != event {
			event = e
			s.events.poke()
			s.placed.poke()
		}
		if failing != (err != nil) && ctx.Err() == nil {
			if failing = err != nil; failing {
				s.log.WarnContext(ctx, "the store cannot be asked for what other replicas changed", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
