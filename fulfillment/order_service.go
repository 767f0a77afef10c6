package fulfillment

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rimlight/rimlight/fulfillment/orders"
	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// orderServer is OrderService.
type orderServer struct {
	*Service
	fulfillmentv1.UnimplementedOrderServiceServer
}

func (s *orderServer) PlaceOrders(ctx context.Context, req *fulfillmentv1.PlaceOrdersRequest) (*fulfillmentv1.PlaceOrdersResponse, error) {
	if err := s.placeOrders(ctx, req); err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return &fulfillmentv1.PlaceOrdersResponse{}, nil
}

func (s *orderServer) placeOrders(ctx context.Context, req *fulfillmentv1.PlaceOrdersRequest) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	placed := make([]store.Placement, len(req.GetOrders()))
	at := map[store.ID]int{}
	for i, o := range req.GetOrders() {
		id, err := parseID(fmt.Sprintf("orders[%d].order_id", i), o.GetOrderId())
		if err != nil {
			return err
		}
		drop, err := parseID(fmt.Sprintf("orders[%d].drop_id", i), o.GetDropId())
		if err != nil {
			return err
		}
		placed[i].Order = store.Order{ID: id, PurchaseID: o.GetPurchaseId(), DropID: drop, Serial: o.GetSerial(), Trace: o.GetTraceContext()}
		at[id] = i
	}
	for i, d := range req.GetDeliveries() {
		field := fmt.Sprintf("deliveries[%d].order_id", i)
		id, err := parseID(field, d.GetOrderId())
		if err != nil {
			return err
		}
		order, ok := at[id]
		if !ok {
			return invalid(field, "A delivery belongs to an order of the same request.")
		}
		placed[order].Region, placed[order].Details = d.GetRegion(), d.GetDetails()
	}
	if err := s.store.PlaceOrders(ctx, placed, s.now()); err != nil {
		return err
	}
	s.placed.poke()
	s.events.poke()
	return nil
}

// GetOrder shows the licence key to the verifier alone: it is the viewer's, not the shop's.
func (s *orderServer) GetOrder(ctx context.Context, req *fulfillmentv1.GetOrderRequest) (*fulfillmentv1.GetOrderResponse, error) {
	o, err := s.getOrder(ctx, req)
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return &fulfillmentv1.GetOrderResponse{Order: orderProto(o, auth.FromContext(ctx) == auth.Service)}, nil
}

func (s *orderServer) getOrder(ctx context.Context, req *fulfillmentv1.GetOrderRequest) (store.Order, error) {
	id, err := parseID("order_id", req.GetOrderId())
	if err != nil {
		return store.Order{}, err
	}
	return s.store.GetOrder(ctx, id)
}

func (s *orderServer) ListOrders(ctx context.Context, req *fulfillmentv1.ListOrdersRequest) (*fulfillmentv1.ListOrdersResponse, error) {
	res, err := s.listOrders(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *orderServer) listOrders(ctx context.Context, req *fulfillmentv1.ListOrdersRequest) (*fulfillmentv1.ListOrdersResponse, error) {
	size := pageSize(req.GetPageSize(), defaultPage, maxPage)
	q := store.OrderQuery{Limit: size + 1}
	if req.GetDropId() != "" {
		drop, err := parseID("drop_id", req.GetDropId())
		if err != nil {
			return nil, err
		}
		q.DropID = &drop
	}
	for _, state := range req.GetStates() {
		q.States = append(q.States, orders.State(state))
	}
	if req.GetPageToken() != "" {
		var err error
		if q.Before, _, err = parsePageToken(req.GetPageToken(), 0); err != nil {
			return nil, err
		}
	}
	found, err := s.store.ListOrders(ctx, q)
	if err != nil {
		return nil, err
	}
	found, more := page(found, size)
	res := &fulfillmentv1.ListOrdersResponse{}
	for _, o := range found {
		res.Orders = append(res.Orders, orderProto(o, false))
	}
	if more {
		res.NextPageToken = pageToken(found[len(found)-1].Position, nil)
	}
	return res, nil
}

// WatchOrders sends what happened to orders in the order of commits. A cursor from the future means that this store is
// younger than the verifier's word: it begins at the beginning, as "at least once" allows.
func (s *orderServer) WatchOrders(req *fulfillmentv1.WatchOrdersRequest, stream grpc.ServerStreamingServer[fulfillmentv1.WatchOrdersResponse]) error {
	ctx := stream.Context()
	if err := s.ready(ctx); err != nil {
		return s.toStatus(ctx, err)
	}
	last, err := s.store.LastEvent(ctx)
	if err != nil {
		return s.toStatus(ctx, err)
	}
	after := req.GetAfterCursor()
	if after > last {
		after = 0
		s.log.ErrorContext(ctx, "the store is older than what the verifier was told from it: stop fulfillment, and restore this store as if it were a backup",
			"told_cursor", req.GetAfterCursor(), "newest_cursor", last)
	}
	err = s.watch(ctx, &s.events, func(alive bool) (bool, error) {
		events, err := s.store.Events(ctx, after, watchBatch)
		if err != nil || len(events) == 0 && !alive {
			return false, err
		}
		res := &fulfillmentv1.WatchOrdersResponse{}
		for _, e := range events {
			res.Orders = append(res.Orders, orderProto(e.Order, true))
			after = e.Cursor
		}
		res.Cursor = after
		return len(events) == watchBatch, stream.Send(res)
	})
	return s.streamStatus(ctx, err)
}

func orderProto(o store.Order, withKey bool) *fulfillmentv1.Order {
	p := &fulfillmentv1.Order{
		OrderId: o.ID.String(), PurchaseId: o.PurchaseID, DropId: o.DropID.String(), Serial: o.Serial,
		State: fulfillmentv1.OrderState(o.State), Attempt: uint32(o.Attempt), StateTime: timestamppb.New(o.StateTime),
		Worker: o.Worker, Reason: fulfillmentv1.RejectReason(o.Reason), TrackingReference: o.Tracking,
	}
	if withKey {
		p.LicenceKey = o.LicenceKey
	}
	return p
}
