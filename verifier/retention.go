package verifier

import (
	"context"
	"fmt"
	"time"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/mutant"
	"github.com/rimlight/rimlight/verifier/store"
)

// forgetBatch is how many rows of a kind one transaction deletes: it holds up redemptions that arrive, as one batch of them
// does.
const forgetBatch = 100

// runRetention forgets what nobody needs of drops that have long been SETTLED, until ctx ends.
//
// A receipt that is shown for the first time after that is judged as one that comes after its lease was closed, which it
// was, or its drop were not SETTLED: there is no unit for it, so nothing is charged, and a token that had been cancelled can
// hold no more than any other's late receipt does.
func (s *Service) runRetention(ctx context.Context) {
	for ctx.Err() == nil {
		sleep(ctx, s.jitter(s.cfg.RetentionPoll), nil)
		if ctx.Err() != nil {
			return
		}
		if err := s.forgetDrops(ctx, s.deps.Now().Add(-s.cfg.Retention)); err != nil && ctx.Err() == nil {
			s.deps.Log.Warn("forgetting what settled drops do not need failed", "error", err)
		}
	}
}

// forgetDrops looks once at every drop that was settled before a moment and has something to forget.
func (s *Service) forgetDrops(ctx context.Context, before time.Time) error {
	for after := (store.ID{}); ; {
		drop, found, err := s.store.Read().NextForgettable(ctx, after)
		if err != nil || !found {
			return err
		}
		after = drop
		over := mutant.On(mutant.ForgottenEarly)
		if !over {
			if made, known := ids.MadeAt(drop.UUID()); known && !made.Before(before) {
				return nil // ids are in the order of time: no later one was settled before it was made
			}
			if over, err = s.settledBefore(ctx, drop, before); err != nil {
				return err
			}
		}
		if !over {
			continue
		}
		forgotten, err := s.forgetDrop(ctx, drop)
		if err != nil {
			return err
		}
		s.metrics.forgotten.Add(float64(forgotten))
		s.deps.Log.Info("a settled drop's cancelled tokens and instruments were forgotten", "drop_id", drop.UUID(), "rows", forgotten)
	}
}

func (s *Service) settledBefore(ctx context.Context, drop store.ID, before time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	known, err := s.deps.Catalog.GetDrop(ctx, &fulfillmentv1.GetDropRequest{DropId: drop.UUID()})
	if hasReason(err, errorsv1.Reason_REASON_DROP_NOT_FOUND) { // a redemption's word; nobody can say that it is over
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking whether a drop is settled: %w", err)
	}
	settled := known.GetDrop().GetSettleTime()
	return known.GetDrop().GetDrop().GetDrop().GetState() == offerv1.DropState_DROP_STATE_SETTLED && settled != nil && settled.AsTime().Before(before), nil
}

// forgetDrop forgets in small transactions, so that redemptions are taken in between them.
func (s *Service) forgetDrop(ctx context.Context, drop store.ID) (forgotten int64, err error) {
	for {
		var n int64
		err := s.store.Write(ctx, func(tx *store.Tx) (err error) {
			n, err = tx.Forget(ctx, drop, forgetBatch)
			return err
		})
		if err != nil || n == 0 {
			return forgotten, err
		}
		forgotten += n
	}
}
