package fulfillment_test

import (
	"database/sql"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rimlight/rimlight/fulfillment"
	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
)

const lost = fulfillmentv1.RejectReason_REJECT_REASON_LOST

func (l *life) requeue(r *fulfillmentv1.RequeueOrdersRequest) *fulfillmentv1.RequeueOrdersResponse {
	l.t.Helper()
	res, err := l.orders.RequeueOrders(as(l.t.Context(), auth.SRE), r)
	if err != nil {
		l.t.Fatal(err)
	}
	return res
}

func TestOrdersOfALostDepotGoToAnotherOrDie(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{AcceptWithin: time.Hour}, nil)
		gone := l.hire("0"+newID()[1:], nil)
		var taken []*fulfillmentv1.Assignment
		for range 4 {
			l.sellPoster("us-east1")
			taken = append(taken, gone.next().GetAssignment())
		}
		assigned, accepted, cleared, shipped := taken[0], taken[1], taken[2], taken[3]
		for a, steps := range map[*fulfillmentv1.Assignment][]fulfillmentv1.WorkStep{
			accepted: {stepAccept}, cleared: {stepAccept, stepClear}, shipped: {stepAccept, stepClear, stepShip},
		} {
			for _, step := range steps {
				if !gone.say(a, step) {
					t.Fatalf("%v was refused", step)
				}
			}
		}
		gone.leave()
		time.Sleep(10 * time.Second)
		other := l.hire("1"+newID()[1:], nil)

		ask := &fulfillmentv1.RequeueOrdersRequest{RequestId: newID(), NodeId: gone.id, Reason: "burnt down", DryRun: true}
		rehearsed := l.requeue(ask)
		if rehearsed.GetRequeued() != 1 || rehearsed.GetDead() != 1 || rehearsed.GetCleared() != 1 || rehearsed.GetSeenTime() == nil ||
			!strings.Contains(strings.Join(rehearsed.GetConsequences(), " "), "left alone") {
			t.Errorf("the rehearsal: %v", rehearsed)
		}
		if got := l.order(assigned.GetOrderId()); got.GetState() != stateLeased || got.GetWorker() != gone.id {
			t.Fatalf("a rehearsal took it: %v", got)
		}
		ask.DryRun = false
		for range 2 { // an answer may be lost, and is asked for again
			if res := l.requeue(ask); !proto.Equal(res, rehearsed) {
				t.Errorf("got %v, want what was rehearsed", res)
			}
		}
		if a := other.next().GetAssignment(); a.GetOrderId() != assigned.GetOrderId() || a.GetAttempt() != 2 || addressOf(a, depotKey()) != canary {
			t.Errorf("the other depot got %v", a)
		}
		for a, want := range map[*fulfillmentv1.Assignment]fulfillmentv1.OrderState{accepted: stateDead, cleared: stateCleared, shipped: stateShipped} {
			if got := l.order(a.GetOrderId()); got.GetState() != want || want == stateDead && got.GetReason() != lost {
				t.Errorf("got %v, want %v", got, want)
			}
		}

		// The depot was not lost after all: nothing leaves twice.
		back := l.hire(gone.id, nil)
		if back.say(assigned, stepAccept) || back.say(accepted, stepClear) {
			t.Error("it went on with an order that was taken from it")
		}
		if !back.say(cleared, stepClear) {
			t.Error("it lost an order that it was allowed to send")
		}
		back.leave()

		ask = &fulfillmentv1.RequeueOrdersRequest{RequestId: newID(), NodeId: gone.id, Reason: "they never left", IncludeCleared: true}
		if res := l.requeue(ask); res.GetCleared() != 1 || res.GetRequeued()+res.GetDead() != 0 {
			t.Errorf("got %v", res)
		}
		if got := l.order(cleared.GetOrderId()); got.GetState() != stateDead || got.GetReason() != lost {
			t.Errorf("got %v", got)
		}
		if l.hire(gone.id, nil).say(cleared, stepShip) {
			t.Error("it reported a parcel that is nobody's")
		}
		if got := l.order(shipped.GetOrderId()); got.GetState() != stateShipped {
			t.Errorf("got %v", got)
		}
	})
}

func TestALostDepotIsNamedByNoDrop(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		d := l.planPoster("poster")
		h := l.hire(newID(), nil)
		if depots, _ := l.depotsOf(d); len(depots) != 1 {
			t.Fatalf("got %v", depots)
		}
		ask := &fulfillmentv1.RequeueOrdersRequest{RequestId: newID(), NodeId: h.id, Reason: "sold"}
		if res := l.requeue(ask); !strings.Contains(strings.Join(res.GetConsequences(), " "), "is connected") {
			t.Errorf("a depot that works is taken for lost without a word: %v", res)
		}
		if depots, _ := l.depotsOf(d); len(depots) != 0 {
			t.Errorf("the drop names %v", depots)
		}
		h.leave()

		for name, c := range map[string]struct {
			change func(*fulfillmentv1.RequeueOrdersRequest)
			want   errorsv1.Reason
		}{
			"another body under the id": {func(r *fulfillmentv1.RequeueOrdersRequest) { r.RequestId = ask.RequestId }, errorsv1.Reason_REASON_REQUEST_REPLAYED},
			"a depot that never was":    {func(r *fulfillmentv1.RequeueOrdersRequest) { r.NodeId = newID() }, errorsv1.Reason_REASON_NODE_NOT_JOINED},
			"a depot without orders":    {func(*fulfillmentv1.RequeueOrdersRequest) {}, errorsv1.Reason_REASON_NODE_NOT_JOINED},
			"a rehearsal of nothing":    {func(r *fulfillmentv1.RequeueOrdersRequest) { r.DryRun = true }, errorsv1.Reason_REASON_NODE_NOT_JOINED},
			"no id":                     {func(r *fulfillmentv1.RequeueOrdersRequest) { r.NodeId = "moon" }, errorsv1.Reason_REASON_INVALID_REQUEST},
		} {
			r := &fulfillmentv1.RequeueOrdersRequest{RequestId: newID(), NodeId: h.id, Reason: "again"}
			c.change(r)
			if _, err := l.orders.RequeueOrders(as(t.Context(), auth.SRE), r); rpcerr.Reason(err) != c.want {
				t.Errorf("%s: got %v, want %v", name, err, c.want)
			}
		}
		var why string
		if err := db.Read().QueryRowContext(t.Context(), `SELECT role FROM requeues WHERE node_id = $1`, h.id).Scan(&why); err != nil || why != string(auth.SRE) {
			t.Errorf("the requeue is kept with %q, %v", why, err)
		}
	})
}

// A depot that is silent for a week is forgotten at the next greeting of any other: drops name its key no more.
func TestADepotIsForgottenAfterAWeekOfSilence(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		silent, other := newID(), newID()
		l.hire(silent, nil).leave()
		l.hire(other, func(h *fulfillmentv1.NodeHello) { h.DeliveryKeys = [][]byte{newDepotKey().Public()} }).leave()
		d := l.planPoster("poster")
		seenAgo := func(ago time.Duration) {
			t.Helper()
			if err := db.Write(t.Context(), func(tx *sql.Tx) error {
				_, err := tx.ExecContext(t.Context(), `UPDATE depots SET seen_time_us = $1 WHERE node_id = $2`, time.Now().Add(-ago).UnixMicro(), silent)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		greet := func() {
			l.hire(other, func(h *fulfillmentv1.NodeHello) { h.DeliveryKeys = [][]byte{newDepotKey().Public()} }).leave()
		}
		const week = 7 * 24 * time.Hour
		seenAgo(week - time.Minute)
		greet()
		if depots, _ := l.depotsOf(d); len(depots) != 2 {
			t.Errorf("a minute before a week: the drop names %v", depots)
		}
		seenAgo(week + time.Minute)
		greet()
		if depots, _ := l.depotsOf(d); len(depots) != 1 {
			t.Errorf("after a week: the drop names %v", depots)
		}
		l.hire(silent, nil).leave() // it was closed for the summer
		if depots, _ := l.depotsOf(d); len(depots) != 2 {
			t.Errorf("when it is back: the drop names %v", depots)
		}
	})
}
