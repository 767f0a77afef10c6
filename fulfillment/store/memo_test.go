package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/rimlight/rimlight/fulfillment/store"
	"github.com/rimlight/rimlight/internal/dropclock"
)

// What heartbeats read is kept until something changes: each change of a drop's units must show at once.
func TestSupplyFollowsEachChange(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, drop, lease := id('n', 1), id('d', 1), id('l', 1)
		claim := store.Claim{TokenID: id('k', 1), DropID: drop, Serial: 1, LeaseID: lease}
		check := func(after string, known, free, leased bool) {
			t.Helper()
			for range 2 { // the second time from what is kept
				p, err := s.Supply(t.Context(), drop)
				if err != nil || p.Known != known || p.AnyFree != free || p.AnyLeased != leased {
					t.Fatalf("after %s: got %+v, %v; want known %v, free %v, leased %v", after, p, err, known, free, leased)
				}
			}
		}
		check("nothing", false, false, false)
		create(t, s, drop, 1, window(start, 90*time.Second))
		check("its planning", true, true, false)
		join(t, s, node)
		grant(t, s, id('r', 1), node, drop, lease, 1)
		check("a grant", true, false, true)
		caller := store.Caller{NodeID: node, Epoch: 1}
		if _, err := s.Return(t.Context(), caller, lease, []uint32{1}, start); err != nil {
			t.Fatal(err)
		}
		check("a return", true, true, false)
		claim.LeaseID = id('l', 2)
		grant(t, s, id('r', 2), node, drop, claim.LeaseID, 1)
		settle(t, s, claim)
		check("a settlement", true, false, false)
		release(t, s, claim)
		check("a release", true, true, false)
	})
}

// Nor does a heartbeat's pulse lag behind: not behind a change, and not behind the clock, wherever that is set.
func TestThePulseFollowsEachChangeAndTheClock(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, other, soon, later := id('n', 1), id('n', 2), id('d', 1), id('d', 2)
		caller := store.Caller{NodeID: node, Epoch: 1}
		check := func(after string, at time.Time, want store.Pulse) {
			t.Helper()
			for range 2 { // the second time from what is kept
				if got, err := s.Seen(t.Context(), caller, at); err != nil || got != want {
					t.Fatalf("after %s: got %+v, %v; want %+v", after, got, err, want)
				}
			}
		}
		if _, err := s.Seen(t.Context(), caller, start); err == nil {
			t.Fatal("a node that did not join was seen")
		}
		join(t, s, node)
		check("its joining", start, store.Pulse{Keys: 1})
		join(t, s, other)
		check("another one's joining", start, store.Pulse{Keys: 2})

		w := window(start.Add(time.Minute), 90*time.Second)
		armed := w.OpenTime.Add(-dropclock.Lead)
		create(t, s, soon, 1, w)
		create(t, s, later, 1, window(start.Add(time.Hour), 90*time.Second))
		for _, c := range []struct {
			what string
			at   time.Time
			live bool
		}{
			{"planning a drop", start, false},
			{"no time at all", armed.Add(-time.Microsecond), false},
			{"a drop's arming", armed, true},
			{"the clock's going back", armed.Add(-time.Microsecond), false},
			{"the drop's opening", w.OpenTime, true},
			{"its last instant", w.OverTime.Add(-time.Microsecond), true},
			{"its end", w.OverTime, false},
			{"the clock's going back again", w.OverTime.Add(-time.Second), true},
			{"the next drop's arming", start.Add(time.Hour - dropclock.Lead), true},
		} {
			check(c.what, c.at, store.Pulse{Keys: 2, AnyLive: c.live})
		}

		at := w.OpenTime
		if g, err := s.Grant(t.Context(), store.GrantRequest{RequestID: id('r', 1), NodeID: node, DropID: soon, Epoch: 1, Wanted: 1}, id('l', 1), at); err != nil || g.Lease == nil {
			t.Fatalf("got %+v, %v; want a lease", g, err)
		}
		if _, err := s.Fence(t.Context(), fenceOf("fence", node, &soon), at); err != nil {
			t.Fatal(err)
		}
		check("a fence", at, store.Pulse{Keys: 2, AnyLive: true, AnyFence: true, AnyAside: true})
		rejoin(t, s, node, "another disk", at)
		if _, err := s.Seen(t.Context(), caller, at); !errors.As(err, new(*store.EpochStaleError)) {
			t.Errorf("the lost disk's heartbeat: got %v, want EpochStaleError", err)
		}
	})
}
