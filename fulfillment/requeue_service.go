package fulfillment

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

func (s *orderServer) RequeueOrders(ctx context.Context, req *fulfillmentv1.RequeueOrdersRequest) (*fulfillmentv1.RequeueOrdersResponse, error) {
	res, err := s.requeueOrders(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *orderServer) requeueOrders(ctx context.Context, req *fulfillmentv1.RequeueOrdersRequest) (*fulfillmentv1.RequeueOrdersResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	r := store.Requeue{Role: string(auth.FromContext(ctx)), Request: req}
	var err error
	if r.NodeID, err = parseID("node_id", req.GetNodeId()); err != nil {
		return nil, err
	}
	if req.GetDryRun() {
		met, err := s.store.RehearseRequeue(ctx, r, s.now())
		if err != nil {
			return nil, err
		}
		return s.requeued(met, req), nil
	}
	met, drops, err := s.store.Requeue(ctx, r, s.now())
	if err != nil {
		return nil, err
	}
	s.log.WarnContext(ctx, "a lost microfulfillment node's orders were taken from it", "node_id", req.GetNodeId(), "requeued", met.Ready, "dead", met.Dead,
		"cleared", met.Cleared, "include_cleared", req.GetIncludeCleared(), "drops", drops, "reason", req.GetReason(), "role", r.Role)
	s.metrics.refused.WithLabelValues(fulfillmentv1.RejectReason_REJECT_REASON_LOST.String()).Add(float64(met.Ready + met.Dead))
	s.placed.poke()
	s.events.poke()
	if drops > 0 {
		s.catalog.poke()
	}
	return s.requeued(met, req), nil
}

// requeued says what a requeue meets.
func (s *orderServer) requeued(met store.Requeued, req *fulfillmentv1.RequeueOrdersRequest) *fulfillmentv1.RequeueOrdersResponse {
	res := &fulfillmentv1.RequeueOrdersResponse{Requeued: uint32(met.Ready), Dead: uint32(met.Dead), Cleared: uint32(met.Cleared)}
	if !met.Seen.IsZero() {
		res.SeenTime = timestamppb.New(met.Seen)
	}
	say := func(orders int, format string, args ...any) {
		if orders > 0 {
			res.Consequences = append(res.Consequences, fmt.Sprintf("%d %s", orders, fmt.Sprintf(format, args...)))
		}
	}
	switch {
	case s.crew.find(req.GetNodeId()) != nil:
		res.Consequences = append(res.Consequences, fmt.Sprintf("The depot is connected (at %v). Stop it first: it gets new orders for as long as it is.",
			s.now().UTC().Format(time.RFC3339)))
	case s.store.Shared(): // it knows its own streams alone
		res.Consequences = append(res.Consequences, "The depot is not connected to this replica of fulfillment. Be sure that it is stopped: at another one it gets new orders.")
	}
	say(met.Ready, "not accepted: they go to another depot that can open and send them; what none takes within %v of the purchase is dead.", s.nodeWithin)
	say(met.Dead, "accepted: dead, since only that depot has where they go. It may have packed them; it is refused when it asks whether they may leave.")
	if req.GetIncludeCleared() {
		say(met.Cleared, "cleared: dead, and their parcels may have left. Who gets one keeps it, and gets the money or a voucher as well.")
	} else {
		say(met.Cleared, "cleared: left alone, since their parcels may have left. Find out; include them if they did not.")
	}
	if met.Dead > 0 || met.Cleared > 0 && req.GetIncludeCleared() {
		res.Consequences = append(res.Consequences, "Buyers of dead orders choose the money or a voucher.")
	}
	res.Consequences = append(res.Consequences, "Drops do not name the depot's key any more. What was sealed to it alone nobody else can send.")
	return res
}
