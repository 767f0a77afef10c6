package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
)

const (
	// firstRetry and lastRetry bound the wait for a new stream, which doubles from one to the other.
	firstRetry, lastRetry = 250 * time.Millisecond, 15 * time.Second
	// silence is how long fulfillment may say nothing before the stream counts as dead: three of its proofs of life.
	silence = 30 * time.Second
)

type stream = fulfillmentv1.OrderService_WorkOrdersClient

// follow keeps a stream to fulfillment until ctx ends.
func (n *Node) follow(ctx context.Context, id string) error {
	for wait := firstRetry; ctx.Err() == nil; {
		heard, err := n.followOnce(ctx, id)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // asked to stop: how the stream took that is no news
		case errors.Is(err, sqldb.ErrBroken):
			return err
		}
		n.deps.Log.Log(ctx, rpcerr.Level(err), "the line to fulfillment broke", "error", err)
		if heard {
			wait = firstRetry
		}
		pause(ctx, wait/2+rand.N(wait)) // nodes that lost their line together do not come back together
		wait = min(2*wait, lastRetry)
	}
	return nil
}

// followOnce is one stream's life. It always ends with an error.
func (n *Node) followOnce(ctx context.Context, id string) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	idle := time.AfterFunc(silence, cancel)
	defer idle.Stop()
	line, err := n.deps.Orders.WorkOrders(ctx)
	if err != nil {
		return false, fmt.Errorf("opening the stream: %w", err)
	}
	err = line.Send(&fulfillmentv1.WorkOrdersRequest{Message: &fulfillmentv1.WorkOrdersRequest_Hello{Hello: &fulfillmentv1.NodeHello{
		NodeId: id, Zones: n.cfg.Zones, Skus: n.cfg.SKUs, MaxParallel: uint32(n.cfg.Parallel), MaxPerHour: uint32(n.cfg.PerHour), Hours: n.cfg.Hours,
		DeliveryKeys: n.publicKeys(),
	}}})
	if err != nil {
		return false, fmt.Errorf("greeting: %w", err)
	}
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error {
		defer cancel() // a send waits for flow control, which a dead stream never gives
		for {
			m, err := line.Recv()
			if err != nil {
				return fmt.Errorf("receiving: %w", err)
			}
			heard = true
			idle.Reset(silence)
			if err := n.hear(ctx, m); err != nil {
				return err
			}
		}
	})
	both.Go(func() error {
		defer cancel()
		return n.say(ctx, line)
	})
	err = both.Wait()
	return heard, err
}

func (n *Node) hear(ctx context.Context, m *fulfillmentv1.WorkOrdersResponse) error {
	var err error
	if a := m.GetAssignment(); a != nil {
		var reason fulfillmentv1.RejectReason
		if _, unread := n.open(a.GetDeliveryDetails(), a.GetDropId(), a.GetPurchaseId()); unread != nil {
			n.deps.Log.WarnContext(ctx, "an order whose delivery details do not open", "order_id", a.GetOrderId(), "error", unread)
			reason = fulfillmentv1.RejectReason_REJECT_REASON_UNDELIVERABLE
		}
		err = n.inbox.take(ctx, a, reason, n.deps.Now())
	} else if a := m.GetAnswer(); a != nil {
		if !a.GetDone() && a.GetStep() != fulfillmentv1.WorkStep_WORK_STEP_REJECT {
			n.deps.Log.WarnContext(ctx, "an order is another's now", "order_id", a.GetOrderId(), "attempt", a.GetAttempt(), "step", a.GetStep().String())
		}
		err = n.inbox.answer(ctx, a)
	}
	poke(n.pokeSay)
	poke(n.pokeDo)
	return err
}

// say tells fulfillment everything that it has to answer, each thing once per stream.
func (n *Node) say(ctx context.Context, line stream) error {
	type saying struct {
		order   string
		attempt uint32
		state   state
	}
	said := map[saying]bool{}
	for {
		open, err := n.inbox.toSay(ctx)
		if err != nil {
			return err
		}
		still := make(map[saying]bool, len(open))
		for _, e := range open {
			s := saying{e.OrderID, e.attempt, e.state}
			still[s] = true
			if said[s] {
				continue
			}
			report := &fulfillmentv1.WorkReport{OrderId: e.OrderID, Attempt: e.attempt, Step: steps[e.state], Reason: e.reason}
			if e.state == shipped {
				report.TrackingReference = e.Tracking
			}
			if err := line.Send(&fulfillmentv1.WorkOrdersRequest{Message: &fulfillmentv1.WorkOrdersRequest_Report{Report: report}}); err != nil {
				return fmt.Errorf("sending: %w", err)
			}
		}
		said = still // what is answered is forgotten
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.pokeSay:
		}
	}
}
