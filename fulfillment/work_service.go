package fulfillment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/rimlight/rimlight/fulfillment/orders"
	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/sealed"
)

type workStream = grpc.BidiStreamingServer[fulfillmentv1.WorkOrdersRequest, fulfillmentv1.WorkOrdersResponse]

// WorkOrders is one microfulfillment node's stream. What is sent to it waits in its session's queue, so that routing never
// waits for a slow line.
func (s *orderServer) WorkOrders(stream workStream) error {
	ctx := stream.Context()
	return s.streamStatus(ctx, s.workOrders(stream))
}

func (s *orderServer) workOrders(stream workStream) error {
	if err := s.ready(stream.Context()); err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	node, err := readHello(first.GetHello())
	if err != nil {
		return err
	}
	changed, err := s.store.Greet(stream.Context(), first.GetHello(), s.now())
	if err != nil {
		return err
	}
	if changed > 0 {
		s.catalog.poke()
	}
	session := s.crew.join(node)
	s.metrics.nodes.Inc()
	defer func() {
		s.crew.leave(session)
		s.metrics.nodes.Dec()
	}()
	s.log.InfoContext(stream.Context(), "a microfulfillment node joined", "node_id", node.ID, "skus", len(node.SKUs), "zones", len(node.Zones))
	defer s.log.InfoContext(stream.Context(), "a microfulfillment node left", "node_id", node.ID)

	ctx := stream.Context()
	received := make(chan error, 1)
	go func() { received <- s.receiveReports(ctx, stream, session) }() // ends with the stream: returning from here ends ctx and Recv
	if err := s.handOverAgain(ctx, session); err != nil {
		return err
	}
	s.placed.poke() // orders may have waited for it
	return s.sendWork(ctx, stream, session, received)
}

func readHello(h *fulfillmentv1.NodeHello) (orders.Node, error) {
	if h == nil {
		return orders.Node{}, invalid("hello", "The first message is the node's greeting.")
	}
	if _, err := parseID("hello.node_id", h.GetNodeId()); err != nil {
		return orders.Node{}, err
	}
	if len(h.GetSkus()) == 0 || h.GetMaxParallel() == 0 {
		return orders.Node{}, invalid("hello.skus", "A node has goods, and hands for at least one order at a time.")
	}
	if len(h.GetDeliveryKeys()) == 0 {
		return orders.Node{}, invalid("hello.delivery_keys", "A node has a key that delivery details are sealed to.")
	}
	node := orders.Node{
		ID: h.GetNodeId(), Zones: h.GetZones(), SKUs: h.GetSkus(), MaxParallel: int(h.GetMaxParallel()), MaxPerHour: int(h.GetMaxPerHour()),
	}
	for i, public := range h.GetDeliveryKeys() {
		if len(public) != sealed.PublicKeySize {
			return orders.Node{}, invalid(fmt.Sprintf("hello.delivery_keys[%d]", i), "A public key has 32 bytes.")
		}
		node.Keys = append(node.Keys, string(sealed.KeyID(public)))
	}
	for _, o := range h.GetHours() {
		node.Hours = append(node.Hours, orders.Hours{From: int(o.GetFromMinute()), To: int(o.GetToMinute())})
	}
	return node, nil
}

// handOverAgain sends what the node was given before, and may never have heard of.
func (s *Service) handOverAgain(ctx context.Context, to *session) error {
	given, err := s.store.Assigned(ctx, to.node.ID)
	if err != nil {
		return err
	}
	for _, o := range given {
		if err := s.handOver(ctx, to, o); err != nil {
			return err
		}
	}
	return nil
}

func (s *orderServer) sendWork(ctx context.Context, stream workStream, session *session, received <-chan error) error {
	tick := time.NewTicker(proofOfLife)
	defer tick.Stop()
	for {
		m := &fulfillmentv1.WorkOrdersResponse{}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-received:
			return err
		case <-session.replaced:
			return errReplaced
		case <-s.stopping:
			return errStopping
		case m = <-session.send:
		case <-tick.C:
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

func (s *orderServer) receiveReports(ctx context.Context, stream workStream, session *session) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		answer, err := s.report(ctx, session.node.ID, m.GetReport())
		if err != nil {
			return err
		}
		select {
		case session.send <- &fulfillmentv1.WorkOrdersResponse{Message: &fulfillmentv1.WorkOrdersResponse_Answer{Answer: answer}}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// report takes one step of a node's, if the order is still its own. An order that never was is answered like one that is
// no more.
func (s *orderServer) report(ctx context.Context, node string, r *fulfillmentv1.WorkReport) (*fulfillmentv1.WorkAnswer, error) {
	id, err := parseID("report.order_id", r.GetOrderId())
	if err != nil {
		return nil, err
	}
	step, err := s.stepOf(node, r)
	if err != nil {
		return nil, err
	}
	taken, err := s.advance(ctx, []store.ID{id}, step)
	if missing := (*store.OrderNotFoundError)(nil); errors.As(err, &missing) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	done := len(taken) > 0
	if done && r.GetStep() == fulfillmentv1.WorkStep_WORK_STEP_REJECT {
		s.metrics.refused.WithLabelValues(r.GetReason().String()).Inc()
		s.placed.poke() // for the next node, after its backoff
	}
	return &fulfillmentv1.WorkAnswer{OrderId: r.GetOrderId(), Attempt: r.GetAttempt(), Step: r.GetStep(), Done: done}, nil
}

func (s *Service) stepOf(node string, r *fulfillmentv1.WorkReport) (func(*store.Order, time.Time) error, error) {
	attempt := int(r.GetAttempt())
	switch r.GetStep() {
	case fulfillmentv1.WorkStep_WORK_STEP_ACCEPT:
		return func(o *store.Order, now time.Time) (err error) {
			o.Order, err = orders.Accept(o.Order, node, attempt, now.Add(s.packWithin))
			return err
		}, nil
	case fulfillmentv1.WorkStep_WORK_STEP_REJECT:
		return func(o *store.Order, now time.Time) (err error) {
			o.Reason = orders.Reason(r.GetReason())
			o.Order, err = s.physical.Refuse(o.Order, node, attempt, now)
			return err
		}, nil
	case fulfillmentv1.WorkStep_WORK_STEP_CLEAR:
		return func(o *store.Order, _ time.Time) (err error) {
			o.Order, err = orders.Clear(o.Order, node, attempt)
			return err
		}, nil
	case fulfillmentv1.WorkStep_WORK_STEP_SHIP:
		return func(o *store.Order, _ time.Time) (err error) {
			o.Tracking = r.GetTrackingReference()
			o.Order, err = orders.Ship(o.Order, node, attempt)
			return err
		}, nil
	}
	return nil, invalid("report.step", fmt.Sprintf("%v is no step.", r.GetStep()))
}
