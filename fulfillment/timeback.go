package fulfillment

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rimlight/rimlight/fulfillment/catalog"
	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/timeback"
	"github.com/rimlight/rimlight/internal/token"
)

// ReportDelay implements CatalogService.
func (s *catalogServer) ReportDelay(ctx context.Context, req *fulfillmentv1.ReportDelayRequest) (*fulfillmentv1.ReportDelayResponse, error) {
	res, err := s.reportDelay(ctx, req)
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return res, nil
}

func (s *catalogServer) reportDelay(ctx context.Context, req *fulfillmentv1.ReportDelayRequest) (*fulfillmentv1.ReportDelayResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	id, err := parseID("drop_id", req.GetDropId())
	if err != nil {
		return nil, err
	}
	if req.GetDelay().CheckValid() != nil || req.GetDelay().AsDuration() < 0 {
		return nil, invalid("delay", "A delay is not negative.")
	}
	d, err := s.store.GetDrop(ctx, id)
	if err != nil {
		return nil, err
	}
	now, was, limit := s.now(), d.TimeBack, ""
	give := func(before catalog.Schedule) (after catalog.Schedule) {
		was = before.TimeBack
		after, limit = before.GiveBack(req.GetDelay().AsDuration(), s.timeBack, now)
		return after
	}
	if give(d.Schedule) != d.Schedule { // most reports say nothing new, and every router sends them
		signer, err := s.ownSigner(ctx)
		if err != nil {
			return nil, err
		}
		why := store.Delay{Delay: req.GetDelay().AsDuration(), Cause: req.GetCause(), SlipID: req.GetSlipId()}
		d, err = s.store.GiveBack(ctx, id, why, now, give, signTimeBack(signer))
		switch {
		case errors.Is(err, store.ErrSoldOut):
			limit = "Everything is sold."
		case err != nil:
			return nil, err
		case d.TimeBack > was:
			s.catalog.poke()
			s.metrics.timeBack.Add((d.TimeBack - was).Seconds())
			s.log.InfoContext(ctx, "a drop closes later, because answers to its viewers were late", "drop_id", id.String(),
				"time_back_ms", d.TimeBack.Milliseconds(), "delay_ms", why.Delay.Milliseconds(), "cause", why.Cause, "slip_id", why.SlipID,
				"close_time", d.CloseTime, "limit", limit)
		}
	}
	return &fulfillmentv1.ReportDelayResponse{Extra: durationpb.New(d.TimeBack), CloseTime: timestamppb.New(d.CloseTime), Limit: limit}, nil
}

// signTimeBack signs what a schedule gives back.
func signTimeBack(signer *token.Signer) store.SignTimeBack {
	return func(id store.ID, s catalog.Schedule) (string, error) {
		return timeback.Sign(signer, id[:], timeback.Window{Open: s.OpenTime, Planned: s.PlannedClose(), Close: s.CloseTime})
	}
}

// ownSigner is fulfillment's key, made at the first need. It is stored before anything is signed with it, and every node
// that joins hears of it.
func (s *Service) ownSigner(ctx context.Context) (*token.Signer, error) {
	if signer := s.signer.Load(); signer != nil {
		return signer, nil
	}
	fresh, err := token.NewSeed(s.random)
	if err != nil {
		return nil, err
	}
	seed, err := s.store.Seed(ctx, fresh)
	if err != nil {
		return nil, err
	}
	signer, err := token.NewSigner(seed, offerv1.KeyOwner_KEY_OWNER_FULFILLMENT, "", "")
	if err != nil {
		return nil, fmt.Errorf("reading fulfillment's key: %w", err)
	}
	if err := s.store.AddOwnKey(ctx, signer.Public()); err != nil {
		return nil, err
	}
	s.signer.Store(signer)
	return signer, nil
}
