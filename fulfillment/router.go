package fulfillment

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rimlight/rimlight/fulfillment/orders"
	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/sealed"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/telemetry"
)

const (
	// routeBatch is how many orders are read at once; each that a node gets is a transaction of its own, since the next one's
	// choice depends on it.
	routeBatch = 100
	// routeAgain is when orders that no node can take are looked at again. At half, a backlog that waits for the morning
	// costs twice as many reads; at double, a node with a free hand waits that long.
	routeAgain = time.Second
)

// route gives physical orders to microfulfillment nodes until ctx ends.
func (s *Service) route(ctx context.Context) error {
	for ctx.Err() == nil {
		placed, now := s.placed.wait(), s.now()
		waiting, err := s.routeRound(ctx, now)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it was asked to stop
		case errors.Is(err, sqldb.ErrBroken):
			return err
		case err != nil:
			s.metrics.rounds.Inc()
			s.log.ErrorContext(ctx, "a round of routing orders failed", "error", err)
		}
		s.untilDue(ctx, err != nil, placed, func(ctx context.Context) (time.Time, bool, error) {
			again := now.Add(routeAgain)
			at, some, err := s.store.NextRoutable(ctx, now)
			if waiting && (!some || again.Before(at)) {
				return again, true, err
			}
			return at, some, err
		})
	}
	return nil
}

// routeRound looks at all orders whose time has come at now, and tells whether one waits for a node. What waits stays as
// it is: another replica may know a node that takes it.
func (s *Service) routeRound(ctx context.Context, now time.Time) (waiting bool, err error) {
	var nodes []orders.Node
	var after *store.Order
	for {
		found, err := s.store.Routable(ctx, now, after, routeBatch)
		if err != nil || len(found) == 0 {
			return waiting, err
		}
		if after == nil {
			if nodes, err = s.nodes(ctx, now); err != nil {
				return waiting, err
			}
		}
		for _, o := range found {
			given := true
			switch {
			case o.State != orders.Ready:
				err = s.expire(ctx, o.ID)
			case !now.Before(o.PlaceTime.Add(s.nodeWithin)):
				err = s.giveUp(ctx, o.ID, orders.NoNode)
			default:
				given, err = s.assign(ctx, o, nodes, now)
			}
			if err != nil {
				return waiting, err
			}
			waiting = waiting || !given
		}
		if len(found) < routeBatch {
			return waiting, nil
		}
		after = &found[len(found)-1]
	}
}

// nodes is the crew with what each has to do.
func (s *Service) nodes(ctx context.Context, now time.Time) ([]orders.Node, error) {
	nodes := s.crew.list()
	if len(nodes) == 0 {
		return nil, nil
	}
	loads, err := s.store.Loads(ctx, now.Add(-time.Hour))
	for i := range nodes {
		load := loads[nodes[i].ID]
		nodes[i].Open, nodes[i].LastHour = load.Open, load.Since
	}
	return nodes, err
}

// expire takes an order from a node whose time is over.
func (s *Service) expire(ctx context.Context, id store.ID) error {
	expired, err := s.advance(ctx, []store.ID{id}, func(o *store.Order, now time.Time) (err error) {
		o.Reason = orders.Silent
		o.Order, err = s.physical.Expire(o.Order, now)
		return err
	})
	s.metrics.refused.WithLabelValues(fulfillmentv1.RejectReason_REJECT_REASON_SILENT.String()).Add(float64(len(expired)))
	return err
}

// giveUp ends an order that is no node's.
func (s *Service) giveUp(ctx context.Context, id store.ID, why orders.Reason) error {
	_, err := s.advance(ctx, []store.ID{id}, func(o *store.Order, now time.Time) error {
		if o.State != orders.Ready {
			return orders.ErrFenced
		}
		o.Reason = why
		o.Order = orders.Order{State: orders.Dead, Attempt: o.Attempt, Until: now}
		return nil
	})
	return err
}

// assign gives an order to the best node, if one can take it, and counts it among the node's.
func (s *Service) assign(ctx context.Context, o store.Order, nodes []orders.Node, now time.Time) (bool, error) {
	if !orders.Routable(orders.Wish{Region: o.Region, SKU: o.SKU}, nodes, now) {
		return false, nil
	}
	var refused []string
	if o.Attempt > 0 {
		var err error
		if refused, err = s.store.Refusals(ctx, o.ID); err != nil {
			return false, err
		}
	}
	details, err := s.store.Details(ctx, o.ID)
	if err != nil {
		return false, err
	}
	recipients, err := sealed.Recipients(details)
	if err != nil { // regions refuse what is not sealed, and no node could open it
		s.log.ErrorContext(ctx, "an order's delivery details are not sealed", "order_id", o.ID.String())
		return true, s.giveUp(ctx, o.ID, orders.Undeliverable)
	}
	node, ok := orders.Route(orders.Wish{Region: o.Region, SKU: o.SKU, Refused: refused, Recipients: keyIDs(recipients)}, nodes, now)
	if !ok || s.store.Shared() && slices.Contains(refused, node) && now.Before(o.Until.Add(routeAgain)) {
		return false, nil // another replica may know a node that has not refused it
	}
	given, err := s.advance(ctx, []store.ID{o.ID}, func(o *store.Order, now time.Time) (err error) {
		o.AssignTime = now
		o.Order, err = s.physical.Assign(o.Order, node, now)
		return err
	})
	if err != nil || len(given) == 0 { // another replica was faster
		return err == nil, err
	}
	if given[0].State != orders.Leased {
		return true, nil
	}
	i := slices.IndexFunc(nodes, func(n orders.Node) bool { return n.ID == node })
	nodes[i].Open++
	nodes[i].LastHour++
	if session := s.crew.find(node); session != nil {
		return true, s.handOver(ctx, session, given[0])
	}
	return true, nil
}

// keyIDs are the same, to compare.
func keyIDs(list [][]byte) []string {
	texts := make([]string, len(list))
	for i, id := range list {
		texts[i] = string(id)
	}
	return texts
}

// handOver sends a node an order that is its own. This is the only way that delivery details ever take from here.
func (s *Service) handOver(ctx context.Context, to *session, o store.Order) error {
	ctx, span := s.tracer.Resume(ctx, o.Trace, "fulfillment.assign")
	defer span.End()
	details, err := s.store.Details(ctx, o.ID)
	if err != nil {
		return err
	}
	to.offer(&fulfillmentv1.WorkOrdersResponse{Message: &fulfillmentv1.WorkOrdersResponse_Assignment{Assignment: &fulfillmentv1.Assignment{
		OrderId: o.ID.String(), Attempt: uint32(o.Attempt), DropId: o.DropID.String(), Serial: o.Serial, Sku: o.SKU,
		DeliveryDetails: details, AcceptByTime: timestamppb.New(o.Until), TraceContext: telemetry.Durable(ctx),
		PurchaseId: o.PurchaseID,
	}}})
	return nil
}
