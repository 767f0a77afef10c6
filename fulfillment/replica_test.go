package fulfillment_test

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rimlight/rimlight/fulfillment"
	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/pgtest"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// The streams of one replica carry what another one changed, long before their proofs of life would.
func TestReplicasHearOfEachOther(t *testing.T) {
	run(t, "postgres", openPostgres, func(t *testing.T, db *sqldb.DB) {
		writer := start(t, db, fulfillment.Config{}, rand.Reader)
		reader := start(t, db, fulfillment.Config{}, rand.Reader)
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		stream, err := reader.catalog.WatchCatalog(ctx, &fulfillmentv1.WatchCatalogRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil { // the snapshot: there is nothing yet
			t.Fatal(err)
		}
		id := writer.createDrop(10).GetDrop().GetDropId()
		for {
			m, err := stream.Recv()
			if err != nil {
				t.Fatalf("the other replica's drop did not come: %v", err)
			}
			for _, d := range m.GetDrops() {
				if d.GetDrop().GetDropId() == id {
					return
				}
			}
		}
	})
}

// Nodes ask two replicas for the same stock at the same time: every unit is lent once, and none is left over.
func TestReplicasLendEachUnitOnce(t *testing.T) {
	db := openPostgres(t)
	replicas := []*life{start(t, db, fulfillment.Config{}, rand.Reader), start(t, db, fulfillment.Config{}, rand.Reader)}
	const units = 200
	drop := replicas[0].createDrop(units).GetDrop().GetDropId()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards lent
	lent := map[uint32]int{}
	for i := range 8 {
		n := replicas[i%2].join()
		wg.Go(func() {
			for {
				res := n.grant(drop, units)
				if res.GetLease() == nil {
					return
				}
				mu.Lock()
				for _, serial := range res.GetLease().GetSerials() {
					lent[serial]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for serial, n := range lent {
		if n != 1 {
			t.Errorf("unit %d was lent %d times", serial, n)
		}
	}
	if len(lent) != units {
		t.Errorf("%d units were lent, want %d", len(lent), units)
	}
}

// A node is connected to one replica. What the others cannot give it, they leave to that one as it is.
func TestAReplicaWithoutTheNodePutsNoOrderOff(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		without, with := start(t, db, fulfillment.Config{}, nil), start(t, db, fulfillment.Config{}, nil)
		id := without.sellPoster("us-east1")
		time.Sleep(2345 * time.Millisecond) // both have looked at it, and neither looks now
		began := time.Now()
		a := with.hire(newID(), nil).next().GetAssignment()
		if waited := time.Since(began); a.GetOrderId() != id || waited > 0 {
			t.Errorf("after %v the node was given %v", waited, a.GetOrderId())
		}
	})
}

// An order that the nodes of one replica refuse is for those of another, before it is theirs again.
func TestARefusedOrderGoesToTheNodeOfAnotherReplica(t *testing.T) {
	run(t, "postgres", openPostgres, func(t *testing.T, db *sqldb.DB) {
		one, other := start(t, db, fulfillment.Config{}, nil), start(t, db, fulfillment.Config{}, nil)
		refuses := one.hire(newID(), nil)
		const orders = 10
		var held []*fulfillmentv1.Assignment
		for range orders {
			one.sellPoster("us-east1")
			held = append(held, refuses.next().GetAssignment())
		}
		takes := other.hire(newID(), nil)
		for _, a := range held {
			if !refuses.say(a, stepReject, func(r *fulfillmentv1.WorkReport) { r.Reason = outOfStock }) {
				t.Fatal("the node could not refuse")
			}
		}
		for range orders {
			if a := takes.next().GetAssignment(); a.GetAttempt() != 2 {
				t.Errorf("the other replica's node was given attempt %d", a.GetAttempt())
			}
		}
	})
}

// Whether a lost depot is connected, a replica knows of itself alone, and says so.
func TestARequeueSaysWhatItDoesNotKnowOfOtherReplicas(t *testing.T) {
	run(t, "postgres", openPostgres, func(t *testing.T, db *sqldb.DB) {
		one, other := start(t, db, fulfillment.Config{}, nil), start(t, db, fulfillment.Config{}, nil)
		depot := newID()
		one.hire(depot, nil)
		for says, l := range map[string]*life{"is connected": one, "not connected to this replica": other} {
			res := l.requeue(&fulfillmentv1.RequeueOrdersRequest{RequestId: newID(), NodeId: depot, Reason: "burnt down", DryRun: true})
			if text := strings.Join(res.GetConsequences(), " "); !strings.Contains(text, says) {
				t.Errorf("got %q, want that it %s", text, says)
			}
		}
	})
}

// PostgreSQL keeps no zero byte in a text: that is the caller's mistake.
func TestATextThatNoStoreKeepsIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		drop := l.createDrop(10).GetDrop().GetDropId()
		_, list := l.catalog.ListDrops(t.Context(), &fulfillmentv1.ListDropsRequest{ChannelId: "a\x00b"})
		_, change := l.catalog.ChangeDrop(t.Context(), &fulfillmentv1.ChangeDropRequest{
			RequestId: "zero", DropId: drop, Reason: "a\x00b", Change: &fulfillmentv1.ChangeDropRequest_Close{Close: &fulfillmentv1.CloseDrop{}},
		})
		for what, err := range map[string]error{"a channel": list, "a reason": change} {
			if status.Code(err) != codes.OK && (status.Code(err) != codes.InvalidArgument || rpcerr.Reason(err) != errorsv1.Reason_REASON_INVALID_REQUEST) {
				t.Errorf("%s with a zero byte: got %v", what, err)
			}
		}
	})
}

func TestAStoreThatIsAwayIsSaid(t *testing.T) {
	server := pgtest.Start(t)
	db, err := sqldb.OpenPostgres(t.Context(), sqldb.PostgresConfig{URL: server.Database(t), Schema: "fulfillment"})
	l := start(t, ready(t, db, err), fulfillment.Config{}, rand.Reader)
	l.createDrop(10)
	server.Kill(t)
	_, readErr := l.catalog.ListDrops(t.Context(), &fulfillmentv1.ListDropsRequest{})
	_, writeErr := l.catalog.CreateDrop(t.Context(), dropRequest(10))
	for what, err := range map[string]error{"a read": readErr, "a change": writeErr} {
		if status.Code(err) != codes.Unavailable || rpcerr.Reason(err) != errorsv1.Reason_REASON_STORE_UNAVAILABLE {
			t.Errorf("%s: got %v", what, err)
		}
	}
	server.Resume(t)
	if _, err := l.catalog.CreateDrop(t.Context(), dropRequest(10)); err != nil {
		t.Errorf("with the server back: %v", err)
	}
}
