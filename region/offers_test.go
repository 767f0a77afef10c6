package region_test

import (
	"testing"
	"testing/synctest"
	"time"
)

// Offers are counted where they are made and told by heartbeats; those made while fulfillment is away are told later.
func TestHeartbeatsTellOffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 100, 100)
		w.start()
		time.Sleep(21 * time.Second)
		told := func() int64 {
			synctest.Wait()
			w.stock.mu.Lock()
			defer w.stock.mu.Unlock()
			return w.stock.offers[w.drop.GetDrop().GetDropId()]
		}
		for i := range 5 {
			w.mustOffer(i)
		}
		time.Sleep(3 * time.Second)
		if got := told(); got != 5 {
			t.Errorf("fulfillment heard of %d offers, want 5", got)
		}
		w.stock.mu.Lock()
		w.stock.down = true
		w.stock.mu.Unlock()
		w.mustOffer(5)
		time.Sleep(5 * time.Second)
		w.stock.mu.Lock()
		w.stock.down = false
		w.stock.mu.Unlock()
		time.Sleep(15 * time.Second)
		if got := told(); got != 6 {
			t.Errorf("after an outage fulfillment heard of %d offers, want 6", got)
		}
		if err := w.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}
