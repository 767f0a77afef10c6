package verifier

import (
	"sync"

	"github.com/rimlight/rimlight/verifier/store"
)

// hub wakes whoever waits for a commit. A wake-up carries nothing: the woken one reads the store, so one that is missed
// or merged with another loses no news, and every waiter looks again after a while.
type hub struct {
	jobs map[store.Kind]chan struct{}

	mu        sync.Mutex // guards what is below
	purchases map[store.ID]map[chan struct{}]struct{}
	all       map[chan struct{}]struct{}
}

func newHub() *hub {
	h := &hub{
		jobs:      map[store.Kind]chan struct{}{},
		purchases: map[store.ID]map[chan struct{}]struct{}{},
		all:       map[chan struct{}]struct{}{},
	}
	for _, kind := range store.Kinds() {
		h.jobs[kind] = make(chan struct{}, 1)
	}
	return h
}

// watch subscribes to one purchase until stop is called.
func (h *hub) watch(id store.ID) (wake <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.purchases[id] == nil {
		h.purchases[id] = map[chan struct{}]struct{}{}
	}
	h.purchases[id][ch] = struct{}{}
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if delete(h.purchases[id], ch); len(h.purchases[id]) == 0 {
			delete(h.purchases, id)
		}
	}
}

// watchAll subscribes to every purchase and to new keys until stop is called.
func (h *hub) watchAll() (wake <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all[ch] = struct{}{}
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.all, ch)
	}
}

// committed is the store's Committed.
func (h *hub) committed(c store.Changes) {
	for _, kind := range c.Jobs {
		poke(h.jobs[kind])
	}
	if len(c.Purchases) == 0 && !c.Keys && !c.Webhooks {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.all {
		poke(ch)
	}
	for _, p := range c.Purchases {
		for ch := range h.purchases[p.TokenID] {
			poke(ch)
		}
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // a wake-up is waiting already
	}
}
