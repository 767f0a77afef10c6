package fulfillment_test

import (
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rimlight/rimlight/fulfillment"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// trap is randomness that does something when a licence key is made.
type trap struct {
	mu     sync.Mutex // guards spring
	spring func() error
}

const keyBytes = 25

func (r *trap) set(spring func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spring = spring
}

func (r *trap) Read(p []byte) (int, error) {
	r.mu.Lock()
	spring := r.spring
	r.mu.Unlock()
	if len(p) == keyBytes && spring != nil {
		if err := spring(); err != nil {
			return 0, err
		}
	}
	return rand.Read(p)
}

// sellOne brings a unit to the point where its order is placed.
func (l *life) sellOne(n *node, drop string) *fulfillmentv1.UnitClaim {
	l.t.Helper()
	n.grant(drop, 1)
	c := n.take(drop)
	l.settle(c)
	return c
}

// history reads all events of orders so far.
func (l *life) history() (events []*fulfillmentv1.Order) {
	l.t.Helper()
	stream, err := l.orders.WatchOrders(l.t.Context(), &fulfillmentv1.WatchOrdersRequest{})
	if err != nil {
		l.t.Fatal(err)
	}
	for {
		res, err := stream.Recv()
		if err != nil {
			l.t.Fatal(err)
		}
		if len(res.GetOrders()) == 0 { // the first proof of life: it has caught up
			return events
		}
		events = append(events, res.GetOrders()...)
	}
}

func states(events []*fulfillmentv1.Order) (all []fulfillmentv1.OrderState) {
	for _, e := range events {
		all = append(all, e.GetState())
	}
	return all
}

const (
	stateReady     = fulfillmentv1.OrderState_ORDER_STATE_READY
	stateLeased    = fulfillmentv1.OrderState_ORDER_STATE_LEASED
	stateAcked     = fulfillmentv1.OrderState_ORDER_STATE_ACKED
	stateDelivered = fulfillmentv1.OrderState_ORDER_STATE_DELIVERED
	stateDead      = fulfillmentv1.OrderState_ORDER_STATE_DEAD
)

func (l *life) order(id string) *fulfillmentv1.Order {
	l.t.Helper()
	res, err := l.orders.GetOrder(as(l.t.Context(), auth.Service), &fulfillmentv1.GetOrderRequest{OrderId: id})
	if err != nil {
		l.t.Fatal(err)
	}
	return res.GetOrder()
}

func TestAPlacedOrderIsDeliveredAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		n, drop := l.join(), l.createDrop(20).GetDrop().GetDropId()
		c := l.sellOne(n, drop)
		synctest.Wait()
		placed := time.Now()
		id := l.place(c)[0]
		synctest.Wait()
		if got := l.order(id); got.GetState() != stateDelivered || time.Since(placed) != 0 {
			t.Errorf("after %v: %v", time.Since(placed), got.GetState())
		}
		if got := states(l.history()); !slices.Equal(got, []fulfillmentv1.OrderState{stateReady, stateLeased, stateAcked, stateDelivered}) {
			t.Errorf("got %v", got)
		}
	})
}

func TestACrashBetweenAckAndDeliveryDeliversOneKey(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		var random trap
		first := start(t, db, fulfillment.Config{}, &random)
		random.set(func() error { first.crash(); return nil })
		n, drop := first.join(), first.createDrop(20).GetDrop().GetDropId()
		placed := time.Now()
		id := first.place(first.sellOne(n, drop))[0]
		synctest.Wait()
		if got := first.order(id); got.GetState() != stateAcked || got.GetLicenceKey() != "" {
			t.Fatalf("after the crash: %v", got.GetState())
		}
		second := start(t, db, fulfillment.Config{}, nil)
		for second.order(id).GetState() != stateDelivered {
			if time.Since(placed) > 5*time.Second {
				t.Fatalf("after %v: %v", time.Since(placed), second.order(id).GetState())
			}
			time.Sleep(100 * time.Millisecond)
		}
		events := second.history()
		if got, want := states(events), []fulfillmentv1.OrderState{stateReady, stateLeased, stateAcked, stateLeased, stateAcked, stateDelivered}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if key := events[len(events)-1].GetLicenceKey(); key == "" || key != second.order(id).GetLicenceKey() {
			t.Error("the event and the order have two keys")
		}
	})
}

func TestAWorkerThatWakesUpLateIsFenced(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		var random trap
		slow := start(t, db, fulfillment.Config{}, &random)
		random.set(func() error { time.Sleep(10 * time.Second); return nil })
		n, drop := slow.join(), slow.createDrop(20).GetDrop().GetDropId()
		id := slow.place(slow.sellOne(n, drop))[0]
		synctest.Wait()
		other := start(t, db, fulfillment.Config{}, nil)
		time.Sleep(5 * time.Second)
		key := other.order(id).GetLicenceKey()
		if key == "" {
			t.Fatalf("not taken over: %v", other.order(id).GetState())
		}
		time.Sleep(10 * time.Second) // the slow one has finished its key by now
		if got := other.order(id); got.GetLicenceKey() != key || got.GetAttempt() != 2 {
			t.Errorf("the late worker changed the key, or the attempt: %d", got.GetAttempt())
		}
	})
}

func TestTwoWorkersDeliverEachOrderOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		a, b := start(t, db, fulfillment.Config{}, nil), start(t, db, fulfillment.Config{}, nil)
		n, drop := a.join(), a.createDrop(60).GetDrop().GetDropId()
		for i := range 60 {
			c := a.sellOne(n, drop)
			[]*life{a, b}[i%2].place(c)
		}
		time.Sleep(5 * time.Second)
		delivered := map[string]int{}
		for _, e := range a.history() {
			if e.GetState() == stateDelivered {
				delivered[e.GetOrderId()]++
			}
		}
		for id, times := range delivered {
			if times != 1 {
				t.Errorf("order %s was delivered %d times", id, times)
			}
		}
		if len(delivered) != 60 {
			t.Errorf("%d of 60 orders were delivered", len(delivered))
		}
	})
}

func TestAnOrderThatNobodyCanDeliverDies(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		var random trap
		l := start(t, db, fulfillment.Config{OrderAttempts: 2}, &random)
		random.set(func() error { return errors.New("no entropy") })
		n, drop := l.join(), l.createDrop(20).GetDrop().GetDropId()
		id := l.place(l.sellOne(n, drop))[0]
		time.Sleep(5 * time.Second)
		want := []fulfillmentv1.OrderState{stateReady, stateLeased, stateAcked, stateReady, stateLeased, stateAcked, stateDead}
		if got := states(l.history()); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if got := l.order(id); got.GetState() != stateDead || got.GetLicenceKey() != "" {
			t.Errorf("got %v", got)
		}
	})
}
