package fulfillment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rimlight/rimlight/fulfillment/catalog"
	"github.com/rimlight/rimlight/fulfillment/store"
	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/mutant"
)

// catalogServer is CatalogService.
type catalogServer struct {
	*Service
	fulfillmentv1.UnimplementedCatalogServiceServer
}

func (s *catalogServer) CreateDrop(ctx context.Context, req *fulfillmentv1.CreateDropRequest) (*fulfillmentv1.CreateDropResponse, error) {
	d, err := s.createDrop(ctx, req)
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return &fulfillmentv1.CreateDropResponse{Drop: s.view(d, nil), Warnings: termsOf(d.Terms).Warnings()}, nil
}

func (s *catalogServer) createDrop(ctx context.Context, req *fulfillmentv1.CreateDropRequest) (store.Drop, error) {
	if err := s.ready(ctx); err != nil {
		return store.Drop{}, err
	}
	now := s.now()
	salt := make([]byte, 16)
	if _, err := io.ReadFull(s.random, salt); err != nil {
		return store.Drop{}, fmt.Errorf("making a salt: %w", err)
	}
	id, err := store.ParseID(ids.NewV7(now, s.random))
	if err != nil {
		return store.Drop{}, err
	}
	d, err := s.store.CreateDrop(ctx, req, id, func() (*fulfillmentv1.CatalogDrop, catalog.Schedule, error) {
		terms, violations := catalog.Plan(draftOf(req), now)
		if len(violations) > 0 {
			return nil, catalog.Schedule{}, &requestError{errorsv1.Reason_REASON_DROP_TERMS_INVALID, violations}
		}
		d := catalogDrop(id, terms, salt)
		d.StockKind = req.GetStockKind()
		if terms.SKU != "" {
			d.GoodsKind, d.Sku = fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL, terms.SKU
			if d.StockKind == fulfillmentv1.StockKind_STOCK_KIND_UNSPECIFIED {
				d.StockKind = fulfillmentv1.StockKind_STOCK_KIND_PHYSICAL
			}
		}
		return d, terms.Schedule(), nil
	})
	if err != nil {
		return store.Drop{}, err
	}
	s.catalog.poke()
	return d, nil
}

func (s *catalogServer) GetDrop(ctx context.Context, req *fulfillmentv1.GetDropRequest) (*fulfillmentv1.GetDropResponse, error) {
	status, err := s.getDrop(ctx, req)
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return &fulfillmentv1.GetDropResponse{Drop: status}, nil
}

func (s *catalogServer) getDrop(ctx context.Context, req *fulfillmentv1.GetDropRequest) (*fulfillmentv1.DropStatus, error) {
	id, err := parseID("drop_id", req.GetDropId())
	if err != nil {
		return nil, err
	}
	d, err := s.store.GetDrop(ctx, id)
	if missing := (*store.DropNotFoundError)(nil); errors.As(err, &missing) && s.recovering.Load() {
		return nil, errRecovering
	}
	if err != nil {
		return nil, err
	}
	list, err := s.withStock(ctx, []store.Drop{d})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

func (s *catalogServer) ListDrops(ctx context.Context, req *fulfillmentv1.ListDropsRequest) (*fulfillmentv1.ListDropsResponse, error) {
	res, err := s.listDrops(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *catalogServer) listDrops(ctx context.Context, req *fulfillmentv1.ListDropsRequest) (*fulfillmentv1.ListDropsResponse, error) {
	size := pageSize(req.GetPageSize(), defaultPage, maxPage)
	q := store.DropQuery{ChannelID: req.GetChannelId(), Now: s.now(), Limit: size + 1}
	for _, state := range req.GetStates() {
		q.States = append(q.States, dropclock.State(state))
	}
	if req.GetPageToken() != "" {
		open, id, err := parsePageToken(req.GetPageToken(), len(store.ID{}))
		if err != nil {
			return nil, err
		}
		q.AfterOpenTime, q.AfterID = time.UnixMicro(open), store.ID(id)
	}
	found, err := s.store.ListDrops(ctx, q)
	if err != nil {
		return nil, err
	}
	found, more := page(found, size)
	res := &fulfillmentv1.ListDropsResponse{}
	if more {
		last := found[len(found)-1]
		res.NextPageToken = pageToken(last.OpenTime.UnixMicro(), last.ID[:])
	}
	res.Drops, err = s.withStock(ctx, found)
	return res, err
}

// WatchCatalog sends a snapshot in pieces of increasing revision, the first of which replaces what the node knew, and
// then what changes. A revision from the future means that this store is younger than the node's word: start over.
func (s *catalogServer) WatchCatalog(req *fulfillmentv1.WatchCatalogRequest, stream grpc.ServerStreamingServer[fulfillmentv1.WatchCatalogResponse]) error {
	ctx := stream.Context()
	if err := s.ready(ctx); err != nil { // a node would take drops for settled that are not here yet
		return s.toStatus(ctx, err)
	}
	start, err := s.store.Revision(ctx)
	if err != nil {
		return s.toStatus(ctx, err)
	}
	after, settledUpTo := req.GetAfterRevision(), int64(0)
	snapshot := after <= 0 || after > start
	if snapshot {
		after, settledUpTo = 0, start
	}
	if mutant.On(mutant.CatalogFromHead) && !snapshot {
		after = start
	}
	err = s.watch(ctx, &s.catalog, func(alive bool) (bool, error) {
		last, err := s.store.Revision(ctx) // before the drops: what is read after it holds all that it counts
		if err != nil {
			return false, err
		}
		found, err := s.store.Changes(ctx, after, settledUpTo, watchBatch)
		if err != nil {
			return false, err
		}
		res := &fulfillmentv1.WatchCatalogResponse{Snapshot: snapshot}
		for _, d := range found {
			res.Drops = append(res.Drops, s.view(d, nil))
			after = d.Terms.GetDrop().GetRevision()
		}
		more := len(found) == watchBatch
		if !more {
			after = max(after, last)
		}
		if !alive && len(found) == 0 {
			return false, nil
		}
		res.Revision, snapshot = after, false
		return more, stream.Send(res)
	})
	return s.streamStatus(ctx, err)
}

func (s *catalogServer) SettleDrop(ctx context.Context, req *fulfillmentv1.SettleDropRequest) (*fulfillmentv1.SettleDropResponse, error) {
	status, err := s.settleDrop(ctx, req)
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return &fulfillmentv1.SettleDropResponse{Drop: status}, nil
}

func (s *catalogServer) settleDrop(ctx context.Context, req *fulfillmentv1.SettleDropRequest) (*fulfillmentv1.DropStatus, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	id, err := parseID("drop_id", req.GetDropId())
	if err != nil {
		return nil, err
	}
	d, err := s.store.SettleDrop(ctx, id, s.now())
	if err != nil {
		return nil, err
	}
	s.catalog.poke()
	list, err := s.withStock(ctx, []store.Drop{d})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// withStock adds the exact stock of each drop.
func (s *Service) withStock(ctx context.Context, drops []store.Drop) ([]*fulfillmentv1.DropStatus, error) {
	list := make([]store.ID, len(drops))
	for i, d := range drops {
		list[i] = d.ID
	}
	levels, err := s.store.Levels(ctx, list)
	if err != nil {
		return nil, err
	}
	offers, err := s.store.Offers(ctx, list)
	if err != nil {
		return nil, err
	}
	statuses := make([]*fulfillmentv1.DropStatus, len(drops))
	for i, d := range drops {
		level := levels[d.ID]
		statuses[i] = &fulfillmentv1.DropStatus{
			Drop: s.view(d, &level),
			Stock: &fulfillmentv1.StockLevel{
				DropId: d.ID.String(), Units: d.Terms.GetUnits(), Free: level.Free, Leased: level.Leased,
				Quarantined: level.Quarantined, Sold: level.Sold, Offers: offers[d.ID],
			},
		}
		if d.Settled {
			statuses[i].SettleTime = timestamppb.New(d.SettleTime)
		}
	}
	return statuses, nil
}

// view is a drop as it looks now. Without a level its availability stays unspecified: nodes know better.
func (s *Service) view(d store.Drop, level *store.Level) *fulfillmentv1.CatalogDrop {
	d.Terms.Drop.State = offerv1.DropState(d.State(s.now()))
	if level != nil {
		d.Terms.Drop.Availability = offerv1.Availability_AVAILABILITY_AVAILABLE
		if level.Free+level.Leased+level.Quarantined == 0 {
			d.Terms.Drop.Availability = offerv1.Availability_AVAILABILITY_SOLD_OUT
		}
	}
	return d.Terms
}

func draftOf(req *fulfillmentv1.CreateDropRequest) catalog.Draft {
	d := catalog.Draft{
		ChannelID: req.GetChannelId(), Title: req.GetTitle(),
		CurrencyCode: req.GetPrice().GetCurrencyCode(), MinorUnits: req.GetPrice().GetMinorUnits(),
		Units: req.GetUnits(), Duration: req.GetDuration().AsDuration(), MaxPerViewer: req.GetMaxPerViewer(), PerInstrumentCap: req.GetPerInstrumentCap(),
		Physical: req.GetGoodsKind() == fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL, SKU: req.GetSku(),
	}
	if req.GetOpenTime() != nil {
		d.OpenTime = req.GetOpenTime().AsTime()
	}
	for _, a := range req.GetArms() {
		d.Arms = append(d.Arms, catalog.Arm{Name: a.GetName(), Weight: a.GetWeight(), TokenTTL: a.GetTokenTtl().AsDuration()})
	}
	return d
}

func catalogDrop(id store.ID, t catalog.Terms, salt []byte) *fulfillmentv1.CatalogDrop {
	d := &fulfillmentv1.CatalogDrop{
		Drop: &offerv1.Drop{
			DropId: id.String(), ChannelId: t.ChannelID, Title: t.Title,
			Price:    &offerv1.Money{CurrencyCode: t.CurrencyCode, MinorUnits: t.MinorUnits},
			OpenTime: timestamppb.New(t.OpenTime), CloseTime: timestamppb.New(t.CloseTime),
		},
		Units: t.Units, GoodsKind: fulfillmentv1.GoodsKind_GOODS_KIND_DIGITAL, MaxPerViewer: t.MaxPerViewer,
		PerInstrumentCap: t.PerInstrumentCap, ArmSalt: salt,
	}
	for _, a := range t.Arms {
		d.Arms = append(d.Arms, &fulfillmentv1.OfferArm{Name: a.Name, Weight: a.Weight, TokenTtl: durationpb.New(a.TokenTTL)})
	}
	return d
}

// termsOf is what warnings look at.
func termsOf(d *fulfillmentv1.CatalogDrop) catalog.Terms {
	t := catalog.Terms{OpenTime: d.GetDrop().GetOpenTime().AsTime(), CloseTime: d.GetDrop().GetCloseTime().AsTime()}
	for _, a := range d.GetArms() {
		t.Arms = append(t.Arms, catalog.Arm{Name: a.GetName(), Weight: a.GetWeight(), TokenTTL: a.GetTokenTtl().AsDuration()})
	}
	return t
}
