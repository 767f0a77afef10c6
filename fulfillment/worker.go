package fulfillment

import (
	"context"
	"errors"
	"time"

	"github.com/rimlight/rimlight/fulfillment/orders"
	"github.com/rimlight/rimlight/fulfillment/store"
	"github.com/rimlight/rimlight/internal/sqldb"
)

const (
	// workerBatch is how many orders one round takes: each of its three transactions is one fsync, whatever the batch.
	workerBatch = 100
	// workerPoll finds what no poke announces: what another replica did, and the end of a failure. A tenth of the 5 s of
	// delivery.
	workerPoll = 500 * time.Millisecond
)

// deliver is the digital worker: rounds of claim, acknowledge, deliver, until ctx ends. A crash anywhere leaves orders
// that the next life claims when the claim's time is over; the fence lets one licence key through.
func (s *Service) deliver(ctx context.Context) error {
	for ctx.Err() == nil {
		placed := s.placed.wait()
		n, err := s.round(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it was asked to stop
		case errors.Is(err, sqldb.ErrBroken):
			return err
		case err != nil:
			s.metrics.rounds.Inc()
			s.log.ErrorContext(ctx, "a round of the digital worker failed", "error", err)
		case n == workerBatch:
			continue
		}
		s.untilDue(ctx, err != nil, placed, s.store.NextClaimable)
	}
	return nil
}

// untilDue returns when an order's time may have come: that of the next one, a poke, or, after a failure and where other
// replicas say nothing, a poll.
func (s *Service) untilDue(ctx context.Context, failed bool, placed <-chan struct{}, next func(context.Context) (time.Time, bool, error)) {
	pause := workerPoll
	if !failed {
		at, some, err := next(ctx)
		if err == nil && !s.store.Shared() {
			pause = proofOfLife
		}
		if some {
			pause = min(pause, max(at.Sub(s.now()), 0))
		}
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-placed:
	case <-t.C:
	}
}

// round takes one batch as far as it gets and returns how many orders it found.
func (s *Service) round(ctx context.Context) (int, error) {
	found, err := s.store.Claimable(ctx, s.now(), workerBatch)
	if err != nil || len(found) == 0 {
		return 0, err
	}
	claimed, err := s.advance(ctx, found, func(o *store.Order, now time.Time) (err error) {
		o.Order, err = s.policy.Claim(o.Order, s.worker, now)
		return err
	})
	if err != nil {
		return 0, err
	}
	defer s.deliverySpans(ctx, claimed)()
	attempts := make(map[store.ID]int, len(claimed))
	for _, o := range claimed {
		if o.State == orders.Leased {
			attempts[o.ID] = o.Attempt
		}
	}
	acked, err := s.advance(ctx, list(claimed), func(o *store.Order, _ time.Time) (err error) {
		o.Order, err = orders.Ack(o.Order, s.worker, attempts[o.ID])
		return err
	})
	if err != nil {
		return 0, err
	}
	keys := make(map[store.ID]string, len(acked))
	for _, o := range acked {
		key, err := orders.NewLicenceKey(s.random)
		if err != nil {
			s.log.ErrorContext(ctx, "an order could not be delivered", "order_id", o.ID.String(), "attempt", o.Attempt, "error", err)
		}
		keys[o.ID] = key
	}
	_, err = s.advance(ctx, list(acked), func(o *store.Order, now time.Time) (err error) {
		if keys[o.ID] == "" {
			o.Order, err = s.policy.Fail(o.Order, s.worker, attempts[o.ID], now)
			return err
		}
		o.LicenceKey = keys[o.ID]
		o.Order, err = orders.Deliver(o.Order, s.worker, attempts[o.ID])
		return err
	})
	return len(found), err
}

// advance takes one step with a list of orders, counts where it ended for good, and wakes those who watch.
func (s *Service) advance(ctx context.Context, list []store.ID, step func(*store.Order, time.Time) error) ([]store.Order, error) {
	if len(list) == 0 {
		return nil, nil
	}
	now := s.now()
	advanced, err := s.store.Advance(ctx, list, now, func(o *store.Order) error { return step(o, now) })
	if err != nil {
		return nil, err
	}
	for _, o := range advanced {
		switch o.State {
		case orders.Delivered:
			s.metrics.delivered.Observe(now.Sub(o.PlaceTime).Seconds())
		case orders.Shipped:
			s.metrics.shipped.Inc()
		case orders.Dead:
			s.metrics.dead.Inc()
			s.log.WarnContext(ctx, "an order is dead", "order_id", o.ID.String(), "attempt", o.Attempt)
		}
	}
	s.events.poke()
	return advanced, nil
}

func list(all []store.Order) []store.ID {
	found := make([]store.ID, len(all))
	for i, o := range all {
		found[i] = o.ID
	}
	return found
}
