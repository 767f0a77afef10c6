package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
)

func fenceOf(request string, node store.ID, drop *store.ID) store.Fence {
	return store.Fence{NodeID: node, DropID: drop, Role: "sre", Request: &fulfillmentv1.FenceNodeRequest{RequestId: request, NodeId: node.String(), Reason: "test"}}
}

func TestAFenceMeetsOneNodeAndOneDrop(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, other, drop, second := id('n', 1), id('n', 2), id('d', 1), id('d', 2)
		create(t, s, drop, 100, window(start, 90*time.Second))
		create(t, s, second, 100, window(start, 90*time.Second))
		join(t, s, node)
		join(t, s, other)
		serials := grant(t, s, id('r', 1), node, drop, id('l', 1), 3).Lease.GetSerials()
		grant(t, s, id('r', 2), node, second, id('l', 2), 3)
		grant(t, s, id('r', 3), other, drop, id('l', 3), 3)

		fence := fenceOf("f", node, &drop)
		rehearsed, err := s.RehearseFence(t.Context(), fence, start)
		if err != nil || len(rehearsed.Leases) != 1 || rehearsed.Leases[0].Units != 3 || !rehearsed.Alive {
			t.Fatalf("the rehearsal: %+v, %v", rehearsed, err)
		}
		if got := level(t, s, drop); got.Quarantined != 0 {
			t.Fatalf("the rehearsal changed the stock: %+v", got)
		}
		for range 2 { // a repeat is the same
			met, err := s.Fence(t.Context(), fence, start)
			if err != nil || len(met.Leases) != 1 || met.Leases[0].ID != id('l', 1) || met.Epoch != 1 || met.Region != "r" {
				t.Fatalf("got %+v, %v", met, err)
			}
		}
		if _, err := s.Fence(t.Context(), fenceOf("f", other, &drop), start); !errors.Is(err, store.ErrReplayed) {
			t.Errorf("another fence under the same request id: %v", err)
		}
		if got := level(t, s, drop); got != (store.Level{Units: 100, Free: 94, Leased: 3, Quarantined: 3}) {
			t.Errorf("got %+v", got)
		}

		ask := func(request store.ID, node, drop, lease store.ID) error {
			_, err := s.Grant(t.Context(), store.GrantRequest{RequestID: request, NodeID: node, DropID: drop, Epoch: 1, Wanted: 3}, lease, start)
			return err
		}
		for request, about := range map[store.ID]string{id('r', 1): "the grant of before, repeated", id('r', 4): "a new grant"} {
			if err := ask(request, node, drop, id('l', 9)); !errors.As(err, new(*store.FencedError)) {
				t.Errorf("%s: %v", about, err)
			}
		}
		if err := errors.Join(ask(id('r', 5), node, second, id('l', 5)), ask(id('r', 6), other, drop, id('l', 6))); err != nil {
			t.Errorf("another drop, or another node: %v", err)
		}

		caller := store.Caller{NodeID: node, Epoch: 1}
		if aside, err := s.PutAside(t.Context(), caller); err != nil || len(aside) != 1 || !aside[id('l', 1)] {
			t.Errorf("put aside: %v, %v", aside, err)
		}
		// What the node sold before it heard settles; what it had not sold comes back by its own word.
		if v := settle(t, s, store.Claim{TokenID: id('k', 1), DropID: drop, Serial: serials[0], LeaseID: id('l', 1)}); v[0] != store.Settled {
			t.Errorf("a sale of a fenced node: %v", v)
		}
		if freed, err := s.Return(t.Context(), caller, id('l', 1), serials[1:], start); err != nil || freed != 2 {
			t.Errorf("returned %d, %v", freed, err)
		}
		if got := level(t, s, drop); got.Quarantined != 0 || got.Sold != 1 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestAFenceOutOfEverythingEndsWithTheDisk(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, drop := id('n', 1), id('d', 1)
		create(t, s, drop, 100, window(start, 90*time.Second))
		if _, err := s.Fence(t.Context(), fenceOf("f", node, nil), start); !errors.As(err, new(*store.NotJoinedError)) {
			t.Errorf("an unknown node: %v", err)
		}
		join(t, s, node)
		grant(t, s, id('r', 1), node, drop, id('l', 1), 3)
		if met, err := s.Fence(t.Context(), fenceOf("f", node, nil), start.Add(time.Hour)); err != nil || len(met.Leases) != 1 || met.Alive {
			t.Fatalf("got %+v, %v", met, err)
		}
		if j := rejoin(t, s, node, "disk", start); j.Epoch != 2 {
			t.Fatalf("got %+v", j)
		}
		_, err := s.Grant(t.Context(), store.GrantRequest{RequestID: id('r', 2), NodeID: node, DropID: drop, Epoch: 2, Wanted: 3}, id('l', 2), start)
		if err != nil {
			t.Errorf("the node with an empty disk: %v", err)
		}
	})
}

func TestARetiredNodeGetsNothing(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, drop := id('n', 1), id('d', 1)
		create(t, s, drop, 100, window(start, 90*time.Second))
		join(t, s, node)
		grant(t, s, id('r', 1), node, drop, id('l', 1), 3)
		if _, err := s.Retire(t.Context(), store.Caller{NodeID: node, Epoch: 2}, start); !errors.As(err, new(*store.EpochStaleError)) {
			t.Errorf("of another epoch: %v", err)
		}
		for _, want := range []int{1, 0} {
			if n, err := s.Retire(t.Context(), store.Caller{NodeID: node, Epoch: 1}, start); err != nil || n != want {
				t.Errorf("got %d, %v, want %d", n, err, want)
			}
		}
		_, err := s.Grant(t.Context(), store.GrantRequest{RequestID: id('r', 2), NodeID: node, DropID: drop, Epoch: 1, Wanted: 3}, id('l', 2), start)
		if !errors.As(err, new(*store.FencedError)) {
			t.Errorf("a grant after the end: %v", err)
		}
	})
}
