package verifier

import (
	"context"
	"errors"
	"fmt"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// runDeliveries follows fulfillment's orders until ctx ends, and goes on after a break where it durably was.
func (s *Service) runDeliveries(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		heard, err := s.followOrders(ctx)
		if ctx.Err() != nil {
			return
		}
		if failures++; heard {
			failures = 1
		}
		s.deps.Log.Log(ctx, rpcerr.Level(err), "following orders broke off", "error", err)
		sleep(ctx, s.backoff(failures-1), nil)
	}
}

func (s *Service) followOrders(ctx context.Context) (heard bool, err error) {
	cursor, err := s.store.Read().OrderCursor(ctx)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A connection can die without a word; fulfillment sends an empty message when there is nothing to say.
	idle := time.AfterFunc(s.cfg.StreamIdle, cancel)
	defer idle.Stop()
	stream, err := s.deps.Orders.WatchOrders(ctx, &fulfillmentv1.WatchOrdersRequest{AfterCursor: cursor})
	if err != nil {
		return false, fmt.Errorf("watching orders: %w", err)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return heard, fmt.Errorf("watching orders: %w", err)
		}
		heard = true
		idle.Reset(s.cfg.StreamIdle)
		if len(m.GetOrders()) == 0 && m.GetCursor() <= cursor {
			continue
		}
		if err := s.deliver(ctx, m); err != nil {
			return heard, err
		}
		cursor = m.GetCursor()
	}
}

// deliver uses one message, and remembers its cursor in the same transaction. An order that makes no sense here is
// logged and passed: it must not stop the others. A dead order is used like a delivered one: its viewer is asked.
func (s *Service) deliver(ctx context.Context, m *fulfillmentv1.WatchOrdersResponse) error {
	if mutant.On(mutant.CursorAhead) {
		if err := s.store.Write(ctx, func(tx *store.Tx) error { return tx.SetOrderCursor(ctx, m.GetCursor()) }); err != nil {
			return err
		}
	}
	strange := 0
	err := s.store.Write(ctx, func(tx *store.Tx) error {
		strange = 0
		purchases, err := tx.PurchasesByPublicID(ctx, endedPurchases(m.GetOrders()))
		if err != nil {
			return err
		}
		for _, o := range m.GetOrders() {
			event, ok := orderEvents[o.GetState()]
			if !ok {
				continue
			}
			var p *store.Purchase
			if id, err := store.ParseHex(o.GetPurchaseId()); err == nil {
				p = purchases[id]
			}
			if p == nil {
				strange++
				continue
			}
			err := s.deliverOne(ctx, tx, p, o, event)
			if errors.Is(err, saga.ErrIllegal) {
				strange++
			} else if err != nil {
				return err
			}
		}
		return tx.SetOrderCursor(ctx, m.GetCursor())
	})
	if err == nil && strange > 0 {
		s.metrics.strangeOrders.Add(float64(strange))
		s.deps.Log.Error("orders that do not belong to a paid purchase", "orders", strange, "cursor", m.GetCursor())
	}
	return err
}

// orderEvents are what the ends of an order mean to its purchase.
var orderEvents = map[fulfillmentv1.OrderState]saga.Event{
	fulfillmentv1.OrderState_ORDER_STATE_DELIVERED: saga.OrderDelivered,
	fulfillmentv1.OrderState_ORDER_STATE_SHIPPED:   saga.OrderShipped,
	fulfillmentv1.OrderState_ORDER_STATE_DEAD:      saga.OrderDead,
}

// endedPurchases lists the purchases of orders that came to an end.
func endedPurchases(orders []*fulfillmentv1.Order) (purchaseIDs []store.ID) {
	for _, o := range orders {
		if id, err := store.ParseHex(o.GetPurchaseId()); err == nil && orderEvents[o.GetState()] != 0 { // else it is nobody's
			purchaseIDs = append(purchaseIDs, id)
		}
	}
	return purchaseIDs
}

// deliverOne uses the end of a purchase's order. saga.ErrIllegal when it makes no sense.
func (s *Service) deliverOne(ctx context.Context, tx *store.Tx, p *store.Purchase, o *fulfillmentv1.Order, event saga.Event) error {
	sameNews := p.State == saga.Delivered && event == saga.OrderDelivered || p.State == saga.Shipped && event == saga.OrderShipped || p.Reason == saga.OrderFailed && event == saga.OrderDead
	if sameNews {
		return nil
	}
	next := *p
	next.LicenceKey = o.GetLicenceKey()
	_, span := s.deps.Traces.Resume(ctx, s.traceOf(ctx, tx, p.TokenID), "verifier.outcome")
	defer span.End()
	span.Set("rimlight.order_state", o.GetState().String())
	if err := s.apply(ctx, tx, &next, event); err != nil {
		return err
	}
	*p = next // the same order may come again in this message
	return nil
}

// runDropSettler tells fulfillment about closed drops of which every purchase is final, until ctx ends.
func (s *Service) runDropSettler(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		err := s.settleDrops(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failures = 0
			sleep(ctx, s.jitter(s.cfg.DropPoll), nil)
			continue
		}
		failures++
		s.deps.Log.Warn("settling drops failed", "error", err)
		sleep(ctx, max(s.cfg.DropPoll, s.backoff(failures-1)), nil)
	}
}

func (s *Service) settleDrops(ctx context.Context) error {
	request := &fulfillmentv1.ListDropsRequest{States: []offerv1.DropState{offerv1.DropState_DROP_STATE_CLOSED}}
	for {
		callCtx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
		page, err := s.deps.Catalog.ListDrops(callCtx, request)
		cancel()
		if err != nil {
			return fmt.Errorf("listing closed drops: %w", err)
		}
		for _, d := range page.GetDrops() {
			if err := s.settleDrop(ctx, d.GetDrop().GetDrop().GetDropId()); err != nil {
				return err
			}
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return nil
		}
	}
}

func (s *Service) settleDrop(ctx context.Context, dropID string) error {
	id, err := store.ParseUUID(dropID)
	if err != nil {
		return fmt.Errorf("settling a drop: %w", err)
	}
	open, err := s.store.Read().DropOpen(ctx, id)
	if err != nil || open {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	if _, err := s.deps.Catalog.SettleDrop(ctx, &fulfillmentv1.SettleDropRequest{DropId: dropID}); err != nil {
		if refused(err) { // a unit is still leased: a node has redemptions to forward or units to return
			return nil
		}
		return fmt.Errorf("settling a drop: %w", err)
	}
	return nil
}
