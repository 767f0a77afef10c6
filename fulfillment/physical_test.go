package fulfillment_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rimlight/rimlight/fulfillment"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/sealed"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/token"
)

const (
	stateShipped = fulfillmentv1.OrderState_ORDER_STATE_SHIPPED
	stateCleared = fulfillmentv1.OrderState_ORDER_STATE_CLEARED

	stepAccept = fulfillmentv1.WorkStep_WORK_STEP_ACCEPT
	stepReject = fulfillmentv1.WorkStep_WORK_STEP_REJECT
	stepClear  = fulfillmentv1.WorkStep_WORK_STEP_CLEAR
	stepShip   = fulfillmentv1.WorkStep_WORK_STEP_SHIP

	outOfStock = fulfillmentv1.RejectReason_REJECT_REASON_OUT_OF_STOCK
	silent     = fulfillmentv1.RejectReason_REJECT_REASON_SILENT
	noNode     = fulfillmentv1.RejectReason_REJECT_REASON_NO_NODE

	canary = "CANARY Rue de la Paix 1"
)

// depotKey is every depot's here, but where the test is about keys.
var depotKey = sync.OnceValue(func() *sealed.Key { return newDepotKey() })

func newDepotKey() *sealed.Key {
	k, err := sealed.NewKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

// addressOf opens what an assignment says about where to.
func addressOf(a *fulfillmentv1.Assignment, k *sealed.Key) string {
	details, err := sealed.Open(a.GetDeliveryDetails(), []*sealed.Key{k}, sealed.Purchase{DropID: a.GetDropId(), ID: a.GetPurchaseId()})
	if err != nil {
		return err.Error()
	}
	return string(details)
}

// hands is a microfulfillment node that does only what the test says.
type hands struct {
	*life
	id     string
	stream fulfillmentv1.OrderService_WorkOrdersClient
	leave  context.CancelFunc
}

func (l *life) hire(id string, change func(*fulfillmentv1.NodeHello)) *hands {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	stream, err := l.orders.WorkOrders(ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	hello := &fulfillmentv1.NodeHello{NodeId: id, Skus: []string{"poster"}, MaxParallel: 100, DeliveryKeys: [][]byte{depotKey().Public()}}
	if change != nil {
		change(hello)
	}
	if err := stream.Send(&fulfillmentv1.WorkOrdersRequest{Message: &fulfillmentv1.WorkOrdersRequest_Hello{Hello: hello}}); err != nil {
		l.t.Fatal(err)
	}
	synctest.Wait()
	return &hands{l, id, stream, cancel}
}

func (h *hands) next() *fulfillmentv1.WorkOrdersResponse {
	h.t.Helper()
	for {
		m, err := h.stream.Recv()
		if err != nil {
			h.t.Fatal(err)
		}
		if m.GetMessage() != nil {
			return m
		}
	}
}

func (h *hands) say(a *fulfillmentv1.Assignment, step fulfillmentv1.WorkStep, change ...func(*fulfillmentv1.WorkReport)) bool {
	h.t.Helper()
	r := &fulfillmentv1.WorkReport{OrderId: a.GetOrderId(), Attempt: a.GetAttempt(), Step: step}
	for _, c := range change {
		c(r)
	}
	if err := h.stream.Send(&fulfillmentv1.WorkOrdersRequest{Message: &fulfillmentv1.WorkOrdersRequest_Report{Report: r}}); err != nil {
		h.t.Fatal(err)
	}
	answer := h.next().GetAnswer()
	if answer.GetOrderId() != r.OrderId || answer.GetStep() != step || answer.GetAttempt() != r.Attempt {
		h.t.Fatalf("got %v to %v", answer, r)
	}
	return answer.GetDone()
}

// sellPoster brings a unit of a physical good to the point where its order is placed, and places it.
func (l *life) sellPoster(region string) (orderID string) {
	l.t.Helper()
	req := dropRequest(20)
	req.GoodsKind, req.Sku = fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL, "poster"
	res, err := l.catalog.CreateDrop(l.t.Context(), req)
	if err != nil || res.GetDrop().GetStockKind() != fulfillmentv1.StockKind_STOCK_KIND_PHYSICAL {
		l.t.Fatalf("got %v, %v", res, err)
	}
	n := l.join()
	c := l.sellOne(n, res.GetDrop().GetDrop().GetDropId())
	return l.placeAt(c, region)
}

func (l *life) placeAt(c *fulfillmentv1.UnitClaim, region string) string {
	l.t.Helper()
	details, err := sealed.Seal([]byte(canary), [][]byte{depotKey().Public()}, sealed.Purchase{DropID: c.GetDropId(), ID: token.PurchaseID(c.GetTokenId())})
	if err != nil {
		l.t.Fatal(err)
	}
	return l.placeWith(c, region, details)
}

func (l *life) placeWith(c *fulfillmentv1.UnitClaim, region string, details []byte) string {
	l.t.Helper()
	id := newID()
	_, err := l.orders.PlaceOrders(l.t.Context(), &fulfillmentv1.PlaceOrdersRequest{
		Orders:     []*fulfillmentv1.Order{{OrderId: id, PurchaseId: token.PurchaseID(c.GetTokenId()), DropId: c.GetDropId(), Serial: c.GetSerial()}},
		Deliveries: []*fulfillmentv1.Delivery{{OrderId: id, Region: region, Details: details}},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	synctest.Wait()
	return id
}

func (l *life) statesOf(id string) (all []fulfillmentv1.OrderState) {
	for _, e := range l.history() {
		if e.GetOrderId() == id {
			all = append(all, e.GetState())
		}
	}
	return all
}

func TestAPhysicalOrderIsShippedByTheNodeThatTookIt(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		id := l.sellPoster("europe-west3")
		time.Sleep(3 * time.Second)
		if got := l.order(id); got.GetState() != stateReady {
			t.Fatalf("without a node: %v", got)
		}
		h := l.hire(newID(), func(h *fulfillmentv1.NodeHello) { h.Zones = []string{"europe"} })
		a := h.next().GetAssignment()
		if a.GetOrderId() != id || a.GetSku() != "poster" || addressOf(a, depotKey()) != canary || a.GetAttempt() != 1 {
			t.Fatalf("got %v", a)
		}
		if h.say(a, stepClear) || h.say(a, stepShip) {
			t.Error("a step was skipped")
		}
		for _, step := range []fulfillmentv1.WorkStep{stepAccept, stepClear, stepShip} {
			for range 2 { // an answer may be lost, and is asked for again
				if !h.say(a, step, func(r *fulfillmentv1.WorkReport) { r.TrackingReference = "RL1" }) {
					t.Errorf("%v was refused", step)
				}
			}
		}
		if got := l.order(id); got.GetState() != stateShipped || got.GetTrackingReference() != "RL1" || got.GetWorker() != h.id {
			t.Errorf("got %v", got)
		}
		if got, want := l.statesOf(id), []fulfillmentv1.OrderState{stateReady, stateLeased, stateAcked, stateCleared, stateShipped}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestASilentNodeLosesTheOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{AcceptWithin: 5 * time.Second}, nil)
		a, b := l.hire("0"+newID()[1:], nil), l.hire("1"+newID()[1:], nil)
		id := l.sellPoster("us-east1")
		first := a.next().GetAssignment()
		second := b.next().GetAssignment() // when a's time is over
		if second.GetOrderId() != id || second.GetAttempt() != 2 || addressOf(second, depotKey()) != canary {
			t.Fatalf("got %v", second)
		}
		if got := l.order(id); got.GetReason() != silent || got.GetWorker() != b.id {
			t.Errorf("got %v", got)
		}
		if a.say(first, stepAccept) {
			t.Error("the silent node woke up and took it")
		}
		if !b.say(second, stepAccept) {
			t.Error("the second node could not take it")
		}
	})
}

func TestARefusedOrderGoesToTheNextNodeAndDiesAfterTheLastAttempt(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{OrderAttempts: 3}, nil)
		nodes := []*hands{l.hire("0"+newID()[1:], nil), l.hire("1"+newID()[1:], nil)}
		id := l.sellPoster("us-east1")
		for i, want := range []int{0, 1, 0} { // the first is asked again when all have refused
			a := nodes[want].next().GetAssignment()
			if int(a.GetAttempt()) != i+1 {
				t.Fatalf("got %v", a)
			}
			if !nodes[want].say(a, stepReject, func(r *fulfillmentv1.WorkReport) { r.Reason = outOfStock }) {
				t.Error("the refusal was refused")
			}
		}
		if got := l.order(id); got.GetState() != stateDead || got.GetReason() != outOfStock {
			t.Errorf("got %v", got)
		}
		if details := l.keptDetails(db); details != 0 {
			t.Errorf("%d details are kept", details)
		}
	})
}

func TestAnAcceptedOrderIsItsNodesOrNobodys(t *testing.T) {
	for name, end := range map[string]func(*hands, *fulfillmentv1.Assignment){
		"the goods broke": func(h *hands, a *fulfillmentv1.Assignment) {
			h.say(a, stepReject, func(r *fulfillmentv1.WorkReport) { r.Reason = fulfillmentv1.RejectReason_REJECT_REASON_DAMAGED })
		},
		"the node is gone for good": func(h *hands, _ *fulfillmentv1.Assignment) {
			h.dieForGood()
		},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, db *sqldb.DB) {
				l := start(t, db, fulfillment.Config{PackWithin: time.Minute}, nil)
				h := l.hire("0"+newID()[1:], nil)
				l.hire("1"+newID()[1:], nil)
				id := l.sellPoster("us-east1")
				a := h.next().GetAssignment()
				if !h.say(a, stepAccept) {
					t.Fatal("not accepted")
				}
				if details := l.keptDetails(db); details != 0 {
					t.Errorf("%d details are kept after a node has them", details)
				}
				end(h, a)
				if got := l.order(id); got.GetState() != stateDead || got.GetAttempt() != 1 {
					t.Errorf("got %v", got)
				}
			})
		})
	}
}

func TestAClearedOrderWaitsForItsNodeForEver(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{PackWithin: time.Minute}, nil)
		h := l.hire(newID(), nil)
		id := l.sellPoster("us-east1")
		a := h.next().GetAssignment()
		if !h.say(a, stepAccept) || !h.say(a, stepClear) {
			t.Fatal("not cleared")
		}
		h.leave()
		time.Sleep(10 * time.Minute)
		if got := l.order(id); got.GetState() != stateCleared {
			t.Fatalf("got %v", got)
		}
		if !l.hire(h.id, nil).say(a, stepShip) {
			t.Error("the node came back and could not report")
		}
	})
}

func TestAnOrderThatNoNodeCanTakeDies(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{NodeWithin: time.Minute}, nil)
		l.hire(newID(), func(h *fulfillmentv1.NodeHello) { h.Zones = []string{"asia"} })
		id := l.sellPoster("us-east1")
		time.Sleep(50 * time.Second)
		if got := l.order(id); got.GetState() != stateReady {
			t.Errorf("got %v", got)
		}
		time.Sleep(12 * time.Second)
		if got := l.order(id); got.GetState() != stateDead || got.GetReason() != noNode {
			t.Errorf("got %v", got)
		}
	})
}

func TestANodeThatComesAgainGetsWhatItWasGivenAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		id := newID()
		first := l.hire(id, nil)
		order := l.sellPoster("us-east1")
		second := l.hire(id, nil)
		a := second.next().GetAssignment()
		if a.GetOrderId() != order || a.GetAttempt() != 1 || addressOf(a, depotKey()) != canary || !second.say(a, stepAccept) {
			t.Errorf("got %v", a)
		}
		for {
			if _, err := first.stream.Recv(); err != nil {
				if !strings.Contains(err.Error(), "another stream") {
					t.Errorf("the first stream ended with %v", err)
				}
				return
			}
		}
	})
}

// What fulfillment says of orders to anybody but the node, and keeps, has no delivery details in it.
func TestDeliveryDetailsReachOnlyTheNode(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		l := start(t, db, fulfillment.Config{}, nil)
		physical := l.sellPoster("us-east1")
		digital := l.placeAt(l.sellOne(l.join(), l.createDrop(20).GetDrop().GetDropId()), "us-east1")
		if n := l.keptDetails(db); n != 1 {
			t.Errorf("%d details are kept for one physical and one digital order", n)
		}
		ctx := as(t.Context(), auth.Service)
		list, err := l.orders.ListOrders(ctx, &fulfillmentv1.ListOrdersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		seen := []proto.Message{list, l.order(physical), l.order(digital)}
		for _, e := range l.history() {
			seen = append(seen, e)
		}
		for _, m := range seen {
			raw, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(raw, []byte("CANARY")) {
				t.Errorf("%T has them", m)
			}
		}
	})
}

// dieForGood ends the stream and waits until its orders are given up.
//
//rimlight:bubble called in the bubbles of onBoth
func (h *hands) dieForGood() {
	h.leave()
	time.Sleep(time.Minute + 2*time.Second)
}

func (l *life) keptDetails(db *sqldb.DB) (n int) {
	l.t.Helper()
	if err := db.Read().QueryRowContext(l.t.Context(), `SELECT COUNT(*) FROM order_details`).Scan(&n); err != nil {
		l.t.Fatal(err)
	}
	return n
}
