package verifier_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// unit is one serial: leased, sold, or free when both are empty.
type unit struct {
	lease string
	sold  string // token id
}

type dropRow struct {
	// What it says of times; zero: nothing.
	closes, planned, settled time.Time
	id                       string
	channel                  string
	title                    string
	maxPerViewer             uint32
	perCard                  uint32
	state                    offerv1.DropState
	goods                    fulfillmentv1.GoodsKind
	units                    map[uint32]*unit
}

// fulfillment is the verifier's neighbour in memory, with the same answers as the real one. The embedded interfaces
// stand for what the verifier never calls.
type fulfillment struct {
	fulfillmentv1.StockServiceClient
	fulfillmentv1.OrderServiceClient
	fulfillmentv1.CatalogServiceClient

	mu           sync.Mutex
	away         bool // every call fails
	hold         bool // orders are taken and not delivered
	keys         []*offerv1.SigningKey
	drops        map[string]*dropRow
	orders       map[string]*fulfillmentv1.Order
	log          []*fulfillmentv1.Order // what WatchOrders tells; a cursor is a length
	news         chan struct{}          // closed and replaced when log grows
	watchedFrom  int64                  // WatchOrders' last cursor
	calls        map[string]int
	loseAnswers  bool   // PlaceOrders works, and its answer is lost
	badOne       string // PlaceOrders fails when this purchase is among them
	keepsUnits   bool   // ReleaseUnits fails
	dead         bool   // no order can be delivered
	closedSealed bool   // the last CloseLease came with a sealed journal
	quarantined  []*fulfillmentv1.QuarantinedLease
	// beforeSettle, if set, is called by SettleUnits before it does anything.
	beforeSettle func()
}

func newFulfillment() *fulfillment {
	return &fulfillment{
		drops: map[string]*dropRow{}, orders: map[string]*fulfillmentv1.Order{}, news: make(chan struct{}), calls: map[string]int{},
	}
}

var errAway = rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE, "fulfillment is away")

// enter locks and counts a call.
func (f *fulfillment) enter(method string) error {
	f.mu.Lock()
	f.calls[method]++
	if f.away {
		f.mu.Unlock()
		return errAway
	}
	return nil
}

func (f *fulfillment) setAway(away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = away
}

func (f *fulfillment) lease(drop, lease string, serials ...uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range serials {
		f.drops[drop].units[s] = &unit{lease: lease}
	}
}

// free, leased, sold
// has tells that a token has a unit already.
func (d *dropRow) has(token string) bool {
	for _, u := range d.units {
		if u.sold == token {
			return true
		}
	}
	return false
}

func (f *fulfillment) count(drop string) (free, leased, sold int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.drops[drop].units {
		switch {
		case u.sold != "":
			sold++
		case u.lease != "":
			leased++
		default:
			free++
		}
	}
	return free, leased, sold
}

func (f *fulfillment) SettleUnits(_ context.Context, r *fulfillmentv1.SettleUnitsRequest, _ ...grpc.CallOption) (*fulfillmentv1.SettleUnitsResponse, error) {
	f.mu.Lock()
	before := f.beforeSettle
	f.mu.Unlock()
	if before != nil {
		before()
	}
	if err := f.enter("SettleUnits"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	response := &fulfillmentv1.SettleUnitsResponse{}
	for _, c := range r.GetClaims() {
		result := &fulfillmentv1.SettleResult{Reason: errorsv1.Reason_REASON_UNIT_NOT_YOURS}
		if d := f.drops[c.GetDropId()]; d != nil {
			if u := d.units[c.GetSerial()]; u != nil && u.lease == c.GetLeaseId() && (u.sold == "" && !d.has(string(c.GetTokenId())) || u.sold == string(c.GetTokenId())) {
				u.sold = string(c.GetTokenId())
				result = &fulfillmentv1.SettleResult{Settled: true}
			}
		}
		response.Results = append(response.Results, result)
	}
	return response, nil
}

func (f *fulfillment) ReleaseUnits(_ context.Context, r *fulfillmentv1.ReleaseUnitsRequest, _ ...grpc.CallOption) (*fulfillmentv1.ReleaseUnitsResponse, error) {
	if err := f.enter("ReleaseUnits"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	if f.keepsUnits {
		return nil, errAway
	}
	response := &fulfillmentv1.ReleaseUnitsResponse{}
	for _, c := range r.GetClaims() {
		d := f.drops[c.GetDropId()]
		if d == nil {
			continue
		}
		if u := d.units[c.GetSerial()]; u != nil && u.lease == c.GetLeaseId() && (u.sold == "" || u.sold == string(c.GetTokenId())) {
			*u = unit{}
			response.Freed++
		}
	}
	return response, nil
}

func (f *fulfillment) ListNodeKeys(context.Context, *fulfillmentv1.ListNodeKeysRequest, ...grpc.CallOption) (*fulfillmentv1.ListNodeKeysResponse, error) {
	if err := f.enter("ListNodeKeys"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	return &fulfillmentv1.ListNodeKeysResponse{Keys: f.keys}, nil
}

func (f *fulfillment) GetDrop(_ context.Context, r *fulfillmentv1.GetDropRequest, _ ...grpc.CallOption) (*fulfillmentv1.GetDropResponse, error) {
	if err := f.enter("GetDrop"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	d := f.drops[r.GetDropId()]
	if d == nil {
		return nil, rpcerr.New(codes.NotFound, errorsv1.Reason_REASON_DROP_NOT_FOUND, "no such drop")
	}
	response := &fulfillmentv1.GetDropResponse{Drop: d.proto()}
	response.Drop.Stock = &fulfillmentv1.StockLevel{Units: uint32(len(d.units))}
	for _, u := range d.units {
		if u.sold != "" {
			response.Drop.Stock.Sold++
		}
	}
	return response, nil
}

func (d *dropRow) proto() *fulfillmentv1.DropStatus {
	shown := &offerv1.Drop{DropId: d.id, State: d.state, ChannelId: d.channel, Title: d.title}
	if !d.planned.IsZero() {
		shown.CloseTime, shown.PlannedCloseTime = timestamppb.New(d.closes), timestamppb.New(d.planned)
	}
	status := &fulfillmentv1.DropStatus{Drop: &fulfillmentv1.CatalogDrop{
		Drop: shown, MaxPerViewer: d.maxPerViewer, PerInstrumentCap: d.perCard, GoodsKind: d.goods,
	}}
	if !d.settled.IsZero() {
		status.SettleTime = timestamppb.New(d.settled)
	}
	return status
}

func (f *fulfillment) ListDrops(_ context.Context, r *fulfillmentv1.ListDropsRequest, _ ...grpc.CallOption) (*fulfillmentv1.ListDropsResponse, error) {
	if err := f.enter("ListDrops"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	response := &fulfillmentv1.ListDropsResponse{}
	for _, d := range f.drops {
		if d.state == r.GetStates()[0] {
			response.Drops = append(response.Drops, d.proto())
		}
	}
	return response, nil
}

func (f *fulfillment) SettleDrop(_ context.Context, r *fulfillmentv1.SettleDropRequest, _ ...grpc.CallOption) (*fulfillmentv1.SettleDropResponse, error) {
	if err := f.enter("SettleDrop"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	d := f.drops[r.GetDropId()]
	for _, u := range d.units {
		if u.lease != "" && u.sold == "" {
			return nil, rpcerr.New(codes.Aborted, errorsv1.Reason_REASON_CONFLICT, "a unit is leased")
		}
	}
	d.state, d.settled = offerv1.DropState_DROP_STATE_SETTLED, time.Now()
	return &fulfillmentv1.SettleDropResponse{Drop: d.proto()}, nil
}

func (f *fulfillment) PlaceOrders(_ context.Context, r *fulfillmentv1.PlaceOrdersRequest, _ ...grpc.CallOption) (*fulfillmentv1.PlaceOrdersResponse, error) {
	if err := f.enter("PlaceOrders"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	for _, o := range r.GetOrders() {
		if o.GetPurchaseId() == f.badOne {
			return nil, rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST, "bad order")
		}
	}
	for _, o := range r.GetOrders() {
		if f.orders[o.GetOrderId()] != nil {
			continue
		}
		order := &fulfillmentv1.Order{OrderId: o.GetOrderId(), PurchaseId: o.GetPurchaseId(), DropId: o.GetDropId(), Serial: o.GetSerial()}
		f.orders[o.GetOrderId()] = order
		if !f.hold {
			f.deliver(order)
		}
	}
	if f.loseAnswers {
		return nil, errAway
	}
	return &fulfillmentv1.PlaceOrdersResponse{}, nil
}

func (f *fulfillment) GetOrder(_ context.Context, r *fulfillmentv1.GetOrderRequest, _ ...grpc.CallOption) (*fulfillmentv1.GetOrderResponse, error) {
	if err := f.enter("GetOrder"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	o := f.orders[r.GetOrderId()]
	if o == nil {
		return nil, rpcerr.New(codes.NotFound, errorsv1.Reason_REASON_ORDER_NOT_FOUND, "no such order")
	}
	for _, end := range f.log {
		if end.GetOrderId() == o.GetOrderId() {
			o = end
		}
	}
	return &fulfillmentv1.GetOrderResponse{Order: o}, nil
}

// deliver is called with mu held.
func (f *fulfillment) deliver(o *fulfillmentv1.Order) {
	end := &fulfillmentv1.Order{
		OrderId: o.GetOrderId(), PurchaseId: o.GetPurchaseId(), DropId: o.GetDropId(), Serial: o.GetSerial(),
		State: fulfillmentv1.OrderState_ORDER_STATE_DELIVERED, LicenceKey: fmt.Sprintf("KEY-%d", o.GetSerial()),
	}
	if f.dead {
		end.State, end.LicenceKey = fulfillmentv1.OrderState_ORDER_STATE_DEAD, ""
	}
	f.log = append(f.log, end)
	close(f.news)
	f.news = make(chan struct{})
}

func (f *fulfillment) WatchOrders(ctx context.Context, r *fulfillmentv1.WatchOrdersRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[fulfillmentv1.WatchOrdersResponse], error) {
	if err := f.enter("WatchOrders"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	f.watchedFrom = r.GetAfterCursor()
	return &orderStream{ctx: ctx, f: f, cursor: int(r.GetAfterCursor())}, nil
}

type orderStream struct {
	grpc.ClientStream
	ctx    context.Context
	f      *fulfillment
	cursor int
}

func (o *orderStream) Recv() (*fulfillmentv1.WatchOrdersResponse, error) {
	for {
		o.f.mu.Lock()
		orders, news, away := o.f.log[o.cursor:], o.f.news, o.f.away
		o.f.mu.Unlock()
		if away {
			return nil, errAway
		}
		if len(orders) > 0 {
			o.cursor += len(orders)
			return &fulfillmentv1.WatchOrdersResponse{Orders: orders, Cursor: int64(o.cursor)}, nil
		}
		select {
		case <-news:
		case <-o.ctx.Done():
			return nil, o.ctx.Err()
		}
	}
}
