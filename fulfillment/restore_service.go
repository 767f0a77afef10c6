package fulfillment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rimlight/rimlight/fulfillment/stock"
	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// A fulfillment that was restored from a backup does not know which units it lent and sold since. Until the verifier and every
// node have told, it answers errRecovering to whoever wants something of its stock or its orders; who hears that tells what
// it knows. See docs/decisions/0018.

// errRecovering: nobody can say yet, since what was lost is still being rebuilt.
var errRecovering = errors.New("fulfillment: restored, and rebuilding what it lent and sold")

// rebuildEvery is how often a restored fulfillment looks whether everybody has told.
const rebuildEvery = time.Second

// MarkRestored turns a migrated store that is an old copy (a backup, or a database brought back to a point in time) into one
// that recovers at its next start.
func MarkRestored(ctx context.Context, db *sqldb.DB, now time.Time) error {
	return store.New(db).MarkRestored(ctx, now)
}

func (c Config) withoutIDs() (without []store.ID, err error) {
	for _, text := range c.RecoverWithout {
		id, bad := store.ParseID(text)
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("RecoverWithout has %q, need node ids", text))
		}
		without = append(without, id)
	}
	return without, err
}

// ready refuses whatever needs to know who has which unit, while that is not known.
func (s *Service) ready(ctx context.Context) error {
	if !s.recovering.Load() {
		return nil
	}
	r, err := s.store.Restore(ctx) // another replica may have ended it
	if err != nil {
		return err
	}
	if r.Recovering() {
		return errRecovering
	}
	s.recovering.Store(false)
	return nil
}

// rebuild returns when what was lost is rebuilt, at once if nothing was; false: ctx ended.
func (s *Service) rebuild(ctx context.Context) (bool, error) {
	var told []store.ID
	for s.recovering.Load() && ctx.Err() == nil {
		err := s.rebuildOnce(ctx, &told)
		if errors.Is(err, sqldb.ErrBroken) {
			return false, err
		}
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "rebuilding failed, trying again", "error", err)
		}
		if s.ready(ctx) == nil {
			break
		}
		pause := time.NewTimer(rebuildEvery)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
	}
	return ctx.Err() == nil, nil
}

func (s *Service) rebuildOnce(ctx context.Context, told *[]store.ID) error {
	missing, err := s.store.Unreported(ctx, s.without)
	if err != nil {
		return err
	}
	if !slices.Equal(missing, *told) {
		*told = missing
		s.log.WarnContext(ctx, "restored: nothing is lent or settled before these nodes have reported, and the verifier", "node_ids", texts(missing))
	}
	now := s.now()
	out, done, err := s.store.Rebuild(ctx, store.Rebuilding{
		Without: s.without, PackUntil: now.Add(s.packWithin),
		NewID: func() (store.ID, error) { return store.ParseID(ids.NewV7(now, s.random)) },
	}, now)
	if err != nil || !done {
		return err
	}
	s.log.WarnContext(ctx, "restored: what was lost is rebuilt", "sold", out.Sold, "leased", out.Leased, "free", out.Free, "frozen", out.Frozen,
		"frozen_because_of", texts(out.Lost), "unknown_drops", texts(out.Unknown), "sold_to_nobody_known", out.Contradicted,
		"orders_placed_again", out.Placed, "parcels_dead", out.Dead)
	return nil
}

func texts(list []store.ID) []string {
	all := make([]string, len(list))
	for i, id := range list {
		all[i] = id.String()
	}
	return all
}

func (s *stockServer) ReportHoldings(ctx context.Context, req *fulfillmentv1.ReportHoldingsRequest) (*fulfillmentv1.ReportHoldingsResponse, error) {
	if err := s.reportHoldings(ctx, req); err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return &fulfillmentv1.ReportHoldingsResponse{}, nil
}

func (s *stockServer) reportHoldings(ctx context.Context, req *fulfillmentv1.ReportHoldingsRequest) error {
	node, err := parseNode(req.GetNode())
	if err != nil {
		return err
	}
	for i, h := range req.GetLeases() {
		field := func(name string) string { return fmt.Sprintf("leases[%d].lease.%s", i, name) }
		if _, err := parseID(field("lease_id"), h.GetLease().GetLeaseId()); err != nil {
			return err
		}
		if _, err := parseID(field("drop_id"), h.GetLease().GetDropId()); err != nil {
			return err
		}
		if h.GetLease().GetNodeId() != req.GetNode().GetNodeId() {
			return invalid(field("node_id"), "A node reports its own leases.")
		}
	}
	for i, d := range req.GetDrops() {
		if _, err := parseID(fmt.Sprintf("drops[%d].drop.drop_id", i), d.GetDrop().GetDropId()); err != nil {
			return err
		}
	}
	for i, k := range req.GetKeys() {
		if _, err := parseID(fmt.Sprintf("keys[%d].node_id", i), k.GetNodeId()); err != nil {
			return err
		}
	}
	return s.store.Report(ctx, store.Report{Node: node, Keys: req.GetKeys(), Leases: req.GetLeases(), Drops: req.GetDrops(), Complete: req.GetComplete()}, s.now())
}

func (s *stockServer) RestoreUnits(ctx context.Context, req *fulfillmentv1.RestoreUnitsRequest) (*fulfillmentv1.RestoreUnitsResponse, error) {
	res, err := s.restoreUnits(ctx, req)
	return res, s.toStatus(ctx, err)
}

func (s *stockServer) restoreUnits(ctx context.Context, req *fulfillmentv1.RestoreUnitsRequest) (*fulfillmentv1.RestoreUnitsResponse, error) {
	if req.GetRestoreId() != 0 {
		told, err := parseTold(req)
		if err != nil {
			return nil, err
		}
		if err := s.store.Tell(ctx, told); err != nil && !errors.Is(err, store.ErrOtherRestore) { // the answer says which one it is now
			return nil, err
		}
	}
	r, err := s.store.Restore(ctx)
	if err != nil || !r.Recovering() {
		return &fulfillmentv1.RestoreUnitsResponse{}, err
	}
	return &fulfillmentv1.RestoreUnitsResponse{RestoreId: r.Time, AfterTokenId: r.After, Complete: r.Complete}, nil
}

func parseTold(req *fulfillmentv1.RestoreUnitsRequest) (store.Told, error) {
	told := store.Told{Restore: req.GetRestoreId(), After: req.GetAfterTokenId(), Complete: req.GetComplete(), Keys: req.GetKeys()}
	for i, f := range req.GetFacts() {
		field := func(name string) string { return fmt.Sprintf("facts[%d].%s", i, name) }
		if len(f.GetTokenId()) != len(store.ID{}) {
			return told, invalid(field("token_id"), "A token id has 16 bytes.")
		}
		drop, err := parseID(field("drop_id"), f.GetDropId())
		if err != nil {
			return told, err
		}
		lease, err := parseID(field("lease_id"), f.GetLeaseId())
		if err != nil {
			return told, err
		}
		told.Facts = append(told.Facts, store.UnitFact{
			Claim:    store.Claim{TokenID: store.ID(f.GetTokenId()), DropID: drop, Serial: f.GetSerial(), LeaseID: lease},
			Standing: stock.Standing(f.GetStanding()), WasSold: f.GetWasSold(),
		})
		if o := f.GetOrder(); o != nil {
			if _, err := parseID(field("order.order_id"), o.GetOrderId()); err != nil {
				return told, err
			}
			if o.GetDropId() != f.GetDropId() {
				return told, invalid(field("order.drop_id"), "The order's drop is the unit's.")
			}
			told.Orders = append(told.Orders, o)
		}
	}
	for i, k := range req.GetKeys() {
		if _, err := parseID(fmt.Sprintf("keys[%d].node_id", i), k.GetNodeId()); err != nil {
			return told, err
		}
	}
	for i, text := range req.GetNodeIds() {
		node, err := parseID(fmt.Sprintf("node_ids[%d]", i), text)
		if err != nil {
			return told, err
		}
		told.Nodes = append(told.Nodes, node)
	}
	for i, seal := range req.GetSeals() {
		node, err := parseID(fmt.Sprintf("seals[%d].node_id", i), seal.GetNodeId())
		if err != nil {
			return told, err
		}
		told.Seals = append(told.Seals, store.Seal{NodeID: node, Epoch: seal.GetEpoch()})
	}
	return told, nil
}
