package store_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rimlight/rimlight/fulfillment/store"
)

// Planning a drop must not take longer with more units: a call has two seconds.
func TestUnitsAreMadeWhenTheyAreLent(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		const units = 1_000_000
		node, drop := id('n', 1), id('d', 1)
		create(t, s, drop, units, window(start, time.Hour))
		if got, want := level(t, s, drop), (store.Level{Units: units, Free: units}); got != want {
			t.Errorf("planned: got %+v, want %+v", got, want)
		}
		join(t, s, node)
		first := grant(t, s, id('r', 1), node, drop, id('l', 1), 3).Lease.GetSerials()
		second := grant(t, s, id('r', 2), node, drop, id('l', 2), 2).Lease.GetSerials()
		if !slices.Equal(first, []uint32{1, 2, 3}) || !slices.Equal(second, []uint32{4, 5}) {
			t.Errorf("lent: got %v and %v, want the lowest", first, second)
		}
		if n, err := s.Return(t.Context(), store.Caller{NodeID: node, Epoch: 1}, id('l', 1), []uint32{2}, start); err != nil || n != 1 {
			t.Fatal(n, err)
		}
		if third := grant(t, s, id('r', 3), node, drop, id('l', 3), 2).Lease.GetSerials(); !slices.Equal(third, []uint32{2, 6}) {
			t.Errorf("after a return: got %v, want 2 again and the next", third)
		}
		if got, want := level(t, s, drop), (store.Level{Units: units, Free: units - 6, Leased: 6}); got != want {
			t.Errorf("lent: got %+v, want %+v", got, want)
		}
	})
}

func TestNodesThatAskTogetherGetDifferentUnits(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		const units, nodes = 60, 6
		drop := id('d', 1)
		create(t, s, drop, units, window(start, time.Hour))
		var mu sync.Mutex
		lent := map[uint32]bool{}
		for n := range nodes {
			join(t, s, id('n', n))
		}
		var asking sync.WaitGroup
		for n := range nodes {
			asking.Go(func() {
				for i := 0; ; i++ {
					g, err := s.Grant(t.Context(), store.GrantRequest{
						RequestID: id('r', n*1000+i), NodeID: id('n', n), DropID: drop, Epoch: 1, Wanted: 5,
					}, id('l', n*1000+i), start)
					if err != nil {
						t.Error(err)
						return
					}
					if g.Lease == nil {
						return
					}
					mu.Lock()
					for _, serial := range g.Lease.GetSerials() {
						if lent[serial] {
							t.Errorf("unit %d is lent twice", serial)
						}
						lent[serial] = true
					}
					mu.Unlock()
				}
			})
		}
		asking.Wait()
		if got, want := level(t, s, drop), (store.Level{Units: units, Leased: units}); got != want || len(lent) != units {
			t.Errorf("got %+v of %d units, want %+v", got, len(lent), want)
		}
	})
}
