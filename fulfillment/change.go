package fulfillment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rimlight/rimlight/fulfillment/catalog"
	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// changeError is a change that the schedule does not allow, with the drop that it is about.
type changeError struct {
	*catalog.ChangeError
	dropID string
}

func (s *catalogServer) ChangeDrop(ctx context.Context, req *fulfillmentv1.ChangeDropRequest) (*fulfillmentv1.ChangeDropResponse, error) {
	res, err := s.changeDrop(ctx, req)
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return res, nil
}

func (s *catalogServer) changeDrop(ctx context.Context, req *fulfillmentv1.ChangeDropRequest) (*fulfillmentv1.ChangeDropResponse, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	id, err := parseID("drop_id", req.GetDropId())
	if err != nil {
		return nil, err
	}
	now := s.now()
	change := func(schedule catalog.Schedule) (catalog.Schedule, error) {
		next, err := applyChange(schedule, req, now)
		var refused *catalog.ChangeError
		if errors.As(err, &refused) {
			return next, &changeError{refused, req.GetDropId()}
		}
		return next, err
	}
	var before, after store.Drop
	if req.GetDryRun() {
		before, after, err = s.rehearse(ctx, id, change)
	} else {
		before, after, err = s.storeChange(ctx, req, id, now, change)
	}
	if err != nil {
		return nil, err
	}
	if !req.GetDryRun() {
		s.catalog.poke()
		s.log.InfoContext(ctx, "drop changed", "drop_id", id.String(), "change", fmt.Sprintf("%T", req.GetChange()), "reason", req.GetReason())
	}
	return s.changed(ctx, before, after, now)
}

func (s *catalogServer) storeChange(ctx context.Context, req *fulfillmentv1.ChangeDropRequest, id store.ID, now time.Time,
	change func(catalog.Schedule) (catalog.Schedule, error)) (before, after store.Drop, err error) {
	signer, err := s.ownSigner(ctx)
	if err != nil {
		return before, after, err
	}
	return s.store.ChangeDrop(ctx, req, id, string(auth.FromContext(ctx)), now, change, signTimeBack(signer))
}

// rehearse is what a change would make of a drop.
func (s *catalogServer) rehearse(ctx context.Context, id store.ID, change func(catalog.Schedule) (catalog.Schedule, error)) (before, after store.Drop, err error) {
	if before, err = s.store.GetDrop(ctx, id); err != nil {
		return before, after, err
	}
	schedule, err := change(before.Schedule)
	if err != nil {
		return before, before, err
	}
	after = before
	after.Reschedule(schedule)
	return before, after, nil
}

func applyChange(s catalog.Schedule, req *fulfillmentv1.ChangeDropRequest, now time.Time) (catalog.Schedule, error) {
	switch change := req.GetChange().(type) {
	case *fulfillmentv1.ChangeDropRequest_Pause:
		return s.Pause(now)
	case *fulfillmentv1.ChangeDropRequest_Resume:
		return s.Resume(now)
	case *fulfillmentv1.ChangeDropRequest_Extend:
		return s.Extend(change.Extend.GetBy().AsDuration(), now)
	case *fulfillmentv1.ChangeDropRequest_Close:
		return s.Close(now)
	default:
		return s, invalid("change", "Say what to change: pause, resume, extend or close.")
	}
}

// changed says whom a change meets.
func (s *catalogServer) changed(ctx context.Context, before, after store.Drop, now time.Time) (*fulfillmentv1.ChangeDropResponse, error) {
	was, err := s.withStock(ctx, []store.Drop{before})
	if err != nil {
		return nil, err
	}
	is, err := s.withStock(ctx, []store.Drop{after})
	if err != nil {
		return nil, err
	}
	nodes, regions, err := s.store.Holders(ctx, after.ID)
	if err != nil {
		return nil, err
	}
	stock := is[0].GetStock()
	blast := &fulfillmentv1.BlastRadius{
		Nodes: nodes, Regions: regions, UnitsUnsold: stock.GetUnits() - stock.GetSold(),
		WindowChange: durationpb.New(after.CloseTime.Sub(before.CloseTime)),
	}
	blast.Consequences = consequences(before.Schedule, after.Schedule, blast, now)
	return &fulfillmentv1.ChangeDropResponse{Before: was[0], After: is[0], BlastRadius: blast}, nil
}

func consequences(before, after catalog.Schedule, blast *fulfillmentv1.BlastRadius, now time.Time) []string {
	if before == after {
		return []string{"Nothing changes."}
	}
	var list []string
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	wasOpen, isOpen := before.State(now) == dropclock.Open, after.State(now) == dropclock.Open
	switch {
	case wasOpen && !isOpen:
		say("Viewers get no more offers, as soon as their node hears it: within 2 s, unless it is cut off.")
	case !wasOpen && isOpen:
		say("Viewers get offers again, as soon as their node hears it: within 2 s, unless it is cut off.")
	}
	switch {
	case after.Paused && !before.Paused:
		say("Offers that are out cannot be redeemed until the drop goes on; those that expire meanwhile are lost to their viewers.")
	case after.CloseTime.Before(before.CloseTime):
		say("Offers that are out can be redeemed until they expire, at the latest %v.", after.OverTime.Format(time.RFC3339))
		say("%d units stay unsold but for those offers.", blast.GetUnitsUnsold())
	case after.CloseTime.After(before.CloseTime):
		say("Viewers can get offers until %v.", after.CloseTime.Format(time.RFC3339))
	}
	return list
}
